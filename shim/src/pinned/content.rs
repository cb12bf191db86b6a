//! What a block of the pool holds when it is handed out: what its last owner left there, or zeroes where the program
//! asked for them with `AISHIM_POOL_ZERO=1`.
//!
//! When to write zeroes. Candidates:
//!
//! * *At the free:* the GPU may still read the block, and a copy that is on its way into it would undo them.
//! * *When its reuse is allowed, on the background thread:* an allocation would cost nothing, but the pool would have to
//!   keep clean blocks apart from others, and a burst would wait for the thread.
//! * *When it is handed out (chosen):* nobody but the caller has the block then, the GPU is done with it, and who did not
//!   ask for zeroes pays one load.
//!
//! The driver's own memory is left as the driver gives it.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static IS_ZEROED: AtomicBool = AtomicBool::new(false);

/// Sets whether blocks are handed out zeroed. Called once, when the shim comes to life.
pub(super) fn configure(is_zeroed: bool) {
    IS_ZEROED.store(is_zeroed, Relaxed);
}

/// Gives the block of `bytes` that the pool has just handed out the content it is to have.
#[inline]
pub(super) fn prepare(block: NonNull<u8>, bytes: usize) {
    if IS_ZEROED.load(Relaxed) {
        // SAFETY: an extent of the pool, of `bytes` at least and ours alone until it is the program's; its slab stays
        // mapped as long as any block of it is handed out (pool/src/growth.rs) and its context lives, which is current.
        unsafe { block.write_bytes(0, bytes) };
    }
}
