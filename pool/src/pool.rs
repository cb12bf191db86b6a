//! The pool itself: allocation, free, and the questions about addresses.

use std::{ptr::NonNull, time::Instant};

use crate::{
    config::{BLOCK_BYTES, PoolConfig},
    fence::WorkFence,
    growth::{GrowOutcome, Growth, StillAllocated},
    ledger::Ledger,
    page_map::{PageMap, Word},
    reuse_clock::ReuseClock,
    shard,
    size_class::{blocks_for, is_small},
    slab_table::{Slab, SlabTable},
    source::PinnedSource,
    stats::{Miss, PoolStats},
    store::{Store, Taker},
    sync::{barrier_after_rmw, pause},
    witness::Witness,
};

/// Page-locked memory, handed out in blocks of 4 KiB from slabs that a [`PinnedSource`] gave.
///
/// All methods may be called by any thread at any time. None panics, none allocates (but a thread's first may, in the
/// standard library, which is told of the thread's end), and only [`grow`](Self::grow),
/// [`give_back_idle`](Self::give_back_idle), [`release_all`](Self::release_all) and, now and then, the fence's part in [`alloc`](Self::alloc),
/// [`free`](Self::free) and [`tend`](Self::tend) call out. Dropping a pool releases nothing: at the end of a process
/// nobody may call the driver any more.
pub struct Pool {
    slabs: SlabTable,
    map: PageMap,
    store: Store,
    clock: ReuseClock,
    ledger: Ledger,
    growth: Growth,
    source: Box<dyn PinnedSource>,
    gpu: Box<dyn WorkFence>,
    witness: Option<Box<dyn Witness>>,
    kept_slabs: u32,
    ordinary_slabs: u32,
    is_eager: bool,
    started: Instant,
}

/// A slab that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlabInfo {
    /// Its place in the order in which slabs are reserved, from 0.
    pub number: u32,
    /// The address of its first byte.
    pub start: usize,
    /// The index of its first block; the others follow.
    pub first_index: u32,
    /// Its size in blocks.
    pub blocks: u32,
}

/// What became of a free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreeOutcome {
    /// The block is the pool's again; it is handed out once the GPU is done with it.
    Freed,
    /// The address is not in the pool's memory.
    NotOurs,
    /// The address lies inside a block, and a block is freed by its first byte.
    NotABlockStart,
    /// The address is in the pool's memory, but nothing is allocated there.
    AlreadyFree,
}

/// What the pool knows of an allocated block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockInfo {
    /// The address of its first byte.
    pub start: usize,
    /// The size that was asked for.
    pub requested_bytes: usize,
    /// What the caller gave to be kept with it.
    pub tag: u32,
}

/// How many turns of the clock a request that finds nothing waits for: one that began before it came, one in which its
/// own turn is forestalled, and one that covers all that was freed before it came.
const PATIENCE_TURNS: u32 = 3;

impl Pool {
    /// A pool that has nothing yet: [`grow`](Self::grow) reserves its first slab.
    #[must_use]
    pub fn new(config: &PoolConfig, source: Box<dyn PinnedSource>, fence: Box<dyn WorkFence>) -> Self {
        let slabs = SlabTable::new(config);
        Self {
            map: PageMap::new(slabs.index_count()),
            store: Store::new(&slabs),
            clock: ReuseClock::new(),
            ledger: Ledger::new(slabs.total_blocks()),
            growth: Growth::new(),
            source,
            gpu: fence,
            witness: None,
            kept_slabs: config.kept_slabs(),
            ordinary_slabs: config.ordinary_slabs(),
            is_eager: config.is_eager(),
            started: Instant::now(),
            slabs,
        }
    }

    /// The same with somebody who is told of every block.
    #[must_use]
    pub fn with_witness(self, witness: Box<dyn Witness>) -> Self {
        Self { witness: Some(witness), ..self }
    }

