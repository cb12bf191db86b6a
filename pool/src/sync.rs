//! The standard library's primitives, or loom's under `--cfg loom`. The lock-free modules take theirs from here only.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
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
