//! The standard library's primitives, or loom's under `--cfg loom`. The lock-free modules take theirs from here only, so
//! that the crate's own tests can count which cache lines they touch (`lines`).

#[cfg(all(test, not(loom)))]
pub(crate) use crate::lines::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize};
#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(all(not(test), not(loom)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{Ordering, fence},
};

/// One step of a bounded wait: the first `spins` stay on the processor, later ones give it up.
#[cfg(not(loom))]
pub(crate) fn pause(attempt: u32, spins: u32) {
    if attempt < spins {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// One step of a bounded wait.
#[cfg(loom)]
pub(crate) fn pause(_attempt: u32, _spins: u32) {
    loom::thread::yield_now();
}

/// A full barrier behind an atomic read-modify-write of the calling thread's. On x86-64 that was one already: "locked
/// instructions" are ordered with all loads and stores before and after them (Intel SDM vol. 3, 9.2.3.8 and 9.2.3.9);
/// only the compiler has to be told. Elsewhere, and under loom, it is a fence.
#[inline]
pub(crate) fn barrier_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(any(not(target_arch = "x86_64"), loom))]
    fence(Ordering::SeqCst);
}
