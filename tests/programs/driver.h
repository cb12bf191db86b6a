/* The part of the CUDA driver API that these programs call: types, and one list of functions under the names the driver
 * exports. Compiled with -DUSE_CUDA_H the types come from the real <cuda.h> and the compiler compares the list with it.
 *
 * How a program finds the functions is decided when it is compiled:
 *   (nothing)     linked to libcuda.so.1
 *   -DVIA_DLSYM   dlopen, dlsym under the exported name
 *   -DVIA_PROC=F  dlopen, dlsym of cuGetProcAddress_v2, everything else through that with flags F
 * The last two call driver_load() first; linked to the driver it does nothing. */
#ifndef DRIVER_H
#define DRIVER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef USE_CUDA_H
#define __CUDA_API_VERSION_INTERNAL /* the exported names, without macros in front of them */
#include <cuda.h>
#else
typedef unsigned CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long cuuint64_t;
typedef unsigned long long CUmemGenericAllocationHandle;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef void (*CUhostFn)(void *);
typedef unsigned CUpointer_attribute, CUstreamCaptureMode, CUstreamCaptureStatus, CUmemLocationType;
typedef unsigned CUdriverProcAddressQueryResult;
typedef struct CUuuid_st {
    char bytes[16];
} CUuuid;
typedef struct CUlaunchConfig_st {
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    CUstream hStream;
    void *attrs;
    unsigned numAttrs;
} CUlaunchConfig;
typedef struct CUmemLocation_st {
    CUmemLocationType type;
    int id;
} CUmemLocation;
typedef struct CUmemAllocationProp_st {
    unsigned type, requestedHandleTypes;
    CUmemLocation location;
    void *win32HandleMetaData;
    unsigned char allocFlags[8];
} CUmemAllocationProp;
typedef struct CUmemAccessDesc_st {
    CUmemLocation location;
    unsigned flags;
} CUmemAccessDesc;
#endif

enum { LEGACY = 1, PER_THREAD = 2 }; /* the stream handles CU_STREAM_LEGACY and CU_STREAM_PER_THREAD */
enum { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };
enum { PORTABLE = 1, DEVICEMAP = 2, WRITECOMBINED = 4 };

#define KERNEL_ARGUMENTS \
    CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **

