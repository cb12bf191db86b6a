/* More streams than anybody keeps a table for, all alive, launches on each, and a capture on the last of them while
 * another thread launches: COUNT as argument. */
#include "program.h"
#include <pthread.h>

static volatile int stop;

static void *launch(void *unused)
{
    CUstream stream;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, 1));
    while (!stop) {
        CHECK(launch_spin(0, stream));
        CHECK(cuStreamSynchronize(stream));
    }
    return unused;
}

int main(int argc, char **argv)
{
    int count = atoi(argv[1]);
    CUstream *streams = malloc(count * sizeof *streams);
    CUdeviceptr a, b, sum;
    CUgraph graph;
    CUgraphExec executable;
    pthread_t thread;
    float *pinned;

    (void)argc;
    make_context();
    load_kernels();
    a = device_floats(100, 1);
    b = device_floats(100, 1);
    sum = device_floats(100, 0);
    for (int i = 0; i < count; i++) {
        CHECK(cuStreamCreate(&streams[i], 1));
        CHECK(launch_spin(0, streams[i]));
    }
    pthread_create(&thread, NULL, launch, NULL);
    for (int i = count - 1; i >= 0; i -= count / 40) {
        CHECK(cuStreamBeginCapture_v2(streams[i], RELAXED));
        for (int j = 0; j < 150; j++)
            CHECK(launch_add(a, b, sum, 100, streams[i]));
        CHECK(cuStreamEndCapture(streams[i], &graph));
        CHECK(cuGraphInstantiateWithFlags(&executable, graph, 0));
        CHECK(cuGraphLaunch(executable, streams[i]));
        CHECK(cuStreamSynchronize(streams[i]));
        CHECK(cuGraphExecDestroy(executable));
        CHECK(cuGraphDestroy(graph));
    }
    stop = 1;
    pthread_join(thread, NULL);
    CHECK(cuMemHostAlloc((void **)&pinned, 4096, 0));
    CHECK(cuMemFreeHost(pinned));
    for (int i = 0; i < count; i++)
        CHECK(cuStreamDestroy_v2(streams[i]));
    ASSERT(all_are(sum, 100, 2));
    puts("right");
    return 0;
}
