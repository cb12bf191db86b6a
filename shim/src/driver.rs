//! The real driver: the addresses of its functions, and the way from such an address to our hook.
//!
//! A lookup, by whatever name and version, is answered by the real driver first; the *pointer* it answers with is then
//! looked up here. So the ABI is right by construction, and no suffix is ever guessed (FACTS: the pointer from
//! cuGetProcAddress is the one that dlsym returns for the versioned symbol).
//!
//! Learning the addresses takes no lock, because it happens inside `dlsym`, perhaps inside the loader's lock: every
//! thread that comes along before it is done does it again and stores the same values.

use crate::cuda::{MemoryOp, Status, address, sys};
use crate::dlsym;
use crate::hook::Hook;
use crate::hot::HOT;
use crate::segment;
use aishim_abi::layout::HookState;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

static LEARNT: AtomicBool = AtomicBool::new(false);

/// Where the driver that was learnt is loaded.
static BASE: AtomicUsize = AtomicUsize::new(0);

/// The driver's function for `hook`; null when it is absent or no lookup has come by yet.
#[inline]
pub(crate) fn real(hook: Hook) -> *const c_void {
    HOT.real[hook as usize].load(Relaxed)
}

/// Our function for the driver's function at `found`.
pub(crate) fn ours_for(found: *const c_void) -> Option<*const c_void> {
    if !LEARNT.load(Acquire) {
        return None;
    }
    let hook = Hook::ALL.iter().copied().find(|h| real(*h) == found)?;
    segment::hook_state(hook, HookState::HandedOut);
    Some(crate::exports::of(hook))
}

/// Takes note of the driver in which `found` was found through `scope`, unless one is known already and still loaded.
pub(crate) fn learn(scope: *mut c_void, hook: Hook, found: *mut c_void) {
    let is_known = LEARNT.load(Acquire);
    if is_known && (found.cast_const() == real(hook) || is_loaded()) || !is_driver(found) {
        return;
    }
    // The driver that the program is linked to is the one its calls reach through our exports, whatever other copy it
    // looks up first.
    let linked = dlsym::real(libc::RTLD_NEXT, hook.symbol().as_ptr());
    let (scope, found) =
        if !linked.is_null() && is_driver(linked) { (libc::RTLD_NEXT, linked) } else { (scope, found) };
    if let Some(base) = base_of(found) {
        learn_from(scope, base, is_known);
    }
}

fn learn_from(scope: *mut c_void, base: usize, again: bool) {
    for hook in Hook::ALL {
        let found = dlsym::real(scope, hook.symbol().as_ptr());
        let is_drivers = !found.is_null() && base_of(found) == Some(base);
        // What another library put before the driver stays there, see `resolve_late`.
        if is_drivers && (again || real(*hook).is_null()) {
            HOT.real[*hook as usize].store(found, Relaxed);
            segment::hook_state(*hook, HookState::Known);
        }
    }
    OWN.learn(scope);
    BASE.store(base, Relaxed);
    LEARNT.store(true, Release);
}

/// Whether the driver that was learnt is still there: a program may close it and open it again somewhere else.
fn is_loaded() -> bool {
    let base = BASE.load(Relaxed);
    base_of(base as *const c_void) == Some(base)
}

/// Whether the process has a driver, known to us by now or not. Loads none.
pub(crate) fn is_present() -> bool {
    if !real(Hook::cuMemHostAlloc).is_null() {
        return true;
    }
    // SAFETY: dlopen(3) with RTLD_NOLOAD, which only looks.
    let loaded = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if !loaded.is_null() {
        // SAFETY: gives back the reference that was just taken; the process's own keeps it loaded.
        unsafe { libc::dlclose(loaded) };
    }
    !loaded.is_null()
}

/// For a program linked to the driver, whose calls reach us without any lookup: finds the driver behind us.
#[cold]
pub(crate) fn resolve_late(hook: Hook) -> *const c_void {
    let name = hook.symbol().as_ptr();
    let mut scope = libc::RTLD_NEXT;
    let mut found = dlsym::real(scope, name);
    if found.is_null() && !LEARNT.load(Acquire) {
        // SAFETY: dlopen(3) of a library that the program uses already; loading it anew would only happen in a
        // program that calls the driver without having it.
        scope = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY) };
        if scope.is_null() {
            return std::ptr::null();
        }
        found = dlsym::real(scope, name);
    }
    if !found.is_null() {
        learn(scope, hook, found);
        if real(hook).is_null() {
            // A library between us and the driver has a function of that name: the program's calls go there.
            HOT.real[hook as usize].store(found, Relaxed);
            segment::hook_state(hook, HookState::Known);
        }
    }
    real(hook)
}

/// Counts a hooked name whose answer is no function we know, and keeps its name.
pub(crate) fn unknown(name: &[u8]) {
    segment::unknown_lookup(name);
}

