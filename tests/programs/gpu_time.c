/* Keeps the GPU busy for a known time: LAUNCHES of so many NANOSECONDS, waiting after every EVERYth. */
#include "program.h"

int main(int argc, char **argv)
{
    int launches = atoi(argv[1]), every = atoi(argv[3]);
    unsigned long long ns = strtoull(argv[2], NULL, 10);
    CUstream stream;

    (void)argc;
    make_context();
    load_kernels();
    CHECK(cuStreamCreate(&stream, 1));
    for (int i = 1; i <= launches; i++) {
        CHECK(launch_spin(ns, stream));
        if (i % every == 0)
            CHECK(cuStreamSynchronize(stream));
    }
    CHECK(cuCtxSynchronize());
    return 0;
}
