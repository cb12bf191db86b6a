/* Memsets before, among and after launches, and on a stream without any, ROUNDS times. A round is three requests: memsets
 * and a launch; a memset behind the wait that ended them; a memset on the other stream. */
#include "program.h"

enum { N = 1024 };

static CUdeviceptr memory;

static void set(CUstream stream) { CHECK(cuMemsetD32Async(memory, 7, N, stream)); }

int main(int argc, char **argv)
{
    int rounds = atoi(argv[1]);
    unsigned long long ns = 1000;
    void *parameters[] = {&ns};
    CUstream stream, other;

    (void)argc;
    make_context();
    load_kernels();
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuStreamCreate(&other, 1));
    CHECK(cuMemAlloc_v2(&memory, 4 * N));
    for (int round = 0; round < rounds; round++) {
        set(stream);
        CHECK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
        set(stream);
        set(stream);
        CHECK(cuStreamSynchronize(stream));
        set(stream);
        CHECK(cuStreamSynchronize(stream));
        set(other);
        CHECK(cuStreamSynchronize(other));
    }
    return 0;
}
