/* Three kernels in turn, TURNS times, each on an idle stream: launched, then waited for. They spin for 200, 400 and
 * 800 us, on grids of their own. */
#include "program.h"

static void launch_and_wait(unsigned blocks, unsigned long long ns, CUstream stream)
{
    void *arguments[] = {&ns};

    CHECK(cuLaunchKernel(spin, blocks, 1, 1, 1, 1, 1, 0, stream, arguments, NULL));
    CHECK(cuStreamSynchronize(stream));
}

int main(int argc, char **argv)
{
    int turns = atoi(argv[1]);
    CUstream stream;

    (void)argc;
    make_context();
    load_kernels();
    CHECK(cuStreamCreate(&stream, 1));
    for (int i = 0; i < turns; i++)
        for (unsigned kernel = 0; kernel < 3; kernel++)
            launch_and_wait(1 + kernel, 200000ull << kernel, stream);
    CHECK(cuStreamDestroy_v2(stream));
    return 0;
}
