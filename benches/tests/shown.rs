//! What a reader of the map sees beside what the pool has, over a long random walk: every block that is held and nothing
//! else, what waits for the GPU, and slabs that come and go.

use aishim_abi::pool_reader::{State, Totals};
use aishim_benches::shown::Shown;
use aishim_pool::{BLOCK_BYTES, GrowOutcome, Mark, PinnedSource, Pool, PoolConfig, WorkFence};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

/// Gives out addresses with nothing behind them.
struct Addresses(AtomicUsize);

impl PinnedSource for Addresses {
    fn reserve(&self, bytes: usize) -> Result<NonNull<u8>, i32> {
        NonNull::new(std::ptr::without_provenance_mut(self.0.fetch_add(bytes, SeqCst))).ok_or(2)
    }

    fn release(&self, _address: NonNull<u8>, _bytes: usize) {}
}

/// Work is submitted and done when the test says so.
#[derive(Default)]
struct Gpu {
    submitted: AtomicU64,
    done: AtomicU64,
}

impl WorkFence for Gpu {
    fn mark(&self) -> Option<Mark> {
        Some(self.submitted.load(SeqCst))
    }

    fn passed(&self, mark: Mark) -> bool {
        self.done.load(SeqCst) >= mark
    }
}

#[test]
fn the_map_shows_what_the_pool_has() {
    let shape = PoolConfig::with_slabs(&[300, 1000, 3000].map(|blocks| blocks * BLOCK_BYTES)).expect("a shape");
    let gpu = Arc::new(Gpu::default());
    let pool = Pool::new(&shape, Box::new(Addresses(AtomicUsize::new(1 << 40))), Box::new(Arc::clone(&gpu)));
    let (shown, pool) = Shown::of(pool, &shape).expect("a map");
    let mut held: BTreeMap<u64, u64> = BTreeMap::new();
    let mut random = 7_u64;
    for step in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let dice = (random >> 33) as usize;
        match dice % 16 {
            0..=7 => {
                let bytes = 1 + dice / 16 % if dice.is_multiple_of(5) { 400 * BLOCK_BYTES } else { 9 * BLOCK_BYTES };
                held.extend(pool.alloc(bytes, 0).ok().map(|at| (at.as_ptr().addr() as u64, bytes as u64)));
            }
            8..=13 => {
                let at = held.keys().nth(dice / 16 % held.len().max(1)).copied();
                if let Some(at) = at {
                    gpu.submitted.fetch_add(1, SeqCst);
                    held.remove(&at);
                    let _ = pool.free(std::ptr::without_provenance(at as usize));
                }
            }
            14 => gpu.done.store(gpu.submitted.load(SeqCst), SeqCst),
            _ if dice.is_multiple_of(3) => drop(pool.give_back_idle(0)),
            _ => assert!(matches!(pool.grow(), Ok(GrowOutcome::Grown(_) | GrowOutcome::Complete))),
        }
        if step % 50 == 0 {
            compare(&shown, &pool, &held);
        }
    }
    assert!(pool.stats().hits > 1000, "{:?}", pool.stats());
}

fn compare(shown: &Shown, pool: &Pool, held: &BTreeMap<u64, u64>) {
    let slabs = shown.look(pool).slabs();
    let mut seen = BTreeMap::new();
    for slab in &slabs {
        for extent in &slab.extents {
            if let State::Allocated { requested_bytes, .. } = extent.state {
                seen.insert(slab.start + u64::from(extent.first_block) * BLOCK_BYTES as u64, requested_bytes);
            }
        }
    }
    assert_eq!(&seen, held);
    let (totals, stats) = (Totals::of(&slabs), pool.stats());
    let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
    assert_eq!(bytes(totals.blocks), stats.reserved_bytes);
    assert_eq!(bytes(totals.allocated_blocks), stats.allocated_bytes);
    assert_eq!(bytes(totals.waiting_blocks), stats.quarantined_bytes);
}
