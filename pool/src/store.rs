//! Where extents are while no program holds them: in a shard's caches, in the quarantine of large ones, in the heap.
//!
//! Up to 1 MiB a freed extent goes to the cache of its size in the freeing thread's shard, and comes back from there
//! once its epoch is safe: neither way takes a lock. Larger ones wait in one place and return to the heap, where they
//! merge with their neighbours. The heap's lock is held for a few steps of constant time, and never across a call
//! out.

use crate::{
    apart::Apart,
    epoch_stack::{EpochStacks, Links},
    extent_heap::ExtentHeap,
    page_map::PageMap,
    patient_lock::PatientLock,
    shard::SHARDS,
    size_class::{CLASSES, class_blocks, class_of},
    slab_table::SlabTable,
    sync::{AtomicBool, AtomicU64, Ordering},
};

/// All extents that are not live.
#[derive(Debug)]
pub(crate) struct Store {
    links: Links,
    caches: Box<[Apart<Caches>]>,
    large: Apart<EpochStacks>,
    heap: Apart<PatientLock<Heap>>,
    /// More than half of what is reserved has left the heap.
    is_low: AtomicBool,
}

/// One shard's extents, by size class.
#[derive(Debug)]
struct Caches {
    /// A bit for each class that was ever used here: others need not look at the rest.
    used: AtomicU64,
    by_class: [EpochStacks; CLASSES],
}

#[derive(Debug)]
struct Heap {
    extents: ExtentHeap,
    /// How many slabs it has been given; more may have been installed since.
    slabs: u32,
    /// What it has been given, less what is aside.
    reserved_blocks: u32,
    /// The last slab, while nothing is taken from it because it may go.
    aside: Option<Aside>,
}

/// A slab that is whole and free and in no other place than this.
#[derive(Debug, Clone, Copy)]
struct Aside {
    slab: u32,
    since_ms: u64,
}

/// The heap's lock could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeapBusy;

/// What a refill takes from the heap at once, in blocks and in extents: neighbours for one thread.
const REFILL_BLOCKS: u32 = 64;
const REFILL_EXTENTS: u32 = 8;

/// How many cached extents return to the heap under one lock.
const SWEEP: usize = 64;

impl Store {
    /// A store for all of `slabs`' indices, holding nothing.
    pub(crate) fn new(slabs: &SlabTable) -> Self {
        let indices = slabs.index_count();
        Self {
            links: Links::new(indices),
            caches: (0..SHARDS).map(|_| Apart(Caches::new())).collect(),
            large: Apart(EpochStacks::new()),
            heap: Apart(PatientLock::new(Heap::new(indices))),
            is_low: AtomicBool::new(false),
        }
    }

