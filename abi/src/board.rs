//! The board, version 1: what the coordinator says to all. It alone may write it.
//!
//! 4 KiB of header, with a record for each GPU; then the turns, for each GPU one of each rank; then an entry for each client
//! there may be.
//!
//! Decisions that differ from a plain list of fields, and why:
//! * *a turn for each rank of each GPU:* while an important client has gaps, those below it share these by turns of their own.
//!   Addressed by number, at the price of 88 KiB of which little is ever touched; a list of the turns in use would
//!   have to be searched, or changed under a reader's feet;
//! * *whose turn it is is a party,* one client or all of one job, since the processes of a job wait for each other: let on one at
//!   a time they would hang;
//! * *what is slept on is a count of changes, not the turn itself:* a turn that goes away and comes back would be missed,
//!   and so would the opening of all gates, which changes no turn;
//! * *a turn ends by its time,* whether or not anybody ends it, and no turn reaches further than [`TURN_MAX_NS`]: a
//!   coordinator that hangs or dies holds nobody back;
//! * *a client's GPUs are a set of bits in its entry,* since a process may use several; [`GPUS`] is 56, eight GPUs of seven
//!   MIG instances each;
//! * *an entry is read under a sequence number* ([`board_reader`](crate::board_reader)), so that slot, generation and
//!   priority are of one client; a GPU's record is not: its fields mean something each by itself, and whoever catches them between two
//!   stores looks again before long.

use crate::rank::{Class, PolicyKind, Priority, Uuid, Weight};
use std::mem::offset_of;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// First eight bytes of every board.
pub const MAGIC: [u8; 8] = *b"AISHIMBD";

/// Version of the layout; changes with every change that an older reader would misread.
pub const VERSION: u32 = 1;

/// Most GPUs, or instances of GPUs, that a board can name.
pub const GPUS: usize = 56;

/// Most clients that a board can have entries for.
pub const SLOTS: usize = 4096;

/// Ranks, and hence turns of a GPU: the priorities from 0 to 100.
pub const RANKS: usize = 101;

/// The value of `party` while nobody has to wait for their turn.
const EVERYBODY: u32 = u32::MAX;

/// Set in the value of `party` where that is a job and not a slot.
const IS_JOB: u32 = 1 << 31;

/// The highest number of a job.
pub const JOB_MAX: u32 = IS_JOB - 2;

/// A turn that ends further ahead than this is none, in nanoseconds.
pub const TURN_MAX_NS: u64 = 100_000_000;

/// A turn that the coordinator does not end in time goes on for so long before it is everybody's, in nanoseconds. Without that
/// all who wait would launch in the moment before it is passed on.
pub const TURN_GRACE_NS: u64 = 3_000_000;

/// What the coordinator says about one GPU.
#[repr(C, align(64))]
pub struct GpuRecord {
    /// Its UUID; zero where the record is free.
    pub uuid: [AtomicU64; 2],
    /// [`PolicyKind`].
    pub policy: AtomicU32,
    /// 1 where each rank has a turn of its own and gates wait for more important clients; 0 where all have the turn of rank 0
    /// and wait for nobody else.
    pub is_by_rank: AtomicU32,
    /// Until then all gates are open, by `CLOCK_MONOTONIC`.
    pub open_until_ns: AtomicU64,
    /// Clients on this GPU.
    pub clients: AtomicU32,
    _reserved: [AtomicU32; 7],
}

/// Whose turn it is among those of one rank on one GPU.
#[repr(C, align(16))]
pub struct TurnRecord {
    /// The party whose turn it is; see [`Turn::to_word`].
    pub party: AtomicU32,
    /// Raised with every change of the turn, and when all gates of the GPU open; who waits for that sleeps on it (futex(2)), with
    /// the bits of their own turn ([`Turn::waiters`]).
    pub changes: AtomicU32,
    /// Until when, by `CLOCK_MONOTONIC`; from then on it is everybody's turn.
    pub until_ns: AtomicU64,
}

/// The first page of a board.
#[repr(C, align(4096))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// How many entries follow.
    pub slots: AtomicU32,
    /// Random id of this life of the coordinator.
    pub generation: AtomicU64,
    /// Process id of the coordinator as it sees itself.
    pub pid: AtomicU32,
    /// Clients at this moment.
    pub clients: AtomicU32,
    /// When the coordinator began, nanoseconds since the epoch.
    pub started_unix_ns: AtomicU64,
    /// Connections and requests that were refused.
    pub refused: AtomicU64,
    /// 1 once the coordinator has ended in order: nothing here means anything any more.
    pub has_ended: AtomicU32,
    _reserved0: [AtomicU32; 3],
    /// The GPUs.
    pub gpus: [GpuRecord; GPUS],
    _rest: [AtomicU64; 56],
}

/// An entry as it lies in memory.
#[repr(C, align(64))]
pub struct EntryWords {
    /// Which client of this slot it is, counted over the coordinator's life from 1 on; 0 where the slot is free.
    pub generation: AtomicU64,
    /// Odd while the entry is written.
    pub sequence: AtomicU32,
    /// Process id as the coordinator sees it.
    pub pid: AtomicU32,
    /// Process id as the process sees itself.
    pub own_pid: AtomicU32,
    /// User id.
    pub uid: AtomicU32,
    /// Start time, field 22 of /proc/PID/stat, in clock ticks since boot.
    pub start_ticks: AtomicU64,
    /// The GPUs it uses: bit N is the N-th of the header.
    pub gpus: AtomicU64,
    /// Number of its job; processes of one job have the same, 0 is none.
    pub job: AtomicU32,
    /// The priority it was granted, 0 to 100.
    pub priority: AtomicU32,
    /// The priority that counts: the lowest of its job's.
    pub rank: AtomicU32,
    /// The highest priority it may have.
    pub limit: AtomicU32,
    /// Weight, 1 to 10,000.
    pub weight: AtomicU32,
    /// [`Class`].
    pub class: AtomicU32,
}

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// Where the turns begin, in bytes.
pub const TURNS_OFFSET: usize = HEADER_BYTES;

