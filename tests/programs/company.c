/* Works until SIGTERM: launches of so many NANOSECONDS, waiting for them after every EVERYth (0: never) and then pausing for so many
 * MICROSECONDS. With a fourth number other than 0 each launch is followed by one of a larger block that takes so many NANOSECONDS, and with a fifth
 * the next launch is made so many MICROSECONDS later. With a sixth each pause is followed by a copy of so many BYTES of pinned memory to the device, which is waited for,
 * and with a seventh that many are copied back before it, each waited for. */
#include "program.h"
#include <signal.h>

static volatile sig_atomic_t stop;

static void on_term(int unused)
{
    (void)unused;
    stop = 1;
}

int main(int argc, char **argv)
{
    unsigned long long ns = strtoull(argv[1], NULL, 10);
    int every = atoi(argv[2]), pause_us = atoi(argv[3]);
    unsigned long long other_ns = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
    int between_us = argc > 5 ? atoi(argv[5]) : 0;
    int results = argc > 7 ? atoi(argv[7]) : 0;
    size_t copied = argc > 6 ? strtoull(argv[6], NULL, 10) : 0;
    CUdeviceptr device = 0;
    void *host = NULL;
    void *other[] = {&other_ns};
    CUstream stream;

    signal(SIGTERM, on_term);
    make_context();
    load_kernels();
    CHECK(cuStreamCreate(&stream, 1));
    if (copied != 0)
        CHECK(cuMemAlloc_v2(&device, copied) | cuMemAllocHost_v2(&host, copied));
    for (int i = 1; !stop; i++) {
        CHECK(launch_spin(ns, stream));
        if (other_ns != 0)
            CHECK(cuLaunchKernel(spin, 1, 1, 1, 2, 1, 1, 0, stream, other, NULL));
        if (between_us != 0)
            usleep(between_us);
        if (every != 0 && i % every == 0) {
            CHECK(cuStreamSynchronize(stream));
            for (int k = 0; k < results; k++)
                CHECK(cuMemcpyDtoH_v2(host, device, copied));
            if (pause_us != 0)
                usleep(pause_us);
            if (copied != 0)
                CHECK(cuMemcpyHtoD_v2(device, host, copied));
        }
    }
    CHECK(cuStreamSynchronize(stream));
    puts("done");
    return 0;
}
