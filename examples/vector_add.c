/* Adds vectors on the GPU through the CUDA driver API, in C: each request allocates page-locked buffers, copies them to
 * the device, launches a kernel, copies the sum back, waits, checks every element and frees the buffers.
 *
 * Build it against the driver:
 *
 *     cc -O2 -o vector_add examples/vector_add.c -I/usr/local/cuda/include -lcuda
 *
 * or, without a GPU, against the simulated one (cuda.h also comes with the PyPI package nvidia-cuda-runtime):
 *
 *     cc -O2 -o vector_add examples/vector_add.c -I.../include -Ldist/sim -lcuda -Wl,-rpath,$PWD/dist/sim
 *
 * Run it plainly, and under the runtime layer, of which it knows nothing:
 *
 *     ./vector_add [REQUESTS [ELEMENTS]]
 *     aictl run -- ./vector_add 500
 *
 * Exit code: 0 when every result was right, 1 when one was wrong or the driver failed, 2 for wrong usage.
 */
#define _POSIX_C_SOURCE 199309L
#include <cuda.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { STREAMS = 4, THREADS_PER_BLOCK = 256 };

static const char MODULE[] =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"
    ".visible .entry vector_add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 n)\n"
    "{\n"
    "    .reg .pred %beyond;\n"
    "    .reg .b32 %block, %width, %thread;\n"
    "    .reg .b64 %index, %count, %lane, %x_at, %y_at, %sum_at;\n"
    "    .reg .f32 %x, %y, %sum;\n"
    "    mov.u32 %block, %ctaid.x;\n"
    "    mov.u32 %width, %ntid.x;\n"
    "    mov.u32 %thread, %tid.x;\n"
    "    mul.wide.u32 %index, %block, %width;\n"
    "    cvt.u64.u32 %lane, %thread;\n"
    "    add.u64 %index, %index, %lane;\n"
    "    ld.param.u64 %count, [n];\n"
    "    setp.ge.u64 %beyond, %index, %count;\n"
    "    @%beyond bra done;\n"
    "    ld.param.u64 %x_at, [a];\n"
    "    ld.param.u64 %y_at, [b];\n"
    "    ld.param.u64 %sum_at, [c];\n"
    "    shl.b64 %index, %index, 2;\n"
    "    add.u64 %x_at, %x_at, %index;\n"
    "    add.u64 %y_at, %y_at, %index;\n"
    "    add.u64 %sum_at, %sum_at, %index;\n"
    "    ld.f32 %x, [%x_at];\n"
    "    ld.f32 %y, [%y_at];\n"
    "    add.f32 %sum, %x, %y;\n"
    "    st.f32 [%sum_at], %sum;\n"
    "done:\n"
    "    ret;\n"
    "}\n";

struct lane { /* a stream, its device memory, and the page-locked buffers of the request on it */
    CUstream stream;
    CUdeviceptr device_a, device_b, device_sum;
    float *a, *b, *sum;
    unsigned request;
};

static void check_call(CUresult result, const char *call)
{
    const char *name = NULL;

    if (result == CUDA_SUCCESS)
        return;
    if (cuGetErrorName(result, &name) != CUDA_SUCCESS || name == NULL)
        name = "an unknown error";
    fprintf(stderr, "vector_add: %s failed with %s\n", call, name);
    exit(1);
}

#define CALL(function, ...) check_call(function(__VA_ARGS__), #function)

static void open_lane(struct lane *lane, size_t bytes)
{
    CALL(cuStreamCreate, &lane->stream, CU_STREAM_NON_BLOCKING);
    CALL(cuMemAlloc, &lane->device_a, bytes);
    CALL(cuMemAlloc, &lane->device_b, bytes);
    CALL(cuMemAlloc, &lane->device_sum, bytes);
}

static void close_lane(struct lane *lane)
{
    CALL(cuMemFree, lane->device_a);
    CALL(cuMemFree, lane->device_b);
    CALL(cuMemFree, lane->device_sum);
    CALL(cuStreamDestroy, lane->stream);
}

