/* A little of everything that is hooked, with a right result at the end. Holds page-locked blocks all the while, whose
 * content must stay whatever becomes of their neighbours. */
#include "program.h"

enum { N = 4000, BLOCKS = 6, BYTES = 20000 };

static unsigned char *held[BLOCKS];

static void hold(void)
{
    for (int i = 0; i < BLOCKS; i++) {
        unsigned flags;
        CHECK(cuMemHostAlloc((void **)&held[i], BYTES, 0));
        memset(held[i], i + 1, BYTES);
        CHECK(cuMemHostGetFlags(&flags, held[i]));
    }
}

/* One after another, from the first, which may well be where a larger piece of memory begins. */
static void let_go(void)
{
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(cuMemFreeHost(held[i]));
        for (int j = i + 1; j < BLOCKS; j++)
            for (int k = 0; k < BYTES; k++)
                ASSERT(held[j][k] == j + 1);
    }
}

static void capture(CUdeviceptr a, CUdeviceptr b, CUdeviceptr sum, CUstream stream)
{
    CUgraph graph;
    CUgraphExec executable;

    CHECK(cuStreamBeginCapture_v2(stream, RELAXED));
    CHECK(launch_add(a, b, sum, N, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    CHECK(cuGraphLaunch(executable, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuGraphExecDestroy(executable));
    CHECK(cuGraphDestroy(graph));
}

static void ask(float *pinned)
{
    CUdeviceptr there, start;
    size_t bytes;
    unsigned syncs = 1;
    unsigned long long buffer_id;
    CUpointer_attribute number = 2;
    void *value = &syncs;

    CHECK(cuMemHostGetDevicePointer_v2(&there, pinned, 0));
    CHECK(cuMemGetAddressRange_v2(&start, &bytes, there));
    CHECK(cuPointerSetAttribute(&syncs, 6, there));
    CHECK(cuPointerGetAttribute(&buffer_id, 7, there));
    CHECK(cuPointerGetAttributes(1, &number, &value, there));
    ASSERT(there == (CUdeviceptr)pinned && syncs == 1); /* host memory */
}

static void compute(CUdeviceptr a, CUdeviceptr b, CUdeviceptr sum)
{
    void *arguments[] = {&a, &b, &sum, &(int){N}};
    CUlaunchConfig config = {16, 1, 1, 256, 1, 1, 0, NULL, NULL, 0};
    float *pinned, *own = aligned_alloc(4096, 16384);
    CUstream stream;
    CUevent event;

    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuEventCreate(&event, 0));
    CHECK(cuMemAllocHost_v2((void **)&pinned, N * sizeof *pinned));
    ask(pinned);
    CHECK(cuMemHostRegister_v2(own, 16384, 0));
    CHECK(cuMemsetD32Async(sum, 0, N, stream));
    for (int i = 0; i < 20; i++) {
        CHECK(launch_add(a, b, sum, N, stream));
        CHECK(cuLaunchKernelEx(&config, vector_add, arguments, NULL));
    }
    capture(a, b, sum, stream);
    CHECK(cuMemcpyDtoHAsync_v2(pinned, sum, N * sizeof *pinned, stream));
    CHECK(cuEventRecord(event, stream));
    CHECK(cuEventSynchronize(event));
    for (int i = 0; i < N; i++)
        ASSERT(pinned[i] == 3);
    CHECK(cuMemHostUnregister(own));
    CHECK(cuMemFreeHost(pinned));
    CHECK(cuEventDestroy_v2(event));
    CHECK(cuStreamDestroy_v2(stream));
}

int main(void)
{
    CUdeviceptr a, b, sum, ordered;
    CUcontext own;

    make_context();
    CHECK(cuCtxCreate_v2(&own, 0, 0));
    CHECK(cuCtxDestroy_v2(own));
    CHECK(cuCtxSetCurrent(context));
    load_kernels();
    hold();
    a = device_floats(N, 1);
    b = device_floats(N, 2);
    sum = device_floats(N, 0);
    CHECK(cuMemAllocAsync(&ordered, 4096, NULL));
    CHECK(cuMemsetD8_v2(ordered, 1, 4096));
    CHECK(cuMemFreeAsync(ordered, NULL));
    compute(a, b, sum);
    CHECK(cuCtxSynchronize());
    ASSERT(all_are(sum, N, 3));
    let_go();
    CHECK(cuMemFree_v2(a));
    puts("right");
    return 0;
}
