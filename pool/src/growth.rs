//! How the pool gets its slabs, one at a time, and how it loses them.
//!
//! # Giving a slab back
//!
//! A slab may go when nobody can hold, get or still be using any of its blocks. Candidates for knowing that:
//!
//! * *A count of blocks in use for each slab,* changed by every allocation and free: two more atomic additions on the
//!   road of every request, and it says nothing about blocks that wait in a cache or for the GPU.
//! * *A flag on the slab that turns allocations away,* and a wait until its blocks have come home: each allocation would
//!   look at the flag, and one that looked just before it was set would still have to be waited for.
//! * *The heap's own knowledge.* An extent in the heap is free, safe, and in no cache, no quarantine and no hand; so a
//!   slab that is a single extent there is wholly free, and who takes that extent out, under the heap's lock, as any
//!   request does, is its only owner. Costs nothing anywhere else.
//!
//! The third is what is here. Its proof in steps: (1) a block is in one place at a time, and moves only by the lock, or
//! by the exchange that pops or retires it; (2) only safe extents enter the heap (`epoch_stack` pops nothing else), so
//! the GPU is done with all of an extent there; (3) taken out whole, the slab is *aside*: whoever runs short calls it
//! back, also under the lock, so it either goes or comes back, never both; (4) a slab that goes leaves the table before
//! the source hears of it, so when the driver gives the same addresses to somebody else they are no longer ours: the
//! driver orders the two. A free or a question about an address in it meanwhile is answered "nothing there" or "not
//! ours", both right: the program holds no block of it. Stale indices in the links of caches are harmless as ever, since
//! a pop is an exchange of the whole head.
//!
//! One window is left to a program that frees a block twice, where that block was the first of a slab that is just
//! being released: its second free goes to the driver, which frees the slab, and the release fails instead. Nothing
//! else is harmed.
//!
//! Slabs go in the reverse of the order in which they came, one at a time, so that those that are there are always the
//! first ones; the heap takes the tightest fit, and later slabs are the larger ones, so the last is the one that falls
//! idle first.

use std::ptr::NonNull;

use crate::{
    claim::Claim,
    config::BLOCK_BYTES,
    slab_table::{Slab, SlabTable},
    source::PinnedSource,
    sync::{AtomicBool, AtomicU32, Ordering, fence},
};

/// What a call of [`Pool::grow`](crate::Pool::grow) came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrowOutcome {
    /// The pool has so many bytes more.
    Grown(usize),
    /// All slabs are there already.
    Complete,
    /// Another thread is growing the pool.
    Busy,
    /// The source's memory was not aligned to 4 KiB, and was given back.
    Misaligned,
    /// The pool's memory is gone, and it gets no more.
    Closed,
}

/// Blocks that are still allocated, so the memory cannot be released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StillAllocated {
    /// How many blocks of 4 KiB.
    pub blocks: u64,
}

/// Whether the pool grows, wants to, or is at its end.
#[derive(Debug)]
pub(crate) struct Growth {
    claim: Claim,
    /// The largest request, in blocks, that missed or had to turn the clock, where a slab to come would have served it; 0
    /// for none.
    pressed_blocks: AtomicU32,
    /// The source refused; asking again is the caller's decision.
    failed: AtomicBool,
    end: AtomicU32,
}

const OPEN: u32 = 0;
const FORGOTTEN: u32 = 1;
const RELEASED: u32 = 2;

impl Growth {
    /// A pool that has nothing yet and may grow.
    pub(crate) fn new() -> Self {
        Self {
            claim: Claim::new(),
            pressed_blocks: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            end: AtomicU32::new(OPEN),
        }
    }

