//! Idle slabs go back, and nobody ever has, gets or is told of a block in one that has gone.

use std::{
    ptr::NonNull,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use aishim_pool::{BLOCK_BYTES, FreeOutcome, GrowOutcome, PinnedSource, Pool, PoolConfig};

use crate::doubles::{Bench, FakeGpu};

const MIB: usize = 1 << 20;

/// Looks of the background thread, as many as it takes to set a slab aside and to give it back.
fn look(bench: &Bench) -> Option<usize> {
    (0..3).find_map(|_| bench.pool.give_back_idle(0))
}

#[test]
fn idle_slabs_go_the_last_first_and_the_first_stays() {
    let bench = Bench::full_grown(&[16, 16, 32]);
    assert_eq!(look(&bench), Some(32 * BLOCK_BYTES));
    assert_eq!(look(&bench), Some(16 * BLOCK_BYTES));
    assert_eq!(look(&bench), None);
    assert_eq!(bench.host.held_slabs(), 1);
    assert_eq!(bench.pool.stats().reserved_bytes, 16 * BLOCK_BYTES as u64);
    assert!(!bench.pool.may_shrink());
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(16 * BLOCK_BYTES)), "and come again");
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(32 * BLOCK_BYTES)));
    bench.alloc(32);
}

#[test]
fn not_before_its_time() {
    let bench = Bench::full_grown(&[16, 16]);
    for _ in 0..5 {
        assert_eq!(bench.pool.give_back_idle(3_600_000), None);
    }
    assert_eq!(bench.host.held_slabs(), 2);
}

#[test]
fn a_slab_with_a_block_in_use_stays_whatever_else_is_free() {
    let bench = Bench::full_grown(&[16, 64]);
    // The tightest fit is in the first slab, so this is in the second.
    let address = bench.alloc(32);
    assert_eq!(look(&bench), None);
    bench.pool.free(address);
    assert_eq!(look(&bench), Some(64 * BLOCK_BYTES));
}

#[test]
fn a_slab_stays_while_the_gpu_may_use_a_freed_block_of_it() {
    let bench = Bench::full_grown(&[16, 64]);
    let address = bench.alloc(32);
    bench.gpu.submit();
    bench.pool.free(address);
    assert_eq!(look(&bench), None);
    bench.gpu.finish_all();
    assert_eq!(look(&bench), Some(64 * BLOCK_BYTES));
}

#[test]
fn blocks_in_another_threads_cache_are_fetched_first() {
    let bench = Bench::full_grown(&[16, 64]);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let held: Vec<*mut u8> = (0..40).map(|_| bench.alloc(2)).collect();
            held.into_iter().for_each(|address| assert_eq!(bench.pool.free(address), FreeOutcome::Freed));
        });
        other.join().unwrap();
    });
    assert_eq!(look(&bench), Some(64 * BLOCK_BYTES));
}

#[test]
fn a_slab_that_is_aside_serves_a_request_that_would_miss() {
    let bench = Bench::full_grown(&[16, 64]);
    assert_eq!(bench.pool.give_back_idle(3_600_000), None, "it is aside now");
    let reserved = bench.pool.stats().reserved_bytes;
    bench.alloc(60);
    assert_eq!(bench.pool.stats().reserved_bytes, reserved);
    assert_eq!(bench.pool.stats().misses.total(), 0);
    assert_eq!(look(&bench), None);
}

#[test]
fn growth_takes_what_is_aside_before_it_asks_the_source() {
    let bench = Bench::full_grown(&[16, 64]);
    assert_eq!(bench.pool.give_back_idle(3_600_000), None);
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(64 * BLOCK_BYTES)));
    assert_eq!(bench.host.held_slabs(), 2);
}

/// A DataLoader's batches of 32 MiB never came from the pool: the first was more than the slab of 16 MiB that came for it,
/// and at each further miss the background thread, woken to grow, first set that idle slab aside and then took it for the
/// growth that was wanted.
#[test]
fn what_is_aside_is_no_growth_for_a_request_that_it_cannot_serve() {
    let bench = Bench::empty(&[16, 16, 32]);
    for _ in 0..2 {
        assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(16 * BLOCK_BYTES)));
    }
    assert!(bench.pool.alloc(32 * BLOCK_BYTES, 0).is_err());
    assert!(bench.pool.wants_growth());
    assert_eq!(bench.pool.give_back_idle(3_600_000), None, "the second slab is aside now");
    while bench.pool.wants_growth() {
        assert!(bench.pool.grow().is_ok());
    }
    bench.alloc(32);
}

