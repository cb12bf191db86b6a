//! Questions about addresses: memory of the pool answers as if the driver had allocated each block for itself.
//!
//! The driver knows slabs, the program knows blocks. A question about a byte of a live block is put to the driver as it
//! is: what it says of the slab's context, device, kind and access holds for the block too, and its errors are its own.
//! Then the few answers that tell a slab from a block are replaced ([`correct`]); MEMORY_BLOCK_ID is left, since the
//! driver's own small blocks share theirs too. A byte of the pool's memory in no live
//! block is nothing to the program, so the driver is asked about a byte it knows nothing of instead ([`stranger`]):
//! errors, their order and defaults are then what the program would have had after a free of the driver's. Questions
//! about any other address go to the driver untouched.
//!
//! SYNC_MEMOPS is kept for each block, while the driver knows it for the slab: it is set there for the first block that
//! wants it, and unset only when the program unsets it for the last. So copies with other blocks of that slab may wait
//! when they need not; never the other way round.

use crate::block_notes;
use crate::cuda::{Status, host_alloc, sys};
use crate::driver;
use crate::fence::fenced;
use crate::handlers::work::forward;
use crate::hook::Hook;
use crate::mode;
use crate::pinned;
use aishim_pool::BlockInfo;
use std::ffi::{c_uint, c_void};
use std::ops::Range;
use std::sync::atomic::AtomicU64;

/// Whose a byte is.
#[derive(Default)]
pub(crate) enum Whose {
    /// Not in the pool's memory.
    #[default]
    NotOurs,
    /// In the pool's memory, but in no block that the program holds.
    Nobodys,
    /// In a block that the program holds.
    Block(BlockInfo),
}

/// Whose the byte at `at` is.
pub(crate) fn whose(at: usize) -> Whose {
    if mode::is_pass_through() {
        return Whose::NotOurs;
    }
    fenced(|| match pinned::block_of(at) {
        Some(block) => Whose::Block(block),
        None if pinned::contains(at) => Whose::Nobodys,
        None => Whose::NotOurs,
    })
}

/// A byte that is certainly no memory of the driver's.
pub(crate) fn stranger() -> usize {
    static STRANGER: AtomicU64 = AtomicU64::new(0);
    STRANGER.as_ptr() as usize
}

/// Makes the program's call, or `of_stranger` in its place, and lets `correct` replace what was answered of a block.
fn answered(
    hook: Hook,
    call: impl FnOnce() -> Status,
    at: usize,
    of_stranger: impl FnOnce() -> Status,
    correct: impl FnOnce(&BlockInfo),
) -> Status {
    match whose(at) {
        Whose::NotOurs => forward(hook, call),
        Whose::Nobodys => forward(hook, of_stranger),
        Whose::Block(block) => {
            let status = forward(hook, call);
            if status.is_ok() {
                fenced(|| correct(&block));
            }
            status
        }
    }
}

/// cuMemHostGetFlags: PORTABLE is the block's only where the program asked for it, whatever its slab is; of small blocks
/// the driver never tells it.
///
/// # Safety
/// `flags` is null or the program's out-pointer.
pub(crate) unsafe fn flags(hook: Hook, call: impl FnOnce() -> Status, flags: *mut u32, memory: *mut c_void) -> Status {
    let of_stranger = || driver::host_flags(flags, stranger() as *mut c_void);
    answered(hook, call, memory as usize, of_stranger, |block| {
        let is_told = block.tag & host_alloc::PORTABLE != 0 && block.requested_bytes >= LARGE_PAGE;
        let portable = if is_told { host_alloc::PORTABLE } else { 0 };
        // SAFETY: the driver has just written to it.
        unsafe { *flags = *flags & !host_alloc::PORTABLE | portable };
    })
}

/// cuMemHostGetDevicePointer.
///
/// # Safety
/// `pointer` is null or the program's out-pointer.
pub(crate) unsafe fn device_pointer(
    hook: Hook,
    call: impl FnOnce() -> Status,
    pointer: *mut sys::CUdeviceptr,
    memory: *mut c_void,
    flags: c_uint,
) -> Status {
    let of_stranger = || driver::host_device_pointer(pointer, stranger() as *mut c_void, flags);
    answered(hook, call, memory as usize, of_stranger, |_| {})
}

/// cuMemGetAddressRange.
///
/// # Safety
/// `base` and `bytes` are null or the program's out-pointers.
pub(crate) unsafe fn range(
    hook: Hook,
    call: impl FnOnce() -> Status,
    base: *mut sys::CUdeviceptr,
    bytes: *mut usize,
    at: sys::CUdeviceptr,
) -> Status {
    let of_stranger = || driver::address_range(base, bytes, stranger() as sys::CUdeviceptr);
    answered(hook, call, at as usize, of_stranger, |block| {
        // SAFETY: each is null or was written to by the driver.
        unsafe {
            if !base.is_null() {
                base.write_unaligned(block.start as sys::CUdeviceptr);
            }
            if !bytes.is_null() {
                bytes.write_unaligned(block.requested_bytes);
            }
        }
    })
}

/// cuPointerGetAttribute.
///
/// # Safety
/// `value` is null or has room for the attribute.
pub(crate) unsafe fn attribute(
    hook: Hook,
    call: impl FnOnce() -> Status,
    value: *mut c_void,
    number: u32,
    at: sys::CUdeviceptr,
) -> Status {
    let of_stranger = || driver::pointer_attribute(value, number, stranger() as sys::CUdeviceptr);
    // SAFETY: the driver has just written the attribute there.
    answered(hook, call, at as usize, of_stranger, |block| unsafe { correct(number, value, block) })
}

