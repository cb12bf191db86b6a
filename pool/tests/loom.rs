//! The lock-free parts under every interleaving that loom finds. Run them with
//! `RUSTFLAGS="--cfg loom" cargo test -p aishim-pool --release --test loom`.
#![cfg(loom)]
#![allow(dead_code, unreachable_pub, reason = "modules of the library, of which parts are tested")]

#[path = "../src/apart.rs"]
mod apart;
#[path = "../src/cells.rs"]
mod cells;
#[path = "../src/claim.rs"]
mod claim;
#[path = "../src/config.rs"]
mod config;
#[path = "../src/epoch_stack.rs"]
mod epoch_stack;
#[path = "../src/fence.rs"]
mod fence;
#[path = "../src/page_map.rs"]
mod page_map;
#[path = "../src/patient_lock.rs"]
mod patient_lock;
#[path = "../src/reuse_clock.rs"]
mod reuse_clock;
#[path = "../src/size_class.rs"]
mod size_class;
#[path = "../src/sync.rs"]
#[allow(unused_imports, reason = "modules of the library, of which parts are tested")]
mod sync;

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    claim::{Claim, STALE_MS},
    epoch_stack::{EpochStacks, Links},
    fence::{Mark, WorkFence},
    page_map::{PageMap, Word},
    reuse_clock::ReuseClock,
};

/// Two threads pop, use and push again, over a link that both may be reading: no extent is with two at once, and none
/// is lost. Loom's cell reports a use that is not ordered after the last one.
#[test]
fn an_extent_is_with_one_thread_at_a_time() {
    explore(3, || {
        let shared = Arc::new((Links::new(3), EpochStacks::new(), [cell(), cell(), cell()]));
        let turn = |shared: &(Links, EpochStacks, [UnsafeCell<u64>; 3])| {
            let (links, stacks, memory) = shared;
            for _ in 0..2 {
                if let Some(index) = stacks.pop(links, 1) {
                    memory[index as usize].with_mut(|_exclusive| ());
                    stacks.push(links, index, 1);
                }
            }
        };
        shared.1.push(&shared.0, 1, 1);
        shared.1.push(&shared.0, 2, 1);
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || turn(&shared)
        });
        turn(&shared);
        other.join().unwrap();
        let (links, stacks, _) = &*shared;
        let mut left = [stacks.pop(links, 1), stacks.pop(links, 1)];
        left.sort_unstable();
        assert_eq!(left, [Some(1), Some(2)]);
        assert_eq!(stacks.pop(links, 1), None);
    });
}

/// A pop that looks at an extent while another thread takes it and frees it anew in an unsafe epoch must not get it.
#[test]
fn an_extent_freed_anew_is_not_popped_by_its_old_epoch() {
    explore(3, || {
        let shared = Arc::new((Links::new(2), EpochStacks::new()));
        shared.1.push(&shared.0, 1, 1);
        let popping = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.1.pop(&shared.0, 1).is_some()
        });
        let (links, stacks) = &*shared;
        let mine = stacks.pop(links, 1).is_some();
        if mine {
            stacks.push(links, 1, 5);
        }
        let theirs = popping.join().unwrap();
        assert!(mine != theirs, "each of the two lives of the extent has its own epoch");
        assert_eq!(stacks.pop(links, 5).is_some(), mine);
    });
}

/// One thread uses its stack while another steals from it, and goes on with what it got: no extent is with two at once,
/// and none is lost, whether the thief has something of its own or not.
#[test]
fn a_stolen_chain_is_with_one_thread() {
    for has_own in [false, true] {
        explore(3, move || {
            let stacks = [EpochStacks::new(), EpochStacks::new()];
            let shared = Arc::new((Links::new(4), stacks, [cell(), cell(), cell(), cell()]));
            for index in [1, 2] {
                shared.1[0].push(&shared.0, index, 1);
            }
            if has_own {
                // Not safe, and in the same place.
                shared.1[1].push(&shared.0, 3, 5);
            }
            let turn = |(links, stacks, memory): &(Links, [EpochStacks; 2], [UnsafeCell<u64>; 4]), thief: bool| {
                let mine = &stacks[usize::from(thief)];
                for _ in 0..2 {
                    let own = mine.pop(links, 1);
                    if let Some(index) = own.or_else(|| mine.steal(&stacks[usize::from(!thief)], links, 1)) {
                        memory[index as usize].with_mut(|_exclusive| ());
                        mine.push(links, index, 1);
                    }
                }
            };
            let other = thread::spawn({
                let shared = Arc::clone(&shared);
                move || turn(&shared, true)
            });
            turn(&shared, false);
            other.join().unwrap();
            let (links, stacks, _) = &*shared;
            let mut left: Vec<u32> = Vec::new();
            for stack in stacks {
                left.extend(std::iter::from_fn(|| stack.pop(links, 5)));
            }
            left.sort_unstable();
            assert_eq!(left, if has_own { vec![1, 2, 3] } else { vec![1, 2] });
        });
    }
}