fn info(function: *const c_void) -> Option<libc::Dl_info> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr(3) accepts any address and fills the structure when it returns non-zero.
    let known = unsafe { libc::dladdr(function, info.as_mut_ptr()) };
    // SAFETY: filled, or zeroed, which is a value of each of its fields.
    (known != 0).then(|| unsafe { info.assume_init() })
}

fn base_of(function: *const c_void) -> Option<usize> {
    info(function).map(|i| address(i.dli_fbase))
}

/// Whether the library that holds `function` is called libcuda.so...; others may export a symbol of the same name.
pub(crate) fn is_driver(function: *const c_void) -> bool {
    let Some(info) = info(function) else {
        return false;
    };
    if info.dli_fname.is_null() {
        return false;
    }
    // SAFETY: dladdr(3): the path name of the object, zero-terminated, valid while it is loaded.
    let path = unsafe { CStr::from_ptr(info.dli_fname) }.to_bytes();
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
    name.starts_with(b"libcuda.so") || name.starts_with(b"libsimcuda.so")
}

/// Whether two functions are in the same library.
pub(crate) fn same_library(one: *const c_void, other: *const c_void) -> bool {
    base_of(one).is_some_and(|base| base_of(other) == Some(base))
}

/// The library that holds `function`, as a handle of dlsym(3), for which glibc's is the link map that dladdr1(3) gives.
pub(crate) fn library_of(function: *const c_void) -> Option<*mut c_void> {
    /// `RTLD_DL_LINKMAP` of glibc's <dlfcn.h>.
    const LINK_MAP: c_int = 2;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let mut map = std::ptr::null_mut();
    // SAFETY: dladdr1(3) accepts any address and fills both when it returns non-zero.
    let known = unsafe { dladdr1(function, info.as_mut_ptr(), &raw mut map, LINK_MAP) };
    (known != 0 && !map.is_null()).then_some(map)
}

unsafe extern "C" {
    fn dladdr1(address: *const c_void, info: *mut libc::Dl_info, extra: *mut *mut c_void, flags: c_int) -> c_int;
}

