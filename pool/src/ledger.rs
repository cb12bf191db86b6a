//! The pool's accounts: counters that threads write without meeting, and sums when somebody asks.
//!
//! Each shard counts for itself; where it is one thread's own, by a load and a store, since nobody else writes there. What
//! is held is kept as one number, blocks above bit 40 and the requested bytes
//! below, so that an allocation or a free changes both at once; it moves to the common level when it has drifted by
//! a quantum, which is when the high-water mark is taken.

use crate::{
    apart::Apart,
    config::BLOCK_BYTES,
    shard::{self, SHARDS},
    stats::{Miss, MissCounts},
    sync::{AtomicI64, AtomicU64, Ordering},
};

/// All accounts of one pool.
#[derive(Debug)]
pub(crate) struct Ledger {
    meters: Box<[Apart<Meter>]>,
    common: Apart<Common>,
    misses: Apart<[AtomicU64; Miss::ALL.len()]>,
    /// Shards report in steps of this many blocks, a power of two: 2 MiB where the pool may have 16 or more, so that
    /// threads which take and free a block of 1 MiB again and again do not meet; else an eighth of the pool.
    quantum_blocks: u64,
}

/// What the shards report to, now and then.
#[derive(Debug)]
struct Common {
    /// What is held as far as reported, packed as in [`Meter::level`].
    level: AtomicI64,
    high_water_blocks: AtomicU64,
    /// The most that can ever be held.
    total_blocks: u64,
    /// Blocks freed since the last mark, as far as reported.
    freed_since_mark: AtomicU64,
}

/// One shard's part, written by its threads alone.
#[derive(Debug)]
struct Meter {
    is_own: bool,
    hits: AtomicU64,
    frees: AtomicU64,
    /// Blocks held, times 2^40, plus bytes requested: what this shard allocated less what it freed, not yet reported. A
    /// signed number.
    level: AtomicU64,
    /// What was freed in one epoch, by epoch, as in [`Freed`]. The first free in a later one begins it anew, so that who
    /// turns the clock need not touch it.
    freed_in: [AtomicU64; EPOCHS],
}

/// What the accounts say at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) hits: u64,
    pub(crate) frees: u64,
    pub(crate) allocated_blocks: u64,
    pub(crate) requested_bytes: u64,
    pub(crate) high_water_blocks: u64,
}

/// At most three epochs are not safe at a time: the open one and two whose marks are in flight.
const EPOCHS: usize = 4;
const BLOCKS_SHIFT: u32 = 40;
const MOST_QUANTUM_BLOCKS: u32 = (2 << 20) / BLOCK_BYTES as u32;

impl Ledger {
    /// Empty accounts of a pool that may come to have `total_blocks`.
    pub(crate) fn new(total_blocks: u32) -> Self {
        Self {
            meters: (0..SHARDS).map(|shard| Apart(Meter::new(shard::is_own(shard)))).collect(),
            common: Apart(Common {
                level: AtomicI64::new(0),
                high_water_blocks: AtomicU64::new(0),
                total_blocks: u64::from(total_blocks),
                freed_since_mark: AtomicU64::new(0),
            }),
            misses: Apart(std::array::from_fn(|_| AtomicU64::new(0))),
            quantum_blocks: 1 << (total_blocks / 8).clamp(1, MOST_QUANTUM_BLOCKS).ilog2(),
        }
    }

    /// An allocation that was served.
    #[inline]
    pub(crate) fn note_hit(&self, shard: usize, blocks: u32, requested_bytes: usize) {
        let Some(meter) = self.meters.get(shard) else {
            return;
        };
        meter.add(&meter.hits, 1);
        let drift = meter.change_level(pack(blocks, requested_bytes));
        if drift >> BLOCKS_SHIFT >= self.quantum_blocks as i64 {
            self.report_level(meter, drift);
        }
    }

    /// A free. Returns the blocks freed since the last mark when it is time to think about another. Shards report what
    /// they freed in steps of a 16th of what is reserved: as much as each of 16 threads has, which runs out or sees a turn of
    /// another's before it comes to that. With half as much they met in one free of 1 MiB in eight.
    #[inline]
    pub(crate) fn note_free(
        &self,
        shard: usize,
        blocks: u32,
        requested_bytes: usize,
        epoch: u64,
        reserved_blocks: u64,
    ) -> Option<u64> {
        let meter = self.meters.get(shard)?;
        meter.add(&meter.frees, 1);
        let drift = meter.change_level(-pack(blocks, requested_bytes));
        if drift >> BLOCKS_SHIFT < -(self.quantum_blocks as i64) {
            self.report_level(meter, drift);
        }
        let before = meter.add_freed(epoch, blocks)?;
        let shift = (reserved_blocks / 16).max(self.quantum_blocks).ilog2();
        let steps = ((before + u64::from(blocks)) >> shift) - (before >> shift);
        let step = steps << shift;
        (step != 0).then(|| self.common.freed_since_mark.fetch_add(step, Ordering::Relaxed) + step)
    }

