//! The one table of what is interposed.
//!
//! A line is a hook: what it does, the symbol (with its per-thread-default-stream form behind it, which shares the
//! signature), the arguments as the CUDA 13.0 header has them, and the handler with the arguments it wants. From this
//! table come the exported functions, the checks of their signatures against `cudarc::driver::sys`, the lookups, the
//! names in the segment and `docs/hooks.md`. To add a hook, add a line and a handler.
//!
//! Candidates weighed: a wrapper written out for each symbol (the same name then stands in four lists kept in step by
//! hand, the peers' commonest bug); a build script that generates them from the header (nobody reads what it makes);
//! **chosen:** one `macro_rules` table, a callback for each use.
//!
//! Lines marked `#[unchecked]` are exported by drivers we support but are not in the 13.0 header in that form; the header
//! that had them is named.

macro_rules! with_hooks {
    ($callback:ident) => {
        $callback! {
            // --- launches ---------------------------------------------------------------------------------------
            Launch cuLaunchKernel, cuLaunchKernel_ptsz: fn(f: CUfunction, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: CUstream, kernelParams: *mut *mut c_void, extra: *mut *mut c_void)
                => launch::kernel(hStream, f, gridDimX, gridDimY, gridDimZ, blockDimX);
            Launch cuLaunchKernelEx, cuLaunchKernelEx_ptsz: fn(config: *const CUlaunchConfig, f: CUfunction, kernelParams: *mut *mut c_void, extra: *mut *mut c_void)
                => launch::kernel_ex(config, f);
            Launch cuLaunchCooperativeKernel, cuLaunchCooperativeKernel_ptsz: fn(f: CUfunction, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: CUstream, kernelParams: *mut *mut c_void)
                => launch::kernel(hStream, f, gridDimX, gridDimY, gridDimZ, blockDimX);
            Launch cuGraphLaunch, cuGraphLaunch_ptsz: fn(hGraphExec: CUgraphExec, hStream: CUstream)
                => launch::graph(hStream, hGraphExec);

            // --- memsets ----------------------------------------------------------------------------------------
            Memset cuMemsetD8_v2, cuMemsetD8_v2_ptds: fn(dstDevice: CUdeviceptr, uc: u8, N: usize) => work::memset(null_mut(), N, 1, 1);
            Memset cuMemsetD16_v2, cuMemsetD16_v2_ptds: fn(dstDevice: CUdeviceptr, us: u16, N: usize) => work::memset(null_mut(), N, 1, 2);
            Memset cuMemsetD32_v2, cuMemsetD32_v2_ptds: fn(dstDevice: CUdeviceptr, ui: u32, N: usize) => work::memset(null_mut(), N, 1, 4);
            Memset cuMemsetD2D8_v2, cuMemsetD2D8_v2_ptds: fn(dstDevice: CUdeviceptr, dstPitch: usize, uc: u8, Width: usize, Height: usize) => work::memset(null_mut(), Width, Height, 1);
            Memset cuMemsetD2D16_v2, cuMemsetD2D16_v2_ptds: fn(dstDevice: CUdeviceptr, dstPitch: usize, us: u16, Width: usize, Height: usize) => work::memset(null_mut(), Width, Height, 2);
            Memset cuMemsetD2D32_v2, cuMemsetD2D32_v2_ptds: fn(dstDevice: CUdeviceptr, dstPitch: usize, ui: u32, Width: usize, Height: usize) => work::memset(null_mut(), Width, Height, 4);
            Memset cuMemsetD8Async, cuMemsetD8Async_ptsz: fn(dstDevice: CUdeviceptr, uc: u8, N: usize, hStream: CUstream) => work::memset(hStream, N, 1, 1);
            Memset cuMemsetD16Async, cuMemsetD16Async_ptsz: fn(dstDevice: CUdeviceptr, us: u16, N: usize, hStream: CUstream) => work::memset(hStream, N, 1, 2);
            Memset cuMemsetD32Async, cuMemsetD32Async_ptsz: fn(dstDevice: CUdeviceptr, ui: u32, N: usize, hStream: CUstream) => work::memset(hStream, N, 1, 4);
            Memset cuMemsetD2D8Async, cuMemsetD2D8Async_ptsz: fn(dstDevice: CUdeviceptr, dstPitch: usize, uc: u8, Width: usize, Height: usize, hStream: CUstream) => work::memset(hStream, Width, Height, 1);
            Memset cuMemsetD2D16Async, cuMemsetD2D16Async_ptsz: fn(dstDevice: CUdeviceptr, dstPitch: usize, us: u16, Width: usize, Height: usize, hStream: CUstream) => work::memset(hStream, Width, Height, 2);
            Memset cuMemsetD2D32Async, cuMemsetD2D32Async_ptsz: fn(dstDevice: CUdeviceptr, dstPitch: usize, ui: u32, Width: usize, Height: usize, hStream: CUstream) => work::memset(hStream, Width, Height, 4);

            // --- copies -----------------------------------------------------------------------------------------
            Copy cuMemcpy, cuMemcpy_ptds: fn(dst: CUdeviceptr, src: CUdeviceptr, ByteCount: usize) => work::copy_any(null_mut(), dst, src, ByteCount, true);
            Copy cuMemcpyHtoD_v2, cuMemcpyHtoD_v2_ptds: fn(dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize) => work::copy_h2d(null_mut(), dstDevice, srcHost, ByteCount, true);
            Copy cuMemcpyDtoH_v2, cuMemcpyDtoH_v2_ptds: fn(dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize) => work::copy_d2h(null_mut(), dstHost, srcDevice, ByteCount, true);
            Copy cuMemcpyDtoD_v2, cuMemcpyDtoD_v2_ptds: fn(dstDevice: CUdeviceptr, srcDevice: CUdeviceptr, ByteCount: usize) => work::copy_d2d(null_mut(), ByteCount);
            Copy cuMemcpyPeer, cuMemcpyPeer_ptds: fn(dstDevice: CUdeviceptr, dstContext: CUcontext, srcDevice: CUdeviceptr, srcContext: CUcontext, ByteCount: usize) => work::copy_peer(null_mut(), ByteCount);
            Copy cuMemcpyAsync, cuMemcpyAsync_ptsz: fn(dst: CUdeviceptr, src: CUdeviceptr, ByteCount: usize, hStream: CUstream) => work::copy_any(hStream, dst, src, ByteCount, false);
            Copy cuMemcpyHtoDAsync_v2, cuMemcpyHtoDAsync_v2_ptsz: fn(dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize, hStream: CUstream) => work::copy_h2d(hStream, dstDevice, srcHost, ByteCount, false);
            Copy cuMemcpyDtoHAsync_v2, cuMemcpyDtoHAsync_v2_ptsz: fn(dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize, hStream: CUstream) => work::copy_d2h(hStream, dstHost, srcDevice, ByteCount, false);
            Copy cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync_v2_ptsz: fn(dstDevice: CUdeviceptr, srcDevice: CUdeviceptr, ByteCount: usize, hStream: CUstream) => work::copy_d2d(hStream, ByteCount);
            Copy cuMemcpyPeerAsync, cuMemcpyPeerAsync_ptsz: fn(dstDevice: CUdeviceptr, dstContext: CUcontext, srcDevice: CUdeviceptr, srcContext: CUcontext, ByteCount: usize, hStream: CUstream) => work::copy_peer(hStream, ByteCount);
            Copy cuMemcpy2D_v2, cuMemcpy2D_v2_ptds: fn(pCopy: *const CUDA_MEMCPY2D) => work::copy_2d(null_mut(), pCopy, true);
            Copy cuMemcpy2DUnaligned_v2, cuMemcpy2DUnaligned_v2_ptds: fn(pCopy: *const CUDA_MEMCPY2D) => work::copy_2d(null_mut(), pCopy, true);
            Copy cuMemcpy2DAsync_v2, cuMemcpy2DAsync_v2_ptsz: fn(pCopy: *const CUDA_MEMCPY2D, hStream: CUstream) => work::copy_2d(hStream, pCopy, false);
            Copy cuMemcpy3D_v2, cuMemcpy3D_v2_ptds: fn(pCopy: *const CUDA_MEMCPY3D) => work::copy_3d(null_mut(), pCopy, true);
            Copy cuMemcpy3DAsync_v2, cuMemcpy3DAsync_v2_ptsz: fn(pCopy: *const CUDA_MEMCPY3D, hStream: CUstream) => work::copy_3d(hStream, pCopy, false);
            Copy cuMemcpyBatchAsync_v2, cuMemcpyBatchAsync_v2_ptsz: fn(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attrs: *mut CUmemcpyAttributes, attrsIdxs: *mut usize, numAttrs: usize, hStream: CUstream) => work::copy_batch(hStream, dsts, srcs, sizes, count);
            // CUDA 12.8 and 12.9: an index of the copy that failed stands before the stream.
            #[unchecked] Copy cuMemcpyBatchAsync, cuMemcpyBatchAsync_ptsz: fn(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attrs: *mut CUmemcpyAttributes, attrsIdxs: *mut usize, numAttrs: usize, failIdx: *mut usize, hStream: CUstream) => work::copy_batch(hStream, dsts, srcs, sizes, count);

            // --- device memory ----------------------------------------------------------------------------------
            DeviceMemory cuMemAlloc_v2: fn(dptr: *mut CUdeviceptr, bytesize: usize) => device_memory::alloc(dptr, bytesize);
            DeviceMemory cuMemAllocPitch_v2: fn(dptr: *mut CUdeviceptr, pPitch: *mut usize, WidthInBytes: usize, Height: usize, ElementSizeBytes: u32) => device_memory::alloc_pitch(dptr, pPitch, Height);
            DeviceMemory cuMemAllocManaged: fn(dptr: *mut CUdeviceptr, bytesize: usize, flags: u32) => device_memory::alloc_managed(dptr, bytesize);
            DeviceMemory cuMemAllocAsync, cuMemAllocAsync_ptsz: fn(dptr: *mut CUdeviceptr, bytesize: usize, hStream: CUstream) => device_memory::alloc_async(dptr, bytesize);
            DeviceMemory cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync_ptsz: fn(dptr: *mut CUdeviceptr, bytesize: usize, pool: CUmemoryPool, hStream: CUstream) => device_memory::alloc_async(dptr, bytesize);
            DeviceMemory cuMemFree_v2: fn(dptr: CUdeviceptr) => device_memory::free(dptr);
            DeviceMemory cuMemFreeAsync, cuMemFreeAsync_ptsz: fn(dptr: CUdeviceptr, hStream: CUstream) => device_memory::free_async(dptr);
            DeviceMemory cuMemCreate: fn(handle: *mut u64, size: usize, prop: *const CUmemAllocationProp, flags: u64) => device_memory::create(handle, size, prop);
            DeviceMemory cuMemRelease: fn(handle: u64) => device_memory::release(handle);
            DeviceMemory cuMemRetainAllocationHandle: fn(handle: *mut u64, addr: *mut c_void) => device_memory::retain(handle);
            DeviceMemory cuMemMap: fn(ptr: CUdeviceptr, size: usize, offset: usize, handle: u64, flags: u64) => device_memory::map(ptr, size, handle);
            DeviceMemory cuMemUnmap: fn(ptr: CUdeviceptr, size: usize) => device_memory::unmap(ptr, size);

            // --- host memory ------------------------------------------------------------------------------------
            HostMemory cuMemHostAlloc: fn(pp: *mut *mut c_void, bytesize: usize, Flags: u32) => host_memory::alloc(pp, bytesize, Flags);
            HostMemory cuMemAllocHost_v2: fn(pp: *mut *mut c_void, bytesize: usize) => host_memory::alloc(pp, bytesize, 0);
            HostMemory cuMemFreeHost: fn(p: *mut c_void) => host_memory::free(p);
            HostMemory cuMemHostRegister_v2: fn(p: *mut c_void, bytesize: usize, Flags: u32) => host_memory::register(p, bytesize, Flags);
            HostMemory cuMemHostUnregister: fn(p: *mut c_void) => host_memory::unregister(p);

            // --- questions about addresses ------------------------------------------------------------------------
            HostMemory cuMemHostGetFlags: fn(pFlags: *mut u32, p: *mut c_void) => pointers::flags(pFlags, p);
            HostMemory cuMemHostGetDevicePointer_v2: fn(pdptr: *mut CUdeviceptr, p: *mut c_void, Flags: u32) => pointers::device_pointer(pdptr, p, Flags);
            HostMemory cuMemGetAddressRange_v2: fn(pbase: *mut CUdeviceptr, psize: *mut usize, dptr: CUdeviceptr) => pointers::range(pbase, psize, dptr);
            HostMemory cuPointerGetAttribute: fn(data: *mut c_void, attribute: CUpointer_attribute, ptr: CUdeviceptr) => pointers::attribute(data, attribute, ptr);
            HostMemory cuPointerGetAttributes: fn(numAttributes: u32, attributes: *mut CUpointer_attribute, data: *mut *mut c_void, ptr: CUdeviceptr) => pointers::attributes(numAttributes, attributes, data, ptr);
            HostMemory cuPointerSetAttribute: fn(value: *const c_void, attribute: CUpointer_attribute, ptr: CUdeviceptr) => pointers::set_attribute(value, attribute, ptr);

            // --- synchronisation --------------------------------------------------------------------------------
            Synchronise cuCtxSynchronize: fn() => synchronise::context(null_mut());
            Synchronise cuCtxSynchronize_v2: fn(ctx: CUcontext) => synchronise::context(ctx);
            Synchronise cuStreamSynchronize, cuStreamSynchronize_ptsz: fn(hStream: CUstream) => synchronise::stream(hStream);
            Synchronise cuStreamQuery, cuStreamQuery_ptsz: fn(hStream: CUstream) => synchronise::query(hStream);
            Synchronise cuEventSynchronize: fn(hEvent: CUevent) => synchronise::event();
            Synchronise cuEventQuery: fn(hEvent: CUevent) => work::counted();

            // --- streams and captures ---------------------------------------------------------------------------
            Management cuStreamCreate: fn(phStream: *mut CUstream, Flags: u32) => streams::created(phStream);
            Management cuStreamCreateWithPriority: fn(phStream: *mut CUstream, flags: u32, priority: i32) => streams::created(phStream);
            Management cuGreenCtxStreamCreate: fn(phStream: *mut CUstream, greenCtx: CUgreenCtx, flags: u32, priority: i32) => streams::created(phStream);
            Management cuStreamDestroy_v2: fn(hStream: CUstream) => streams::destroy(hStream);
            Management cuStreamBeginCapture_v2, cuStreamBeginCapture_v2_ptsz: fn(hStream: CUstream, mode: CUstreamCaptureMode) => capture::begin(hStream);
            // CUDA 10.0: the mode was always GLOBAL.
            #[unchecked] Management cuStreamBeginCapture, cuStreamBeginCapture_ptsz: fn(hStream: CUstream) => capture::begin(hStream);
            Management cuStreamBeginCaptureToGraph, cuStreamBeginCaptureToGraph_ptsz: fn(hStream: CUstream, hGraph: CUgraph, dependencies: *const CUgraphNode, dependencyData: *const CUgraphEdgeData, numDependencies: usize, mode: CUstreamCaptureMode) => capture::begin(hStream);
            Management cuStreamEndCapture, cuStreamEndCapture_ptsz: fn(hStream: CUstream, phGraph: *mut CUgraph) => capture::end(hStream);
            Management cuThreadExchangeStreamCaptureMode: fn(mode: *mut CUstreamCaptureMode) => work::counted();

            // --- modules, libraries, graphs ---------------------------------------------------------------------
            Management cuModuleUnload: fn(hmod: CUmodule) => sampling::forget_functions();
            Management cuLibraryUnload: fn(library: CUlibrary) => sampling::forget_functions();
            Management cuGraphExecDestroy: fn(hGraphExec: CUgraphExec) => sampling::forget_graph(hGraphExec);

            // --- contexts ---------------------------------------------------------------------------------------
            Management cuInit: fn(Flags: u32) => context::init();
            Management cuDevicePrimaryCtxRetain: fn(pctx: *mut CUcontext, dev: CUdevice) => context::primary_retained(pctx, dev);
            Management cuDevicePrimaryCtxRelease_v2: fn(dev: CUdevice) => context::primary_released(dev);
            Management cuDevicePrimaryCtxReset_v2: fn(dev: CUdevice) => context::primary_reset(dev);
            // CUDA 10.2; what libcudart asks for by the version in which the name first came.
            #[unchecked] Management cuDevicePrimaryCtxRelease: fn(dev: CUdevice) => context::primary_released(dev);
            #[unchecked] Management cuDevicePrimaryCtxReset: fn(dev: CUdevice) => context::primary_reset(dev);
            Management cuCtxCreate_v4: fn(pctx: *mut CUcontext, ctxCreateParams: *mut CUctxCreateParams, flags: u32, dev: CUdevice) => context::created(pctx, dev);
            // CUDA 12.9, gone from the 13.0 header and still exported by its driver.
            #[unchecked] Management cuCtxCreate_v2: fn(pctx: *mut CUcontext, flags: u32, dev: CUdevice) => context::created(pctx, dev);
            #[unchecked] Management cuCtxCreate_v3: fn(pctx: *mut CUcontext, paramsArray: *mut CUexecAffinityParam, numParams: i32, flags: u32, dev: CUdevice) => context::created(pctx, dev);
            Management cuGreenCtxCreate: fn(phCtx: *mut CUgreenCtx, desc: CUdevResourceDesc, dev: CUdevice, flags: u32) => context::green_created(dev);
            Management cuCtxFromGreenCtx: fn(pContext: *mut CUcontext, hCtx: CUgreenCtx) => context::from_green(pContext);
            Management cuCtxDestroy_v2: fn(ctx: CUcontext) => context::destroy(ctx);

            // --- lookups ----------------------------------------------------------------------------------------
            Lookup cuGetProcAddress_v2: fn(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: i32, flags: u64, symbolStatus: *mut CUdriverProcAddressQueryResult) => lookup::answer(symbol, pfn);
            // CUDA 11.3 to 11.8, still exported.
            #[unchecked] Lookup cuGetProcAddress: fn(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: i32, flags: u64) => lookup::answer(symbol, pfn);
        }
    };
}

pub(crate) use with_hooks;
