//! Names and sizes of what is ordered.

/// A client: its slot on the board, and which of the slot's successive owners it is.
///
/// An event about an earlier owner is noticed by its generation and has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId {
    /// The entry on the board.
    pub slot: u32,
    /// Which owner of the slot.
    pub generation: u32,
}

/// A job: all clients that gave the same `AISHIM_JOB`, of one user. The coordinator numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// What takes turns: a client by itself, or all clients of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartyId {
    /// A client that belongs to no job.
    Client(ClientId),
    /// All members of a job.
    Job(JobId),
}

/// How important, from 0 to 100; higher is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// The highest.
    pub const MAX: Self = Self(100);
    pub(super) const MAX_LEVEL: usize = Self::MAX.0 as usize;

    /// `None` above 100.
    pub fn new(level: u8) -> Option<Self> {
        (level <= Self::MAX.0).then_some(Self(level))
    }

    /// From 0 to 100.
    pub fn level(self) -> u8 {
        self.0
    }
}

/// A share under `fair`, from 1 to 10,000: twice the weight is twice the GPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// The smallest.
    pub const MIN: Self = Self(1);
    /// Of a client that asks for none.
    pub const NORMAL: Self = Self(100);
    /// The largest.
    pub const MAX: Self = Self(10_000);

    /// `None` for 0 and above 10,000.
    pub fn new(shares: u32) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&shares).then_some(Self(shares))
    }

    /// From 1 to 10,000.
    pub fn shares(self) -> u32 {
        self.0
    }

    pub(super) const fn shares_u128(self) -> u128 {
        self.0 as u128
    }
}