/* Puts a request's work on the lane's stream, without waiting for it. */
static void submit(struct lane *lane, CUfunction kernel, unsigned request, unsigned long long elements)
{
    size_t bytes = elements * sizeof(float);
    void *parameters[] = {&lane->device_a, &lane->device_b, &lane->device_sum, &elements};
    unsigned blocks = (unsigned)((elements + THREADS_PER_BLOCK - 1) / THREADS_PER_BLOCK);

    CALL(cuMemHostAlloc, (void **)&lane->a, bytes, 0);
    CALL(cuMemHostAlloc, (void **)&lane->b, bytes, 0);
    CALL(cuMemHostAlloc, (void **)&lane->sum, bytes, 0);
    for (unsigned long long i = 0; i < elements; i++) {
        lane->a[i] = (float)(i % 4096);
        lane->b[i] = (float)(request % 65536);
        lane->sum[i] = NAN; /* the memory may be that of an earlier request */
    }
    lane->request = request;
    CALL(cuMemcpyHtoDAsync, lane->device_a, lane->a, bytes, lane->stream);
    CALL(cuMemcpyHtoDAsync, lane->device_b, lane->b, bytes, lane->stream);
    CALL(cuLaunchKernel, kernel, blocks, 1, 1, THREADS_PER_BLOCK, 1, 1, 0, lane->stream, parameters, NULL);
    CALL(cuMemcpyDtoHAsync, lane->sum, lane->device_sum, bytes, lane->stream);
}

/* Waits for the lane's request, checks every element and frees the buffers. */
static void finish(struct lane *lane, unsigned long long elements)
{
    CALL(cuStreamSynchronize, lane->stream);
    for (unsigned long long i = 0; i < elements; i++) {
        float expected = (float)(i % 4096) + (float)(lane->request % 65536);

        if (lane->sum[i] != expected) {
            fprintf(stderr, "vector_add: wrong result: element %llu of request %u is %g, expected %g\n", i,
                    lane->request, lane->sum[i], expected);
            exit(1);
        }
    }
    CALL(cuMemFreeHost, lane->a);
    CALL(cuMemFreeHost, lane->b);
    CALL(cuMemFreeHost, lane->sum);
    lane->a = NULL;
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static unsigned long long argument(int argc, char **argv, int index, unsigned long long otherwise)
{
    char *end = NULL;
    unsigned long long value = index < argc ? strtoull(argv[index], &end, 10) : otherwise;

    if (argc > 3 || value < 1 || value > (1ULL << 28) || (end != NULL && (end == argv[index] || *end != '\0'))) {
        fprintf(stderr, "usage: %s [REQUESTS [ELEMENTS]], whole numbers from 1 to 268435456\n", argv[0]);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    unsigned requests = (unsigned)argument(argc, argv, 1, 200);
    unsigned long long elements = argument(argc, argv, 2, 262144);
    struct lane lanes[STREAMS] = {0};
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction kernel;

    CALL(cuInit, 0);
    CALL(cuDeviceGet, &device, 0);
    CALL(cuDevicePrimaryCtxRetain, &context, device);
    CALL(cuCtxSetCurrent, context);
    CALL(cuModuleLoadData, &module, MODULE);
    CALL(cuModuleGetFunction, &kernel, module, "vector_add");
    for (int i = 0; i < STREAMS; i++)
        open_lane(&lanes[i], elements * sizeof(float));

    double began = seconds();
    for (unsigned request = 0; request < requests; request++) {
        struct lane *lane = &lanes[request % STREAMS];

        if (lane->a != NULL)
            finish(lane, elements);
        submit(lane, kernel, request, elements);
    }
    for (int i = 0; i < STREAMS; i++)
        if (lanes[i].a != NULL)
            finish(&lanes[i], elements);
    printf("requests done: %u in %.3f s\n", requests, seconds() - began);

    for (int i = 0; i < STREAMS; i++)
        close_lane(&lanes[i]);
    CALL(cuModuleUnload, module);
    CALL(cuDevicePrimaryCtxRelease, device);
    puts("result ok");
    return 0;
}