    /// Blocks freed since the last mark, as far as reported.
    pub(crate) fn freed_since_mark(&self) -> u64 {
        self.common.freed_since_mark.load(Ordering::Relaxed)
    }

    /// Blocks that one shard freed in `epoch`, as far as no later one has begun there: a line of the shard's own.
    pub(crate) fn freed_by(&self, shard: usize, epoch: u64) -> u64 {
        let word = self.meters.get(shard).and_then(|meter| meter.freed_in.get(epoch as usize % EPOCHS));
        let freed = word.map(|word| Freed(word.load(Ordering::Relaxed)));
        freed.filter(|freed| freed.epoch() == epoch).map_or(0, Freed::blocks)
    }

    /// Whether there were frees in `epoch`, which is not safe.
    pub(crate) fn has_frees_in(&self, epoch: u64) -> bool {
        self.freed_since_mark() != 0 || self.freed().any(|freed| freed.blocks() != 0 && freed.epoch() >= epoch)
    }

    /// A request that was not served.
    pub(crate) fn note_miss(&self, miss: Miss) {
        if let Some(count) = self.misses.get(miss as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All that was freed is marked.
    ///
    /// A free that was stamped before its epoch closed but is noted after another began counts towards that one, and
    /// leaves the account with it.
    pub(crate) fn note_marked(&self) {
        self.common.freed_since_mark.store(0, Ordering::Relaxed);
    }

    /// Allocated blocks as far as the shards have reported: one load, a quantum a shard off.
    pub(crate) fn reported_blocks(&self) -> u64 {
        (self.common.level.load(Ordering::Relaxed) >> BLOCKS_SHIFT).max(0) as u64
    }

    /// Freed after epoch `safe`, and not known to be done with by the GPU.
    pub(crate) fn quarantined_blocks(&self, safe: u64) -> u64 {
        self.freed().filter(|freed| freed.epoch() > safe).map(Freed::blocks).sum()
    }

    /// Held by the program.
    pub(crate) fn allocated_blocks(&self) -> u64 {
        let common = self.common.level.load(Ordering::Relaxed);
        let level = self.meters.iter().fold(common, |level, m| level.wrapping_add(m.level()));
        // Negative only for a moment, while a shard reports.
        level.max(0) as u64 >> BLOCKS_SHIFT
    }

    /// The sums over all shards.
    pub(crate) fn totals(&self) -> Totals {
        let mut level = self.common.level.load(Ordering::Relaxed);
        let mut totals = Totals::default();
        for meter in &self.meters {
            level = level.wrapping_add(meter.level());
            totals.hits += meter.hits.load(Ordering::Relaxed);
            totals.frees += meter.frees.load(Ordering::Relaxed);
        }
        // Negative only for a moment, while a shard reports.
        let level = level.max(0) as u64;
        totals.allocated_blocks = level >> BLOCKS_SHIFT;
        totals.requested_bytes = level & ((1 << BLOCKS_SHIFT) - 1);
        totals.high_water_blocks = self.common.note_level(totals.allocated_blocks);
        totals
    }

    /// How often each miss happened.
    pub(crate) fn misses(&self) -> MissCounts {
        MissCounts::new(std::array::from_fn(|reason| {
            self.misses.get(reason).map_or(0, |count| count.load(Ordering::Relaxed))
        }))
    }

    fn freed(&self) -> impl Iterator<Item = Freed> {
        let all = self.meters.iter().flat_map(|meter| &meter.freed_in);
        all.map(|word| Freed(word.load(Ordering::Relaxed)))
    }

    #[cold]
    fn report_level(&self, meter: &Meter, drift: i64) {
        meter.change_level(-drift);
        let level = self.common.level.fetch_add(drift, Ordering::Relaxed) + drift;
        let blocks = (level >> BLOCKS_SHIFT).max(0) as u64;
        if blocks > self.common.high_water_blocks.load(Ordering::Relaxed) {
            // Frees by other threads than allocate may not have been reported: all are asked.
            self.common.note_level(self.allocated_blocks());
        }
    }
}

impl Common {
    /// Takes note of what is held now; the most there ever was, in blocks.
    fn note_level(&self, blocks: u64) -> u64 {
        // A sum taken while threads are at it may be more than there can be.
        let blocks = blocks.min(self.total_blocks);
        self.high_water_blocks.fetch_max(blocks, Ordering::Relaxed).max(blocks)
    }
}

impl Meter {
    fn new(is_own: bool) -> Self {
        Self {
            is_own,
            hits: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            level: AtomicU64::new(0),
            freed_in: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Adds to one of its counters; what that was before.
    #[inline]
    fn add(&self, counter: &AtomicU64, amount: u64) -> u64 {
        if !self.is_own {
            return counter.fetch_add(amount, Ordering::Relaxed);
        }
        let before = counter.load(Ordering::Relaxed);
        counter.store(before.wrapping_add(amount), Ordering::Relaxed);
        before
    }

    /// What `level` is after the change.
    #[inline]
    fn change_level(&self, amount: i64) -> i64 {
        (self.add(&self.level, amount as u64) as i64).wrapping_add(amount)
    }

    fn level(&self) -> i64 {
        self.level.load(Ordering::Relaxed) as i64
    }

    /// Adds a free to its epoch, or to the one that has come in its place; returns the blocks freed in it before.
    #[inline]
    fn add_freed(&self, epoch: u64, blocks: u32) -> Option<u64> {
        let word = self.freed_in.get(epoch as usize % EPOCHS)?;
        let seen = Freed(word.load(Ordering::Relaxed));
        if seen.epoch() < epoch && begin(word, seen, epoch, blocks) {
            return Some(0);
        }
        // Should another epoch have begun in between, it is that one's.
        Some(Freed(self.add(word, u64::from(blocks))).blocks())
    }
}

/// Begins `epoch` with its first free in the place of an older one; false when another thread of the shard has.
#[cold]
fn begin(word: &AtomicU64, seen: Freed, epoch: u64, blocks: u32) -> bool {
    word.compare_exchange(seen.0, Freed::first(epoch, blocks).0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// What one shard freed in one epoch: the epoch in 42 bits, as many as a century of turns of a millisecond, and its blocks
/// in 22. They cannot be more than the pool has, 2^20, since what is freed in an epoch is not handed out again before it is
/// safe; frees that are noted late come on top, at most one a thread.
#[derive(Debug, Clone, Copy)]
struct Freed(u64);

impl Freed {
    const EPOCH_SHIFT: u32 = 22;

    fn first(epoch: u64, blocks: u32) -> Self {
        Self(epoch << Self::EPOCH_SHIFT | u64::from(blocks))
    }

    fn blocks(self) -> u64 {
        self.0 & ((1 << Self::EPOCH_SHIFT) - 1)
    }

    fn epoch(self) -> u64 {
        self.0 >> Self::EPOCH_SHIFT
    }
}

fn pack(blocks: u32, requested_bytes: usize) -> i64 {
    (i64::from(blocks) << BLOCKS_SHIFT) + requested_bytes as i64
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const RESERVED: u64 = 65_536;

    fn free(ledger: &Ledger, shard: usize, blocks: u32, epoch: u64) -> Option<u64> {
        ledger.note_hit(shard, blocks, 1);
        ledger.note_free(shard, blocks, 1, epoch, RESERVED)
    }

    #[test]
    fn an_epoch_takes_the_place_of_an_old_one_and_its_frees_are_kept() {
        let ledger = Ledger::new(4096);
        for epoch in [1, 2, 1, 5] {
            free(&ledger, 0, 10, epoch);
        }
        free(&ledger, 1, 3, 2);
        assert_eq!(ledger.quarantined_blocks(0), 23, "the two of epoch 1 have left with it");
        assert_eq!((ledger.quarantined_blocks(2), ledger.quarantined_blocks(5)), (10, 0));
        assert!(ledger.has_frees_in(5) && !ledger.has_frees_in(6));
        free(&ledger, 0, 7, 1);
        assert_eq!(ledger.quarantined_blocks(4), 17, "it is noted late, and leaves with epoch 5");
        assert_eq!((ledger.totals().frees, ledger.totals().hits, ledger.allocated_blocks()), (6, 6, 0));
    }

    /// Where one thread allocates and another frees, each reported what it did when it came to 2 MiB: the mark was as
    /// much as that too high, and above what the pool had.
    #[test]
    fn what_another_thread_frees_is_not_counted_twice() {
        let ledger = Ledger::new(1024);
        for _ in 0..50 {
            ledger.note_hit(0, 100, 1);
            ledger.note_free(1, 100, 1, 1, 1024);
        }
        assert_eq!(ledger.totals().high_water_blocks, 100);
        ledger.note_hit(2, 300, 1);
        ledger.note_free(3, 300, 1, 1, 1024);
        assert_eq!(ledger.totals().high_water_blocks, 300, "a peak is seen though nobody asks");
    }

    #[test]
    fn what_is_freed_is_reported_in_steps() {
        let ledger = Ledger::new(4096);
        let reports: Vec<u64> = (0..6000).filter_map(|_| free(&ledger, 0, 1, 1)).collect();
        assert_eq!(reports, [4096]);
        assert_eq!(free(&ledger, 1, 4096, 1), Some(8192));
        ledger.note_marked();
        assert_eq!((ledger.freed_since_mark(), free(&ledger, 1, 4095, 2)), (0, None));
        assert_eq!([1, 2, 3].map(|epoch| ledger.freed_by(1, epoch)), [4096, 4095, 0]);
    }
}