/// Two threads free the same block: one of them has freed it.
#[test]
fn a_block_is_retired_by_one_thread() {
    explore(3, || {
        let map = Arc::new(PageMap::new(2));
        map.publish(1, 1, Word::live(100, 7));
        let other = thread::spawn({
            let map = Arc::clone(&map);
            move || map.retire(1).is_some()
        });
        let mine = map.retire(1).is_some();
        assert!(mine != other.join().unwrap());
        assert!(map.live_around(1).is_none());
    });
}

/// The proof in `reuse_clock`: work submitted before a free is under the mark that makes the free's epoch safe.
/// The work is a relaxed counter, the weakest thing a fence may look at.
#[test]
fn no_epoch_is_safe_before_the_work_of_its_frees() {
    explore(3, || {
        let (clock, gpu) = (Arc::new(ReuseClock::new()), Arc::new(Busy::new()));
        let freeing = thread::spawn({
            let (clock, gpu) = (Arc::clone(&clock), Arc::clone(&gpu));
            move || {
                gpu.submitted.store(1, Ordering::Relaxed);
                clock.stamp()
            }
        });
        clock.turn(&*gpu, 0, |_| true, || ());
        let safe = clock.safe();
        let stamp = freeing.join().unwrap();
        assert!(stamp > safe, "the work never ends, so the block may never be handed out");
    });
}

/// Two threads turn the clock while a third frees: at most one turns at a time, and nothing is safe too early.
#[test]
fn two_who_turn_the_clock_do_not_spoil_it() {
    explore(2, || {
        let (clock, gpu) = (Arc::new(ReuseClock::new()), Arc::new(Busy::new()));
        let turning = thread::spawn({
            let (clock, gpu) = (Arc::clone(&clock), Arc::clone(&gpu));
            move || clock.turn(&*gpu, 0, |_| true, || ())
        });
        gpu.submitted.store(1, Ordering::Relaxed);
        let stamp = clock.stamp();
        let turned = clock.turn(&*gpu, 0, |_| true, || ());
        assert!(turning.join().unwrap() || turned);
        assert!(stamp > clock.safe());
    });
}

/// Of two that find a claim stale, one takes it over.
#[test]
fn a_stale_claim_has_one_heir() {
    explore(3, || {
        let claim = Arc::new(Claim::new());
        let dead = claim.take(0);
        assert!(dead.is_some());
        let other = thread::spawn({
            let claim = Arc::clone(&claim);
            move || claim.take(STALE_MS).is_some()
        });
        let mine = claim.take(STALE_MS).is_some();
        assert!(mine != other.join().unwrap());
    });
}

/// The whole pool, smallest: two threads want one block each of the two that there are, while the GPU works for ever
/// on whatever was freed. No block is had twice, and what is freed is not handed out again.
#[test]
fn two_threads_never_have_the_same_block() {
    explore(1, || {
        let config = aishim_pool::PoolConfig::with_slabs(&[2 * aishim_pool::BLOCK_BYTES]).unwrap();
        let pool = aishim_pool::Pool::new(&config, Box::new(Addresses), Box::new(NeverDone));
        assert!(pool.grow().is_ok());
        let pool = Arc::new(pool);
        let turn = |pool: &aishim_pool::Pool| {
            let address = pool.alloc(1, 0).ok()?.as_ptr();
            assert_eq!(pool.free(address), aishim_pool::FreeOutcome::Freed);
            Some(address.addr())
        };
        let other = thread::spawn({
            let pool = Arc::clone(&pool);
            move || turn(&pool)
        });
        let mine = turn(&pool);
        let theirs = other.join().unwrap();
        // While one thread carries blocks from the heap to its cache, the other may find neither there.
        assert!(mine.is_some() || theirs.is_some());
        assert_ne!(mine, theirs, "a block was handed out twice");
    });
}

