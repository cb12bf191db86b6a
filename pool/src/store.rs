//! Where extents are while no program holds them: in a shard's caches or in the heap.
//!
//! A freed extent goes to the cache of its size in the freeing thread's shard, and comes back from there once its epoch
//! is safe: neither way takes a lock. Above 1 MiB a cache holds sizes of a whole doubling, and gives what is exactly of
//! the size that is asked for. For a size that none has, these caches are emptied into the heap first, where extents
//! merge with their neighbours; the others follow when a request would miss. The heap's lock is held for a few steps of
//! constant time, and never across a call out; and where what was last known of the heap says that it has nothing, it
//! is not asked.
//!
//! # A miss is quick
//!
//! A sweep of all caches that found nothing need not be made again before something has come back. Two counters say
//! whether it has: the newest safe epoch, since what is freed waits for its own, and the `moves` by which safe extents
//! become available otherwise. A failed sweep leaves both behind, and the size that could not be had. Who makes safe
//! extents available counts a move afterwards: whoever gives to the heap, puts what is left over into a cache, carries
//! a stolen chain home, or is so slow in a free that its epoch has become safe before its extent is in the cache.

use crate::{
    apart::Apart,
    caches::Caches,
    epoch_stack::Links,
    extent_heap::ExtentHeap,
    page_map::PageMap,
    patient_lock::PatientLock,
    shard::SHARDS,
    size_class::{CLASSES, class_blocks, class_of, large_doubling_of},
    slab_table::SlabTable,
    sync::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};

/// All extents that are not live.
#[derive(Debug)]
pub(crate) struct Store {
    links: Links,
    caches: Box<[Apart<Caches>]>,
    heap: Apart<PatientLock<Heap>>,
    known: Apart<Known>,
}

/// What is known without the heap's lock. It is written under it, but for `moves` and `failed`.
#[derive(Debug)]
struct Known {
    /// More than half of what is reserved has left the heap.
    is_low: AtomicBool,
    /// A slab is aside.
    is_aside: AtomicBool,
    /// No extent in the heap is longer, in blocks.
    longest_at_most: AtomicU32,
    /// As in [`Heap::slabs`].
    slabs: AtomicU32,
    /// How often safe extents have become available other than by a new safe epoch.
    moves: AtomicU64,
    /// The last sweep that found nothing: its [`moment`] and its size in blocks.
    failed: AtomicU64,
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
const REFILL_EXTENTS: u32 = 32;

/// How many cached extents return to the heap under one lock.
const SWEEP: usize = 64;

impl Store {
    /// A store for all of `slabs`' indices, holding nothing.
    pub(crate) fn new(slabs: &SlabTable) -> Self {
        let indices = slabs.index_count();
        Self {
            links: Links::new(indices),
            caches: (0..SHARDS).map(|_| Apart(Caches::new())).collect(),
            heap: Apart(PatientLock::new(Heap::new(indices))),
            known: Apart(Known::new()),
        }
    }

    /// Takes an extent of `blocks` that is free and safe from the shard's own caches.
    #[inline]
    pub(crate) fn take_own(&self, at: &Taker<'_>, blocks: u32) -> Option<u32> {
        let own = self.caches.get(at.shard)?;
        match class_of(blocks) {
            Some(class) => own.pop(&self.links, class, at.safe),
            None => own.pop_large(&self.links, at, blocks),
        }
    }

    /// The same from there first, then from the heap, then from another shard.
    pub(crate) fn take(&self, at: &Taker<'_>, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        if let Some(index) = self.take_own(at, blocks) {
            return Ok(Some(index));
        }
        let refilled = self.refill(at, blocks);
        if let Ok(Some(index)) = refilled {
            return Ok(Some(index));
        }
        match self.take_from_others(at, blocks)? {
            Some(index) => Ok(Some(index)),
            None => refilled,
        }
    }

