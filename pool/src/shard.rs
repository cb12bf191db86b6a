//! Which shard the calling thread uses, so that threads rarely meet in one.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, Ordering},
};

/// How many shards there are: more than the threads that allocate pinned memory at the same time, as a rule.
pub(crate) const SHARDS: usize = if cfg!(loom) { 1 } else { 32 };

const NONE: u32 = u32::MAX;

// A plain counter, not loom's: which shard a thread gets changes nothing but speed.
static NEXT: AtomicU32 = AtomicU32::new(0);

thread_local! {
    // Without a destructor, so it can be read at any moment of a thread's life.
    static MINE: Cell<u32> = const { Cell::new(NONE) };
}

/// The calling thread's shard, given out in turn; below [`SHARDS`].
#[inline]
pub(crate) fn current() -> usize {
    let shard = MINE.try_with(|mine| {
        if mine.get() == NONE {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS as u32);
        }
        mine.get()
    });
    shard.unwrap_or(0) as usize
}