    /// Takes an extent of `blocks` that is free and safe: the shard's own first, then the heap's, then another
    /// shard's.
    #[inline]
    pub(crate) fn take(&self, at: &Taker<'_>, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        let Some(class) = class_of(blocks) else {
            return self.take_large(at, blocks);
        };
        let own = self.caches.get(at.shard).and_then(|caches| caches.pop(&self.links, class, at.safe));
        match own {
            Some(index) => Ok(Some(index)),
            None => self.take_elsewhere(at, class),
        }
    }

    /// Takes an extent of `blocks` even if all caches must be emptied into the heap for it.
    pub(crate) fn take_sweeping(&self, at: &Taker<'_>, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        if let Some(index) = self.take(at, blocks)? {
            return Ok(Some(index));
        }
        self.sweep(at, blocks)
    }

    /// Gives what lies safe in caches to the heap, until `blocks` can be taken; all of it for 0.
    fn sweep(&self, at: &Taker<'_>, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        let mut batch = Batch::new();
        for caches in &self.caches {
            for class in caches.used_classes() {
                while let Some(index) = caches.pop(&self.links, class, at.safe) {
                    if !batch.add(index, class) {
                        continue;
                    }
                    if let Some(index) = self.give_batch(at, &mut batch, blocks)? {
                        return Ok(Some(index));
                    }
                }
            }
        }
        self.give_batch(at, &mut batch, blocks)
    }

    /// Puts away an extent that was freed in `epoch`.
    #[inline]
    pub(crate) fn put(&self, shard: usize, index: u32, blocks: u32, epoch: u64) {
        match (class_of(blocks), self.caches.get(shard)) {
            (Some(class), Some(caches)) => caches.push(&self.links, index, class, epoch),
            _ => self.large.push(&self.links, index, epoch),
        }
    }

    /// True when less than half of what is reserved was in the heap as it was last used.
    pub(crate) fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
    }

    /// Sets the last slab after the first `kept` aside where it is wholly free and safe and the rest is no more than
    /// half in use without it; one that has been aside for `idle_ms` leaves the table. Its address and size in bytes:
    /// they are the caller's to release, and nobody else's.
    pub(crate) fn retire_slab(
        &self,
        at: &Taker<'_>,
        kept: u32,
        now_ms: u64,
        idle_ms: u64,
    ) -> Result<Option<(usize, usize)>, HeapBusy> {
        self.sweep(at, 0)?;
        let mut heap = self.heap.lock().ok_or(HeapBusy)?;
        heap.adopt(at.slabs);
        let Some(aside) = heap.aside else {
            heap.set_aside(at.slabs, kept, now_ms);
            return Ok(None);
        };
        if now_ms.saturating_sub(aside.since_ms) < idle_ms {
            return Ok(None);
        }
        let Some(slab) = at.slabs.numbered(aside.slab) else {
            return Ok(None);
        };
        let base = at.slabs.uninstall(slab);
        if base.is_some() {
            heap.aside = None;
            heap.slabs -= 1;
        }
        Ok(base.map(|base| (base, slab.bytes())))
    }

    /// Takes note of slabs that have come.
    pub(crate) fn look(&self, at: &Taker<'_>) {
        let _ = self.with_heap(at, |_| ());
    }

    /// Takes the slab that is aside into use again; its size in bytes.
    pub(crate) fn recall_slab(&self, slabs: &SlabTable) -> Option<usize> {
        self.heap.lock()?.recall(slabs)
    }

    fn take_large(&self, at: &Taker<'_>, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        self.with_heap(at, |extents| extents.take(blocks))
    }

    #[cold]
    fn take_elsewhere(&self, at: &Taker<'_>, class: usize) -> Result<Option<u32>, HeapBusy> {
        let refilled = self.refill(at, class);
        if let Ok(Some(index)) = refilled {
            return Ok(Some(index));
        }
        match self.steal(at, class) {
            Some(index) => Ok(Some(index)),
            None => refilled,
        }
    }

    /// Takes a few extents of a class from the heap: one for the caller, the others for its shard.
    fn refill(&self, at: &Taker<'_>, class: usize) -> Result<Option<u32>, HeapBusy> {
        let blocks = class_blocks(class);
        let more = (REFILL_BLOCKS / blocks).clamp(1, REFILL_EXTENTS) - 1;
        let mut spare = [0; REFILL_EXTENTS as usize];
        let first = self.with_heap(at, |extents| {
            let first = extents.take(blocks)?;
            for slot in spare.iter_mut().take(more as usize) {
                *slot = extents.take(blocks).unwrap_or(0);
            }
            Some(first)
        })?;
        // The first of them is to be handed out next, so it goes on top.
        for &index in spare.iter().rev().filter(|&&index| index != 0) {
            self.put(at.shard, index, blocks, at.safe);
        }
        Ok(first)
    }

    fn steal(&self, at: &Taker<'_>, class: usize) -> Option<u32> {
        let (before, after) = self.caches.split_at_checked(at.shard)?;
        after.iter().chain(before).find_map(|caches| {
            let used = caches.used.load(Ordering::Relaxed) & (1 << class) != 0;
            if used { caches.pop(&self.links, class, at.safe) } else { None }
        })
    }

    /// Gives a batch to the heap and takes `blocks` from it; should the lock not be had, the batch goes to the shard.
    fn give_batch(&self, at: &Taker<'_>, batch: &mut Batch, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        let taken = self.with_heap(at, |extents| {
            for (index, class) in batch.drain() {
                extents.give(index, class_blocks(class));
            }
            extents.take(blocks)
        });
        for (index, class) in batch.drain() {
            self.put(at.shard, index, class_blocks(class), at.safe);
        }
        taken
    }

    /// Works on the heap, once all that belongs there is in it.
    fn with_heap<R>(&self, at: &Taker<'_>, act: impl FnOnce(&mut ExtentHeap) -> R) -> Result<R, HeapBusy> {
        let mut heap = self.heap.lock().ok_or(HeapBusy)?;
        heap.adopt(at.slabs);
        while let Some(index) = self.large.pop(&self.links, at.safe) {
            heap.extents.give(index, at.map.extent_blocks(index));
        }
        let result = act(&mut heap.extents);
        let is_low = heap.extents.free_blocks() < heap.reserved_blocks / 2;
        drop(heap);
        if self.is_low() != is_low {
            self.is_low.store(is_low, Ordering::Relaxed);
        }
        Ok(result)
    }
}