    /// The same from another shard; a large one from the heap, too, once all that is large and safe has come home and
    /// merged there, since large sizes that differ would break the memory up otherwise.
    #[inline]
    pub(crate) fn take_from_others(&self, at: &Taker<'_>, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        match class_of(blocks) {
            Some(class) => Ok(self.steal(at, class)),
            None => self.take_large_elsewhere(at, blocks),
        }
    }

    /// Takes an extent of `blocks` even if all caches must be emptied into the heap for it.
    pub(crate) fn take_sweeping(&self, at: &Taker<'_>, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        if let Some(index) = self.take(at, blocks)? {
            return Ok(Some(index));
        }
        if !self.known.can_have(at, blocks) {
            return Ok(None);
        }
        // Before anything is looked at: what becomes available from here on makes the failure void.
        let moves = self.known.moves.load(Ordering::SeqCst);
        let (taken, gifts) = self.sweep(at, blocks, 0)?;
        if taken.is_none() {
            self.known.note_failure(at, moves + gifts, blocks);
        }
        Ok(taken)
    }

    /// Gives what lies safe in caches, from that of `first` on, to the heap, until `blocks` can be taken; all of it for
    /// 0. With what was taken goes how often something was given.
    fn sweep(&self, at: &Taker<'_>, blocks: u32, first: usize) -> Result<(Option<u32>, u64), HeapBusy> {
        // Pairs with the barrier in `Pool::put_back`: either its extent is seen here, or it sees that its epoch is safe.
        fence(Ordering::SeqCst);
        let mut batch = Batch::new();
        let mut gifts = 0;
        for caches in &self.caches {
            for (place, stacks) in caches.used_from(first) {
                while let Some(index) = stacks.pop(&self.links, at.safe) {
                    let size = if place < CLASSES { class_blocks(place) } else { at.map.extent_blocks(index) };
                    if !batch.add(index, size) {
                        continue;
                    }
                    gifts += 1;
                    if let Some(index) = self.give_batch(at, &mut batch, blocks)? {
                        return Ok((Some(index), gifts));
                    }
                }
            }
        }
        if batch.count == 0 && !self.may_fit(at, blocks) {
            return Ok((None, gifts));
        }
        gifts += u64::from(batch.count != 0);
        Ok((self.give_batch(at, &mut batch, blocks)?, gifts))
    }

    /// Puts away an extent that was freed in `epoch`.
    #[inline]
    pub(crate) fn put(&self, shard: usize, index: u32, blocks: u32, epoch: u64) {
        let place = class_of(blocks).or_else(|| Some(CLASSES + large_doubling_of(blocks)?));
        if let (Some(place), Some(caches)) = (place, self.caches.get(shard)) {
            caches.push(&self.links, index, place, epoch);
        }
    }

    /// To be called when an extent's epoch was found safe right behind [`put`](Self::put) and a barrier: a sweep may have
    /// looked for it in between.
    #[cold]
    pub(crate) fn note_slow_put(&self) {
        self.known.note_move();
    }

    /// True when less than half of what is reserved was in the heap as it was last used.
    pub(crate) fn is_low(&self) -> bool {
        self.known.is_low.load(Ordering::Relaxed)
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
        self.sweep(at, 0, 0)?;
        self.with_heap(at, |heap| {
            let Some(aside) = heap.aside else {
                heap.set_aside(at.slabs, kept, now_ms);
                return None;
            };
            if now_ms.saturating_sub(aside.since_ms) < idle_ms {
                return None;
            }
            let slab = at.slabs.numbered(aside.slab)?;
            let base = at.slabs.uninstall(slab)?;
            heap.aside = None;
            heap.slabs -= 1;
            Some((base, slab.bytes()))
        })
    }

    /// Takes note of slabs that have come.
    pub(crate) fn look(&self, at: &Taker<'_>) {
        let _ = self.with_heap(at, |_| ());
    }

    /// Takes the slab that is aside into use again; its size in bytes.
    pub(crate) fn recall_slab(&self, at: &Taker<'_>) -> Option<usize> {
        if !self.known.is_aside.load(Ordering::Relaxed) {
            return None;
        }
        let recalled = self.with_heap(at, |heap| heap.recall(at.slabs)).ok()?;
        if recalled.is_some() {
            self.known.note_move();
        }
        recalled
    }

    /// One of exactly this size from another shard; else the heap's best fit.
    #[cold]
    fn take_large_elsewhere(&self, at: &Taker<'_>, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        if let Some(index) = self.others(at)?.find_map(|caches| caches.pop_large(&self.links, at, blocks)) {
            return Ok(Some(index));
        }
        if !self.known.can_have(at, blocks) {
            return Ok(None);
        }
        self.sweep(at, blocks, CLASSES).map(|(taken, _)| taken)
    }

    /// Takes a few extents of a class from the heap: one for the caller, the others for its shard. None of a large size.
    pub(crate) fn refill(&self, at: &Taker<'_>, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        if class_of(blocks).is_none() || !self.may_fit(at, blocks) {
            return Ok(None);
        }
        let more = (REFILL_BLOCKS / blocks).clamp(1, REFILL_EXTENTS) - 1;
        let mut spare = [0; REFILL_EXTENTS as usize];
        let first = self.with_heap(at, |heap| {
            let first = heap.extents.take(blocks)?;
            for slot in spare.iter_mut().take(more as usize) {
                *slot = heap.extents.take(blocks).unwrap_or(0);
            }
            Some(first)
        })?;
        // The first of them is to be handed out next, so it goes on top.
        for &index in spare.iter().rev().filter(|&&index| index != 0) {
            self.put(at.shard, index, blocks, at.safe);
        }
        if spare.first().is_some_and(|&index| index != 0) {
            self.known.note_move();
        }
        Ok(first)
    }

    /// Takes an extent of a class from another shard, and all that lies below it for the caller's own.
    fn steal(&self, at: &Taker<'_>, class: usize) -> Option<u32> {
        let own = self.caches.get(at.shard)?.stacks(class)?;
        let stolen = self.others(at).ok()?.find_map(|caches| own.steal(caches.used(class)?, &self.links, at.safe))?;
        self.caches.get(at.shard)?.note_use(class);
        self.known.note_move();
        Some(stolen)
    }

    /// The other shards, the next one first.
    fn others(&self, at: &Taker<'_>) -> Result<impl Iterator<Item = &Caches>, HeapBusy> {
        let (before, after) = self.caches.split_at_checked(at.shard).ok_or(HeapBusy)?;
        Ok(after.iter().skip(1).chain(before).map(|caches| &**caches))
    }

    /// Gives a batch to the heap and takes `blocks` from it; should the lock not be had, the batch goes to the shard.
    fn give_batch(&self, at: &Taker<'_>, batch: &mut Batch, blocks: u32) -> Result<Option<u32>, HeapBusy> {
        let is_gift = batch.count != 0;
        let taken = self.with_heap(at, |heap| {
            for (index, size) in batch.drain() {
                heap.extents.give(index, size);
            }
            heap.extents.take(blocks)
        });
        for (index, size) in batch.drain() {
            self.put(at.shard, index, size, at.safe);
        }
        if is_gift {
            self.known.note_move();
        }
        taken
    }

    /// Whether the heap may have an extent of `blocks`, as far as is known without its lock.
    fn may_fit(&self, at: &Taker<'_>, blocks: u32) -> bool {
        blocks <= self.known.longest_at_most.load(Ordering::Relaxed)
            || self.known.slabs.load(Ordering::Relaxed) != at.slabs.installed()
    }

    /// Works on the heap, once it has all slabs that have come.
    fn with_heap<R>(&self, at: &Taker<'_>, act: impl FnOnce(&mut Heap) -> R) -> Result<R, HeapBusy> {
        let mut heap = self.heap.lock().ok_or(HeapBusy)?;
        if heap.adopt(at.slabs) {
            self.known.note_move();
        }
        let result = act(&mut heap);
        self.known.update(&heap);
        Ok(result)
    }
}

