//! The pool's accounts: counters that threads write without meeting, and sums when somebody asks.
//!
//! Each shard counts for itself. What is held is kept as one number, blocks above bit 40 and the requested bytes
//! below, so that an allocation or a free changes both at once; it moves to the common level when it has drifted by
//! a quantum, which is when the high-water mark is taken.

use crate::{
    apart::Apart,
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
    misses: [AtomicU64; Miss::ALL.len()],
    /// Shards report in steps of this many blocks, a power of two: 2 MiB where the first slab has 16, so that threads
    /// which take and free a block of 1 MiB again and again do not meet.
    quantum_blocks: u64,
}

/// What the shards report to, now and then.
#[derive(Debug)]
struct Common {
    /// What is held as far as reported, packed as in [`Meter::level`].
    level: AtomicI64,
    high_water_blocks: AtomicU64,
    /// Blocks freed since the last mark, as far as reported.
    freed_since_mark: AtomicU64,
}

/// One shard's part.
#[derive(Debug)]
struct Meter {
    hits: AtomicU64,
    /// Frees of epochs that are safe.
    frees: AtomicU64,
    /// Blocks held, times 2^40, plus bytes requested: what this shard allocated less what it freed, not yet reported.
    level: AtomicI64,
    /// Frees in an epoch that is not safe yet, times 2^40, plus the blocks freed, by epoch.
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

impl Ledger {
    /// Empty accounts of a pool whose first slab has `first_slab_blocks`.
    pub(crate) fn new(first_slab_blocks: u32) -> Self {
        Self {
            meters: (0..SHARDS).map(|_| Apart(Meter::new())).collect(),
            common: Apart(Common {
                level: AtomicI64::new(0),
                high_water_blocks: AtomicU64::new(0),
                freed_since_mark: AtomicU64::new(0),
            }),
            misses: std::array::from_fn(|_| AtomicU64::new(0)),
            quantum_blocks: 1 << (first_slab_blocks / 8).max(1).ilog2(),
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

    /// A free. Returns the blocks freed since the last mark when it is time to think about another.
    #[inline]
    pub(crate) fn note_free(&self, shard: usize, blocks: u32, requested_bytes: usize, epoch: u64) -> Option<u64> {
        let meter = self.meters.get(shard)?;
        let amount = pack(blocks, requested_bytes);
        let drift = meter.level.fetch_sub(amount, Ordering::Relaxed) - amount;
        if drift >> BLOCKS_SHIFT < -(self.quantum_blocks as i64) {
            self.report_level(meter, drift);
        }
        let freed_in = meter.freed_in.get(epoch as usize % EPOCHS)?;
        let before = blocks_of(freed_in.fetch_add(1 << BLOCKS_SHIFT | u64::from(blocks), Ordering::Relaxed));
        let whole = |freed: u64| freed & !(self.quantum_blocks - 1);
        let step = whole(before + u64::from(blocks)) - whole(before);
        (step != 0).then(|| self.common.freed_since_mark.fetch_add(step, Ordering::Relaxed) + step)
    }

    /// A request that was not served.
    pub(crate) fn note_miss(&self, miss: Miss) {
        if let Some(count) = self.misses.get(miss as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The clock was turned: what became safe is no longer in quarantine.
    ///
    /// A free that was stamped before its epoch closed but is noted after the epoch became safe counts towards a
    /// later epoch, and leaves the account with that one.
    pub(crate) fn note_turn(&self, turn: Turn) {
        if turn.marked {
            self.common.freed_since_mark.store(0, Ordering::Relaxed);
        }
        for epoch in (turn.safe_before + 1..=turn.safe_now).rev().take(EPOCHS - 1) {
            for (meter, freed) in self.freed_in(epoch) {
                let gone = freed.swap(0, Ordering::Relaxed);
                meter.frees.fetch_add(gone >> BLOCKS_SHIFT, Ordering::Relaxed);
            }
        }
    }

    /// Allocated blocks as far as the shards have reported: one load, a quantum a shard off.
    pub(crate) fn reported_blocks(&self) -> u64 {
        (self.common.level.load(Ordering::Relaxed) >> BLOCKS_SHIFT).max(0) as u64
    }

    /// How many frees there have been.
    pub(crate) fn frees(&self) -> u64 {
        self.meters.iter().map(|meter| meter.frees()).sum()
    }

    /// Freed, and not known to be done with by the GPU.
    pub(crate) fn quarantined_blocks(&self) -> u64 {
        let all = self.meters.iter().flat_map(|meter| &meter.freed_in);
        all.map(|freed| blocks_of(freed.load(Ordering::Relaxed))).sum()
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
        let before = self.common.high_water_blocks.fetch_max(totals.allocated_blocks, Ordering::Relaxed);
        totals.high_water_blocks = before.max(totals.allocated_blocks);
        totals
    }

    /// How often each miss happened.
    pub(crate) fn misses(&self) -> MissCounts {
        MissCounts::new(std::array::from_fn(|reason| {
            self.misses.get(reason).map_or(0, |count| count.load(Ordering::Relaxed))
        }))
    }

    fn freed_in(&self, epoch: u64) -> impl Iterator<Item = (&Meter, &AtomicU64)> {
        self.meters.iter().filter_map(move |meter| Some((&**meter, meter.freed_in.get(epoch as usize % EPOCHS)?)))
    }

    #[cold]
    fn report_level(&self, meter: &Meter, drift: i64) {
        meter.level.fetch_sub(drift, Ordering::Relaxed);
        let level = self.common.level.fetch_add(drift, Ordering::Relaxed) + drift;
        let blocks = (level >> BLOCKS_SHIFT).max(0) as u64;
        self.common.high_water_blocks.fetch_max(blocks, Ordering::Relaxed);
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

    fn frees(&self) -> u64 {
        let in_epochs = self.freed_in.iter().map(|freed| freed.load(Ordering::Relaxed) >> BLOCKS_SHIFT);
        self.frees.load(Ordering::Relaxed) + in_epochs.sum::<u64>()
    }
}

fn blocks_of(freed: u64) -> u64 {
    freed & ((1 << BLOCKS_SHIFT) - 1)
}

fn pack(blocks: u32, requested_bytes: usize) -> i64 {
    (i64::from(blocks) << BLOCKS_SHIFT) + requested_bytes as i64
}