/* X(exported name, name and version for cuGetProcAddress, arguments) */
#define DRIVER_FUNCTIONS(X) \
    X(cuInit, "cuInit", 2000, (unsigned)) \
    X(cuDriverGetVersion, "cuDriverGetVersion", 2020, (int *)) \
    X(cuDeviceGet, "cuDeviceGet", 2000, (CUdevice *, int)) \
    X(cuDeviceGetCount, "cuDeviceGetCount", 2000, (int *)) \
    X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", 7000, (CUcontext *, CUdevice)) \
    X(cuDevicePrimaryCtxRelease_v2, "cuDevicePrimaryCtxRelease", 11000, (CUdevice)) \
    X(cuDevicePrimaryCtxReset_v2, "cuDevicePrimaryCtxReset", 11000, (CUdevice)) \
    X(cuCtxCreate_v2, "cuCtxCreate", 3020, (CUcontext *, unsigned, CUdevice)) \
    X(cuCtxDestroy_v2, "cuCtxDestroy", 4000, (CUcontext)) \
    X(cuCtxGetCurrent, "cuCtxGetCurrent", 4000, (CUcontext *)) \
    X(cuCtxSetCurrent, "cuCtxSetCurrent", 4000, (CUcontext)) \
    X(cuCtxSynchronize, "cuCtxSynchronize", 2000, (void)) \
    X(cuModuleLoadData, "cuModuleLoadData", 2000, (CUmodule *, const void *)) \
    X(cuModuleGetFunction, "cuModuleGetFunction", 2000, (CUfunction *, CUmodule, const char *)) \
    X(cuModuleUnload, "cuModuleUnload", 2000, (CUmodule)) \
    X(cuLaunchKernel, "cuLaunchKernel", 4000, (KERNEL_ARGUMENTS, void **)) \
    X(cuLaunchKernelEx, "cuLaunchKernelEx", 11060, (const CUlaunchConfig *, CUfunction, void **, void **)) \
    X(cuLaunchCooperativeKernel, "cuLaunchCooperativeKernel", 9000, (KERNEL_ARGUMENTS)) \
    X(cuGraphLaunch, "cuGraphLaunch", 10000, (CUgraphExec, CUstream)) \
    X(cuLaunchHostFunc, "cuLaunchHostFunc", 10000, (CUstream, CUhostFn, void *)) \
    X(cuStreamCreate, "cuStreamCreate", 2000, (CUstream *, unsigned)) \
    X(cuStreamDestroy_v2, "cuStreamDestroy", 4000, (CUstream)) \
    X(cuStreamSynchronize, "cuStreamSynchronize", 2000, (CUstream)) \
    X(cuStreamQuery, "cuStreamQuery", 2000, (CUstream)) \
    X(cuStreamBeginCapture_v2, "cuStreamBeginCapture", 10010, (CUstream, CUstreamCaptureMode)) \
    X(cuStreamEndCapture, "cuStreamEndCapture", 10000, (CUstream, CUgraph *)) \
    X(cuStreamIsCapturing, "cuStreamIsCapturing", 10000, (CUstream, CUstreamCaptureStatus *)) \
    X(cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags", 11040, (CUgraphExec *, CUgraph, unsigned long long)) \
    X(cuGraphExecDestroy, "cuGraphExecDestroy", 10000, (CUgraphExec)) \
    X(cuGraphDestroy, "cuGraphDestroy", 10000, (CUgraph)) \
    X(cuEventCreate, "cuEventCreate", 2000, (CUevent *, unsigned)) \
    X(cuEventRecord, "cuEventRecord", 2000, (CUevent, CUstream)) \
    X(cuEventQuery, "cuEventQuery", 2000, (CUevent)) \
    X(cuEventSynchronize, "cuEventSynchronize", 2000, (CUevent)) \
    X(cuEventDestroy_v2, "cuEventDestroy", 4000, (CUevent)) \
    X(cuMemAlloc_v2, "cuMemAlloc", 3020, (CUdeviceptr *, size_t)) \
    X(cuMemAllocPitch_v2, "cuMemAllocPitch", 3020, (CUdeviceptr *, size_t *, size_t, size_t, unsigned)) \
    X(cuMemAllocManaged, "cuMemAllocManaged", 6000, (CUdeviceptr *, size_t, unsigned)) \
    X(cuMemFree_v2, "cuMemFree", 3020, (CUdeviceptr)) \
    X(cuMemAllocAsync, "cuMemAllocAsync", 11020, (CUdeviceptr *, size_t, CUstream)) \
    X(cuMemFreeAsync, "cuMemFreeAsync", 11020, (CUdeviceptr, CUstream)) \
    X(cuMemGetInfo_v2, "cuMemGetInfo", 3020, (size_t *, size_t *)) \
    X(cuMemCreate, "cuMemCreate", 10020, \
      (CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long)) \
    X(cuMemRelease, "cuMemRelease", 10020, (CUmemGenericAllocationHandle)) \
    X(cuMemAddressReserve, "cuMemAddressReserve", 10020, \
      (CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long)) \
    X(cuMemAddressFree, "cuMemAddressFree", 10020, (CUdeviceptr, size_t)) \
    X(cuMemMap, "cuMemMap", 10020, \
      (CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long)) \
    X(cuMemUnmap, "cuMemUnmap", 10020, (CUdeviceptr, size_t)) \
    X(cuMemSetAccess, "cuMemSetAccess", 10020, (CUdeviceptr, size_t, const CUmemAccessDesc *, size_t)) \
    X(cuStreamWaitValue32_v2, "cuStreamWaitValue32", 11070, (CUstream, CUdeviceptr, unsigned, unsigned)) \
    X(cuStreamWriteValue32_v2, "cuStreamWriteValue32", 11070, (CUstream, CUdeviceptr, unsigned, unsigned)) \
    X(cuMemHostAlloc, "cuMemHostAlloc", 2020, (void **, size_t, unsigned)) \
    X(cuMemAllocHost_v2, "cuMemAllocHost", 3020, (void **, size_t)) \
    X(cuMemFreeHost, "cuMemFreeHost", 2000, (void *)) \
    X(cuMemGetAddressRange_v2, "cuMemGetAddressRange", 3020, (CUdeviceptr *, size_t *, CUdeviceptr)) \
    X(cuPointerGetAttribute, "cuPointerGetAttribute", 4000, (void *, CUpointer_attribute, CUdeviceptr)) \
    X(cuPointerSetAttribute, "cuPointerSetAttribute", 6000, (const void *, CUpointer_attribute, CUdeviceptr)) \
    X(cuMemHostGetDevicePointer_v2, "cuMemHostGetDevicePointer", 3020, (CUdeviceptr *, void *, unsigned)) \
    X(cuPointerGetAttributes, "cuPointerGetAttributes", 7000, (unsigned, CUpointer_attribute *, void **, CUdeviceptr)) \
    X(cuMemHostGetFlags, "cuMemHostGetFlags", 2030, (unsigned *, void *)) \
    X(cuMemHostRegister_v2, "cuMemHostRegister", 6050, (void *, size_t, unsigned)) \
    X(cuMemHostUnregister, "cuMemHostUnregister", 4000, (void *)) \
    X(cuMemcpy, "cuMemcpy", 4000, (CUdeviceptr, CUdeviceptr, size_t)) \
    X(cuMemcpyAsync, "cuMemcpyAsync", 4000, (CUdeviceptr, CUdeviceptr, size_t, CUstream)) \
    X(cuMemcpyHtoD_v2, "cuMemcpyHtoD", 3020, (CUdeviceptr, const void *, size_t)) \
    X(cuMemcpyDtoH_v2, "cuMemcpyDtoH", 3020, (void *, CUdeviceptr, size_t)) \
    X(cuMemcpyHtoDAsync_v2, "cuMemcpyHtoDAsync", 3020, (CUdeviceptr, const void *, size_t, CUstream)) \
    X(cuMemcpyDtoHAsync_v2, "cuMemcpyDtoHAsync", 3020, (void *, CUdeviceptr, size_t, CUstream)) \
    X(cuMemcpyDtoDAsync_v2, "cuMemcpyDtoDAsync", 3020, (CUdeviceptr, CUdeviceptr, size_t, CUstream)) \
    X(cuMemsetD8_v2, "cuMemsetD8", 3020, (CUdeviceptr, unsigned char, size_t)) \
    X(cuMemsetD32Async, "cuMemsetD32Async", 3020, (CUdeviceptr, unsigned, size_t, CUstream))

