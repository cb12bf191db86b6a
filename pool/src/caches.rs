//! One shard's freed extents, by size; see [`store`](crate::store).

use crate::{
    epoch_stack::{EpochStacks, Links},
    size_class::{CLASSES, LARGE_DOUBLINGS, large_doubling_of},
    store::Taker,
    sync::{AtomicU64, Ordering},
};

/// One shard's extents, by class, and above those by doubling.
#[derive(Debug)]
pub(crate) struct Caches {
    /// A bit for each cache that was ever used here: others need not look at the rest.
    used: AtomicU64,
    by_size: [EpochStacks; CLASSES + LARGE_DOUBLINGS],
}

impl Caches {
    /// Empty caches.
    pub(crate) fn new() -> Self {
        Self { used: AtomicU64::new(0), by_size: std::array::from_fn(|_| EpochStacks::new()) }
    }

    /// Adds the extent at `index` to the cache at `place`, freed in `epoch`.
    #[inline]
    pub(crate) fn push(&self, links: &Links, index: u32, place: usize, epoch: u64) {
        let Some(stacks) = self.by_size.get(place) else {
            return;
        };
        self.note_use(place);
        stacks.push(links, index, epoch);
    }

    /// The cache at `place` holds, or is about to hold, something.
    #[inline]
    pub(crate) fn note_use(&self, place: usize) {
        let bit = 1 << place;
        if self.used.load(Ordering::Relaxed) & bit == 0 {
            self.used.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Takes an extent of a class that was freed in epoch `safe` or before.
    #[inline]
    pub(crate) fn pop(&self, links: &Links, class: usize, safe: u64) -> Option<u32> {
        self.by_size.get(class)?.pop(links, safe)
    }

    /// Takes a large extent of exactly `blocks`.
    #[inline]
    pub(crate) fn pop_large(&self, links: &Links, at: &Taker<'_>, blocks: u32) -> Option<u32> {
        let stacks = self.used(CLASSES + large_doubling_of(blocks)?)?;
        stacks.pop_if(links, at.safe, |index| at.map.extent_blocks(index) == blocks)
    }

    /// The cache of a class, whether it was ever used or not.
    pub(crate) fn stacks(&self, place: usize) -> Option<&EpochStacks> {
        self.by_size.get(place)
    }

    /// The cache at `place`, if it was ever used.
    #[inline]
    pub(crate) fn used(&self, place: usize) -> Option<&EpochStacks> {
        let is_used = self.used.load(Ordering::Relaxed) & (1 << place) != 0;
        self.by_size.get(place).filter(|_| is_used)
    }

    /// The caches from `first` on that were ever used, each with its place.
    pub(crate) fn used_from(&self, first: usize) -> impl Iterator<Item = (usize, &EpochStacks)> {
        let used = self.used.load(Ordering::Relaxed);
        (0..).zip(&self.by_size).skip(first).filter(move |(place, _)| used & (1 << place) != 0)
    }
}
