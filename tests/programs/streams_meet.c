/* Two streams that wait for each other, as collectives of one process on several GPUs do, until SIGTERM: what the first has behind its wait runs only once
 * the second has got its kernel. */
#include "program.h"
#include <signal.h>

static volatile sig_atomic_t stop;

static void on_term(int unused)
{
    (void)unused;
    stop = 1;
}

int main(void)
{
    CUstream one, other;
    unsigned *word;

    signal(SIGTERM, on_term);
    make_context();
    load_kernels();
    CHECK(cuStreamCreate(&one, 1) | cuStreamCreate(&other, 1));
    CHECK(cuMemAllocHost_v2((void **)&word, sizeof *word));
    *word = 0;
    for (unsigned i = 1; !stop; i++) {
        CHECK(launch_spin(100000, one));
        CHECK(cuStreamWaitValue32_v2(one, (CUdeviceptr)word, i, 0));
        CHECK(launch_spin(100000, one));
        CHECK(launch_spin(100000, one));
        CHECK(launch_spin(100000, other));
        CHECK(cuStreamWriteValue32_v2(other, (CUdeviceptr)word, i, 0));
        CHECK(cuStreamSynchronize(one));
    }
    puts("done");
    return 0;
}