impl Known {
    fn new() -> Self {
        Self {
            is_low: AtomicBool::new(false),
            is_aside: AtomicBool::new(false),
            longest_at_most: AtomicU32::new(0),
            slabs: AtomicU32::new(0),
            moves: AtomicU64::new(0),
            failed: AtomicU64::new(SIZE_MASK),
        }
    }

    /// Takes note of the heap's state, by its holder; what has not changed is not written, as others read it.
    fn update(&self, heap: &Heap) {
        let is_low = heap.extents.free_blocks() < heap.reserved_blocks / 2;
        for (known, is) in [(&self.is_low, is_low), (&self.is_aside, heap.aside.is_some())] {
            if known.load(Ordering::Relaxed) != is {
                known.store(is, Ordering::Relaxed);
            }
        }
        for (known, is) in [(&self.longest_at_most, heap.extents.longest_at_most()), (&self.slabs, heap.slabs)] {
            if known.load(Ordering::Relaxed) != is {
                known.store(is, Ordering::Relaxed);
            }
        }
    }

    /// Safe extents have become available.
    fn note_move(&self) {
        // Ordered with what was made available before, and seen by a sweep that reads it first and finds that.
        self.moves.fetch_add(1, Ordering::SeqCst);
    }

    /// No extent of `blocks` could be had when there had been so many moves.
    fn note_failure(&self, at: &Taker<'_>, moves: u64, blocks: u32) {
        self.failed.store(moment(at, moves) | u64::from(blocks), Ordering::Relaxed);
    }

