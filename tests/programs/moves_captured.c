/* At SIGUSR1 captures memsets and copies, in each of the three modes, and says so; then launches what it has captured and looks at what came of it. */
#include "program.h"
#include <signal.h>

enum { N = 1 << 18, ROUNDS = 5 };

static volatile sig_atomic_t is_told;

static void on_signal(int unused)
{
    (void)unused;
    is_told = 1;
}

static CUgraphExec capture(CUstream stream, CUstreamCaptureMode mode, CUdeviceptr a, CUdeviceptr b, int *to)
{
    CUgraph graph;
    CUgraphExec executable;

    CHECK(cuStreamBeginCapture_v2(stream, mode));
    for (int i = 0; i < ROUNDS; i++) {
        CHECK(cuMemsetD32Async(a, 100 + mode, N, stream));
        CHECK(cuMemcpyDtoDAsync_v2(b, a, 4 * N, stream));
        CHECK(cuMemcpyDtoHAsync_v2(to, b, 4 * N, stream));
    }
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    CHECK(cuGraphDestroy(graph));
    return executable;
}

int main(void)
{
    CUgraphExec executable[3];
    CUdeviceptr a, b;
    CUstream stream;
    int *to;

    signal(SIGUSR1, on_signal);
    make_context();
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuMemAlloc_v2(&a, 4 * N));
    CHECK(cuMemAlloc_v2(&b, 4 * N));
    CHECK(cuMemHostAlloc((void **)&to, 4 * N, 0));
    CHECK(cuMemsetD32Async(a, 1, N, stream));
    CHECK(cuStreamSynchronize(stream));
    puts("ready");
    fflush(stdout);
    while (!is_told)
        usleep(1000);
    for (int mode = 0; mode < 3; mode++)
        executable[mode] = capture(stream, mode, a, b, to);
    puts("captured");
    fflush(stdout);
    for (int mode = 0; mode < 3; mode++) {
        CHECK(cuGraphLaunch(executable[mode], stream));
        CHECK(cuStreamSynchronize(stream));
        for (int i = 0; i < N; i++)
            ASSERT(to[i] == 100 + mode);
    }
    puts("done");
    return 0;
}
