//! Many threads at once: nobody gets what another holds or the GPU may still use, and in the end nothing is missing.

use std::{
    collections::VecDeque,
    ptr::NonNull,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::ScopedJoinHandle,
    time::{Duration, Instant},
};

use aishim_pool::{BLOCK_BYTES, FreeOutcome, Miss};

use crate::doubles::Bench;

const SLAB_BLOCKS: [usize; 2] = [512, 2048];
const PAGES: usize = 2560;
const FIRST_PAGE: usize = (1 << 40) / BLOCK_BYTES;
const THREADS: u64 = 8;

/// Blocks to ask for, given a random number.
type Sizes = fn(usize) -> usize;

#[test]
fn nobody_gets_what_another_holds_or_the_gpu_may_use() {
    let sizes: Sizes = |dice| match dice % 16 {
        0 => 300,
        1..=3 => 17 + dice % 40,
        _ => 1 + dice % 4,
    };
    run(sizes, 12, 12_000, 600);
}

/// Few sizes above 1 MiB, of which three share a cache, and small ones that need what the caches hold: extents go by
/// all roads there are, from cache to cache and through the heap.
#[test]
fn nor_when_most_blocks_are_large() {
    let sizes: Sizes = |dice| match dice % 8 {
        0..=3 => 260,
        4 => 300,
        5 => 301,
        6 => 600,
        _ => 200 + dice % 50,
    };
    run(sizes, 1, 2_000, 50);
}

/// How long a thread may take to be served as often as it should: far longer than it has to on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many blocks wait at most to be freed by another thread than had them.
const HANDED_ON_AT_MOST: usize = 2;

/// Each thread takes or frees a block in each of its rounds, and holds about so many at most. It has further rounds until
/// it has been served so often: while a thread that is at a turn of the clock, or has the heap's lock, is without a
/// processor, all that the others ask for is missed, and they could have had all of their rounds by the time it goes on.
fn run(sizes: Sizes, held_at_most: usize, rounds: u64, hits_at_least: u64) {
    let world = World::new(sizes, held_at_most);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| world.run_gpu(&stop));
        let workers: Vec<_> = (1..=THREADS)
            .map(|id| {
                scope.spawn({
                    let world = &world;
                    move || world.work(id, rounds, hits_at_least)
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(ScopedJoinHandle::join).collect();
        stop.store(true, SeqCst);
        assert!(ended.iter().all(Result::is_ok), "a worker failed");
    });
    world.check_the_end(hits_at_least);
}

#[test]
fn of_many_frees_of_one_block_one_counts() {
    let bench = Bench::full_grown(&[64]);
    for _ in 0..500 {
        let address = bench.alloc(1).addr();
        let outcomes: Vec<FreeOutcome> = std::thread::scope(|scope| {
            let free = || bench.pool.free(std::ptr::without_provenance(address));
            let others: Vec<_> = (0..3).map(|_| scope.spawn(free)).collect();
            others.into_iter().map(|other| other.join().unwrap()).collect()
        });
        let freed = outcomes.iter().filter(|&&outcome| outcome == FreeOutcome::Freed).count();
        assert_eq!(freed, 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|outcome| { matches!(outcome, FreeOutcome::Freed | FreeOutcome::AlreadyFree) }));
    }
    assert_eq!(bench.pool.stats().frees, 500);
}

/// More threads than have accounts of their own, at once and one after the other, and frees by others than allocated.
#[test]
fn the_accounts_are_exact_whoever_counts() {
    const PAIRS: u64 = 500;
    const WAITING_AT_MOST: usize = 50;
    let bench = Bench::full_grown(&[4096]);
    let waiting = Mutex::new(VecDeque::new());
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    for _ in 0..PAIRS {
                        let address = bench.alloc(1).addr();
                        let oldest = {
                            let mut waiting = waiting.lock().unwrap();
                            waiting.push_back(address);
                            if waiting.len() > WAITING_AT_MOST { waiting.pop_front() } else { None }
                        };
                        let outcome = oldest.map(|address| bench.pool.free(std::ptr::without_provenance(address)));
                        assert!(outcome.is_none_or(|outcome| outcome == FreeOutcome::Freed));
                    }
                });
            }
        });
    }
    let held = waiting.into_inner().unwrap().len() as u64;
    let stats = bench.pool.stats();
    assert_eq!((stats.hits, stats.frees), (3 * 40 * PAIRS, 3 * 40 * PAIRS - held));
    assert_eq!((stats.allocated_blocks, stats.requested_bytes), (held, held * BLOCK_BYTES as u64));
}

struct World {
    bench: Bench,
    /// Who holds each page, 0 for nobody.
    holders: Vec<AtomicU64>,
    /// The last work that touches each page.
    last_work: Vec<AtomicU64>,
    /// Blocks on their way to a thread that will free them.
    handed_on: Mutex<Vec<Held>>,
    sizes: Sizes,
    held_at_most: usize,
}

