//! When the GPU has finished with what was freed.

use std::sync::Arc;

/// A moment that a [`WorkFence`] marked; its meaning is the fence's own.
pub type Mark = u64;

/// Says whether the GPU work submitted before a moment is done: events on every stream in the shim, a double in tests.
///
/// The pool holds no lock and no destructor across a call. Two threads may be in a fence at once, though the pool
/// sees to it that this is rare. A mark may be abandoned: the pool never asks about it again.
pub trait WorkFence: Send + Sync {
    /// Marks "now": all GPU work submitted so far, on all contexts and streams.
    ///
    /// A sequentially consistent memory fence precedes the call, and another stands between a program's submissions
    /// and the moment its free is stamped, so even a relaxed counter of submissions is seen as it must be.
    ///
    /// `None` when no mark can be made now (a capture is open, the caller is a host function); the pool asks later.
    fn mark(&self) -> Option<Mark>;

    /// True when everything submitted before the mark has finished. Never blocks. Once true, it stays true.
    fn passed(&self, mark: Mark) -> bool;
}

impl<T: WorkFence + ?Sized> WorkFence for Arc<T> {
    fn mark(&self) -> Option<Mark> {
        (**self).mark()
    }

    fn passed(&self, mark: Mark) -> bool {
        (**self).passed(mark)
    }
}
