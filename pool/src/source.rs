//! Where page-locked memory comes from.

use std::{ptr::NonNull, sync::Arc};

/// The maker of page-locked memory: cuMemHostAlloc and cuMemFreeHost in the shim, a double in tests.
///
/// The pool holds no lock and no destructor across a call, so a call may block, take milliseconds, or never come
/// back because its thread was cancelled in it.
pub trait PinnedSource: Send + Sync {
    /// Page-locks `bytes` and returns their address, which is aligned to 4 KiB.
    ///
    /// # Errors
    /// The source's own error code; the pool passes it on as it is.
    fn reserve(&self, bytes: usize) -> Result<NonNull<u8>, i32>;

    /// Takes back what [`reserve`](Self::reserve) gave, all `bytes` of it.
    fn release(&self, address: NonNull<u8>, bytes: usize);
}

impl<T: PinnedSource + ?Sized> PinnedSource for Arc<T> {
    fn reserve(&self, bytes: usize) -> Result<NonNull<u8>, i32> {
        (**self).reserve(bytes)
    }

    fn release(&self, address: NonNull<u8>, bytes: usize) {
        (**self).release(address, bytes);
    }
}