#[test]
fn an_eager_pool_keeps_its_ordinary_size() {
    let config = PoolConfig::with_limit(32 * MIB, 64 * MIB).unwrap().eager();
    let pool = Pool::new(&config, Box::new(Landlord::new(64)), Box::new(Arc::new(FakeGpu::default())));
    assert!(pool.wants_growth(), "before anybody asks");
    for mib in [4, 12, 16] {
        assert!(pool.wants_growth());
        assert_eq!(pool.grow(), Ok(GrowOutcome::Grown(mib * MIB)));
    }
    assert!(!pool.wants_growth(), "the rest is for who misses");
    let held: Vec<_> = (0..5).map(|_| pool.alloc(6 * MIB, 0)).collect();
    assert!(held[3].is_ok() && held[4].is_err() && pool.wants_growth());
    assert_eq!(pool.grow(), Ok(GrowOutcome::Grown(32 * MIB)));
    for address in held.into_iter().flatten() {
        assert_eq!(pool.free(address.as_ptr()), FreeOutcome::Freed);
    }
    let gone: Vec<usize> = (0..9).filter_map(|_| pool.give_back_idle(0)).collect();
    assert_eq!(gone, [32 * MIB]);
}

/// As a DataLoader's first batches: the next slab is smaller than what has missed.
#[test]
fn a_request_that_missed_brings_slabs_until_one_is_large_enough() {
    let config = PoolConfig::with_limit(4 * MIB, 256 * MIB).unwrap();
    let pool = Pool::new(&config, Box::new(Landlord::new(64)), Box::new(Arc::new(FakeGpu::default())));
    assert_eq!(pool.grow(), Ok(GrowOutcome::Grown(4 * MIB)));
    assert!(!pool.wants_growth() && pool.alloc(20 * MIB, 0).is_err());
    for mib in [12, 16, 32] {
        assert!(pool.wants_growth());
        assert_eq!(pool.grow(), Ok(GrowOutcome::Grown(mib * MIB)));
    }
    assert!(!pool.wants_growth() && pool.alloc(20 * MIB, 0).is_ok());
}

/// A program that pinned a few pages had 4 MiB for a long time, and found them used up when it came to need more.
#[test]
fn the_second_slab_comes_without_need_and_stays() {
    let pool = pool_of(256, 512);
    assert_eq!(pool.grow(), Ok(GrowOutcome::Grown(4 * MIB)));
    let page = pool.alloc(1, 0).unwrap();
    assert!(pool.wants_growth());
    assert_eq!(pool.grow(), Ok(GrowOutcome::Grown(12 * MIB)));
    assert!(!pool.wants_growth());
    assert_eq!(pool.free(page.as_ptr()), FreeOutcome::Freed);
    assert_eq!((0..9).find_map(|_| pool.give_back_idle(0)), None);
    assert!(!pool.may_shrink() && !pool.wants_growth());
    let small = pool_of(4, 512);
    assert_eq!(small.grow(), Ok(GrowOutcome::Grown(4 * MIB)));
    assert!(!small.wants_growth(), "that is all its ordinary size");
}

/// A program with one large block at a time, in a pool with room for one or two, turned the clock for each: 4 us instead
/// of 0.2.
#[test]
fn a_block_for_which_alone_the_clock_is_turned_brings_a_slab() {
    let pool = pool_of(64, 256);
    for mib in [4, 12, 16] {
        assert_eq!(pool.grow(), Ok(GrowOutcome::Grown(mib * MIB)));
    }
    one_at_a_time(&pool, MIB, 100);
    assert!(!pool.wants_growth(), "a turn for several");
    let held = pool.alloc(4 * MIB, 0).unwrap();
    one_at_a_time(&pool, 12 * MIB, 2);
    assert!(pool.wants_growth());
    assert_eq!(pool.grow(), Ok(GrowOutcome::Grown(32 * MIB)));
    assert!(!pool.wants_growth());
    let marks = pool.stats().marks_made;
    one_at_a_time(&pool, 12 * MIB, 100);
    assert!(pool.stats().marks_made <= marks + 50, "two for each turn");
    one_at_a_time(&pool, 32 * MIB, 100);
    assert!(!pool.wants_growth(), "beyond its ordinary size it grows for who misses");
    assert_eq!(pool.free(held.as_ptr()), FreeOutcome::Freed);
}