/// Who takes, and what it must know of the rest of the pool.
pub(crate) struct Taker<'a> {
    /// The calling thread's shard.
    pub(crate) shard: usize,
    /// The newest epoch that is safe.
    pub(crate) safe: u64,
    /// For slabs that were installed since the heap was last used.
    pub(crate) slabs: &'a SlabTable,
    /// For the sizes of large extents.
    pub(crate) map: &'a PageMap,
}

impl Heap {
    fn new(indices: u32) -> Self {
        Self { extents: ExtentHeap::new(indices), slabs: 0, reserved_blocks: 0, aside: None }
    }

    fn set_aside(&mut self, slabs: &SlabTable, kept: u32, now_ms: u64) {
        let Some(slab) = slabs.last().filter(|slab| slab.number() >= kept && slab.number() + 1 == self.slabs) else {
            return;
        };
        let others = self.reserved_blocks.saturating_sub(slab.blocks());
        let is_low_without = self.extents.free_blocks().saturating_sub(slab.blocks()) < others / 2;
        if !is_low_without && self.extents.take_exactly(slab.first_index(), slab.blocks()) {
            self.reserved_blocks = others;
            self.aside = Some(Aside { slab: slab.number(), since_ms: now_ms });
        }
    }

    fn recall(&mut self, slabs: &SlabTable) -> Option<usize> {
        let slab = slabs.numbered(self.aside?.slab)?;
        self.aside = None;
        self.extents.give(slab.first_index(), slab.blocks());
        self.reserved_blocks += slab.blocks();
        Some(slab.bytes())
    }

    /// Adds slabs that were installed since the last look, so that growing needs no lock.
    fn adopt(&mut self, slabs: &SlabTable) {
        if self.slabs == slabs.installed() {
            return;
        }
        for slab in slabs.installed_after(self.slabs) {
            self.extents.give(slab.first_index(), slab.blocks());
            self.slabs += 1;
            self.reserved_blocks += slab.blocks();
        }
    }
}

impl Caches {
    fn new() -> Self {
        Self { used: AtomicU64::new(0), by_class: std::array::from_fn(|_| EpochStacks::new()) }
    }

    #[inline]
    fn push(&self, links: &Links, index: u32, class: usize, epoch: u64) {
        let Some(stacks) = self.by_class.get(class) else {
            return;
        };
        let bit = 1 << class;
        if self.used.load(Ordering::Relaxed) & bit == 0 {
            self.used.fetch_or(bit, Ordering::Relaxed);
        }
        stacks.push(links, index, epoch);
    }

    #[inline]
    fn pop(&self, links: &Links, class: usize, safe: u64) -> Option<u32> {
        self.by_class.get(class)?.pop(links, safe)
    }

    fn used_classes(&self) -> impl Iterator<Item = usize> + use<> {
        let used = self.used.load(Ordering::Relaxed);
        (0..CLASSES).filter(move |class| used & (1 << class) != 0)
    }
}

/// Extents on their way from the caches to the heap.
struct Batch {
    extents: [(u32, usize); SWEEP],
    count: usize,
}

impl Batch {
    fn new() -> Self {
        Self { extents: [(0, 0); SWEEP], count: 0 }
    }

    /// Adds an extent of a class; true when the batch is full.
    fn add(&mut self, index: u32, class: usize) -> bool {
        if let Some(slot) = self.extents.get_mut(self.count) {
            *slot = (index, class);
            self.count += 1;
        }
        self.count == SWEEP
    }

    fn drain(&mut self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let count = std::mem::take(&mut self.count);
        self.extents.iter().copied().take(count)
    }
}
