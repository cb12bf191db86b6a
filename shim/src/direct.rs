//! The functions of `include/aishim.h`, for programs that know of us. What they promise stands there.
//!
//! They go the way of the program's own calls, through our hooks: so what they do is counted, falls back to the driver
//! and passes through where the library is switched off, all in one place. A driver is used where the process has one,
//! and never loaded.

use crate::cuda::{Status, address, host_alloc, sys};
use crate::driver;
use crate::exports;
use crate::fence::fenced;
use crate::pinned;
use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::ptr::null_mut;

/// `struct ai_pool_stats`. Appended to, never changed; each addition raises [`STATS_VERSION`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Stats {
    version: u32,
    filled_bytes: u32,
    capacity_bytes: u64,
    block_bytes: u64,
    reserved_bytes: u64,
    allocated_bytes: u64,
    requested_bytes: u64,
    quarantined_bytes: u64,
    high_water_bytes: u64,
    hits: u64,
    misses: u64,
    frees: u64,
}

/// `AI_POOL_STATS_VERSION`.
const STATS_VERSION: u32 = 1;

/// The least a caller has room for: the version, and how much was filled.
const STATS_MIN_BYTES: usize = offset_of!(Stats, capacity_bytes);

/// `CUDA_ERROR_INVALID_CONTEXT`: none is current.
const NO_CONTEXT: Status = Status(201);

/// `ai_alloc_pinned`.
pub(crate) fn alloc(bytes: usize) -> *mut c_void {
    if bytes == 0 {
        return nothing(libc::EINVAL);
    }
    if !driver::is_present() {
        return nothing(libc::ENODEV);
    }
    let mut memory = null_mut();
    // SAFETY: an out-pointer of our own.
    let status = unsafe { exports::cuMemHostAlloc(&raw mut memory, bytes, host_alloc::PORTABLE) };
    if status.is_ok() { memory } else { nothing(errno_of(status)) }
}

/// What a result of cuMemHostAlloc is in the words of errno(3); CUDA Driver API, CUresult.
fn errno_of(status: Status) -> c_int {
    match status.0 {
        // INVALID_VALUE can only mean the size here; OUT_OF_MEMORY.
        1 | 2 => libc::ENOMEM,
        // NOT_INITIALIZED, DEINITIALIZED, STUB_LIBRARY, NO_DEVICE; NOT_SUPPORTED is ours for a driver without it.
        3 | 4 | 34 | 100 | 801 => libc::ENODEV,
        // INVALID_CONTEXT, CONTEXT_IS_DESTROYED.
        201 | 709 => libc::ENXIO,
        // All that captures forbid.
        900..=908 => libc::EBUSY,
        _ => libc::EIO,
    }
}

/// `ai_free_pinned`. The pool needs no context; the driver needs any, so it gets the memory's own where there is none.
pub(crate) fn free(memory: *mut c_void) {
    if memory.is_null() || !driver::is_present() {
        return;
    }
    let errno_before = errno();
    // SAFETY: freed by its owner, who says that nothing uses it any more.
    let status = unsafe { exports::cuMemFreeHost(memory) };
    if status == NO_CONTEXT {
        free_in_its_context(memory);
    }
    set_errno(errno_before);
}

fn free_in_its_context(memory: *mut c_void) {
    /// `CU_POINTER_ATTRIBUTE_CONTEXT`.
    const CONTEXT: u32 = 1;
    let mut context: sys::CUcontext = null_mut();
    let asked = driver::pointer_attribute((&raw mut context).cast(), CONTEXT, address(memory) as u64);
    if asked.is_ok() && driver::push_context(context).is_ok() {
        // SAFETY: as in `free`; the driver has refused the first time.
        let _ = unsafe { exports::cuMemFreeHost(memory) };
        let _ = driver::pop_context(&raw mut context);
    }
}

/// `ai_pool_stats`.
///
/// # Safety
/// `to` is null or has room for `bytes`.
pub(crate) unsafe fn stats(to: *mut c_void, bytes: usize) -> c_int {
    if to.is_null() || bytes < STATS_MIN_BYTES {
        set_errno(libc::EINVAL);
        return -1;
    }
    let filled_bytes = bytes.min(size_of::<Stats>());
    let figures = figures(filled_bytes as u32);
    // SAFETY: the caller has room for `bytes`, and so many of ours are plain integers without padding.
    unsafe {
        to.cast::<u8>().write_bytes(0, bytes);
        std::ptr::copy_nonoverlapping((&raw const figures).cast::<u8>(), to.cast(), filled_bytes);
    }
    0
}

fn figures(filled_bytes: u32) -> Stats {
    let pool = fenced(pinned::stats);
    Stats {
        version: STATS_VERSION,
        filled_bytes,
        capacity_bytes: pool.capacity_bytes,
        block_bytes: pool.block_bytes,
        reserved_bytes: pool.reserved_bytes,
        allocated_bytes: pool.allocated_bytes,
        requested_bytes: pool.requested_bytes,
        quarantined_bytes: pool.quarantined_bytes,
        high_water_bytes: pool.high_water_bytes,
        hits: pool.hits,
        misses: pool.misses.total(),
        frees: pool.frees,
    }
}

fn nothing(reason: c_int) -> *mut c_void {
    set_errno(reason);
    null_mut()
}

fn errno() -> c_int {
    // SAFETY: errno(3): the calling thread's own variable, always there.
    unsafe { *libc::__errno_location() }
}

fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value };
}
