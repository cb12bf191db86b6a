/* What most of these programs begin with: a check on every call, a context, and the simulator's kernels. */
#ifndef PROGRAM_H
#define PROGRAM_H

#include "driver.h"
#include <string.h>
#include <unistd.h>

#define CHECK(call) check((call), #call, __LINE__)
#define EXPECT(status, call) expect((status), (call), #call, __LINE__)
#define ASSERT(truth) \
    do { \
        if (!(truth)) \
            fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #truth), _exit(11); \
    } while (0)

static inline void expect(CUresult wanted, CUresult status, const char *call, int line)
{
    if (status != wanted) {
        fprintf(stderr, "line %d: %s gave %u, not %u\n", line, call, (unsigned)status, (unsigned)wanted);
        _exit(10);
    }
}

static inline void check(CUresult status, const char *call, int line)
{
    expect(0, status, call, line);
}

static CUcontext context __attribute__((unused));
static CUfunction vector_add __attribute__((unused)), spin __attribute__((unused));

static inline void make_context(void)
{
    CUdevice device;

    driver_load();
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
}

static inline void load_kernels(void)
{
    CUmodule module;

    CHECK(cuModuleLoadData(&module, "simcuda image 1\nvector_add\nspin\n"));
    CHECK(cuModuleGetFunction(&vector_add, module, "vector_add"));
    CHECK(cuModuleGetFunction(&spin, module, "spin"));
}

/* sum[i] = a[i] + b[i] */
static inline CUresult launch_add(CUdeviceptr a, CUdeviceptr b, CUdeviceptr sum, int n, CUstream stream)
{
    void *arguments[] = {&a, &b, &sum, &n};

    return cuLaunchKernel(vector_add, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, arguments, NULL);
}

/* Keeps the GPU busy. */
static inline CUresult launch_spin(unsigned long long ns, CUstream stream)
{
    void *arguments[] = {&ns};

    return cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
}

/* n floats on the device, all of that value */
static inline CUdeviceptr device_floats(int n, float value)
{
    CUdeviceptr memory;
    float *from = malloc(n * sizeof *from);

    for (int i = 0; i < n; i++)
        from[i] = value;
    CHECK(cuMemAlloc_v2(&memory, n * sizeof *from));
    CHECK(cuMemcpyHtoD_v2(memory, from, n * sizeof *from));
    free(from);
    return memory;
}

static inline int all_are(CUdeviceptr memory, int n, float value)
{
    float *to = malloc(n * sizeof *to);
    int wrong = 0;

    CHECK(cuMemcpyDtoH_v2(to, memory, n * sizeof *to));
    for (int i = 0; i < n; i++)
        wrong += to[i] != value;
    free(to);
    return wrong == 0;
}

#endif
