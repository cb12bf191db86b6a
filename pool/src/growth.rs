//! How the pool gets its slabs, one at a time, and how it loses them.

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
    /// Something missed that another slab would have served.
    pressed: AtomicBool,
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
            pressed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            end: AtomicU32::new(OPEN),
        }
    }

    /// True once the memory is gone.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.end.load(Ordering::Acquire) != OPEN
    }

    /// Another slab would have served a request.
    pub(crate) fn press(&self) {
        self.pressed.store(true, Ordering::Relaxed);
    }

    /// Whether another slab can be expected when somebody asks for it.
    pub(crate) fn is_possible(&self, slabs: &SlabTable) -> bool {
        !self.is_closed() && !self.failed.load(Ordering::Relaxed) && slabs.next().is_some()
    }

    /// Whether a request has missed for want of a slab.
    pub(crate) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
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
        self.failed.store(!matches!(outcome, Ok(GrowOutcome::Grown(_))), Ordering::Relaxed);
        self.pressed.store(false, Ordering::Relaxed);
        self.claim.give_back(ticket);
        outcome
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
        if let Some(address) = NonNull::new(std::ptr::with_exposed_provenance_mut(base)) {
            source.release(address, bytes);
        }
    }
}
