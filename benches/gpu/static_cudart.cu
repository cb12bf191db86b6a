// A program for the CUDA runtime, to be linked with the static cudart: a known number of launches of each kind, and
// pinned memory allocated and freed. It checks its results and prints one line of JSON with the numbers.
//
//     nvcc -cudart static -O2 -o static_cudart benches/gpu/static_cudart.cu && ./static_cudart
#include <cstdio>
#include <cstdlib>

#include <cuda_runtime.h>

static const int LAUNCHES = 1000;
static const int LAUNCHES_EX = 200;
static const int CAPTURED_LAUNCHES = 5;
static const int GRAPH_LAUNCHES = 50;
static const int COOPERATIVE_LAUNCHES = 20;
static const int PINNED_ALLOCATIONS = 64;
static const int ELEMENTS = 4096;

static void check(cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        std::fprintf(stderr, "static_cudart: %s: %s\n", what, cudaGetErrorString(error));
        std::exit(1);
    }
}

__global__ void add_one(int *values)
{
    values[blockIdx.x * blockDim.x + threadIdx.x] += 1;
}

static void launch_ex(cudaStream_t stream, int *values)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = ELEMENTS / 256;
    config.blockDim = 256;
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, add_one, values), "cudaLaunchKernelEx");
}

static void launch_cooperative(cudaStream_t stream, int *values)
{
    void *parameters[] = {&values};
    check(cudaLaunchCooperativeKernel((const void *)add_one, ELEMENTS / 256, 256, parameters, 0, stream),
          "cudaLaunchCooperativeKernel");
}

static cudaGraphExec_t captured(cudaStream_t stream, int *values)
{
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    for (int i = 0; i < CAPTURED_LAUNCHES; i++)
        add_one<<<ELEMENTS / 256, 256, 0, stream>>>(values);
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return executable;
}

static int pinned_allocations(cudaStream_t stream, const int *values)
{
    int wrong = 0;
    for (int i = 0; i < PINNED_ALLOCATIONS; i++) {
        int *host;
        check(cudaMallocHost(&host, ELEMENTS * sizeof(int)), "cudaMallocHost");
        check(cudaMemcpyAsync(host, values, ELEMENTS * sizeof(int), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
        check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
        const int expected = LAUNCHES + LAUNCHES_EX + COOPERATIVE_LAUNCHES + CAPTURED_LAUNCHES * GRAPH_LAUNCHES;
        for (int j = 0; j < ELEMENTS; j++)
            wrong += host[j] != expected;
        check(cudaFreeHost(host), "cudaFreeHost");
    }
    return wrong;
}

int main()
{
    cudaStream_t stream;
    int *values;
    check(cudaStreamCreate(&stream), "cudaStreamCreate");
    check(cudaMalloc(&values, ELEMENTS * sizeof(int)), "cudaMalloc");
    check(cudaMemsetAsync(values, 0, ELEMENTS * sizeof(int), stream), "cudaMemsetAsync");
    for (int i = 0; i < LAUNCHES; i++)
        add_one<<<ELEMENTS / 256, 256, 0, stream>>>(values);
    check(cudaGetLastError(), "launch");
    for (int i = 0; i < LAUNCHES_EX; i++)
        launch_ex(stream, values);
    for (int i = 0; i < COOPERATIVE_LAUNCHES; i++)
        launch_cooperative(stream, values);
    cudaGraphExec_t graph = captured(stream, values);
    for (int i = 0; i < GRAPH_LAUNCHES; i++)
        check(cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");

    if (pinned_allocations(stream, values) != 0) {
        std::fprintf(stderr, "static_cudart: wrong values\n");
        return 1;
    }
    check(cudaGraphExecDestroy(graph), "cudaGraphExecDestroy");
    check(cudaFree(values), "cudaFree");
    check(cudaStreamDestroy(stream), "cudaStreamDestroy");
    std::printf("{\"cuLaunchKernel\": %d, \"cuLaunchKernelEx\": %d, \"cuLaunchCooperativeKernel\": %d, "
                "\"cuGraphLaunch\": %d, \"cuMemHostAlloc\": %d, \"cuMemFreeHost\": %d}\n",
                LAUNCHES + CAPTURED_LAUNCHES, LAUNCHES_EX, COOPERATIVE_LAUNCHES, GRAPH_LAUNCHES, PINNED_ALLOCATIONS,
                PINNED_ALLOCATIONS);
    return 0;
}
