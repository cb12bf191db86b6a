/* Captures in one thread while others launch, synchronise and, where the mode allows it, allocate page-locked memory:
 * each capture must succeed and its graph compute what was recorded, no more and no less. Arguments: MODE TIMES. */
#include "program.h"
#include <pthread.h>

enum { N = 300, LAUNCHES = 10 };

static volatile int stop;
static int mode;

static void *launch_on(void *argument)
{
    CUstream stream;
    CUdeviceptr a, b, sum;
    CUdeviceptr *memory = argument;
    long done = 0;

    CHECK(cuCtxSetCurrent(context));
    a = memory[0], b = memory[1], sum = memory[2];
    CHECK(cuStreamCreate(&stream, 1));
    while (!stop) {
        for (int i = 0; i < 20; i++)
            CHECK(launch_add(a, b, sum, N, stream));
        if (mode != GLOBAL) /* such a capture forbids waiting to every thread */
            CHECK(cuStreamSynchronize(stream));
        done += 20;
    }
    return (void *)done;
}

static void *pin(void *unused)
{
    CHECK(cuCtxSetCurrent(context));
    while (!stop) {
        char *block;
        CHECK(cuMemHostAlloc((void **)&block, 20000, 0));
        memset(block, 1, 20000);
        CHECK(cuMemFreeHost(block));
    }
    return unused;
}

/* out = in + 1, LAUNCHES times over, so that one launch too many or too few shows */
static void capture(CUstream stream, CUdeviceptr in, CUdeviceptr one, CUdeviceptr out)
{
    CUgraph graph;
    CUgraphExec executable;
    float result[N], zeros[N] = {0};

    CHECK(cuStreamBeginCapture_v2(stream, mode));
    CHECK(launch_add(in, one, out, N, stream));
    for (int i = 1; i < LAUNCHES; i++)
        CHECK(launch_add(out, one, out, N, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuMemcpyHtoDAsync_v2(in, zeros, sizeof zeros, stream));
    for (int i = 0; i < 3; i++)
        CHECK(cuGraphLaunch(executable, stream));
    CHECK(cuMemcpyDtoHAsync_v2(result, out, sizeof result, stream));
    CHECK(cuStreamSynchronize(stream));
    for (int i = 0; i < N; i++)
        ASSERT(result[i] == LAUNCHES);
    CHECK(cuGraphExecDestroy(executable));
}

int main(int argc, char **argv)
{
    CUdeviceptr memory[3][3], one;
    pthread_t thread[4];
    CUstream stream;
    long launched = 0;
    int threads = 0, times = atoi(argv[2]);

    (void)argc;
    mode = atoi(argv[1]);
    make_context();
    load_kernels();
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            memory[i][j] = device_floats(N, 1);
    one = device_floats(N, 1);
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuCtxSynchronize());
    pthread_create(&thread[threads++], NULL, launch_on, memory[1]);
    pthread_create(&thread[threads++], NULL, launch_on, memory[2]);
    if (mode != GLOBAL)
        pthread_create(&thread[threads++], NULL, pin, NULL);
    for (int i = 0; i < times; i++)
        capture(stream, memory[0][0], one, memory[0][2]);
    stop = 1;
    for (int i = 0; i < threads; i++) {
        void *done;
        pthread_join(thread[i], &done);
        launched += i < 2 ? (long)done : 0;
    }
    printf("%ld launches, %d captures\n", launched + (long)times * LAUNCHES, times);
    return 0;
}
