//! A pool shown in a map, as the library shows it, without the library.

use aishim_abi::pool_file::{Identity, PoolMap};
use aishim_abi::pool_reader::PoolMapCopy;
use aishim_pool::{BLOCK_BYTES, Pool, PoolConfig, Witness};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// The map of one pool, and its file, which has no name any more.
pub struct Shown {
    map: PoolMap,
    file: File,
}

/// Tells the map of each block, with the coarse clock's time.
struct Teller(PoolMap);

impl Shown {
    /// Has `pool`, which is of that shape, shown from now on.
    ///
    /// # Errors
    /// Where no file can be made in the folder for temporary ones.
    pub fn of(pool: Pool, shape: &PoolConfig) -> io::Result<(Self, Pool)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (pid, start_ticks) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let block_bytes = BLOCK_BYTES as u32;
        let identity = Identity { pid, start_ticks, generation: 0, unix_ns: 0, monotonic_ns: coarse_ns(), block_bytes };
        let directory = std::env::temp_dir();
        let map = PoolMap::publish(&directory, &identity, shape.index_count())?;
        let path = directory.join(format!("{pid}-{start_ticks}.pool"));
        let file = File::open(&path);
        std::fs::remove_file(&path)?;
        Ok((Self { map, file: file? }, pool.with_witness(Box::new(Teller(map)))))
    }

    /// What a reader sees at this moment.
    ///
    /// # Panics
    /// Where our own map cannot be read.
    #[must_use]
    pub fn look(&self, pool: &Pool) -> PoolMapCopy {
        self.map.set_slabs(pool.slabs().map(|s| (s.number as usize, s.start as u64, s.first_index, s.blocks)));
        PoolMapCopy::read(&self.file).expect("a map of our own")
    }
}

impl Witness for Teller {
    fn allocated(&self, index: u32, blocks: u32, requested_bytes: usize) {
        self.0.set_allocated(index, blocks, requested_bytes, coarse_ns());
    }

    fn freed(&self, index: u32, blocks: u32, requested_bytes: usize, epoch: u64) {
        self.0.set_freed(index, blocks, requested_bytes, epoch);
    }

    fn safe(&self, epoch: u64) {
        self.0.set_safe(epoch);
    }
}

fn coarse_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
