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

/// Takes `mutex`, giving up after some thousand tries: a thread that was killed while it held the lock must cost its
/// process this pool and nothing more. `None` also when a panic poisoned it: what it guards may be half changed.
#[cfg(not(loom))]
pub(crate) fn lock_bounded<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    const SPINS: u32 = 128;
    const YIELDS: u32 = 4096;
    for attempt in 0..SPINS + YIELDS {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(std::sync::TryLockError::Poisoned(_)) => return None,
            Err(std::sync::TryLockError::WouldBlock) => pause(attempt, SPINS),
        }
    }
    None
}

/// Loom explores every interleaving, so the wait needs no bound there.
#[cfg(loom)]
pub(crate) fn lock_bounded<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    mutex.lock().ok()
}

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
