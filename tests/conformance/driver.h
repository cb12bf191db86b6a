/* The part of the CUDA driver API that the conformance program calls: types, and one list of functions found with
 * dlsym under their exported names. layout_check.c compares the structures with those of <cuda.h>. */
#ifndef CONFORMANCE_DRIVER_H
#define CONFORMANCE_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int Result;
typedef void *Handle; /* contexts, streams, events, modules, functions, graphs, pools */
typedef unsigned long long Address;
typedef unsigned int U32;
typedef unsigned long long U64;
typedef void (*HostFunction)(void *);
typedef void (*StreamCallback)(Handle, Result, void *);

typedef struct { U32 kind; int id; } Location;
typedef struct { U32 kind, handle_types; Location location; void *win32; unsigned char flags[8]; } AllocationProp;
typedef struct { Location location; U32 flags; } AccessDesc;
typedef struct { U32 kind, handle_types; Location location; void *win32; unsigned char reserved[64]; } PoolProps;
typedef struct { U32 order; Location source, target; U32 flags; } CopyAttributes;
typedef struct {
    U32 grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    Handle stream;
    void *attributes;
    U32 attribute_count;
} LaunchConfig;
typedef struct {
    size_t src_x, src_y; U32 src_kind; const void *src_host; Address src_device; Handle src_array; size_t src_pitch;
    size_t dst_x, dst_y; U32 dst_kind; void *dst_host; Address dst_device; Handle dst_array; size_t dst_pitch;
    size_t width, height;
} Copy2D;
typedef struct {
    size_t src_x, src_y, src_z, src_lod; U32 src_kind; const void *src_host; Address src_device; Handle src_array;
    void *reserved0; size_t src_pitch, src_height;
    size_t dst_x, dst_y, dst_z, dst_lod; U32 dst_kind; void *dst_host; Address dst_device; Handle dst_array;
    void *reserved1; size_t dst_pitch, dst_height;
    size_t width, height, depth;
} Copy3D;
typedef struct { U32 kind, barrier_flags; Address address; U64 value; U32 flags; Address alias; U64 reserved; } BatchMemOp;
typedef struct { U64 flags; Handle upload_stream; Handle error_node; U32 result; } InstantiateParams;

