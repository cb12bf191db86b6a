//! What every launch reads, side by side.
//!
//! Between two launches a program runs through far more code and data than the first-level caches hold, so what a hook
//! costs in real life is the number of cache lines it touches. These are one line, and the next for graphs; what a
//! launch writes is in [`Thread`](crate::thread::Thread) and in the thread's shard of the segment.

use crate::hook::COUNT;
use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};

/// See the module.
#[repr(C, align(64))]
pub(crate) struct Hot {
    /// [`mode`](crate::mode).
    pub(crate) mode: AtomicU32,
    /// Raised whenever a request ends: what a thread remembers of open ones is then out of date.
    pub(crate) requests_ended: AtomicU32,
    /// [`clock`](crate::clock): nanoseconds per tick times 2^32; 0 while ticks are nanoseconds.
    pub(crate) clock_scale: AtomicU64,
    /// [`thread`](crate::thread): where a thread's pointer to its own lies from its thread pointer on. A copy of what
    /// the loader put into our GOT, in a line that is here anyway.
    pub(crate) thread_offset: AtomicUsize,
    /// [`driver`](crate::driver): the driver's functions, by hook; launches stand first in the table.
    pub(crate) real: [AtomicPtr<c_void>; COUNT],
}

pub(crate) static HOT: Hot = Hot {
    mode: AtomicU32::new(crate::mode::INACTIVE),
    requests_ended: AtomicU32::new(0),
    clock_scale: AtomicU64::new(0),
    thread_offset: AtomicUsize::new(0),
    real: [const { AtomicPtr::new(std::ptr::null_mut()) }; COUNT],
};
