//! A `libcuda.so.1` in which every call succeeds at once and nothing happens: what a launch or a copy costs
//! over it is the hook.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Functions that only succeed, with their first arguments ignored.
macro_rules! succeed {
    ($($name:ident ($($arg:ident : $ty:ty),*);)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`, which succeeds.")]
            #[allow(non_snake_case, reason = "the driver's own name")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: $ty),*) -> u32 {
                $(let _ = $arg;)*
                0
            }
        )*
    };
}

succeed! {
    cuInit(flags: u32);
    cuMemsetD8Async(at: u64, value: u8, bytes: usize, stream: *mut c_void);
    cuEventCreate(event: *mut *mut c_void, flags: u32);
    cuEventRecord(event: *mut c_void, stream: *mut c_void);
    cuEventQuery(event: *mut c_void);
    cuEventDestroy_v2(event: *mut c_void);
    cuStreamQuery(stream: *mut c_void);
    cuStreamSynchronize(stream: *mut c_void);
    cuCtxSetCurrent(context: *mut c_void);
    cuThreadExchangeStreamCaptureMode(mode: *mut u32);
    cuCtxSynchronize();
    cuMemcpy(to: u64, from: u64, bytes: usize);
    cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize);
    cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize);
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void);
    cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int);
}

/// `cuLaunchKernel`, and the same under a name that nobody hooks, for a comparison within one process.
macro_rules! launch {
    ($($name:ident)*) => {
        $(
            /// Succeeds. Where `extra` is not null, it is a function that stands for the driver's own work.
            ///
            /// # Safety
            /// `extra` is null or an `extern "C"` function without arguments.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, clippy::too_many_arguments, reason = "the driver's own name and signature")]
            pub unsafe extern "C" fn $name(
                _f: *mut c_void,
                _grid_x: u32,
                _grid_y: u32,
                _grid_z: u32,
                _block_x: u32,
                _block_y: u32,
                _block_z: u32,
                _shared_bytes: u32,
                _stream: *mut c_void,
                _parameters: *mut *mut c_void,
                extra: *mut *mut c_void,
            ) -> u32 {
                // SAFETY: null is None; else the caller's promise.
                let work = unsafe { std::mem::transmute::<*mut *mut c_void, Option<extern "C" fn()>>(extra) };
                if let Some(work) = work {
                    work();
                }
                0
            }
        )*
    };
}

launch! { cuLaunchKernel null_launch_kernel }

/// Any address does as a context.
const CONTEXT: *mut c_void = std::ptr::without_provenance_mut(0x1000);

/// `cuDevicePrimaryCtxRetain`.
///
/// # Safety
/// `context` is null or may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's own name")]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) -> u32 {
    if !context.is_null() {
        // SAFETY: the caller's promise.
        unsafe { context.write(CONTEXT) };
    }
    0
}

/// `cuMemAlloc`: addresses without memory, each allocation behind the one before.
///
/// # Safety
/// `address` is null or may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's own name")]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32 {
    static NEXT: AtomicU64 = AtomicU64::new(0x7f00_0000_0000);
    let start = NEXT.fetch_add(bytes as u64, Relaxed);
    if !address.is_null() {
        // SAFETY: the caller's promise.
        unsafe { address.write(start) };
    }
    0
}

/// `cuCtxGetCurrent`.
///
/// # Safety
/// `context` is null or may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's own name")]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { cuDevicePrimaryCtxRetain(context, 0) }
}

/// `cuEventElapsedTime`: always 10 us.
///
/// # Safety
/// `milliseconds` is null or may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's own name")]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, _start: *mut c_void, _end: *mut c_void) -> u32 {
    if !milliseconds.is_null() {
        // SAFETY: the caller's promise.
        unsafe { milliseconds.write(0.01) };
    }
    0
}

/// `cuDriverGetVersion`.
///
/// # Safety
/// `version` is null or may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's own name")]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> u32 {
    if !version.is_null() {
        // SAFETY: the caller's promise.
        unsafe { version.write(13_000) };
    }
    0
}

succeed! {
    cuMemHostRegister_v2(memory: *mut c_void, bytes: usize, flags: u32);
    cuMemHostUnregister(memory: *mut c_void);
}

/// `cuMemHostGetDevicePointer`: the same address.
///
/// # Safety
/// `address` is null or may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's own name")]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(address: *mut u64, memory: *mut c_void, _flags: u32) -> u32 {
    if !address.is_null() {
        // SAFETY: the caller's promise.
        unsafe { address.write(memory as u64) };
    }
    0
}

/// `cuCtxGetDevice`: the first.
///
/// # Safety
/// `device` is null or may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's own name")]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> u32 {
    if !device.is_null() {
        // SAFETY: the caller's promise.
        unsafe { device.write(0) };
    }
    0
}

/// `cuDeviceGetAttribute`: streams can wait for memory (122, `CAN_USE_64_BIT_STREAM_MEM_OPS`), and nothing else.
///
/// # Safety
/// `value` is null or may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's own name")]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> u32 {
    if !value.is_null() {
        // SAFETY: the caller's promise.
        unsafe { value.write((attribute == 122).into()) };
    }
    0
}

/// `CUstreamBatchMemOpParams`, of a 32-bit wait (1) or write (2).
#[repr(C)]
pub struct MemoryOp {
    kind: u32,
    address: u64,
    value: u64,
    _rest: [u64; 3],
}

/// `cuStreamBatchMemOp`: what is written stands there at once, and nobody waits.
///
/// # Safety
/// There are so many operations, on memory that may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's own name")]
pub unsafe extern "C" fn cuStreamBatchMemOp_v2(
    _stream: *mut c_void,
    count: u32,
    operations: *const MemoryOp,
    _flags: u32,
) -> u32 {
    for at in 0..count as usize {
        // SAFETY: the caller's promise.
        let operation = unsafe { &*operations.add(at) };
        if operation.kind == 2 {
            // SAFETY: the caller's promise; others read it as an atomic.
            let word = unsafe { &*(operation.address as *const AtomicU32) };
            word.store(operation.value as u32, Relaxed);
        }
    }
    0
}