    /// Allocates `bytes`, aligned to 4 KiB, and keeps `tag` with them.
    ///
    /// # Errors
    /// The reason why there is nothing; all are counted. The source is never called.
    #[inline]
    pub fn alloc(&self, bytes: usize, tag: u32) -> Result<NonNull<u8>, Miss> {
        let shard = shard::current();
        self.blocks_of(bytes)
            .and_then(|blocks| self.take(shard, blocks).map(|index| (blocks, index)))
            .and_then(|(blocks, index)| self.hand_out(shard, index, blocks, bytes, tag))
            .inspect_err(|&miss| self.note_miss(miss, bytes))
    }

    /// Frees the block that starts at `address`.
    #[inline]
    pub fn free(&self, address: *const u8) -> FreeOutcome {
        let Some(place) = self.slabs.place_of(address.addr()) else {
            return FreeOutcome::NotOurs;
        };
        if place.offset_bytes == 0
            && let Some(word) = self.map.retire(place.index)
        {
            self.put_back(place.index, word);
            return FreeOutcome::Freed;
        }
        match self.map.live_around(place.index) {
            // Two threads freed it, and meanwhile a third has it anew: ours was the second free.
            Some((start, _)) if start == place.index && place.offset_bytes == 0 => FreeOutcome::AlreadyFree,
            Some(_) => FreeOutcome::NotABlockStart,
            None => FreeOutcome::AlreadyFree,
        }
    }

    /// Whether `address` lies in the pool's memory, allocated or not. A few loads.
    #[inline]
    #[must_use]
    pub fn contains(&self, address: *const u8) -> bool {
        self.slabs.place_of(address.addr()).is_some()
    }

    /// The allocated block in whose requested bytes `address` lies.
    #[must_use]
    pub fn block_of(&self, address: *const u8) -> Option<BlockInfo> {
        let place = self.slabs.place_of(address.addr())?;
        let (index, word) = self.map.live_around(place.index)?;
        let start = self.slabs.address_of(index)?;
        let info = BlockInfo { start, requested_bytes: word.requested_bytes(), tag: word.tag() };
        (address.addr().wrapping_sub(start) < info.requested_bytes).then_some(info)
    }

    /// Reserves the next slab through the source. The first one is the caller's to wait for; later ones are best
    /// reserved by a thread of their own, since a source may take 100 ms.
    ///
    /// # Errors
    /// The source's own error code. [`wants_growth`](Self::wants_growth) is false from then on.
    pub fn grow(&self) -> Result<GrowOutcome, i32> {
        if let Some(bytes) = self.recall() {
            return Ok(GrowOutcome::Grown(bytes));
        }
        let outcome = self.growth.grow(&self.slabs, &*self.source, self.now_ms())?;
        // Else the pool would look low until somebody next comes to the heap, and grow to its whole size for nobody.
        self.store.look(&self.taker(shard::current()));
        Ok(outcome)
    }

    /// Whether another slab would be of use: a request missed for want of it, or had the clock turned for it alone in a pool
    /// below its ordinary size; or the pool is below that size and less than half of what is reserved is in the free list, or it
    /// has less than it keeps for good. A few loads.
    #[must_use]
    pub fn wants_growth(&self) -> bool {
        let installed = self.slabs.installed();
        let is_begun = installed != 0 || self.is_eager;
        let is_ahead_of_need = || self.store.is_low() && installed < self.ordinary_slabs;
        self.growth.is_possible(&self.slabs)
            && (self.growth.is_pressed() || is_begun && installed < self.kept_slabs || is_ahead_of_need())
    }

    /// Takes a slab into use again that was about to be given back; its size in bytes. [`grow`](Self::grow) does so first.
    ///
    /// No relief to a request that missed: it looked for a slab aside itself, so this one was set aside behind its back,
    /// idle, and did not serve it.
    pub fn recall(&self) -> Option<usize> {
        self.store.recall_slab(&self.taker(shard::current()))
    }

    /// The size of the slab that [`grow`](Self::grow) would reserve, in bytes: for a source that takes its time, and is
    /// better asked to have one ready.
    #[must_use]
    pub fn next_slab_bytes(&self) -> Option<usize> {
        self.slabs.next().map(Slab::bytes)
    }