    /// False when a sweep for no more than `blocks` found nothing and nothing has come back since.
    fn can_have(&self, at: &Taker<'_>, blocks: u32) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        let moves = self.moves.load(Ordering::SeqCst);
        failed & !SIZE_MASK != moment(at, moves)
            || u64::from(blocks) < failed & SIZE_MASK
            || self.slabs.load(Ordering::Relaxed) != at.slabs.installed()
    }
}

/// When a sweep failed, its size aside: the moves above bit 42, the safe epoch above bit 20. Each goes round after four
/// million, and a failure is believed wrongly only where both have, exactly, and no sweep came in between.
fn moment(at: &Taker<'_>, moves: u64) -> u64 {
    moves << 42 | at.safe << 42 >> 22
}

/// The bits of a size in blocks.
const SIZE_MASK: u64 = (1 << 20) - 1;

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

    /// Adds slabs that were installed since the last look, so that growing needs no lock. True when there were any.
    fn adopt(&mut self, slabs: &SlabTable) -> bool {
        if self.slabs == slabs.installed() {
            return false;
        }
        let before = self.slabs;
        for slab in slabs.installed_after(self.slabs) {
            self.extents.give(slab.first_index(), slab.blocks());
            self.slabs += 1;
            self.reserved_blocks += slab.blocks();
        }
        self.slabs != before
    }
}

/// Extents on their way from the caches to the heap.
struct Batch {
    /// Index and size in blocks.
    extents: [(u32, u32); SWEEP],
    count: usize,
}

impl Batch {
    fn new() -> Self {
        Self { extents: [(0, 0); SWEEP], count: 0 }
    }

    /// Adds an extent; true when the batch is full.
    fn add(&mut self, index: u32, blocks: u32) -> bool {
        if let Some(slot) = self.extents.get_mut(self.count) {
            *slot = (index, blocks);
            self.count += 1;
        }
        self.count == SWEEP
    }