typedef CUresult (*ProcAddress)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);

#if defined(VIA_DLSYM) || defined(VIA_PROC)
#define DECLARE(name, base, version, arguments) static CUresult (*name) arguments __attribute__((unused));
DRIVER_FUNCTIONS(DECLARE)
#undef DECLARE

static void *driver_library;

static void *driver_find(const char *name, const char *base, int version)
{
    void *found = NULL;
#ifdef VIA_PROC
    ProcAddress proc = (ProcAddress)dlsym(driver_library, "cuGetProcAddress_v2");
    CUdriverProcAddressQueryResult status;
    if (VIA_PROC == 2 && version < 7000)
        version = 7000; /* the version that brought per-thread default streams */
    if (proc == NULL || proc(base, &found, version, VIA_PROC, &status) != 0)
        found = NULL;
    (void)name;
#else
    found = dlsym(driver_library, name);
    (void)base, (void)version;
#endif
    return found;
}

static void driver_load(void)
{
    driver_library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver_library == NULL) {
        fprintf(stderr, "driver_load: %s\n", dlerror());
        exit(3);
    }
#define FIND(name, base, version, arguments) *(void **)&name = driver_find(#name, base, version);
    DRIVER_FUNCTIONS(FIND)
#undef FIND
}
#else
#define DECLARE(name, base, version, arguments) extern CUresult name arguments;
DRIVER_FUNCTIONS(DECLARE)
#undef DECLARE

static inline void driver_load(void)
{
}
#endif

#endif
