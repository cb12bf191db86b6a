//! What a pool tells about itself.

/// Why the pool had nothing for a request; the caller goes to the driver then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Miss {
    /// Nothing was asked for.
    ZeroBytes,
    /// More was asked for than the largest slab will ever hold.
    TooLarge,
    /// A slab that would hold it is not reserved yet: [`Pool::grow`](crate::Pool::grow) helps.
    NotReserved,
    /// There would be room, but the GPU may still use what was freed.
    WaitingForGpu,
    /// It does not fit beside what is allocated.
    NoRoom,
    /// Another thread has held the free list for too long, as one does that was killed in it.
    Busy,
    /// The memory is gone: [`Pool::forget`](crate::Pool::forget) or [`Pool::release_all`](crate::Pool::release_all).
    Closed,
}

impl Miss {
    /// Every reason there is, in the order in which they are documented.
    pub const ALL: [Self; 7] = [
        Self::ZeroBytes,
        Self::TooLarge,
        Self::NotReserved,
        Self::WaitingForGpu,
        Self::NoRoom,
        Self::Busy,
        Self::Closed,
    ];
}

/// How often each [`Miss`] happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MissCounts {
    counts: [u64; Miss::ALL.len()],
}

impl MissCounts {
    pub(crate) fn new(counts: [u64; Miss::ALL.len()]) -> Self {
        Self { counts }
    }

    /// How often this one happened.
    #[must_use]
    pub fn of(&self, miss: Miss) -> u64 {
        self.counts.get(miss as usize).copied().unwrap_or(0)
    }

    /// All misses together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A pool's figures, each read without a lock. While threads allocate and free, figures that belong together may be
/// a few operations apart; at rest they are exact, but for `high_water_bytes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// What the pool may hold when all slabs are reserved.
    pub capacity_bytes: u64,
    /// What it holds: page-locked at the moment.
    pub reserved_bytes: u64,
    /// The size of a block.
    pub block_bytes: u64,
    /// Blocks in the whole capacity, reserved or not.
    pub total_blocks: u64,
    /// Held by the program, in whole blocks.
    pub allocated_bytes: u64,
    /// Held by the program, as it asked for it.
    pub requested_bytes: u64,
    /// Held by the program, in blocks.
    pub allocated_blocks: u64,
    /// Freed by the program, and not yet known to be done with by the GPU.
    pub quarantined_bytes: u64,
    /// The most that was allocated at once. Sampled: a peak may be missed by 2 MiB, and no more than an eighth of the pool,
    /// for each thread that allocates, and not at all by a caller that asks at that moment.
    pub high_water_bytes: u64,
    /// Requests that were served.
    pub hits: u64,
    /// Requests that were not, and why.
    pub misses: MissCounts,
    /// Blocks that were freed.
    pub frees: u64,
    /// Marks made through the fence.
    pub marks_made: u64,
    /// Marks that have passed.
    pub marks_passed: u64,
}
