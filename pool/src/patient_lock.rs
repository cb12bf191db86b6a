//! A lock that a dead holder cannot turn into a hang.

use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, pause};

/// A mutex that is waited for only so long. A thread that was killed while it held one costs its process this pool,
/// and nothing more.
#[derive(Debug)]
pub(crate) struct PatientLock<T> {
    mutex: Mutex<T>,
    /// Somebody has waited in vain: until the lock is had again, nobody else waits.
    is_given_up: AtomicBool,
}

impl<T> PatientLock<T> {
    /// A lock that is free.
    pub(crate) fn new(value: T) -> Self {
        Self { mutex: Mutex::new(value), is_given_up: AtomicBool::new(false) }
    }

    /// The lock, or `None` when it is not had in some thousand tries, or when a panic poisoned it and what it guards
    /// may be half changed.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = match self.try_lock() {
            Err(WouldBlock) if !self.is_given_up.load(Ordering::Relaxed) => self.wait(),
            tried => tried,
        };
        let is_given_up = guard.is_err();
        if self.is_given_up.load(Ordering::Relaxed) != is_given_up {
            self.is_given_up.store(is_given_up, Ordering::Relaxed);
        }
        guard.ok().flatten()
    }

    #[cold]
    fn wait(&self) -> Result<Option<MutexGuard<'_, T>>, WouldBlock> {
        const SPINS: u32 = 128;
        const YIELDS: u32 = 4096;
        for attempt in 0..SPINS + YIELDS {
            pause(attempt, SPINS);
            if let Ok(guard) = self.try_lock() {
                return Ok(guard);
            }
        }
        Err(WouldBlock)
    }

    /// `None` within `Ok` is a lock that was poisoned.
    #[cfg(not(loom))]
    fn try_lock(&self) -> Result<Option<MutexGuard<'_, T>>, WouldBlock> {
        #[cfg(test)]
        crate::lines::touch(&self.mutex, true);
        match self.mutex.try_lock() {
            Ok(guard) => Ok(Some(guard)),
            Err(std::sync::TryLockError::Poisoned(_)) => Ok(None),
            Err(std::sync::TryLockError::WouldBlock) => Err(WouldBlock),
        }
    }

    /// Loom runs every interleaving, among them those in which the holder goes on: it is waited for.
    #[cfg(loom)]
    fn try_lock(&self) -> Result<Option<MutexGuard<'_, T>>, WouldBlock> {
        Ok(self.mutex.lock().ok())
    }
}

/// Another thread has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WouldBlock;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_died_is_not_waited_for_again() {
        let lock = PatientLock::new(1);
        std::mem::forget(lock.lock());
        assert!(lock.lock().is_none());
        assert!(lock.is_given_up.load(Ordering::Relaxed));
        assert!(lock.lock().is_none());
    }

    #[test]
    fn a_holder_that_was_only_slow_is_forgiven() {
        let lock = PatientLock::new(1);
        let slow = lock.lock();
        assert!(lock.lock().is_none());
        drop(slow);
        assert!(lock.lock().is_some());
        assert!(!lock.is_given_up.load(Ordering::Relaxed));
    }

    #[test]
    fn what_a_panic_left_behind_is_not_touched() {
        let lock = PatientLock::new(1);
        let panicked = std::thread::scope(|scope| {
            let panicking = scope.spawn(|| {
                let _guard = lock.lock();
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            panicking.join()
        });
        assert!(panicked.is_err());
        assert!(lock.lock().is_none());
    }
}
