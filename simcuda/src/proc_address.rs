//! cuGetProcAddress: which function a name means at a version.
//!
//! A name with a version means the newest form that was there at that version. With the flag for a per-thread default
//! stream it means the `_ptsz` or `_ptds` form where there is one. What is handed out is the very function that dlsym
//! finds under its versioned name.

use crate::api::*;
use std::ffi::{CStr, c_void};

/// CU_GET_PROC_ADDRESS_SUCCESS and the two ways to miss.
pub(crate) const SUCCESS: u32 = 0;
pub(crate) const SYMBOL_NOT_FOUND: u32 = 1;
pub(crate) const VERSION_NOT_SUFFICIENT: u32 = 2;

const PER_THREAD_STREAM: u64 = 2;
/// The per-thread forms came with CUDA 7.0.
const PER_THREAD_SINCE: i32 = 7_000;

/// Why nothing was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Miss {
    Arguments,
    Unknown,
    TooNew,
}

struct Entry {
    name: &'static str,
    /// The version it came with.
    since: i32,
    plain: Address,
    per_thread: Option<Address>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Address(*const c_void);

// SAFETY: the address of a function; it is never written through.
unsafe impl Sync for Address {}

macro_rules! per_thread {
    ($group:ident) => {
        None
    };
    ($group:ident $twin:ident) => {
        Some(Address($group::$twin as *const c_void))
    };
}

macro_rules! table {
    ($($name:literal $since:literal $group:ident::$symbol:ident $(, $twin:ident)?;)*) => {
        static TABLE: &[Entry] = &[$(Entry {
            name: $name,
            since: $since,
            plain: Address($group::$symbol as *const c_void),
            per_thread: per_thread!($group $($twin)?),
        }),*];
    };
}

/// The version the driver says it has: 13000, or what `SIMCUDA_DRIVER_VERSION` says. Newer names are then not found.
pub(crate) fn driver_version() -> i32 {
    crate::settings::Settings::of_this_process().driver_version
}

/// The function that `name` means.
pub(crate) fn find(name: &CStr, version: i32, flags: u64) -> Result<*const c_void, Miss> {
    if flags > PER_THREAD_STREAM {
        return Err(Miss::Arguments);
    }
    let name = name.to_str().map_err(|_| Miss::Unknown)?;
    let driver = driver_version();
    let known = || TABLE.iter().filter(|entry| entry.name == name && entry.since <= driver);
    if version > driver {
        return Err(Miss::Arguments);
    }
    let newest = known().filter(|entry| entry.since <= version).max_by_key(|entry| entry.since);
    let Some(entry) = newest else {
        return Err(if known().next().is_some() { Miss::TooNew } else { Miss::Unknown });
    };
    let per_thread = entry.per_thread.filter(|_| flags == PER_THREAD_STREAM);
    if per_thread.is_some() && version < PER_THREAD_SINCE {
        return Err(Miss::TooNew);
    }
    Ok(per_thread.unwrap_or(entry.plain).0)
}

table! {
    "cuCtxCreate" 3020 context::cuCtxCreate_v2;
    "cuCtxCreate" 11040 context::cuCtxCreate_v3;
    "cuCtxCreate" 12050 context::cuCtxCreate_v4;
    "cuCtxDestroy" 4000 context::cuCtxDestroy_v2;
    "cuCtxGetApiVersion" 3020 context::cuCtxGetApiVersion;
    "cuCtxGetCurrent" 4000 context::cuCtxGetCurrent;
    "cuCtxGetDevice" 2000 context::cuCtxGetDevice;
    "cuCtxGetDevice" 13000 context::cuCtxGetDevice_v2;
    "cuCtxGetFlags" 7000 context::cuCtxGetFlags;
    "cuCtxGetId" 12000 context::cuCtxGetId;
    "cuCtxGetLimit" 3010 context::cuCtxGetLimit;
    "cuCtxGetStreamPriorityRange" 5050 context::cuCtxGetStreamPriorityRange;
    "cuCtxPopCurrent" 4000 context::cuCtxPopCurrent_v2;
    "cuCtxPushCurrent" 4000 context::cuCtxPushCurrent_v2;
    "cuCtxSetCurrent" 4000 context::cuCtxSetCurrent;
    "cuCtxSetLimit" 3010 context::cuCtxSetLimit;
    "cuCtxSynchronize" 2000 context::cuCtxSynchronize;
    "cuCtxSynchronize" 13000 context::cuCtxSynchronize_v2;
    "cuDeviceGet" 2000 device::cuDeviceGet;
    "cuDeviceGetAttribute" 2000 device::cuDeviceGetAttribute;
    "cuDeviceGetCount" 2000 device::cuDeviceGetCount;
    "cuDeviceGetDefaultMemPool" 11020 pool::cuDeviceGetDefaultMemPool;
    "cuDeviceGetMemPool" 11020 pool::cuDeviceGetMemPool;
    "cuDeviceGetName" 2000 device::cuDeviceGetName;
    "cuDeviceGetPCIBusId" 4010 device::cuDeviceGetPCIBusId;
    "cuDeviceGetUuid" 9020 device::cuDeviceGetUuid;
    "cuDeviceGetUuid" 11040 device::cuDeviceGetUuid_v2;
    "cuDevicePrimaryCtxGetState" 7000 device::cuDevicePrimaryCtxGetState;
    "cuDevicePrimaryCtxRelease" 11000 device::cuDevicePrimaryCtxRelease_v2;
    "cuDevicePrimaryCtxReset" 11000 device::cuDevicePrimaryCtxReset_v2;
    "cuDevicePrimaryCtxRetain" 7000 device::cuDevicePrimaryCtxRetain;
    "cuDevicePrimaryCtxSetFlags" 11000 device::cuDevicePrimaryCtxSetFlags_v2;
    "cuDeviceSetMemPool" 11020 pool::cuDeviceSetMemPool;
    "cuDeviceTotalMem" 3020 device::cuDeviceTotalMem_v2;
    "cuDriverGetVersion" 2020 init::cuDriverGetVersion;
    "cuEventCreate" 2000 event::cuEventCreate;
    "cuEventDestroy" 4000 event::cuEventDestroy_v2;
    "cuEventElapsedTime" 2000 event::cuEventElapsedTime;
    "cuEventElapsedTime" 12080 event::cuEventElapsedTime_v2;
    "cuEventQuery" 2000 event::cuEventQuery;
    "cuEventRecord" 2000 event::cuEventRecord, cuEventRecord_ptsz;
    "cuEventRecordWithFlags" 11010 event::cuEventRecordWithFlags, cuEventRecordWithFlags_ptsz;
    "cuEventSynchronize" 2000 event::cuEventSynchronize;
    "cuFuncGetAttribute" 2020 module::cuFuncGetAttribute;
    "cuFuncGetName" 12030 module::cuFuncGetName;
    "cuFuncSetAttribute" 9000 module::cuFuncSetAttribute;
    "cuGetErrorName" 6000 init::cuGetErrorName;
    "cuGetErrorString" 6000 init::cuGetErrorString;
    "cuGetExportTable" 3000 init::cuGetExportTable;
    "cuGetProcAddress" 11030 init::cuGetProcAddress;
    "cuGetProcAddress" 12000 init::cuGetProcAddress_v2;
    "cuGraphCreate" 10000 graph::cuGraphCreate;
    "cuGraphDestroy" 10000 graph::cuGraphDestroy;
    "cuGraphExecDestroy" 10000 graph::cuGraphExecDestroy;
    "cuGraphGetNodes" 10000 graph::cuGraphGetNodes;
    "cuGraphInstantiate" 11000 graph::cuGraphInstantiate_v2;
    "cuGraphInstantiateWithFlags" 11040 graph::cuGraphInstantiateWithFlags;
    "cuGraphInstantiateWithParams" 12000 graph::cuGraphInstantiateWithParams, cuGraphInstantiateWithParams_ptsz;
    "cuGraphLaunch" 10000 launch::cuGraphLaunch, cuGraphLaunch_ptsz;
    "cuGraphUpload" 11010 graph::cuGraphUpload, cuGraphUpload_ptsz;
    "cuInit" 2000 init::cuInit;
    "cuKernelGetFunction" 12000 module::cuKernelGetFunction;
    "cuLaunchCooperativeKernel" 9000 launch::cuLaunchCooperativeKernel, cuLaunchCooperativeKernel_ptsz;
    "cuLaunchHostFunc" 10000 launch::cuLaunchHostFunc, cuLaunchHostFunc_ptsz;
    "cuLaunchKernel" 4000 launch::cuLaunchKernel, cuLaunchKernel_ptsz;
    "cuLaunchKernelEx" 11060 launch::cuLaunchKernelEx, cuLaunchKernelEx_ptsz;
    "cuLibraryGetKernel" 12000 module::cuLibraryGetKernel;
    "cuLibraryLoadData" 12000 module::cuLibraryLoadData;
    "cuLibraryUnload" 12000 module::cuLibraryUnload;
    "cuMemAddressFree" 10020 virtual_memory::cuMemAddressFree;
    "cuMemAddressReserve" 10020 virtual_memory::cuMemAddressReserve;
    "cuMemAlloc" 3020 memory::cuMemAlloc_v2;
    "cuMemAllocAsync" 11020 pool::cuMemAllocAsync, cuMemAllocAsync_ptsz;
    "cuMemAllocFromPoolAsync" 11020 pool::cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync_ptsz;
    "cuMemAllocHost" 3020 host::cuMemAllocHost_v2;
    "cuMemAllocManaged" 6000 memory::cuMemAllocManaged;
    "cuMemAllocPitch" 3020 memory::cuMemAllocPitch_v2;
    "cuMemcpy" 4000 copy::cuMemcpy, cuMemcpy_ptds;
    "cuMemcpy2D" 3020 copy::cuMemcpy2D_v2, cuMemcpy2D_v2_ptds;
    "cuMemcpy2DAsync" 3020 copy::cuMemcpy2DAsync_v2, cuMemcpy2DAsync_v2_ptsz;
    "cuMemcpy2DUnaligned" 3020 copy::cuMemcpy2DUnaligned_v2, cuMemcpy2DUnaligned_v2_ptds;
    "cuMemcpy3D" 3020 copy::cuMemcpy3D_v2, cuMemcpy3D_v2_ptds;
    "cuMemcpy3DAsync" 3020 copy::cuMemcpy3DAsync_v2, cuMemcpy3DAsync_v2_ptsz;
    "cuMemcpyAsync" 4000 copy::cuMemcpyAsync, cuMemcpyAsync_ptsz;
    "cuMemcpyBatchAsync" 12080 copy::cuMemcpyBatchAsync, cuMemcpyBatchAsync_ptsz;
    "cuMemcpyBatchAsync" 13000 copy::cuMemcpyBatchAsync_v2, cuMemcpyBatchAsync_v2_ptsz;
    "cuMemcpyDtoD" 3020 copy::cuMemcpyDtoD_v2, cuMemcpyDtoD_v2_ptds;
    "cuMemcpyDtoDAsync" 3020 copy::cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync_v2_ptsz;
    "cuMemcpyDtoH" 3020 copy::cuMemcpyDtoH_v2, cuMemcpyDtoH_v2_ptds;
    "cuMemcpyDtoHAsync" 3020 copy::cuMemcpyDtoHAsync_v2, cuMemcpyDtoHAsync_v2_ptsz;
    "cuMemcpyHtoD" 3020 copy::cuMemcpyHtoD_v2, cuMemcpyHtoD_v2_ptds;
    "cuMemcpyHtoDAsync" 3020 copy::cuMemcpyHtoDAsync_v2, cuMemcpyHtoDAsync_v2_ptsz;
    "cuMemcpyPeer" 4000 copy::cuMemcpyPeer, cuMemcpyPeer_ptds;
    "cuMemcpyPeerAsync" 4000 copy::cuMemcpyPeerAsync, cuMemcpyPeerAsync_ptsz;
    "cuMemCreate" 10020 virtual_memory::cuMemCreate;
    "cuMemFree" 3020 memory::cuMemFree_v2;
    "cuMemFreeAsync" 11020 pool::cuMemFreeAsync, cuMemFreeAsync_ptsz;
    "cuMemFreeHost" 2000 host::cuMemFreeHost;
    "cuMemGetAddressRange" 3020 memory::cuMemGetAddressRange_v2;
    "cuMemGetAllocationGranularity" 10020 virtual_memory::cuMemGetAllocationGranularity;
    "cuMemGetInfo" 3020 memory::cuMemGetInfo_v2;
    "cuMemHostAlloc" 2020 host::cuMemHostAlloc;
    "cuMemHostGetDevicePointer" 3020 host::cuMemHostGetDevicePointer_v2;
    "cuMemHostGetFlags" 2030 host::cuMemHostGetFlags;
    "cuMemHostRegister" 6050 host::cuMemHostRegister_v2;
    "cuMemHostUnregister" 4000 host::cuMemHostUnregister;
    "cuMemMap" 10020 virtual_memory::cuMemMap;
    "cuMemPoolCreate" 11020 pool::cuMemPoolCreate;
    "cuMemPoolDestroy" 11020 pool::cuMemPoolDestroy;
    "cuMemPoolGetAttribute" 11020 pool::cuMemPoolGetAttribute;
    "cuMemPoolSetAttribute" 11020 pool::cuMemPoolSetAttribute;
    "cuMemPoolTrimTo" 11020 pool::cuMemPoolTrimTo;
    "cuMemRelease" 10020 virtual_memory::cuMemRelease;
    "cuMemRetainAllocationHandle" 11000 virtual_memory::cuMemRetainAllocationHandle;
    "cuMemSetAccess" 10020 virtual_memory::cuMemSetAccess;
    "cuMemsetD16" 3020 memset::cuMemsetD16_v2, cuMemsetD16_v2_ptds;
    "cuMemsetD16Async" 3020 memset::cuMemsetD16Async, cuMemsetD16Async_ptsz;
    "cuMemsetD2D16" 3020 memset::cuMemsetD2D16_v2, cuMemsetD2D16_v2_ptds;
    "cuMemsetD2D16Async" 3020 memset::cuMemsetD2D16Async, cuMemsetD2D16Async_ptsz;
    "cuMemsetD2D32" 3020 memset::cuMemsetD2D32_v2, cuMemsetD2D32_v2_ptds;
    "cuMemsetD2D32Async" 3020 memset::cuMemsetD2D32Async, cuMemsetD2D32Async_ptsz;
    "cuMemsetD2D8" 3020 memset::cuMemsetD2D8_v2, cuMemsetD2D8_v2_ptds;
    "cuMemsetD2D8Async" 3020 memset::cuMemsetD2D8Async, cuMemsetD2D8Async_ptsz;
    "cuMemsetD32" 3020 memset::cuMemsetD32_v2, cuMemsetD32_v2_ptds;
    "cuMemsetD32Async" 3020 memset::cuMemsetD32Async, cuMemsetD32Async_ptsz;
    "cuMemsetD8" 3020 memset::cuMemsetD8_v2, cuMemsetD8_v2_ptds;
    "cuMemsetD8Async" 3020 memset::cuMemsetD8Async, cuMemsetD8Async_ptsz;
    "cuMemUnmap" 10020 virtual_memory::cuMemUnmap;
    "cuModuleGetFunction" 2000 module::cuModuleGetFunction;
    "cuModuleGetGlobal" 3020 module::cuModuleGetGlobal_v2;
    "cuModuleLoad" 2000 module::cuModuleLoad;
    "cuModuleLoadData" 2000 module::cuModuleLoadData;
    "cuModuleLoadDataEx" 2010 module::cuModuleLoadDataEx;
    "cuModuleUnload" 2000 module::cuModuleUnload;
    "cuOccupancyMaxActiveBlocksPerMultiprocessor" 6050 module::cuOccupancyMaxActiveBlocksPerMultiprocessor;
    "cuPointerGetAttribute" 4000 pointer::cuPointerGetAttribute;
    "cuPointerGetAttributes" 7000 pointer::cuPointerGetAttributes;
    "cuPointerSetAttribute" 6000 pointer::cuPointerSetAttribute;
    "cuStreamAddCallback" 5000 stream::cuStreamAddCallback, cuStreamAddCallback_ptsz;
    "cuStreamBatchMemOp" 11070 stream::cuStreamBatchMemOp_v2, cuStreamBatchMemOp_v2_ptsz;
    "cuStreamBeginCapture" 10000 capture::cuStreamBeginCapture, cuStreamBeginCapture_ptsz;
    "cuStreamBeginCapture" 10010 capture::cuStreamBeginCapture_v2, cuStreamBeginCapture_v2_ptsz;
    "cuStreamBeginCaptureToGraph" 12030 capture::cuStreamBeginCaptureToGraph, cuStreamBeginCaptureToGraph_ptsz;
    "cuStreamCreate" 2000 stream::cuStreamCreate;
    "cuStreamCreateWithPriority" 5050 stream::cuStreamCreateWithPriority;
    "cuStreamDestroy" 4000 stream::cuStreamDestroy_v2;
    "cuStreamEndCapture" 10000 capture::cuStreamEndCapture, cuStreamEndCapture_ptsz;
    "cuStreamGetCaptureInfo" 10010 capture::cuStreamGetCaptureInfo, cuStreamGetCaptureInfo_ptsz;
    "cuStreamGetCaptureInfo" 11030 capture::cuStreamGetCaptureInfo_v2, cuStreamGetCaptureInfo_v2_ptsz;
    "cuStreamGetCaptureInfo" 12030 capture::cuStreamGetCaptureInfo_v3, cuStreamGetCaptureInfo_v3_ptsz;
    "cuStreamGetCtx" 9020 stream::cuStreamGetCtx, cuStreamGetCtx_ptsz;
    "cuStreamGetCtx" 12050 stream::cuStreamGetCtx_v2, cuStreamGetCtx_v2_ptsz;
    "cuStreamGetFlags" 5050 stream::cuStreamGetFlags, cuStreamGetFlags_ptsz;
    "cuStreamGetId" 12000 stream::cuStreamGetId, cuStreamGetId_ptsz;
    "cuStreamGetPriority" 5050 stream::cuStreamGetPriority, cuStreamGetPriority_ptsz;
    "cuStreamIsCapturing" 10000 capture::cuStreamIsCapturing, cuStreamIsCapturing_ptsz;
    "cuStreamQuery" 2000 stream::cuStreamQuery, cuStreamQuery_ptsz;
    "cuStreamSynchronize" 2000 stream::cuStreamSynchronize, cuStreamSynchronize_ptsz;
    "cuStreamWaitEvent" 3020 stream::cuStreamWaitEvent, cuStreamWaitEvent_ptsz;
    "cuStreamWaitValue32" 11070 stream::cuStreamWaitValue32_v2, cuStreamWaitValue32_v2_ptsz;
    "cuStreamWaitValue64" 11070 stream::cuStreamWaitValue64_v2, cuStreamWaitValue64_v2_ptsz;
    "cuStreamWriteValue32" 11070 stream::cuStreamWriteValue32_v2, cuStreamWriteValue32_v2_ptsz;
    "cuStreamWriteValue64" 11070 stream::cuStreamWriteValue64_v2, cuStreamWriteValue64_v2_ptsz;
    "cuThreadExchangeStreamCaptureMode" 10010 capture::cuThreadExchangeStreamCaptureMode;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(function: *const c_void) -> Result<*const c_void, Miss> {
        Ok(function)
    }

    #[test]
    fn a_version_means_the_newest_form_it_knows() {
        assert_eq!(find(c"cuMemAlloc", 3_020, 0), address(memory::cuMemAlloc_v2 as *const c_void));
        assert_eq!(find(c"cuCtxSynchronize", 12_080, 0), address(context::cuCtxSynchronize as *const c_void));
        assert_eq!(find(c"cuCtxSynchronize", 13_000, 0), address(context::cuCtxSynchronize_v2 as *const c_void));
        assert_eq!(find(c"cuGetProcAddress", 12_000, 0), address(init::cuGetProcAddress_v2 as *const c_void));
        assert_eq!(find(c"cuLaunchKernel", 7_000, 2), address(launch::cuLaunchKernel_ptsz as *const c_void));
        assert_eq!(find(c"cuLaunchKernel", 7_000, 1), address(launch::cuLaunchKernel as *const c_void));
    }

    #[test]
    fn a_miss_says_why() {
        assert_eq!(find(c"", 12_000, 0), Err(Miss::Unknown));
        assert_eq!(find(c"cuMemAlloc_v2", 12_000, 0), Err(Miss::Unknown));
        assert_eq!(find(c"cuLibraryLoadData", 11_000, 0), Err(Miss::TooNew));
        assert_eq!(find(c"cuInit", 2_000, 4), Err(Miss::Arguments));
    }
}
