//! The pool's accounts: counters that threads write without meeting, and sums when somebody asks.
//!
//! Each shard counts for itself. What is held is kept as one number, blocks above bit 40 and the requested bytes
//! below, so that an allocation or a free changes both at once; it moves to the common level when it has drifted by
//! a quantum, which is when the high-water mark is taken.

use crate::{
    apart::Apart,
    config::BLOCK_BYTES,
    reuse_clock::Turn,
    shard::SHARDS,
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

/// One shard's part.
#[derive(Debug)]
struct Meter {
    hits: AtomicU64,
    /// Frees in epochs before those of `freed_in`.
    frees: AtomicU64,
    /// Blocks held, times 2^40, plus bytes requested: what this shard allocated less what it freed, not yet reported.
    level: AtomicI64,
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
            meters: (0..SHARDS).map(|_| Apart(Meter::new())).collect(),
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
        meter.hits.fetch_add(1, Ordering::Relaxed);
        let amount = pack(blocks, requested_bytes);
        let drift = meter.level.fetch_add(amount, Ordering::Relaxed) + amount;
        if drift >> BLOCKS_SHIFT >= self.quantum_blocks as i64 {
            self.report_level(meter, drift);
        }
    }

    /// A free. Returns the blocks freed since the last mark when it is time to think about another. Shards report what
    /// they freed in steps of a 32nd of what is reserved, so that 16 threads that free 1 MiB each time seldom meet.
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
        let amount = pack(blocks, requested_bytes);
        let drift = meter.level.fetch_sub(amount, Ordering::Relaxed) - amount;
        if drift >> BLOCKS_SHIFT < -(self.quantum_blocks as i64) {
            self.report_level(meter, drift);
        }
        let before = meter.add_freed(epoch, blocks)?;
        let shift = (reserved_blocks / 32).max(self.quantum_blocks).ilog2();
        let steps = ((before + u64::from(blocks)) >> shift) - (before >> shift);
        let step = steps << shift;
        (step != 0).then(|| self.common.freed_since_mark.fetch_add(step, Ordering::Relaxed) + step)
    }

    /// Blocks freed since the last mark, as far as reported.
    pub(crate) fn freed_since_mark(&self) -> u64 {
        self.common.freed_since_mark.load(Ordering::Relaxed)
    }

    /// Whether there were frees in `epoch`, which is not safe.
    pub(crate) fn has_frees_in(&self, epoch: u64) -> bool {
        self.freed_since_mark() != 0 || self.freed().any(|freed| freed.frees() != 0 && freed.is_newer_than(epoch - 1))
    }

    /// A request that was not served.
    pub(crate) fn note_miss(&self, miss: Miss) {
        if let Some(count) = self.misses.get(miss as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The clock was turned: what was freed is marked from now on.
    ///
    /// A free that was stamped before its epoch closed but is noted after another began counts towards that one, and
    /// leaves the account with it.
    pub(crate) fn note_turn(&self, turn: Turn) {
        if turn.marked {
            self.common.freed_since_mark.store(0, Ordering::Relaxed);
        }
        if turn.safe_before >> FORGET_SHIFT != turn.safe_now >> FORGET_SHIFT {
            self.forget(turn.safe_now);
        }
    }

    /// Allocated blocks as far as the shards have reported: one load, a quantum a shard off.
    pub(crate) fn reported_blocks(&self) -> u64 {
        (self.common.level.load(Ordering::Relaxed) >> BLOCKS_SHIFT).max(0) as u64
    }

    /// Freed after epoch `safe`, and not known to be done with by the GPU.
    pub(crate) fn quarantined_blocks(&self, safe: u64) -> u64 {
        self.freed().filter(|freed| freed.is_newer_than(safe)).map(Freed::blocks).sum()
    }

    /// Held by the program.
    pub(crate) fn allocated_blocks(&self) -> u64 {
        let common = self.common.level.load(Ordering::Relaxed);
        let level = self.meters.iter().fold(common, |level, m| level.wrapping_add(m.level.load(Ordering::Relaxed)));
        // Negative only for a moment, while a shard reports.
        level.max(0) as u64 >> BLOCKS_SHIFT
    }

    /// The sums over all shards.
    pub(crate) fn totals(&self) -> Totals {
        let mut level = self.common.level.load(Ordering::Relaxed);
        let mut totals = Totals::default();
        for meter in &self.meters {
            level = level.wrapping_add(meter.level.load(Ordering::Relaxed));
            totals.hits += meter.hits.load(Ordering::Relaxed);
            totals.frees += meter.frees();
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

    /// Ends the words of epochs that are safe, lest one of a shard that is no longer used looks new when the epochs that
    /// a word tells apart have gone round.
    #[cold]
    fn forget(&self, safe: u64) {
        for meter in &self.meters {
            for word in &meter.freed_in {
                let freed = Freed(word.load(Ordering::Relaxed));
                if !freed.is_newer_than(safe) {
                    meter.end(word, freed, Freed(Freed::tag_of(safe)));
                }
            }
        }
    }

    #[cold]
    fn report_level(&self, meter: &Meter, drift: i64) {
        meter.level.fetch_sub(drift, Ordering::Relaxed);
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
    fn new() -> Self {
        Self {
            hits: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            level: AtomicI64::new(0),
            freed_in: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Adds a free to its epoch, or to the one that has come in its place; returns the blocks freed in it before.
    #[inline]
    fn add_freed(&self, epoch: u64, blocks: u32) -> Option<u64> {
        let word = self.freed_in.get(epoch as usize % EPOCHS)?;
        let seen = Freed(word.load(Ordering::Relaxed));
        if !seen.is_of(epoch) && self.begin(word, seen, epoch, blocks) {
            return Some(0);
        }
        // Should another epoch have begun in between, it is that one's.
        Some(Freed(word.fetch_add(Freed::one(blocks), Ordering::Relaxed)).blocks())
    }

    /// Begins `epoch` with its first free; false when another thread has, or a later one has begun.
    #[cold]
    fn begin(&self, word: &AtomicU64, seen: Freed, epoch: u64, blocks: u32) -> bool {
        !seen.is_newer_than(epoch) && self.end(word, seen, Freed(Freed::tag_of(epoch) | Freed::one(blocks)))
    }

    /// Puts `next` in the place of what was `seen`, whose frees are kept; false when that has changed.
    fn end(&self, word: &AtomicU64, seen: Freed, next: Freed) -> bool {
        let is_ours = word.compare_exchange(seen.0, next.0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_ours {
            self.frees.fetch_add(seen.frees(), Ordering::Relaxed);
        }
        is_ours
    }

    fn frees(&self) -> u64 {
        let in_epochs = self.freed_in.iter().map(|word| Freed(word.load(Ordering::Relaxed)).frees());
        self.frees.load(Ordering::Relaxed) + in_epochs.sum::<u64>()
    }
}

/// What one shard freed in one epoch: the epoch in 20 bits, the frees in 22 and their blocks in 22. Neither can be more
/// than the pool has blocks, 2^20, since what is freed in an epoch is not handed out again before it is safe; frees that
/// are noted late come on top, at most one a thread.
#[derive(Debug, Clone, Copy)]
struct Freed(u64);

/// Every so many epochs, as a power of two, words of old ones are ended: far more often than their 20 bits go round.
const FORGET_SHIFT: u32 = 16;

impl Freed {
    const TAG_SHIFT: u32 = 44;
    const FREES_SHIFT: u32 = 22;
    const COUNT_MASK: u64 = (1 << 22) - 1;

    fn one(blocks: u32) -> u64 {
        1 << Self::FREES_SHIFT | u64::from(blocks)
    }

    fn tag_of(epoch: u64) -> u64 {
        epoch << Self::TAG_SHIFT
    }

    fn blocks(self) -> u64 {
        self.0 & Self::COUNT_MASK
    }

    fn frees(self) -> u64 {
        self.0 >> Self::FREES_SHIFT & Self::COUNT_MASK
    }

    fn is_of(self, epoch: u64) -> bool {
        (self.0 ^ Self::tag_of(epoch)) >> Self::TAG_SHIFT == 0
    }

    /// Whether its epoch came after `epoch`: the difference of the tags, as a signed number, in the upper bits.
    fn is_newer_than(self, epoch: u64) -> bool {
        let tag = self.0 >> Self::TAG_SHIFT << Self::TAG_SHIFT;
        tag.wrapping_sub(Self::tag_of(epoch)) as i64 > 0
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

    #[test]
    fn epochs_that_have_gone_round_do_not_make_old_frees_new() {
        let ledger = Ledger::new(4096);
        let mut frees = 0;
        // One shard frees always, one in the first epoch alone, one now and then.
        free(&ledger, 7, 100, 1);
        const STEP: usize = 1009;
        for epoch in (1..1 << 22).step_by(STEP) {
            free(&ledger, 0, 1, epoch);
            frees += 1;
            if epoch % 300 == 0 {
                free(&ledger, 3, 1000, epoch);
                frees += 1;
            }
            ledger.note_turn(Turn { safe_before: epoch.saturating_sub(STEP as u64), safe_now: epoch, marked: true });
            assert_eq!(ledger.quarantined_blocks(epoch), 0, "{epoch}");
            assert!(!ledger.has_frees_in(epoch + 1));
        }
        assert_eq!(ledger.totals().frees, frees + 1);
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
        let reports: Vec<u64> = (0..3000).filter_map(|_| free(&ledger, 0, 1, 1)).collect();
        assert_eq!(reports, [2048]);
        assert_eq!(free(&ledger, 1, 2048, 1), Some(4096));
        ledger.note_turn(Turn { safe_before: 0, safe_now: 1, marked: true });
        assert_eq!((ledger.freed_since_mark(), free(&ledger, 1, 2047, 2)), (0, None));
    }
}