/// The same where much is free, but in no piece that is large enough.
#[test]
fn a_request_that_has_to_turn_the_clock_brings_a_slab() {
    let bench = Bench::empty(&[16, 16, 32, 64, 64]);
    for blocks in [16, 16, 32] {
        assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(blocks * BLOCK_BYTES)));
    }
    one_at_a_time(&bench.pool, 20 * BLOCK_BYTES, 1);
    assert!(!bench.pool.wants_growth());
    one_at_a_time(&bench.pool, 20 * BLOCK_BYTES, 1);
    assert_eq!((bench.pool.stats().marks_made, bench.pool.wants_growth()), (1, true));
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(64 * BLOCK_BYTES)));
    assert!(!bench.pool.wants_growth());
}

/// Else it would be given back as idle, and brought again, all the time.
#[test]
fn a_slab_that_is_aside_comes_back_before_the_clock_is_turned() {
    let pool = pool_of(256, 256);
    for mib in [4, 12, 16, 32] {
        assert_eq!(pool.grow(), Ok(GrowOutcome::Grown(mib * MIB)));
    }
    one_at_a_time(&pool, 16 * MIB, 1);
    assert_eq!(pool.give_back_idle(3_600_000), None, "the last slab is aside now");
    let in_use = pool.alloc(16 * MIB, 0).unwrap();
    let marks = pool.stats().marks_made;
    one_at_a_time(&pool, 16 * MIB, 1);
    assert_eq!(pool.stats().marks_made, marks);
    assert!(!pool.wants_growth());
    assert_eq!(pool.free(in_use.as_ptr()), FreeOutcome::Freed);
}

fn pool_of(mib: usize, limit_mib: usize) -> Pool {
    let config = PoolConfig::with_limit(mib * MIB, limit_mib * MIB).unwrap();
    Pool::new(&config, Box::new(Landlord::new(256)), Box::new(Arc::new(FakeGpu::default())))
}

fn one_at_a_time(pool: &Pool, bytes: usize, times: u32) {
    for _ in 0..times {
        let block = pool.alloc(bytes, 0).unwrap();
        assert_eq!(pool.free(block.as_ptr()), FreeOutcome::Freed);
    }
}

#[test]
fn a_pool_whose_context_has_gone_gives_nothing_back() {
    let bench = Bench::full_grown(&[16, 16]);
    assert_eq!(bench.pool.give_back_idle(0), None);
    bench.pool.forget();
    assert_eq!(look(&bench), None);
    assert_eq!(bench.host.held_slabs(), 2);
}

const SLAB_BLOCKS: [usize; 4] = [32, 32, 64, 128];
const FIRST_PAGE: usize = 1 << 20;
const PAGES: usize = 4 * 128;

/// Gives out few addresses again and again, as a driver does, and knows who lives where.
struct Landlord {
    /// For each page 0 when it is nobody's, 1 when it is the pool's, else the thread that holds it.
    pages: Vec<AtomicU64>,
    lot_pages: usize,
    taken: Mutex<Vec<usize>>,
    pool: OnceLock<std::sync::Weak<Pool>>,
    released: AtomicU64,
}

impl Landlord {
    fn new(mib: usize) -> Self {
        let pages = (mib << 20) / BLOCK_BYTES * SLAB_BLOCKS.len();
        Self::of_pages(pages)
    }

    fn of_pages(pages: usize) -> Self {
        Self {
            pages: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            lot_pages: pages / SLAB_BLOCKS.len(),
            taken: Mutex::new(Vec::new()),
            pool: OnceLock::new(),
            released: AtomicU64::new(0),
        }
    }