/// Where the entries begin, in bytes.
pub const ENTRIES_OFFSET: usize = (TURNS_OFFSET + GPUS * RANKS * TURN_BYTES).next_multiple_of(4096);

/// Size of a turn in bytes.
pub const TURN_BYTES: usize = size_of::<TurnRecord>();

/// Size of an entry in bytes.
pub const ENTRY_BYTES: usize = size_of::<EntryWords>();

const _: () = {
    assert!(HEADER_BYTES == 4096);
    assert!(ENTRY_BYTES == 64 && size_of::<GpuRecord>() == 64);
    assert!(GPUS <= u64::BITS as usize);
    assert!(offset_of!(Header, generation) == 16);
    assert!(offset_of!(Header, has_ended) == 48);
    assert!(offset_of!(Header, gpus) == 64);
    assert!(offset_of!(Header, _rest) == 3648);
    assert!(offset_of!(GpuRecord, open_until_ns) == 24);
    assert!(offset_of!(GpuRecord, clients) == 32);
    assert!(TURN_BYTES == 16 && ENTRIES_OFFSET == 98_304);
    assert!(offset_of!(EntryWords, start_ticks) == 24);
    assert!(offset_of!(EntryWords, weight) == 56 && offset_of!(EntryWords, class) == 60);
    assert!(SLOTS < IS_JOB as usize);
};

/// The size of a board with so many entries, in bytes: whole pages.
#[must_use]
pub const fn board_bytes(slots: usize) -> usize {
    (ENTRIES_OFFSET + slots * ENTRY_BYTES).next_multiple_of(4096)
}

/// A client as its entry tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which client of this slot it is; never 0.
    pub generation: u64,
    /// Process id as the coordinator sees it.
    pub pid: u32,
    /// Process id as the process sees itself.
    pub own_pid: u32,
    /// User id.
    pub uid: u32,
    /// Start time, field 22 of /proc/PID/stat, in clock ticks since boot.
    pub start_ticks: u64,
    /// The GPUs it uses: bit N is the N-th of the board.
    pub gpus: u64,
    /// Number of its job; 0 is none.
    pub job: u32,
    /// The priority it was granted.
    pub priority: Priority,
    /// The priority that counts: the lowest of its job's.
    pub rank: Priority,
    /// How important it may be.
    pub limit: Priority,
    /// Its share.
    pub weight: Weight,
    /// What kind of work it does, as it or somebody else has said.
    pub class: Class,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nobody has to wait for theirs.
    Everybody,
    /// That of the client in this slot.
    Client(u32),
    /// That of the job of this number.
    Job(u32),
}

impl Turn {
    /// The turn for which a client waits that has this slot and this job.
    #[must_use]
    pub const fn of(slot: u32, job: u32) -> Self {
        if job == 0 { Self::Client(slot) } else { Self::Job(job) }
    }

    /// As it stands on the board.
    #[must_use]
    pub const fn to_word(self) -> u32 {
        match self {
            Self::Everybody => EVERYBODY,
            Self::Client(slot) => slot,
            Self::Job(job) => job | IS_JOB,
        }
    }

    /// Whom a change to this turn wakes, as the bits of futex(2)'s FUTEX_WAKE_BITSET; and with which bits one sleeps who waits
    /// for it. Of 64 that wait for their turns a change wakes two and not all: to wake 63 is most of what the coordinator
    /// did, and they would take the processors from the one whose turn it is. The others see at the end of the turn that they know
    /// whose is the next.
    #[must_use]
    pub const fn waiters(self) -> NonZeroU32 {
        let bit = match self {
            Self::Everybody => return NonZeroU32::MAX,
            Self::Client(slot) => slot % u32::BITS,
            Self::Job(job) => job % u32::BITS,
        };
        match NonZeroU32::new(1 << bit) {
            Some(bits) => bits,
            None => NonZeroU32::MAX,
        }
    }

    /// What stands on a board with so many slots; a client that cannot be there is everybody.
    #[must_use]
    pub const fn from_word(word: u32, slots: usize) -> Self {
        match word {
            EVERYBODY => Self::Everybody,
            job if job & IS_JOB != 0 => Self::Job(job & !IS_JOB),
            slot if (slot as usize) < slots => Self::Client(slot),
            _ => Self::Everybody,
        }
    }
}

/// What the coordinator says about one GPU, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its UUID.
    pub uuid: Uuid,
    /// How launches on it are put in order; off where it is a policy that this version does not know.
    pub policy: PolicyKind,
    /// Whether each rank has a turn of its own and gates wait for more important clients.
    pub is_by_rank: bool,
    /// Whether all gates are open.
    pub is_open: bool,
    /// Until when, by `CLOCK_MONOTONIC`.
    pub open_until_ns: u64,
    /// Clients on it.
    pub clients: u32,
}
