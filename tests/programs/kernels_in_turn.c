/* Launches KERNELS kernels in turn, ROUNDS times, waiting after every round. Each has a grid of its own and runs 5 to 54 us;
 * what all of them take together is printed, in nanoseconds. */
#include "program.h"

int main(int argc, char **argv)
{
    int kernels = atoi(argv[1]), rounds = atoi(argv[2]);
    unsigned long long all_ns = 0;
    CUstream stream;

    (void)argc;
    make_context();
    load_kernels();
    CHECK(cuStreamCreate(&stream, 1));
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < kernels; i++) {
            unsigned long long ns = 5000 + 1000 * (unsigned long long)(i % 50);
            void *parameters[] = {&ns};

            CHECK(cuLaunchKernel(spin, (unsigned)i + 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
            all_ns += ns;
        }
        CHECK(cuStreamSynchronize(stream));
    }
    printf("%llu\n", all_ns);
    return 0;
}
