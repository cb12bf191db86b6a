/* Launches by every form from several threads, some refused by the driver, and checks every result. Compiled once for
 * each way to the driver's functions. THREADS LAUNCHES as arguments: each thread launches so often by each form. */
#include "program.h"
#include <pthread.h>

enum { N = 1000 };

static int launches;
static CUdeviceptr a, b;
static pthread_barrier_t recorded;

static void refused(CUstream stream)
{
    EXPECT(400, cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    EXPECT(1, cuLaunchKernel(vector_add, 0, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
}

static void one_of_each(CUdeviceptr sum, CUstream stream, CUgraphExec graph)
{
    int n = N;
    void *arguments[] = {&a, &b, &sum, &n};
    CUlaunchConfig config = {4, 1, 1, 256, 1, 1, 0, stream, NULL, 0};

    CHECK(cuLaunchKernel(vector_add, 4, 1, 1, 256, 1, 1, 0, stream, arguments, NULL));
    CHECK(cuLaunchKernelEx(&config, vector_add, arguments, NULL));
    CHECK(cuLaunchCooperativeKernel(vector_add, 4, 1, 1, 256, 1, 1, 0, stream, arguments));
    CHECK(cuGraphLaunch(graph, stream));
}

static CUgraphExec record(CUdeviceptr sum)
{
    CUstream stream;
    CUgraph graph;
    CUgraphExec executable;

    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    CHECK(launch_add(a, b, sum, N, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuStreamDestroy_v2(stream));
    return executable;
}

static void *work(void *unused)
{
    CUdeviceptr sum;
    CUstream own;
    CUgraphExec graph;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemAlloc_v2(&sum, N * sizeof(float)));
    CHECK(cuStreamCreate(&own, 1));
    graph = record(sum);
    pthread_barrier_wait(&recorded); /* nobody may wait for the context while anybody captures */
    for (int i = 0; i < launches; i++) {
        /* the default stream by 0 and by name, and one of the thread's own */
        CUstream streams[] = {own, (CUstream)PER_THREAD, NULL};
        one_of_each(sum, streams[i % 3], graph);
    }
    refused(own);
    CHECK(cuStreamSynchronize(own));
    CHECK(cuCtxSynchronize());
    ASSERT(all_are(sum, N, 3));
    CHECK(cuGraphExecDestroy(graph));
    CHECK(cuStreamDestroy_v2(own));
    CHECK(cuMemFree_v2(sum));
    return unused;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    pthread_t thread[64];

    launches = argc > 2 ? atoi(argv[2]) : 30;
    make_context();
    load_kernels();
    a = device_floats(N, 1);
    b = device_floats(N, 2);
    pthread_barrier_init(&recorded, NULL, threads);
    for (int i = 0; i < threads; i++)
        ASSERT(pthread_create(&thread[i], NULL, work, NULL) == 0);
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    puts("right");
    return 0;
}
