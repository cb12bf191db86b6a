/* A driver for cases in which a call has to end in a way that no real driver's does at will: before every call of the
 * functions below it calls back the program, which may sleep, cancel itself, end its thread or jump away. What a
 * launch computes is a count. It is no model of a driver; the simulator is. */
#include "driver.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT void (*fake_on_call)(const char *name);
EXPORT unsigned long fake_launches;

static _Thread_local CUcontext current;
static int object;

static void called(const char *name)
{
    if (fake_on_call != NULL)
        fake_on_call(name);
}

EXPORT CUresult cuInit(unsigned flags)
{
    called("cuInit");
    return flags == 0 ? 0 : 1;
}

EXPORT CUresult cuDriverGetVersion(int *version)
{
    *version = 12000;
    return 0;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = ordinal;
    return 0;
}

EXPORT CUresult cuDeviceGetCount(int *count)
{
    *count = 1;
    return 0;
}

EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    *uuid = (CUuuid){{(char)device}};
    return 0;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *made, CUdevice device)
{
    (void)device;
    called("cuDevicePrimaryCtxRetain");
    *made = (CUcontext)&object;
    return 0;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext wanted)
{
    current = wanted;
    return 0;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *to)
{
    *to = current;
    return 0;
}

EXPORT CUresult cuCtxSynchronize(void)
{
    called("cuCtxSynchronize");
    return 0;
}

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    (void)flags;
    called("cuStreamCreate");
    *stream = (CUstream)malloc(8);
    return 0;
}

EXPORT CUresult cuStreamDestroy_v2(CUstream stream)
{
    called("cuStreamDestroy_v2");
    free(stream);
    return 0;
}

EXPORT CUresult cuStreamSynchronize(CUstream stream)
{
    (void)stream;
    called("cuStreamSynchronize");
    return 0;
}

EXPORT CUresult cuStreamQuery(CUstream stream)
{
    (void)stream;
    return 0;
}

EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    (void)flags;
    *event = (CUevent)malloc(8);
    return 0;
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream stream)
{
    (void)event, (void)stream;
    return 0;
}

EXPORT CUresult cuEventQuery(CUevent event)
{
    (void)event;
    return 0;
}

EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    (void)start, (void)end;
    *milliseconds = 0.01f;
    return 0;
}

EXPORT CUresult cuEventDestroy_v2(CUevent event)
{
    free(event);
    return 0;
}

EXPORT CUresult cuThreadExchangeStreamCaptureMode(unsigned *mode)
{
    (void)mode;
    return 0;
}

EXPORT CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                               unsigned shared, CUstream stream, void **arguments, void **extra)
{
    (void)f, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz;
    (void)shared, (void)stream, (void)arguments, (void)extra;
    called("cuLaunchKernel");
    __atomic_fetch_add(&fake_launches, 1, __ATOMIC_RELAXED);
    return 0;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *memory, size_t bytes)
{
    called("cuMemAlloc_v2");
    *memory = (CUdeviceptr)malloc(bytes);
    return 0;
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr memory)
{
    called("cuMemFree_v2");
    free((void *)memory);
    return 0;
}

EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    called("cuMemcpyHtoD_v2");
    __builtin_memcpy((void *)to, from, bytes);
    return 0;
}

EXPORT CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    (void)flags;
    called("cuMemHostAlloc");
    return posix_memalign(memory, 4096, bytes) == 0 ? 0 : 2;
}

EXPORT CUresult cuMemFreeHost(void *memory)
{
    called("cuMemFreeHost");
    free(memory);
    return 0;
}
