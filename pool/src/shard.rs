//! Which shard the calling thread uses, so that threads rarely meet in one.
//!
//! As long as there are no more threads than own shards, each has one to itself, so that what is counted there needs no
//! locked instruction ([`is_own`]); a thread that ends leaves its shard, with all that lies in it, to one that comes.
//! Threads beyond that share the rest, two or more to a shard, where every request meets the other's lines: on 16
//! processors five times as slow. A pool's threads do come and go (a data loader's workers, say), so shards are not given
//! out for good.
//!
//! That a thread has ended is known by a destructor of a thread-local, and a shard has to be had while a thread's other
//! destructors run: once that one has run, the thread is one of those that share.

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

    static TENURE: Tenure = const { Tenure(Cell::new(NONE)) };
}

/// The calling thread's shard; below [`SHARDS`]. It is the same until the thread ends.
#[inline]
pub(crate) fn current() -> usize {
    MINE.try_with(|mine| if mine.get() == NONE { begin(mine) } else { mine.get() }).unwrap_or(OWN_SHARDS) as usize
}

#[cold]
fn begin(mine: &Cell<u32>) -> u32 {
    // Who is not told of the thread's end would keep an own shard for ever.
    let own = TENURE.try_with(|tenure| {
        let own = NUMBERS.take_own();
        tenure.0.set(own.unwrap_or(NONE));
        own
    });
    mine.set(own.ok().flatten().unwrap_or_else(|| NUMBERS.next_shared()));
    mine.get()
}

/// An own shard for as long as its thread lives.
struct Tenure(Cell<u32>);

impl Drop for Tenure {
    fn drop(&mut self) {
        let own = self.0.replace(NONE);
        if own != NONE {
            let _ = MINE.try_with(|mine| mine.set(NUMBERS.next_shared()));
            // Last: it may be another thread's from here on.
            NUMBERS.give_back(own);
        }
    }
}

/// Own shards for as many threads, which the calling thread plays.
#[cfg(all(test, not(loom)))]
pub(crate) fn take_own(threads: usize) -> Vec<u32> {
    (0..threads).map(|_| NUMBERS.take_own().unwrap()).collect()
}

/// From now on the calling thread's shard is this one.
#[cfg(all(test, not(loom)))]
pub(crate) fn act_in(shard: u32) {
    MINE.set(shard);
}

/// They have played.
#[cfg(all(test, not(loom)))]
pub(crate) fn give_back(shards: Vec<u32>) {
    MINE.set(NONE);
    shards.into_iter().for_each(|shard| NUMBERS.give_back(shard));
}

/// Whether that shard, some thread's current one, is no other thread's.
#[inline]
pub(crate) fn is_own(shard: usize) -> bool {
    shard < OWN_SHARDS as usize
}

/// Gives the shards out.
struct Numbers {
    /// A bit for each own shard that has a thread.
    taken: AtomicU32,
    shared: AtomicU32,
}

impl Numbers {
    const fn new() -> Self {
        Self { taken: AtomicU32::new(0), shared: AtomicU32::new(0) }
    }

    /// An own shard that has no thread.
    fn take_own(&self) -> Option<u32> {
        let lowest = |taken: u32| taken.trailing_ones();
        let taken = self.taken.fetch_update(Ordering::Acquire, Ordering::Relaxed, |taken| {
            // Acquire, for the Release in `give_back`: what is counted by a load and a store goes on from where the last
            // thread left it.
            (lowest(taken) < OWN_SHARDS).then(|| taken | 1 << lowest(taken))
        });
        taken.ok().map(lowest)
    }

    fn give_back(&self, own: u32) {
        // Release, for the Acquire in `take_own`.
        self.taken.fetch_and(!(1 << own), Ordering::Release);
    }

    fn next_shared(&self) -> u32 {
        OWN_SHARDS + self.shared.fetch_add(1, Ordering::Relaxed) % SHARED_SHARDS
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::{collections::HashSet, sync::Barrier};

    #[test]
    fn an_own_shard_is_one_threads_at_a_time() {
        let numbers = Numbers::new();
        let taken: HashSet<u32> = std::iter::from_fn(|| numbers.take_own()).collect();
        assert!((0..OWN_SHARDS).all(|own| taken.contains(&own)) && taken.len() == OWN_SHARDS as usize);
        numbers.give_back(5);
        assert_eq!((numbers.take_own(), numbers.take_own()), (Some(5), None));
        numbers.shared.store(u32::MAX - 50, Ordering::Relaxed);
        let shared = || numbers.next_shared() as usize;
        assert!((0..100).map(|_| shared()).all(|shard| !is_own(shard) && shard < SHARDS));
    }

    /// Shards were given out for good: the threads of a pool that came after the first 24 shared eight, two and more to
    /// a shard, however few they were, and an allocation with its free took 600 ns instead of 110 on 16 processors.
    #[test]
    fn threads_that_come_when_others_have_gone_have_shards_of_their_own() {
        const AT_ONCE: usize = 4;
        let all_there = Barrier::new(AT_ONCE);
        for _ in 0..50 {
            let shard = || {
                let mine = current();
                all_there.wait();
                assert_eq!(current(), mine);
                mine
            };
            let shards: HashSet<usize> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(shard)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(shards.len(), AT_ONCE);
            assert!(shards.into_iter().all(is_own));
        }
    }

    /// A thread's locals go one after the other, and one that goes late may free a block.
    #[test]
    fn a_shard_is_had_while_a_thread_ends() {
        struct Late(std::sync::mpsc::Sender<usize>);
        impl Drop for Late {
            fn drop(&mut self) {
                self.0.send(current()).unwrap();
            }
        }
        thread_local! {
            static LATE: Cell<Option<Late>> = const { Cell::new(None) };
        }
        for is_before in [false, true] {
            let (sender, receiver) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                // Whichever was used first goes first, or last: both are tried.
                if is_before {
                    current();
                }
                LATE.set(Some(Late(sender)));
                current()
            });
            let mine = thread.join().unwrap();
            let late = receiver.recv().unwrap();
            assert!(late == mine || !is_own(late), "{late} may be another thread's by then");
        }
    }
}