/// A thread frees a block while another misses for want of it, which leaves behind that there is nothing: once both are
/// done, what was freed can be had, however slow the free was.
#[test]
fn a_failed_sweep_does_not_hide_what_comes_back() {
    explore(2, || {
        let config = aishim_pool::PoolConfig::with_slabs(&[2 * aishim_pool::BLOCK_BYTES]).unwrap();
        let pool = aishim_pool::Pool::new(&config, Box::new(Addresses), Box::new(Idle));
        assert!(pool.grow().is_ok());
        let pool = Arc::new(pool);
        let [first, second] = [pool.alloc(1, 0), pool.alloc(1, 0)].map(|at| at.unwrap().as_ptr().addr());
        let free = |pool: &aishim_pool::Pool, address: usize| {
            let outcome = pool.free(std::ptr::without_provenance(address));
            assert_eq!(outcome, aishim_pool::FreeOutcome::Freed);
        };
        free(&pool, first);
        let freeing = thread::spawn({
            let pool = Arc::clone(&pool);
            move || free(&pool, second)
        });
        let whole = pool.alloc(2 * aishim_pool::BLOCK_BYTES, 0);
        freeing.join().unwrap();
        assert!(whole.is_ok() || pool.alloc(2 * aishim_pool::BLOCK_BYTES, 0).is_ok(), "{pool:?}");
    });
}

/// Two threads, the smallest pool of two slabs: one gives the second slab back while the other takes both blocks. It has
/// the second slab's block or the slab has gone, never both, and what has gone is not the pool's any more.
#[test]
fn a_slab_goes_or_serves() {
    explore(2, || {
        let source = Arc::new(Lots::new());
        let config = aishim_pool::PoolConfig::with_slabs(&[aishim_pool::BLOCK_BYTES; 2]).unwrap();
        let pool = aishim_pool::Pool::new(&config, Box::new(SharedLots(Arc::clone(&source))), Box::new(NeverDone));
        assert!(pool.grow().is_ok() && pool.grow().is_ok());
        let pool = Arc::new(pool);
        let shrinking = thread::spawn({
            let pool = Arc::clone(&pool);
            move || (0..2).find_map(|_| pool.give_back_idle(0)).is_some()
        });
        let held: Vec<usize> = (0..2).filter_map(|_| pool.alloc(1, 0).ok()).map(|at| at.as_ptr().addr()).collect();
        let has_second = held.contains(&(2 << 20));
        let has_gone = shrinking.join().unwrap();
        // Neither, where it was just on its way from one place to the other.
        assert!(!(has_gone && has_second));
        assert!(held.len() < 2 || held[0] != held[1], "a block was handed out twice");
        assert_eq!(source.released.load(Ordering::Relaxed), u64::from(has_gone));
        assert_eq!(pool.contains(std::ptr::without_provenance(2 << 20)), !has_gone);
        assert!(pool.contains(std::ptr::without_provenance(1 << 20)), "the first slab stays");
    });
}

/// Gives out one address after the other, and counts what it gets back.
struct Lots {
    reserved: AtomicU64,
    released: AtomicU64,
}

struct SharedLots(Arc<Lots>);

impl Lots {
    fn new() -> Self {
        Self { reserved: AtomicU64::new(0), released: AtomicU64::new(0) }
    }
}

impl aishim_pool::PinnedSource for SharedLots {
    fn reserve(&self, _bytes: usize) -> Result<std::ptr::NonNull<u8>, i32> {
        let number = self.0.reserved.fetch_add(1, Ordering::Relaxed) as usize + 1;
        std::ptr::NonNull::new(std::ptr::without_provenance_mut(number << 20)).ok_or(2)
    }

    fn release(&self, _address: std::ptr::NonNull<u8>, _bytes: usize) {
        self.0.released.fetch_add(1, Ordering::Relaxed);
    }
}

struct Addresses;

impl aishim_pool::PinnedSource for Addresses {
    fn reserve(&self, _bytes: usize) -> Result<std::ptr::NonNull<u8>, i32> {
        std::ptr::NonNull::new(std::ptr::without_provenance_mut(1 << 20)).ok_or(2)
    }

    fn release(&self, _address: std::ptr::NonNull<u8>, _bytes: usize) {}
}

/// A GPU that has never anything to do.
struct Idle;

impl aishim_pool::WorkFence for Idle {
    fn mark(&self) -> Option<Mark> {
        Some(0)
    }

    fn passed(&self, _mark: Mark) -> bool {
        true
    }
}

struct NeverDone;

impl aishim_pool::WorkFence for NeverDone {
    fn mark(&self) -> Option<Mark> {
        Some(1)
    }

    fn passed(&self, _mark: Mark) -> bool {
        false
    }
}

fn explore(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(check);
}

fn cell() -> UnsafeCell<u64> {
    UnsafeCell::new(0)
}

/// A GPU whose only piece of work, once submitted, never ends.
struct Busy {
    submitted: AtomicU64,
}

impl Busy {
    fn new() -> Self {
        Self { submitted: AtomicU64::new(0) }
    }
}

impl WorkFence for Busy {
    fn mark(&self) -> Option<Mark> {
        Some(self.submitted.load(Ordering::Relaxed))
    }

    fn passed(&self, mark: Mark) -> bool {
        mark == 0
    }
}