macro_rules! own_calls {
    ($($(#[$doc:meta])* $field:ident $symbol:literal ($($arg:ident : $ty:ty),*);)*) => {
        /// The driver's functions that we call ourselves.
        pub(crate) struct Own { $($field: AtomicPtr<c_void>,)* }

        static OWN: Own = Own { $($field: AtomicPtr::new(std::ptr::null_mut()),)* };

        impl Own {
            fn learn(&self, scope: *mut c_void) {
                $(self.$field.store(dlsym::real(scope, $symbol.as_ptr()), Relaxed);)*
            }
        }

        $(
            $(#[$doc])*
            #[allow(clippy::too_many_arguments, reason = "the driver's signature")]
            pub(crate) fn $field($($arg: $ty),*) -> Status {
                let function = OWN.$field.load(Relaxed);
                if function.is_null() {
                    return Status::NOT_SUPPORTED;
                }
                type Real = unsafe extern "C-unwind" fn($($ty),*) -> Status;
                // SAFETY: the driver exports this symbol with this signature since CUDA 4.0 to 12.0 (the symbol is versioned).
                let function = unsafe { std::mem::transmute::<*mut c_void, Real>(function) };
                #[allow(ffi_unwind_calls, reason = "callers have cancellation switched off, see fence, or nothing to drop")]
                // SAFETY: the driver checks handles itself; the pointers are to our own variables, or the program's own,
                // passed on in the call that it has made.
                unsafe { function($($arg),*) }
            }
        )*
    };
}

own_calls! {
    /// cuDriverGetVersion.
    driver_version c"cuDriverGetVersion" (version: *mut c_int);
    /// cuCtxGetCurrent; legal at any time, also during captures.
    current_context c"cuCtxGetCurrent" (context: *mut sys::CUcontext);
    /// cuCtxSetCurrent, on threads of ours.
    set_current_context c"cuCtxSetCurrent" (context: sys::CUcontext);
    /// cuCtxPushCurrent.
    push_context c"cuCtxPushCurrent_v2" (context: sys::CUcontext);
    /// cuCtxPopCurrent.
    pop_context c"cuCtxPopCurrent_v2" (context: *mut sys::CUcontext);
    /// cuCtxGetDevice.
    current_device c"cuCtxGetDevice" (device: *mut c_int);
    /// cuDeviceGetAttribute.
    device_attribute c"cuDeviceGetAttribute" (value: *mut c_int, attribute: c_uint, device: c_int);
    /// cuDeviceGetPCIBusId.
    pci_bus_id c"cuDeviceGetPCIBusId" (text: *mut c_char, length: c_int, device: c_int);
    /// cuDeviceGetUuid.
    device_uuid c"cuDeviceGetUuid_v2" (uuid: *mut [u8; 16], device: c_int);
    /// cuDevicePrimaryCtxGetState.
    primary_state c"cuDevicePrimaryCtxGetState" (device: c_int, flags: *mut c_uint, active: *mut c_int);
    /// cuEventCreate.
    event_create c"cuEventCreate" (event: *mut sys::CUevent, flags: c_uint);
    /// cuEventRecord.
    event_record c"cuEventRecord" (event: sys::CUevent, stream: sys::CUstream);
    /// cuEventSynchronize.
    event_synchronize c"cuEventSynchronize" (event: sys::CUevent);
    /// cuEventQuery.
    event_query c"cuEventQuery" (event: sys::CUevent);
    /// cuEventElapsedTime, in milliseconds.
    event_elapsed c"cuEventElapsedTime" (milliseconds: *mut f32, start: sys::CUevent, end: sys::CUevent);
    /// cuEventDestroy.
    event_destroy c"cuEventDestroy_v2" (event: sys::CUevent);
    /// cuStreamCreate.
    stream_create c"cuStreamCreate" (stream: *mut sys::CUstream, flags: c_uint);
    /// cuStreamDestroy.
    stream_destroy c"cuStreamDestroy_v2" (stream: sys::CUstream);
    /// cuStreamQuery.
    stream_query c"cuStreamQuery" (stream: sys::CUstream);
    /// cuStreamBatchMemOp.
    batch_mem_op c"cuStreamBatchMemOp_v2" (stream: sys::CUstream, count: c_uint, operations: *mut c_void, flags: c_uint);
    /// cuMemsetD32Async.
    memset_d32 c"cuMemsetD32Async" (at: sys::CUdeviceptr, value: c_uint, count: usize, stream: sys::CUstream);
    /// cuStreamGetCtx.
    stream_context c"cuStreamGetCtx" (stream: sys::CUstream, context: *mut sys::CUcontext);
    /// cuThreadExchangeStreamCaptureMode.
    exchange_capture_mode c"cuThreadExchangeStreamCaptureMode" (mode: *mut c_uint);
    /// cuMemHostAlloc.
    host_alloc c"cuMemHostAlloc" (memory: *mut *mut c_void, bytes: usize, flags: c_uint);
    /// cuMemcpyHtoDAsync.
    copy_to_device c"cuMemcpyHtoDAsync_v2" (to: sys::CUdeviceptr, from: *const c_void, bytes: usize, stream: sys::CUstream);
    /// cuMemcpyDtoHAsync.
    copy_from_device c"cuMemcpyDtoHAsync_v2" (to: *mut c_void, from: sys::CUdeviceptr, bytes: usize, stream: sys::CUstream);
    /// cuCtxGetFlags.
    context_flags c"cuCtxGetFlags" (flags: *mut c_uint);
    /// cuMemFreeHost.
    host_free c"cuMemFreeHost" (memory: *mut c_void);
    /// cuMemHostRegister.
    host_register c"cuMemHostRegister_v2" (memory: *mut c_void, bytes: usize, flags: c_uint);
    /// cuMemHostUnregister.
    host_unregister c"cuMemHostUnregister" (memory: *mut c_void);
    /// cuMemHostGetFlags.
    host_flags c"cuMemHostGetFlags" (flags: *mut c_uint, memory: *mut c_void);
    /// cuMemHostGetDevicePointer.
    host_device_pointer c"cuMemHostGetDevicePointer_v2" (pointer: *mut sys::CUdeviceptr, memory: *mut c_void, flags: c_uint);
    /// cuMemGetAddressRange.
    address_range c"cuMemGetAddressRange_v2" (base: *mut sys::CUdeviceptr, bytes: *mut usize, at: sys::CUdeviceptr);
    /// cuPointerGetAttribute.
    pointer_attribute c"cuPointerGetAttribute" (value: *mut c_void, number: c_uint, at: sys::CUdeviceptr);
    /// cuPointerGetAttributes.
    pointer_attributes c"cuPointerGetAttributes" (count: c_uint, numbers: *mut c_uint, values: *mut *mut c_void, at: sys::CUdeviceptr);
    /// cuPointerSetAttribute.
    set_pointer_attribute c"cuPointerSetAttribute" (value: *const c_void, number: c_uint, at: sys::CUdeviceptr);
}

/// Puts memory operations on a stream, one after the other; false where the driver refuses.
pub(crate) fn put_memory_ops(stream: sys::CUstream, operations: &mut [MemoryOp]) -> bool {
    batch_mem_op(stream, operations.len() as c_uint, operations.as_mut_ptr().cast(), 0).is_ok()
}

/// The context current on the calling thread; null when there is none.
pub(crate) fn context() -> usize {
    let mut context = std::ptr::null_mut();
    if current_context(&raw mut context).is_ok() { address(context) } else { 0 }
}

/// The name a program passed to a lookup; null where the pointer is.
///
/// # Safety
/// `name` is null or a zero-terminated string.
pub(crate) unsafe fn name<'a>(name: *const c_char) -> Option<&'a CStr> {
    // SAFETY: the caller's promise.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
}