#[derive(Clone, Copy)]
struct Held {
    start: usize,
    bytes: usize,
}

impl World {
    fn new(sizes: Sizes, held_at_most: usize) -> Self {
        Self {
            sizes,
            held_at_most,
            bench: Bench::full_grown(&SLAB_BLOCKS),
            holders: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
            last_work: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
            handed_on: Mutex::new(Vec::new()),
        }
    }

    fn run_gpu(&self, stop: &AtomicBool) {
        while !stop.load(SeqCst) {
            let submitted = self.bench.gpu.submitted();
            std::thread::yield_now();
            self.bench.gpu.finish(submitted);
        }
    }

    fn work(&self, id: u64, rounds: u64, hits_at_least: u64) {
        let mut random = id;
        let mut mine: Vec<Held> = Vec::new();
        let (begun, mut done, mut hits) = (Instant::now(), 0, 0);
        while done < rounds || hits < hits_at_least {
            assert!(begun.elapsed() < PATIENCE, "{hits} hits in {done} rounds: {:?}", self.bench.pool.stats());
            done += 1;
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let dice = (random >> 33) as usize;
            if mine.len() > self.held_at_most || dice.is_multiple_of(5) {
                self.let_go(id, &mut mine, dice);
            } else if let Some(held) = self.get(id, dice) {
                hits += 1;
                mine.push(held);
            } else if done > rounds {
                // Whoever is in the way may need this processor.
                std::thread::yield_now();
            }
        }
        while !mine.is_empty() {
            self.let_go(id, &mut mine, 1);
        }
    }

    fn get(&self, id: u64, dice: usize) -> Option<Held> {
        let blocks = (self.sizes)(dice);
        let bytes = blocks * BLOCK_BYTES - dice % BLOCK_BYTES;
        let start = match self.bench.pool.alloc(bytes, id as u32) {
            Ok(address) => address.as_ptr().addr(),
            Err(Miss::NoRoom | Miss::Busy) => return None,
            Err(Miss::WaitingForGpu) => {
                // The GPU's own thread may not have a processor just now.
                if dice.is_multiple_of(4) {
                    self.bench.gpu.finish_all();
                }
                return None;
            }
            Err(miss) => panic!("{miss:?}"),
        };
        let done = self.bench.gpu.done();
        let held = Held { start, bytes };
        for page in held.pages() {
            assert_eq!(self.holders[page].swap(id, SeqCst), 0, "a page has two holders");
            assert!(self.last_work[page].load(SeqCst) <= done, "the GPU may still use a page");
        }
        Some(held)
    }

    /// Frees a block, or hands it on and frees one that was handed on before.
    fn let_go(&self, id: u64, mine: &mut Vec<Held>, dice: usize) {
        let Some(mut held) = mine.pop() else { return };
        let mut holder = id;
        if dice.is_multiple_of(3) {
            for page in held.pages() {
                self.holders[page].store(u64::MAX, SeqCst);
            }
            holder = u64::MAX;
            let mut handed_on = self.handed_on.lock().unwrap();
            handed_on.push(held);
            if handed_on.len() <= HANDED_ON_AT_MOST {
                return;
            }
            let which = dice % handed_on.len();
            held = handed_on.swap_remove(which);
        }
        self.free(holder, held);
    }

    fn free(&self, holder: u64, held: Held) {
        let work = self.bench.gpu.submit();
        for page in held.pages() {
            self.last_work[page].store(work, SeqCst);
            assert_eq!(self.holders[page].swap(0, SeqCst), holder);
        }
        let address = NonNull::new(std::ptr::without_provenance_mut(held.start)).unwrap();
        assert_eq!(self.bench.pool.free(address.as_ptr()), FreeOutcome::Freed);
    }

    fn check_the_end(&self, hits_at_least: u64) {
        for held in std::mem::take(&mut *self.handed_on.lock().unwrap()) {
            self.free(u64::MAX, held);
        }
        self.bench.gpu.finish_all();
        self.bench.pool.tend();
        let stats = self.bench.pool.stats();
        assert_eq!((stats.allocated_bytes, stats.requested_bytes), (0, 0));
        assert_eq!(stats.quarantined_bytes, 0);
        assert_eq!(stats.hits, stats.frees);
        assert!(stats.hits >= THREADS * hits_at_least, "{stats:?}");
        assert!(stats.high_water_bytes <= stats.reserved_bytes);
        for blocks in SLAB_BLOCKS.iter().rev() {
            self.bench.alloc(*blocks);
        }
    }
}

impl Held {
    /// The pages that were asked for; the pool may have rounded up.
    fn pages(self) -> std::ops::Range<usize> {
        let first = self.start / BLOCK_BYTES - FIRST_PAGE;
        first..first + self.bytes.div_ceil(BLOCK_BYTES)
    }
}
