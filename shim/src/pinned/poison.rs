//! Test builds (feature `poison`): a freed block is filled with [`POISON`] as soon as its reuse is allowed, whether it is
//! taken again or not, so that whatever of the program or the GPU still uses it is seen.
//!
//! Not at the free itself: the GPU may still read the block for the program, which has freed it rightly, as the driver's
//! own free would wait for that. Where the rule of reuse is broken, poison strikes everything that is freed too early,
//! and not only the few blocks that happen to be taken again in time.

use super::home;
use aishim_pool::{BLOCK_BYTES, PoolConfig, Witness};
use parking_lot::Mutex;

/// The byte in all of a freed block.
const POISON: u8 = 0xdb;

/// A witness that poisons, in front of the one there was.
pub(super) struct Poisoner {
    next: Option<Box<dyn Witness>>,
    /// For each block index the epoch in which it was freed, until it is poisoned; 0 for none.
    freed_in: Mutex<Box<[u64]>>,
}

impl Poisoner {
    /// For a pool of that shape.
    pub(super) fn new(shape: &PoolConfig, next: Option<Box<dyn Witness>>) -> Self {
        let freed_in = vec![0; shape.index_count() as usize].into_boxed_slice();
        Self { next, freed_in: Mutex::new(freed_in) }
    }
}

impl Witness for Poisoner {
    /// A thread may have taken it between the moment when it was safe and the one when that is told here.
    fn allocated(&self, index: u32, blocks: u32, requested_bytes: usize) {
        let mut freed_in = self.freed_in.lock();
        for i in index..index + blocks {
            if std::mem::take(&mut freed_in[i as usize]) != 0 {
                poison(i);
            }
        }
        drop(freed_in);
        if let Some(next) = &self.next {
            next.allocated(index, blocks, requested_bytes);
        }
    }

    fn freed(&self, index: u32, blocks: u32, requested_bytes: usize, epoch: u64) {
        self.freed_in.lock()[index as usize..(index + blocks) as usize].fill(epoch);
        if let Some(next) = &self.next {
            next.freed(index, blocks, requested_bytes, epoch);
        }
    }

    fn safe(&self, epoch: u64) {
        let mut freed_in = self.freed_in.lock();
        for (i, freed_in) in freed_in.iter_mut().enumerate().filter(|(_, e)| (1..=epoch).contains(*e)) {
            *freed_in = 0;
            poison(i as u32);
        }
        drop(freed_in);
        if let Some(next) = &self.next {
            next.safe(epoch);
        }
    }
}

/// Fills a block that is free and safe, if its slab is still there.
fn poison(index: u32) {
    let slab = home().and_then(|h| h.pool.slabs().find(|s| (s.first_index..s.first_index + s.blocks).contains(&index)));
    if let Some(slab) = slab {
        let at = slab.start + (index - slab.first_index) as usize * BLOCK_BYTES;
        let block = std::ptr::with_exposed_provenance_mut::<u8>(at);
        // SAFETY: a block of an installed slab. It is nobody's: its free has been told and an allocation of it, told
        // under the same lock, has not. A slab goes only after all of it was safe and then idle for some time.
        unsafe { block.write_bytes(POISON, BLOCK_BYTES) };
    }
}
