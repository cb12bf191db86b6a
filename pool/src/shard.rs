//! Which shard the calling thread uses, so that threads rarely meet in one.
//!
//! The first threads have a shard each, to themselves for good, so that what is counted there needs no locked
//! instruction ([`is_own`]). Those that come later share the rest: that a thread has ended is not known here, since
//! knowing it takes a destructor, and a shard has to be had while a thread's destructors run.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, Ordering},
};

/// How many shards there are: more than the threads that allocate pinned memory at the same time, as a rule.
pub(crate) const SHARDS: usize = if cfg!(loom) { 1 } else { 32 };

/// How many of them, the first ones, have one thread each. Loom's threads are all one to a thread-local.
const OWN_SHARDS: u32 = if cfg!(loom) { 0 } else { 24 };

const SHARED_SHARDS: u32 = SHARDS as u32 - OWN_SHARDS;

const NONE: u32 = u32::MAX;

// Plain counters, not loom's: which shard a thread gets changes nothing but speed.
static NUMBERS: Numbers = Numbers::new();

thread_local! {
    // Without a destructor, so it can be read at any moment of a thread's life.
    static MINE: Cell<u32> = const { Cell::new(NONE) };
}

/// The calling thread's shard, for all its life; below [`SHARDS`].
#[inline]
pub(crate) fn current() -> usize {
    let shard = MINE.try_with(|mine| {
        if mine.get() == NONE {
            mine.set(NUMBERS.next());
        }
        mine.get()
    });
    shard.unwrap_or(OWN_SHARDS) as usize
}

/// Whether that shard, some thread's current one, is no other thread's.
#[inline]
pub(crate) fn is_own(shard: usize) -> bool {
    shard < OWN_SHARDS as usize
}

/// Gives the shards out.
struct Numbers {
    own: AtomicU32,
    shared: AtomicU32,
}

impl Numbers {
    const fn new() -> Self {
        Self { own: AtomicU32::new(0), shared: AtomicU32::new(0) }
    }

    #[cold]
    fn next(&self) -> u32 {
        // Never past the last, so that they do not begin anew when four billion threads have been.
        let own =
            self.own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |own| (own < OWN_SHARDS).then_some(own + 1));
        own.unwrap_or_else(|_| OWN_SHARDS + self.shared.fetch_add(1, Ordering::Relaxed) % SHARED_SHARDS)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_own_shard_is_given_out_once() {
        let numbers = Numbers::new();
        numbers.shared.store(u32::MAX - 50, Ordering::Relaxed);
        let given: Vec<usize> = std::thread::scope(|scope| {
            let take = || (0..100).map(|_| numbers.next() as usize).collect::<Vec<_>>();
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
        });
        let mut own: Vec<usize> = given.iter().copied().filter(|&shard| is_own(shard)).collect();
        own.sort_unstable();
        assert!(own.into_iter().eq(0..OWN_SHARDS as usize));
        assert!(given.iter().all(|&shard| shard < SHARDS));
        assert_eq!(current(), current());
    }
}