    fn pages(&self, address: usize, bytes: usize) -> &[AtomicU64] {
        let first = address / BLOCK_BYTES - FIRST_PAGE;
        &self.pages[first..first + bytes.div_ceil(BLOCK_BYTES)]
    }

    fn change(&self, address: usize, bytes: usize, from: u64, to: u64) {
        for page in self.pages(address, bytes) {
            assert_eq!(page.compare_exchange(from, to, SeqCst, SeqCst), Ok(from), "{from} -> {to}");
        }
    }
}

impl PinnedSource for Landlord {
    fn reserve(&self, bytes: usize) -> Result<NonNull<u8>, i32> {
        let mut taken = self.taken.lock().unwrap();
        let lot = (0..SLAB_BLOCKS.len()).find(|lot| !taken.contains(lot)).ok_or(2)?;
        taken.push(lot);
        let address = (FIRST_PAGE + lot * self.lot_pages) * BLOCK_BYTES;
        self.change(address, bytes, 0, 1);
        Ok(NonNull::new(std::ptr::without_provenance_mut(address)).unwrap())
    }

    fn release(&self, address: NonNull<u8>, bytes: usize) {
        let start = address.as_ptr().addr();
        if let Some(pool) = self.pool.get().and_then(std::sync::Weak::upgrade) {
            for at in [start, start + bytes - 1] {
                let at = std::ptr::without_provenance(at);
                assert!(!pool.contains(at), "it is still said to be the pool's");
                assert_eq!(pool.free(at), FreeOutcome::NotOurs);
            }
        }
        self.change(start, bytes, 1, 0);
        self.taken.lock().unwrap().retain(|lot| (FIRST_PAGE + lot * self.lot_pages) * BLOCK_BYTES != start);
        self.released.fetch_add(1, SeqCst);
    }
}

/// Threads allocate and free while slabs come and go; the driver gives the same addresses again and again.
#[test]
fn threads_that_allocate_while_slabs_come_and_go() {
    let landlord = Arc::new(Landlord::of_pages(PAGES));
    let gpu = Arc::new(FakeGpu::default());
    let slab_bytes = SLAB_BLOCKS.map(|blocks| blocks * BLOCK_BYTES);
    let config = PoolConfig::with_slabs(&slab_bytes).unwrap();
    let pool = Arc::new(Pool::new(&config, Box::new(Arc::clone(&landlord)), Box::new(Arc::clone(&gpu))));
    landlord.pool.set(Arc::downgrade(&pool)).unwrap();
    let stop = AtomicBool::new(false);
    let (pool, landlord, stop) = (&*pool, &*landlord, &stop);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !stop.load(SeqCst) {
                // Grows before it is asked to, so that there is always something to give back.
                for _ in 0..2 {
                    assert!(pool.grow().is_ok() || landlord.taken.lock().unwrap().len() == SLAB_BLOCKS.len());
                }
                for _ in 0..6 {
                    pool.give_back_idle(0);
                }
                std::thread::yield_now();
            }
        });
        let workers: Vec<_> = (2..6).map(|id| scope.spawn(move || work(pool, landlord, id))).collect();
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, SeqCst);
        assert!(ended.iter().all(Result::is_ok), "a worker failed");
    });
    assert!(landlord.released.load(SeqCst) > 10, "slabs were given back");
    assert!(pool.stats().hits > 1000);
    assert_eq!(pool.stats().allocated_blocks, 0);
}

/// Bursts, and pauses in which everything is free.
fn work(pool: &Pool, landlord: &Landlord, id: u64) {
    let mut random = id;
    for _ in 0..400 {
        let mut held = Vec::new();
        for _ in 0..12 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bytes = (1 + (random >> 33) as usize % 12) * BLOCK_BYTES;
            if let Ok(address) = pool.alloc(bytes, 0) {
                let address = address.as_ptr().addr();
                landlord.change(address, bytes, 1, id);
                held.push((address, bytes));
            }
        }
        for (address, bytes) in held {
            assert!(pool.block_of(std::ptr::without_provenance(address)).is_some());
            landlord.change(address, bytes, id, 1);
            assert_eq!(pool.free(std::ptr::without_provenance(address)), FreeOutcome::Freed);
        }
        std::thread::sleep(std::time::Duration::from_micros(random >> 58));
    }
}
