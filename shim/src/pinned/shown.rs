//! The pool as others see it: its map in the runtime directory, told of each block as it happens.
//!
//! The map is made with the first pool, in the directory in which the segment was published; without a segment there is
//! none. Should it not be had, the pool runs unseen.

use crate::clock;
use crate::life;
use crate::log;
use crate::segment::segment;
use aishim_abi::pool_file::{Identity, PoolMap};
use aishim_pool::{BLOCK_BYTES, Pool, PoolConfig, Witness};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// This process's map, once it has been made or could not be.
static MAP: OnceLock<Option<PoolMap>> = OnceLock::new();

pub(super) struct Shown(PoolMap);

/// A pool of that shape, shown in the map from its first block on.
pub(super) fn show(pool: Pool, shape: &PoolConfig) -> Pool {
    let shown = shown(shape);
    #[cfg(feature = "poison")]
    let shown = Some(Box::new(super::poison::Poisoner::new(shape, shown)) as Box<dyn Witness>);
    match shown {
        Some(witness) => pool.with_witness(witness),
        None => pool,
    }
}

fn shown(shape: &PoolConfig) -> Option<Box<dyn Witness>> {
    static IS_USED: AtomicBool = AtomicBool::new(false);
    let map = (*MAP.get_or_init(|| publish(shape)))?;
    if IS_USED.swap(true, Relaxed) {
        map.clear();
    }
    Some(Box::new(Shown(map)))
}

/// Slabs have come or gone.
pub(super) fn show_slabs(pool: &Pool) {
    if let Some(Some(map)) = MAP.get() {
        map.set_slabs(pool.slabs().map(|s| (s.number as usize, s.start as u64, s.first_index, s.blocks)));
    }
}

/// In a forked child: the map is the parent's.
pub(super) fn disown() {
    if let Some(Some(map)) = MAP.get() {
        let _ = map.disown();
    }
}

fn publish(shape: &PoolConfig) -> Option<PoolMap> {
    let directory = life::directory()?;
    let header = &segment().header;
    let identity = Identity {
        pid: header.pid.load(Relaxed),
        start_ticks: header.start_ticks.load(Relaxed),
        generation: header.generation.load(Relaxed),
        unix_ns: clock::unix_ns(),
        monotonic_ns: clock::monotonic_ns(),
        block_bytes: BLOCK_BYTES as u32,
    };
    let map = PoolMap::publish(directory, &identity, shape.index_count());
    map.inspect_err(|e| log::info(format_args!("the pool is not shown: {}: {e}", directory.display()))).ok()
}

impl Witness for Shown {
    #[inline]
    fn allocated(&self, index: u32, blocks: u32, requested_bytes: usize) {
        self.0.set_allocated(index, blocks, requested_bytes, clock::coarse_ns());
    }

    #[inline]
    fn freed(&self, index: u32, blocks: u32, requested_bytes: usize, epoch: u64) {
        self.0.set_freed(index, blocks, requested_bytes, epoch);
    }

    fn safe(&self, epoch: u64) {
        self.0.set_safe(epoch);
    }
}