    /// Whether there is a slab that may be given back one day.
    #[must_use]
    pub fn may_shrink(&self) -> bool {
        !self.growth.is_closed() && self.slabs.installed() > self.kept_slabs
    }

    /// Gives the last slab back to the source once nothing has needed it for `idle_ms`; its size in bytes when it went.
    /// To be called every so often by a thread that may wait: the source's release may wait for the GPU. A call sets a
    /// slab that could go aside, a later one gives it back, and a request that misses meanwhile takes it into use
    /// again.
    pub fn give_back_idle(&self, idle_ms: u64) -> Option<usize> {
        if !self.may_shrink() {
            return None;
        }
        // What was freed last is marked now and safe by the next call, if nothing else happens here.
        self.turn_clock(|epoch| self.ledger.has_frees_in(epoch));
        let now_ms = self.now_ms();
        self.growth.shrink(&*self.source, now_ms, || {
            self.store.retire_slab(&self.taker(shard::current()), self.kept_slabs, now_ms, idle_ms).ok().flatten()
        })
    }

    /// The slabs that are there.
    pub fn slabs(&self) -> impl Iterator<Item = SlabInfo> + '_ {
        self.slabs.placed().map(|(slab, start)| SlabInfo {
            number: slab.number(),
            start,
            first_index: slab.first_index(),
            blocks: slab.blocks(),
        })
    }

    /// Asks the fence whether what was freed is safe by now, and marks what was freed since. Never needed, and
    /// useful where the GPU is known to have finished something: after a synchronisation, say.
    pub fn tend(&self) {
        self.turn_clock(|epoch| self.ledger.has_frees_in(epoch));
    }

    /// The memory went away with its context: no address is the pool's from now on, every request misses, and nothing
    /// is released. For good; a new context gets a new pool.
    pub fn forget(&self) {
        self.growth.forget(&self.slabs);
    }

    /// Gives all memory back to the source, for good. No thread may be in [`alloc`](Self::alloc) meanwhile. What the
    /// GPU may still use is the source's concern: cuMemFreeHost waits for it.
    ///
    /// # Errors
    /// When blocks are allocated; the pool then goes on as before.
    pub fn release_all(&self) -> Result<(), StillAllocated> {
        self.growth.release_all(&self.slabs, &*self.source, || self.ledger.totals().allocated_blocks)
    }

    /// The pool's figures at this moment, without a lock.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let block_bytes = BLOCK_BYTES as u64;
        let totals = self.ledger.totals();
        let (marks_made, marks_passed) = self.clock.marks();
        PoolStats {
            capacity_bytes: u64::from(self.slabs.total_blocks()) * block_bytes,
            reserved_bytes: self.slabs.reserved_blocks() * block_bytes,
            block_bytes,
            total_blocks: u64::from(self.slabs.total_blocks()),
            allocated_bytes: totals.allocated_blocks * block_bytes,
            requested_bytes: totals.requested_bytes,
            allocated_blocks: totals.allocated_blocks,
            quarantined_bytes: self.ledger.quarantined_blocks(self.clock.safe()) * block_bytes,
            high_water_bytes: totals.high_water_blocks * block_bytes,
            hits: totals.hits,
            misses: self.ledger.misses(),
            frees: totals.frees,
            marks_made,
            marks_passed,
        }
    }

    /// How many blocks a request takes, if the pool can ever have them.
    #[inline]
    fn blocks_of(&self, bytes: usize) -> Result<u32, Miss> {
        if bytes == 0 {
            return Err(Miss::ZeroBytes);
        }
        if self.growth.is_closed() {
            return Err(Miss::Closed);
        }
        let blocks = blocks_for(bytes).ok_or(Miss::TooLarge)?;
        if blocks > self.slabs.largest_blocks() { Err(Miss::TooLarge) } else { Ok(blocks) }
    }

    #[inline]
    fn take(&self, shard: usize, blocks: u32) -> Result<u32, Miss> {
        match self.store.take_own(&self.taker(shard), blocks) {
            Some(index) => Ok(index),
            None if is_small(blocks) => self.take_elsewhere(shard, blocks),
            None => self.take_from_others(shard, blocks),
        }
    }

    /// The shard has nothing small that is safe: from the heap, then, or by a turn of the clock from what it freed itself, or from
    /// another shard.
    #[cold]
    fn take_elsewhere(&self, shard: usize, blocks: u32) -> Result<u32, Miss> {
        if let Ok(Some(index)) = self.store.refill(&self.taker(shard), blocks) {
            return Ok(index);
        }
        if self.has_own_turns_worth(shard) {
            self.turn_clock(|epoch| self.ledger.freed_by(shard, epoch) != 0);
            if let Some(index) = self.store.take_own(&self.taker(shard), blocks) {
                return Ok(index);
            }
        }
        self.take_from_others(shard, blocks)
    }

    fn take_from_others(&self, shard: usize, blocks: u32) -> Result<u32, Miss> {
        match self.store.take_from_others(&self.taker(shard), blocks) {
            Ok(Some(index)) => Ok(index),
            _ => self.take_after_turn(shard, blocks),
        }
    }

    /// Whether the shard has freed enough in the open epoch to turn the clock for it, rather than take what others have: who
    /// is robbed comes to rob in turn, and what is stolen lies on lines that another processor has. A mark for at least a
    /// 64th of what is reserved keeps it rare. A pool that is still to come to its ordinary size grows instead.
    fn has_own_turns_worth(&self, shard: usize) -> bool {
        self.slabs.installed() >= self.ordinary_slabs
            && self.ledger.freed_by(shard, self.clock.open()) >= self.slabs.reserved_blocks() / 64
    }

    /// Nothing is free and safe. Perhaps the GPU is done with more by now, or it lies in pieces in the caches.
    #[cold]
    fn take_after_turn(&self, shard: usize, blocks: u32) -> Result<u32, Miss> {
        if self.slabs.installed() == 0 {
            return Err(Miss::NotReserved);
        }
        if let Some(index) = self.relieve_or_press(shard, blocks) {
            return Ok(index);
        }
        let mut taken = Ok(None);
        for _ in 0..PATIENCE_TURNS {
            let is_up_to_date = self.turn_clock(|epoch| self.ledger.has_frees_in(epoch));
            let is_stuck = !is_up_to_date && !self.wait_for_turn();
            taken = self.store.take_sweeping(&self.taker(shard), blocks);
            // Another thread's turn may have begun before what would serve was freed: ours is next, then.
            if is_up_to_date || is_stuck || taken != Ok(None) {
                break;
            }
        }
        if taken == Ok(None) && self.store.recall_slab(&self.taker(shard)).is_some() {
            taken = self.store.take(&self.taker(shard), blocks);
        }
        match taken {
            Ok(Some(index)) => Ok(index),
            Ok(None) => Err(self.shortage(blocks)),
            Err(_) => Err(Miss::Busy),
        }
    }

    /// A program that has one large block at a time would turn the clock for each, all its life, in a pool that has room
    /// for one: what may be given back stays, if it serves, and below the ordinary size another slab is of use.
    fn relieve_or_press(&self, shard: usize, blocks: u32) -> Option<u32> {
        if self.recall().is_some()
            && let Ok(Some(index)) = self.store.take(&self.taker(shard), blocks)
        {
            return Some(index);
        }
        self.press_below_ordinary_size(blocks);
        None
    }

    /// The clock is turned for a request or a free of so many blocks alone: the next slab, of whatever size, is of use.
    fn press_below_ordinary_size(&self, blocks: u32) {
        if self.slabs.installed() < self.ordinary_slabs
            && let Some(next) = self.slabs.next()
        {
            self.growth.press(blocks.min(next.blocks()));
        }
    }

    fn shortage(&self, blocks: u32) -> Miss {
        let growth_helps =
            self.growth.is_possible(&self.slabs) && self.slabs.missing().any(|slab| slab.blocks() >= blocks);
        if growth_helps {
            return Miss::NotReserved;
        }
        let quarantined = self.ledger.quarantined_blocks(self.clock.safe());
        let not_allocated = self.slabs.reserved_blocks().saturating_sub(self.ledger.allocated_blocks());
        if quarantined != 0 && not_allocated >= u64::from(blocks) { Miss::WaitingForGpu } else { Miss::NoRoom }
    }

    #[inline]
    fn hand_out(&self, shard: usize, index: u32, blocks: u32, bytes: usize, tag: u32) -> Result<NonNull<u8>, Miss> {
        let address = self.slabs.address_of(index).map(std::ptr::with_exposed_provenance_mut);
        let address = address.and_then(NonNull::new).ok_or(Miss::Closed)?;
        self.map.publish(index, blocks, Word::live(bytes, tag));
        self.ledger.note_hit(shard, blocks, bytes);
        if let Some(witness) = &self.witness {
            witness.allocated(index, blocks, bytes);
        }
        Ok(address)
    }

    #[inline]
    fn put_back(&self, index: u32, word: Word) {
        let (shard, blocks) = (shard::current(), word.blocks());
        let epoch = self.clock.stamp();
        let reserved = self.slabs.reserved_blocks();
        let freed_since_mark = self.ledger.note_free(shard, blocks, word.requested_bytes(), epoch, reserved);
        // Before the block can be had again, so that what is told of it stays in order.
        if let Some(witness) = &self.witness {
            witness.freed(index, blocks, word.requested_bytes(), epoch);
        }
        self.store.put(shard, index, blocks, epoch);
        // Pairs with the fence in `Store::sweep`.
        barrier_after_rmw();
        if self.clock.safe() >= epoch {
            self.store.note_slow_put();
        }
        if freed_since_mark.is_some_and(|freed| self.is_worth_a_mark(freed)) {
            // Unless another thread has thought the same just now.
            self.turn_clock(|_| self.is_worth_a_mark(self.ledger.freed_since_mark()));
            if self.is_worth_a_mark(u64::from(blocks)) {
                self.press_below_ordinary_size(blocks);
            }
        }
    }

    /// Three eighths of what is not allocated are worth a mark: the rest serves while the mark is in flight, and what
    /// threads have freed and not reported, up to half of it with 16, is on top. So marks, which cost calls to the driver,
    /// stay rare. The floor keeps them rare in a full pool too, where an allocation
    /// that finds nothing asks for one anyway.
    fn is_worth_a_mark(&self, freed_blocks: u64) -> bool {
        let reserved = self.slabs.reserved_blocks();
        let room = reserved.saturating_sub(self.ledger.reported_blocks());
        freed_blocks >= (room * 3 / 8).max(reserved / 32)
    }

    #[cold]
    fn note_miss(&self, miss: Miss, bytes: usize) {
        self.ledger.note_miss(miss);
        if miss == Miss::NotReserved
            && let Some(blocks) = blocks_for(bytes)
        {
            self.growth.press(blocks);
        }
    }

    /// Lets the clock take a turn, in which the open epoch is marked if that is worth it; false when another thread is at
    /// it. The fence of a pool whose context is gone is left alone.
    #[cold]
    fn turn_clock(&self, is_worth_it: impl Fn(u64) -> bool) -> bool {
        if self.growth.is_closed() {
            return true;
        }
        let turned = self.clock.turn(&*self.gpu, self.now_ms(), is_worth_it, || self.ledger.note_marked());
        if let Some(witness) = &self.witness {
            witness.safe(self.clock.safe());
        }
        turned
    }

    /// Another thread may be asking the fence: its answer is worth a short wait, a miss costs far more. False when it has
    /// not come.
    fn wait_for_turn(&self) -> bool {
        const SPINS: u32 = 256;
        const YIELDS: u32 = 64;
        let (turn, safe) = (self.clock.turning(), self.clock.safe());
        for attempt in 0..SPINS + YIELDS {
            // Not until nobody is: with many threads that would be never.
            if turn.is_none() || self.clock.turning() != turn || self.clock.safe() != safe {
                return true;
            }
            pause(attempt, SPINS);
        }
        false
    }

    fn taker(&self, shard: usize) -> Taker<'_> {
        Taker { shard, safe: self.clock.safe(), slabs: &self.slabs, map: &self.map }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