    /// True once the memory is gone.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.end.load(Ordering::Acquire) != OPEN
    }

    /// A slab to come would have served a request of so many blocks.
    pub(crate) fn press(&self, blocks: u32) {
        // It is read by every request that misses: written only when it changes.
        if self.pressed_blocks.load(Ordering::Relaxed) < blocks {
            self.pressed_blocks.fetch_max(blocks, Ordering::Relaxed);
        }
    }

    /// A slab has come, in which any request of so many blocks has room: one that has missed meanwhile, too.
    fn relieve(&self, blocks: u32) {
        let is_served = |pressed: u32| (pressed <= blocks).then_some(0);
        let _ = self.pressed_blocks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_served);
    }

    /// Whether another slab can be expected when somebody asks for it.
    pub(crate) fn is_possible(&self, slabs: &SlabTable) -> bool {
        !self.is_closed() && !self.failed.load(Ordering::Relaxed) && slabs.next().is_some()
    }

    /// Whether a request has missed, or had to turn the clock, for want of a slab.
    pub(crate) fn is_pressed(&self) -> bool {
        self.pressed_blocks.load(Ordering::Relaxed) != 0
    }

    /// Reserves the next slab. Nothing with a destructor is held across the call to the source.
    pub(crate) fn grow(&self, slabs: &SlabTable, source: &dyn PinnedSource, now_ms: u64) -> Result<GrowOutcome, i32> {
        if self.is_closed() {
            return Ok(GrowOutcome::Closed);
        }
        let Some(ticket) = self.claim.take(now_ms) else {
            return Ok(GrowOutcome::Busy);
        };
        let Some(slab) = slabs.next() else {
            self.claim.give_back(ticket);
            return Ok(GrowOutcome::Complete);
        };
        let reserved = source.reserve(slab.bytes());
        let outcome = reserved.map(|address| self.install(slabs, slab, address, source));
        let has_failed = !matches!(outcome, Ok(GrowOutcome::Grown(_)));
        self.failed.store(has_failed, Ordering::Relaxed);
        self.relieve(if has_failed { u32::MAX } else { slab.blocks() });
        self.claim.give_back(ticket);
        outcome
    }

    /// Has `retire` take a slab out of the table, and gives it back to the source; its size in bytes. No slab comes
    /// meanwhile; across the call to the source nothing is held.
    pub(crate) fn shrink(
        &self,
        source: &dyn PinnedSource,
        now_ms: u64,
        retire: impl FnOnce() -> Option<(usize, usize)>,
    ) -> Option<usize> {
        let ticket = self.claim.take(now_ms)?;
        let gone = if self.is_closed() { None } else { retire() };
        self.claim.give_back(ticket);
        let (base, bytes) = gone?;
        release(base, bytes, source);
        Some(bytes)
    }

    /// Closes the pool without a call: its memory went away with its context.
    pub(crate) fn forget(&self, slabs: &SlabTable) {
        self.close(FORGOTTEN);
        slabs.withdraw().for_each(drop);
    }

    /// Closes the pool and gives its memory back, unless `allocated_blocks` says that some is in use.
    pub(crate) fn release_all(
        &self,
        slabs: &SlabTable,
        source: &dyn PinnedSource,
        allocated_blocks: impl Fn() -> u64,
    ) -> Result<(), StillAllocated> {
        self.close(RELEASED);
        let blocks = allocated_blocks();
        if blocks != 0 && !slabs.is_withdrawn() {
            let _ = self.end.compare_exchange(RELEASED, OPEN, Ordering::AcqRel, Ordering::Relaxed);
            return Err(StillAllocated { blocks });
        }
        release_withdrawn(slabs, source);
        Ok(())
    }

    fn install(&self, slabs: &SlabTable, slab: &Slab, address: NonNull<u8>, source: &dyn PinnedSource) -> GrowOutcome {
        let base = address.as_ptr().expose_provenance();
        if !base.is_multiple_of(BLOCK_BYTES) {
            source.release(address, slab.bytes());
            return GrowOutcome::Misaligned;
        }
        if !slabs.install(slab, base) {
            source.release(address, slab.bytes());
            return GrowOutcome::Busy;
        }
        // Pairs with the fence in `close`: either the one who closes sees this slab, or the end is seen here.
        fence(Ordering::SeqCst);
        match self.end.load(Ordering::Relaxed) {
            OPEN => GrowOutcome::Grown(slab.bytes()),
            RELEASED => {
                release_withdrawn(slabs, source);
                GrowOutcome::Closed
            }
            _ => {
                slabs.withdraw().for_each(drop);
                GrowOutcome::Closed
            }
        }
    }

    fn close(&self, end: u32) {
        let _ = self.end.compare_exchange(OPEN, end, Ordering::AcqRel, Ordering::Relaxed);
        // Pairs with the fence in `install`.
        fence(Ordering::SeqCst);
    }
}

/// Each slab leaves the table once, so each is released once, whoever does it.
fn release_withdrawn(slabs: &SlabTable, source: &dyn PinnedSource) {
    for (base, bytes) in slabs.withdraw() {
        release(base, bytes, source);
    }
}

fn release(base: usize, bytes: usize, source: &dyn PinnedSource) {
    if let Some(address) = NonNull::new(std::ptr::with_exposed_provenance_mut(base)) {
        source.release(address, bytes);
    }
}