/// cuPointerGetAttributes: the driver judges the whole, then each answer is corrected where it stands. A call that fails
/// has answered what stands before the attribute at fault.
///
/// # Safety
/// The arrays have `count` elements, and each value has room for its attribute.
pub(crate) unsafe fn attributes(
    hook: Hook,
    call: impl FnOnce() -> Status,
    count: c_uint,
    numbers: *mut sys::CUpointer_attribute,
    values: *mut *mut c_void,
    at: sys::CUdeviceptr,
) -> Status {
    let numbers: *mut u32 = numbers.cast();
    let block = match whose(at as usize) {
        Whose::NotOurs => return forward(hook, call),
        Whose::Nobodys => {
            return forward(hook, || {
                driver::pointer_attributes(count, numbers, values, stranger() as sys::CUdeviceptr)
            });
        }
        Whose::Block(block) => block,
    };
    let status = forward(hook, call);
    if !numbers.is_null() && !values.is_null() {
        // SAFETY: both arrays are there, of `count` elements.
        fenced(|| unsafe { correct_all(status, count as usize, numbers, values, at, &block) });
    }
    status
}

/// Corrects what a call that ended with `status` has written: all, or what stands before the first that fails alone. The
/// driver does not say how far it came, so it is asked one by one; only programs that err pay for that.
///
/// # Safety
/// The arrays have `count` elements, and each value is null or has room for its attribute.
unsafe fn correct_all(
    status: Status,
    count: usize,
    numbers: *mut u32,
    values: *mut *mut c_void,
    at: sys::CUdeviceptr,
    block: &BlockInfo,
) {
    for i in 0..count {
        // SAFETY: within the arrays, by the caller's promise.
        let (number, value) = unsafe { (numbers.add(i), values.add(i)) };
        let is_told =
            status.is_ok() || mode::may_call_driver() && driver::pointer_attributes(1, number, value, at).is_ok();
        if !is_told {
            return;
        }
        // SAFETY: the driver has written through the value; enums are read as integers.
        unsafe { correct(number.read(), value.read(), block) };
    }
}

/// cuPointerSetAttribute: only SYNC_MEMOPS can be set.
///
/// # Safety
/// `value` is null or points to the attribute's value.
pub(crate) unsafe fn set_attribute(
    hook: Hook,
    call: impl FnOnce() -> Status,
    value: *const c_void,
    number: u32,
    at: sys::CUdeviceptr,
) -> Status {
    let of_stranger = || driver::set_pointer_attribute(value, number, stranger() as sys::CUdeviceptr);
    let start = match whose(at as usize) {
        Whose::Block(block) if number == SYNC_MEMOPS && !value.is_null() => block.start,
        _ => return answered(hook, call, at as usize, of_stranger, |_| {}),
    };
    // SAFETY: not null, and the program's to be read; an unsigned integer by the API's contract.
    let wanted = unsafe { value.cast::<c_uint>().read_unaligned() } != 0;
    // Noted before the driver is told, so that another thread which unsets the slab at this moment sees it, below.
    let before = fenced(|| block_notes::set_syncs(start, wanted));
    if !wanted && fenced(block_notes::some_sync) {
        return forward(hook, || Status::SUCCESS);
    }
    let status = forward(hook, call);
    fenced(|| {
        if !status.is_ok() {
            block_notes::set_syncs(start, before);
        } else if !wanted && block_notes::some_sync() && mode::may_call_driver() {
            let set: c_uint = 1;
            let _ = driver::set_pointer_attribute((&raw const set).cast(), SYNC_MEMOPS, at);
        }
    });
    status
}

/// `CU_POINTER_ATTRIBUTE_*` whose answers differ between a slab and a block; CUDA Driver API, Unified Addressing.
const SYNC_MEMOPS: u32 = 6;
const BUFFER_ID: u32 = 7;
const RANGE_START_ADDR: u32 = 11;
const RANGE_SIZE: u32 = 12;
const MAPPING_SIZE: u32 = 18;
const MAPPING_BASE_ADDR: u32 = 19;

/// Page-locked memory is mapped for the GPU in pages of so many bytes, which small blocks share.
const LARGE_PAGE: usize = 2 << 20;

/// Replaces what the driver has said of the slab by what holds for the block.
///
/// # Safety
/// `value` is null, or the driver has written the attribute `number` of an address in the block there.
unsafe fn correct(number: u32, value: *mut c_void, block: &BlockInfo) {
    if value.is_null() {
        return;
    }
    let answer = match number {
        BUFFER_ID => block_notes::identity(block.start),
        RANGE_START_ADDR => block.start as u64,
        RANGE_SIZE => block.requested_bytes as u64,
        MAPPING_BASE_ADDR => mapping_of(block).start as u64,
        MAPPING_SIZE => mapping_of(block).len() as u64,
        SYNC_MEMOPS => {
            // The lowest byte alone: right whether the driver writes a boolean or an integer.
            // SAFETY: the driver has written at least so much.
            return unsafe { value.cast::<u8>().write(block_notes::syncs(block.start).into()) };
        }
        _ => return,
    };
    // SAFETY: each of these is 8 bytes wide, and the driver has written them.
    unsafe { value.cast::<u64>().write_unaligned(answer) };
}

/// The large pages that a block lies in, as far as they are its slab's.
fn mapping_of(block: &BlockInfo) -> Range<usize> {
    let end = block.start + block.requested_bytes;
    let pages = block.start / LARGE_PAGE * LARGE_PAGE..end.next_multiple_of(LARGE_PAGE);
    match pinned::slab_of(block.start) {
        Some(slab) => pages.start.max(slab.start)..pages.end.min(slab.end),
        None => pages,
    }
}