#define LAUNCH_ARGS Handle, U32, U32, U32, U32, U32, U32, U32, Handle, void **
#define FUNCTIONS(X) \
    X(cuInit, (U32)) X(cuDriverGetVersion, (int *)) X(cuGetErrorName, (int, const char **)) \
    X(cuGetErrorString, (int, const char **)) X(cuGetProcAddress, (const char *, void **, int, U64)) \
    X(cuGetProcAddress_v2, (const char *, void **, int, U64, int *)) X(cuGetExportTable, (const void **, const void *)) \
    X(cuDeviceGet, (int *, int)) X(cuDeviceGetCount, (int *)) X(cuDeviceGetName, (char *, int, int)) \
    X(cuDeviceGetUuid, (void *, int)) X(cuDeviceGetUuid_v2, (void *, int)) X(cuDeviceTotalMem_v2, (size_t *, int)) \
    X(cuDeviceGetAttribute, (int *, int, int)) X(cuDeviceGetPCIBusId, (char *, int, int)) \
    X(cuDevicePrimaryCtxRetain, (Handle *, int)) X(cuDevicePrimaryCtxRelease_v2, (int)) \
    X(cuDevicePrimaryCtxReset_v2, (int)) X(cuDevicePrimaryCtxGetState, (int, U32 *, int *)) \
    X(cuDevicePrimaryCtxSetFlags_v2, (int, U32)) X(cuCtxCreate_v2, (Handle *, U32, int)) \
    X(cuCtxCreate_v4, (Handle *, void *, U32, int)) X(cuCtxDestroy_v2, (Handle)) X(cuCtxGetCurrent, (Handle *)) \
    X(cuCtxSetCurrent, (Handle)) X(cuCtxPushCurrent_v2, (Handle)) X(cuCtxPopCurrent_v2, (Handle *)) \
    X(cuCtxGetDevice, (int *)) X(cuCtxGetApiVersion, (Handle, U32 *)) X(cuCtxGetFlags, (U32 *)) \
    X(cuCtxGetId, (Handle, U64 *)) X(cuCtxSynchronize, (void)) X(cuCtxGetStreamPriorityRange, (int *, int *)) \
    X(cuCtxGetLimit, (size_t *, int)) X(cuCtxSetLimit, (int, size_t)) X(cuModuleLoadData, (Handle *, const void *)) \
    X(cuModuleLoadDataEx, (Handle *, const void *, U32, void *, void *)) X(cuModuleLoad, (Handle *, const char *)) \
    X(cuModuleUnload, (Handle)) X(cuModuleGetFunction, (Handle *, Handle, const char *)) \
    X(cuModuleGetGlobal_v2, (Address *, size_t *, Handle, const char *)) \
    X(cuLibraryLoadData, (Handle *, const void *, void *, void *, U32, void *, void *, U32)) X(cuLibraryUnload, (Handle)) \
    X(cuLibraryGetKernel, (Handle *, Handle, const char *)) X(cuKernelGetFunction, (Handle *, Handle)) \
    X(cuFuncGetAttribute, (int *, int, Handle)) X(cuFuncSetAttribute, (Handle, int, int)) \
    X(cuFuncGetName, (const char **, Handle)) \
    X(cuOccupancyMaxActiveBlocksPerMultiprocessor, (int *, Handle, int, size_t)) X(cuLaunchKernel, (LAUNCH_ARGS, void **)) \
    X(cuLaunchKernel_ptsz, (LAUNCH_ARGS, void **)) X(cuLaunchKernelEx, (const LaunchConfig *, Handle, void **, void **)) \
    X(cuLaunchCooperativeKernel, (LAUNCH_ARGS)) X(cuGraphLaunch, (Handle, Handle)) \
    X(cuLaunchHostFunc, (Handle, HostFunction, void *)) X(cuStreamCreate, (Handle *, U32)) \
    X(cuStreamCreateWithPriority, (Handle *, U32, int)) X(cuStreamDestroy_v2, (Handle)) X(cuStreamSynchronize, (Handle)) \
    X(cuStreamSynchronize_ptsz, (Handle)) X(cuStreamQuery, (Handle)) X(cuStreamWaitEvent, (Handle, Handle, U32)) \
    X(cuStreamGetFlags, (Handle, U32 *)) X(cuStreamGetPriority, (Handle, int *)) X(cuStreamGetCtx, (Handle, Handle *)) \
    X(cuStreamGetId, (Handle, U64 *)) X(cuStreamAddCallback, (Handle, StreamCallback, void *, U32)) \
    X(cuStreamWriteValue32_v2, (Handle, Address, U32, U32)) X(cuStreamWriteValue64_v2, (Handle, Address, U64, U32)) \
    X(cuStreamWaitValue32_v2, (Handle, Address, U32, U32)) X(cuStreamWaitValue64_v2, (Handle, Address, U64, U32)) \
    X(cuStreamBatchMemOp_v2, (Handle, U32, BatchMemOp *, U32)) X(cuStreamBatchMemOp_v2_ptsz, (Handle, U32, BatchMemOp *, U32)) \
    X(cuEventCreate, (Handle *, U32)) X(cuEventDestroy_v2, (Handle)) X(cuEventRecord, (Handle, Handle)) \
    X(cuEventRecordWithFlags, (Handle, Handle, U32)) X(cuEventQuery, (Handle)) X(cuEventSynchronize, (Handle)) \
    X(cuEventElapsedTime, (float *, Handle, Handle)) X(cuStreamBeginCapture_v2, (Handle, int)) \
    X(cuStreamBeginCaptureToGraph, (Handle, Handle, const Handle *, const void *, size_t, int)) \
    X(cuStreamEndCapture, (Handle, Handle *)) X(cuStreamIsCapturing, (Handle, int *)) \
    X(cuStreamGetCaptureInfo_v2, (Handle, int *, U64 *, Handle *, const Handle **, size_t *)) \
    X(cuThreadExchangeStreamCaptureMode, (int *)) X(cuGraphCreate, (Handle *, U32)) X(cuGraphDestroy, (Handle)) \
    X(cuGraphInstantiateWithFlags, (Handle *, Handle, U64)) \
    X(cuGraphInstantiateWithParams, (Handle *, Handle, InstantiateParams *)) X(cuGraphExecDestroy, (Handle)) \
    X(cuGraphGetNodes, (Handle, Handle *, size_t *)) X(cuGraphUpload, (Handle, Handle)) X(cuMemAlloc_v2, (Address *, size_t)) \
    X(cuMemAllocPitch_v2, (Address *, size_t *, size_t, size_t, U32)) X(cuMemFree_v2, (Address)) \
    X(cuMemAllocManaged, (Address *, size_t, U32)) X(cuMemGetInfo_v2, (size_t *, size_t *)) \
    X(cuMemGetAddressRange_v2, (Address *, size_t *, Address)) X(cuMemAllocAsync, (Address *, size_t, Handle)) \
    X(cuMemFreeAsync, (Address, Handle)) X(cuMemAllocFromPoolAsync, (Address *, size_t, Handle, Handle)) \
    X(cuDeviceGetDefaultMemPool, (Handle *, int)) X(cuDeviceGetMemPool, (Handle *, int)) X(cuDeviceSetMemPool, (int, Handle)) \
    X(cuMemPoolCreate, (Handle *, const PoolProps *)) X(cuMemPoolDestroy, (Handle)) X(cuMemPoolTrimTo, (Handle, size_t)) \
    X(cuMemPoolGetAttribute, (Handle, int, void *)) X(cuMemPoolSetAttribute, (Handle, int, void *)) \
    X(cuMemGetAllocationGranularity, (size_t *, const AllocationProp *, int)) \
    X(cuMemAddressReserve, (Address *, size_t, size_t, Address, U64)) X(cuMemAddressFree, (Address, size_t)) \
    X(cuMemCreate, (U64 *, size_t, const AllocationProp *, U64)) X(cuMemRelease, (U64)) \
    X(cuMemMap, (Address, size_t, size_t, U64, U64)) X(cuMemUnmap, (Address, size_t)) \
    X(cuMemSetAccess, (Address, size_t, const AccessDesc *, size_t)) X(cuMemRetainAllocationHandle, (U64 *, void *)) \
    X(cuMemHostAlloc, (void **, size_t, U32)) X(cuMemAllocHost_v2, (void **, size_t)) X(cuMemFreeHost, (void *)) \
    X(cuMemHostRegister_v2, (void *, size_t, U32)) X(cuMemHostUnregister, (void *)) X(cuMemHostGetFlags, (U32 *, void *)) \
    X(cuMemHostGetDevicePointer_v2, (Address *, void *, U32)) X(cuPointerGetAttribute, (void *, int, Address)) \
    X(cuPointerGetAttributes, (U32, int *, void **, Address)) X(cuPointerSetAttribute, (const void *, int, Address)) \
    X(cuMemcpy, (Address, Address, size_t)) X(cuMemcpyAsync, (Address, Address, size_t, Handle)) \
    X(cuMemcpyHtoD_v2, (Address, const void *, size_t)) X(cuMemcpyDtoH_v2, (void *, Address, size_t)) \
    X(cuMemcpyDtoD_v2, (Address, Address, size_t)) X(cuMemcpyHtoDAsync_v2, (Address, const void *, size_t, Handle)) \
    X(cuMemcpyDtoHAsync_v2, (void *, Address, size_t, Handle)) X(cuMemcpyDtoDAsync_v2, (Address, Address, size_t, Handle)) \
    X(cuMemcpyPeer, (Address, Handle, Address, Handle, size_t)) \
    X(cuMemcpyPeerAsync, (Address, Handle, Address, Handle, size_t, Handle)) X(cuMemcpy2D_v2, (const Copy2D *)) \
    X(cuMemcpy2DUnaligned_v2, (const Copy2D *)) X(cuMemcpy2DAsync_v2, (const Copy2D *, Handle)) \
    X(cuMemcpy3D_v2, (const Copy3D *)) X(cuMemcpy3DAsync_v2, (const Copy3D *, Handle)) \
    X(cuMemcpyBatchAsync, (Address *, Address *, size_t *, size_t, CopyAttributes *, size_t *, size_t, size_t *, Handle)) \
    X(cuMemsetD8_v2, (Address, unsigned char, size_t)) X(cuMemsetD16_v2, (Address, unsigned short, size_t)) \
    X(cuMemsetD32_v2, (Address, U32, size_t)) X(cuMemsetD2D8_v2, (Address, size_t, unsigned char, size_t, size_t)) \
    X(cuMemsetD2D32_v2, (Address, size_t, U32, size_t, size_t)) X(cuMemsetD8Async, (Address, unsigned char, size_t, Handle)) \
    X(cuMemsetD16Async, (Address, unsigned short, size_t, Handle)) X(cuMemsetD32Async, (Address, U32, size_t, Handle)) \
    X(cuMemsetD2D16Async, (Address, size_t, unsigned short, size_t, size_t, Handle))

/* The driver: one pointer a function, null where the driver has not got it. */
struct Driver {
#define DECLARE(name, arguments) Result (*name) arguments;
    FUNCTIONS(DECLARE)
#undef DECLARE
};

#endif
