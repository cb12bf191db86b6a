//! Page-locked host memory: from the pool where it can, from the driver where it must.

use crate::block_notes;
use crate::cuda::{Status, address};
use crate::driver;
use crate::fence::fenced;
use crate::handlers::device_memory::stored;
use crate::handlers::pointers::{self, Whose};
use crate::handlers::work::forward;
use crate::hook::Hook;
use crate::life;
use crate::mode;
use crate::pinned;
use crate::ranges::{self, Kind};
use crate::thread;
use crate::trace;
use aishim_abi::trace::What;
use aishim_pool::BLOCK_BYTES;
use std::ffi::c_void;

/// cuMemHostAlloc, cuMemAllocHost.
///
/// # Safety
/// `memory` is null or the program's out-pointer.
pub(crate) unsafe fn alloc(
    hook: Hook,
    call: impl FnOnce() -> Status,
    memory: *mut *mut c_void,
    bytes: usize,
    flags: u32,
) -> Status {
    let served = !memory.is_null() && bytes > 0 && !mode::is_pass_through() && {
        fenced(|| {
            life::late_activation();
            let block = if mode::may_call_driver() { pinned::alloc(bytes, flags) } else { None };
            if let Some(block) = block {
                // SAFETY: not null, and the program's to be written to.
                unsafe { memory.write(block.as_ptr().cast()) };
                thread::count(hook);
                trace::note(What::Alloc { block: block.as_ptr() as u64, bytes: bytes as u64 });
            }
            block.is_some()
        })
    };
    if served {
        return Status::SUCCESS;
    }
    let status = forward(hook, call);
    if status.is_ok() && bytes > 0 && mode::may_call_driver() {
        fenced(|| {
            // SAFETY: the driver has stored the address there.
            let start = unsafe { stored(memory) };
            ranges::insert(start, bytes, Kind::Pinned, driver::context());
            trace::note(What::Alloc { block: start as u64, bytes: bytes as u64 });
        });
    }
    status
}

/// cuMemFreeHost.
pub(crate) unsafe fn free(hook: Hook, call: impl FnOnce() -> Status, memory: *mut c_void) -> Status {
    if mode::is_pass_through() {
        return free_unpooled(address(memory), call);
    }
    let answer = fenced(|| {
        block_notes::block_freed(address(memory));
        // Before it is free, so that nobody has it anew before this is noted; one that fails is left in, since who
        // replays it knows no such block.
        trace::note(What::Free { block: address(memory) as u64 });
        let answer = pinned::free(address(memory));
        if answer.is_none() {
            ranges::remove(address(memory), |k| k == Kind::Pinned);
        }
        answer
    });
    let Some(status) = answer else {
        return free_unpooled(address(memory), || forward(hook, call));
    };
    thread::count(hook);
    if !status.is_ok() {
        crate::segment::error(hook);
    }
    status
}

/// Lets the driver free what is not the pool's. After a panic blocks of the pool may still be in the program's hands;
/// they are left where they are, since the first of a slab has the slab's address, and the driver would free all of it.
fn free_unpooled(at: usize, call: impl FnOnce() -> Status) -> Status {
    if pinned::contains(at) { Status::SUCCESS } else { call() }
}

/// cuMemHostRegister. A block of the pool is allocated memory, as far as a program can tell, and cannot be registered.
pub(crate) unsafe fn register(
    hook: Hook,
    call: impl FnOnce() -> Status,
    memory: *mut c_void,
    bytes: usize,
    flags: u32,
) -> Status {
    if let Some(allocated) = fenced(|| pinned::stand_in(address(memory))) {
        // Of one page only: more might reach beyond the slab that the address is in, where the answer may be another.
        return forward(hook, || driver::host_register(allocated as *mut c_void, bytes.min(BLOCK_BYTES), flags));
    }
    let status = forward(hook, call);
    if status.is_ok() && mode::may_call_driver() {
        fenced(|| ranges::insert(address(memory), bytes, Kind::Registered, driver::context()));
    }
    status
}

/// cuMemHostUnregister. A block of the pool is no more registered than the slab around it; what is no block any more
/// is unknown.
pub(crate) unsafe fn unregister(hook: Hook, call: impl FnOnce() -> Status, memory: *mut c_void) -> Status {
    if let Whose::Nobodys = pointers::whose(address(memory)) {
        return forward(hook, || driver::host_unregister(pointers::stranger() as *mut c_void));
    }
    // Also when all else is only forwarded: a slab that is unregistered is lost to all who have a block of it.
    if let Some(allocated) = fenced(|| pinned::stand_in(address(memory))) {
        return forward(hook, || driver::host_unregister(allocated as *mut c_void));
    }
    let status = forward(hook, call);
    if status.is_ok() && mode::may_call_driver() {
        fenced(|| ranges::remove(address(memory), |k| k == Kind::Registered));
    }
    status
}