    fn drain(&mut self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let count = std::mem::take(&mut self.count);
        self.extents.iter().copied().take(count)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{
        config::{BLOCK_BYTES, PoolConfig},
        page_map::Word,
    };

    struct Fixture {
        slabs: SlabTable,
        map: PageMap,
        store: Store,
    }

    impl Fixture {
        fn new(slab_blocks: &[usize]) -> Self {
            let slab_bytes: Vec<usize> = slab_blocks.iter().map(|blocks| blocks * BLOCK_BYTES).collect();
            let slabs = SlabTable::new(&PoolConfig::with_slabs(&slab_bytes).unwrap());
            let fixture = Self { map: PageMap::new(slabs.index_count()), store: Store::new(&slabs), slabs };
            for number in 0..slab_blocks.len() {
                assert!(fixture.slabs.install(fixture.slabs.next().unwrap(), (number + 1) << 30));
            }
            fixture
        }

        fn at(&self, shard: usize, safe: u64) -> Taker<'_> {
            Taker { shard, safe, slabs: &self.slabs, map: &self.map }
        }

        fn take(&self, shard: usize, safe: u64, blocks: u32) -> Option<u32> {
            let index = self.store.take_sweeping(&self.at(shard, safe), blocks).unwrap()?;
            self.map.publish(index, blocks, Word::live(blocks as usize * BLOCK_BYTES, 0));
            Some(index)
        }

        fn free(&self, shard: usize, index: u32, epoch: u64) {
            let word = self.map.retire(index).unwrap();
            self.store.put(shard, index, word.blocks(), epoch);
        }

        fn is_worth_a_sweep(&self, safe: u64, blocks: u32) -> bool {
            self.store.known.can_have(&self.at(0, safe), blocks)
        }
    }

    #[test]
    fn a_large_extent_comes_back_without_the_heap() {
        let fixture = Fixture::new(&[2000]);
        let index = fixture.take(0, 0, 300).unwrap();
        fixture.free(0, index, 1);
        // Nobody gets the heap while this is held.
        let _heap = fixture.store.heap.lock().unwrap();
        for _ in 0..100 {
            assert_eq!(fixture.take(0, 1, 300), Some(index));
            fixture.free(0, index, 1);
        }
        assert_eq!(fixture.take(1, 1, 300), Some(index), "by another thread too");
    }

    #[test]
    fn a_large_extent_is_for_its_own_size_and_merges_for_others() {
        let fixture = Fixture::new(&[1000]);
        let held: Vec<u32> = [300, 310, 390].map(|blocks| fixture.take(0, 0, blocks).unwrap()).into();
        for (shard, &index) in held.iter().enumerate() {
            fixture.free(shard, index, 1);
        }
        assert_eq!(fixture.take(0, 0, 300), None, "none is safe");
        assert_eq!(fixture.take(0, 1, 390), held.last().copied(), "of another shard, and not the longest");
        assert_eq!(fixture.take(0, 1, 610), held.first().copied());
    }

    #[test]
    fn a_sweep_that_failed_is_made_again_only_when_something_has_come_back() {
        let fixture = Fixture::new(&[600]);
        let held: Vec<u32> = (0..2).map(|_| fixture.take(0, 0, 300).unwrap()).collect();
        assert_eq!(fixture.take(0, 0, 400), None);
        assert!(!fixture.is_worth_a_sweep(0, 400) && !fixture.is_worth_a_sweep(0, 500));
        assert!(fixture.is_worth_a_sweep(0, 399), "that has not been asked");
        fixture.free(0, held[0], 1);
        assert!(!fixture.is_worth_a_sweep(0, 400), "it is not safe");
        assert!(fixture.is_worth_a_sweep(1, 400));
        // The sweep gives the extent to the heap, where it does not do either.
        assert_eq!(fixture.take(0, 1, 400), None);
        assert!(!fixture.is_worth_a_sweep(1, 400));
        assert_eq!(fixture.take(0, 1, 300), Some(held[0]));
        fixture.free(0, held[0], 2);
        fixture.free(1, held[1], 2);
        assert_eq!(fixture.take(0, 2, 600), held.first().copied());
    }

    #[test]
    fn a_slab_that_comes_is_seen_after_a_failure() {
        let fixture = Fixture::new(&[16, 32]);
        assert!(fixture.slabs.uninstall(fixture.slabs.last().unwrap()).is_some());
        assert_eq!(fixture.take(0, 0, 32), None);
        assert!(!fixture.is_worth_a_sweep(0, 32));
        assert!(fixture.slabs.install(fixture.slabs.next().unwrap(), 9 << 30));
        assert!(fixture.take(0, 0, 32).is_some());
    }
}
