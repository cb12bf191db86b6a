//! The bytes of a segment, version 2.
//!
//! Candidates weighed before this layout was fixed:
//! * one set of counters with locked additions: a locked addition costs 5 ns alone and 50 to 100 ns when 16 threads
//!   launch at once, more than a launch may cost in all;
//! * a full 36 KiB histogram for each thread: 16 threads would need 590 KiB, over the 512 KiB a segment may take;
//! * **chosen:** [`SHARDS`] shards, each owned by one thread at a time which adds without a lock, with the histogram
//!   of launch calls cut to values below 1 ms ([`WINDOW_BUCKETS`]); the rare longer call, everything rare, and threads
//!   beyond the shards use locked additions in shard 0 and in the full histograms.
//!
//! What a launch writes lies on one page, a shard's: between two launches a program runs through so much memory that
//! each further page costs a launch another walk through the page tables (eager PyTorch on a virtual machine: 30 ns and
//! more each). So the cost of a call is only noted there, in [`Shard::recent`], and counted in the histogram,
//! which is 14 KiB, when [`RECENT`] have come together. Version 1 counted each at once. Readers count what is still there,
//! so nothing is lost when a process is killed.
//!
//! A reader adds the shards up. A thread that ends leaves its counts in the shard and the shard to the next thread, so
//! nothing is ever lost, whenever the process dies.

use crate::histogram::{BUCKETS, WINDOW_BUCKETS};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// First eight bytes of every segment.
pub const MAGIC: [u8; 8] = *b"AISHIMSG";

/// Version of the layout; changes with every change that an older reader would misread.
pub const VERSION: u32 = 2;

/// Most hooked entry points a segment can name.
pub const HOOKS: usize = 192;

/// Most counters a segment can hold; those in use are declared in [`statistics`](crate::statistics).
pub const COUNTERS: usize = 128;

/// Shards for threads that launch; shard 0 is shared by those that found no other free.
pub const SHARDS: usize = 20;

/// Launch calls that a shard holds back from its histogram.
pub const RECENT: usize = 64;

/// Bytes that the owner of a shard has for itself.
pub const COUNTDOWNS: usize = 2048;

/// Devices that a segment can name.
pub const DEVICES: usize = 16;

/// Length of a hook's or symbol's name with its terminating zero.
pub const NAME_BYTES: usize = 48;

/// Hooked names that were looked up and not known, kept by name.
pub const UNKNOWN_NAMES: usize = 16;

/// Room for a histogram's buckets, a little more than [`BUCKETS`] so that the size is that of HdrHistogram's.
pub const BUCKET_ROOM: usize = 4608;

/// What a hooked entry point does; tells readers which calls are launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HookKind {
    /// Not in use.
    None = 0,
    /// Launch of a kernel or graph.
    Launch = 1,
    /// Copy of memory.
    Copy = 2,
    /// Memset.
    Memset = 3,
    /// Device memory allocated, mapped or freed.
    DeviceMemory = 4,
    /// Host memory allocated, registered, freed or asked about.
    HostMemory = 5,
    /// Wait for or question about the progress of work.
    Synchronise = 6,
    /// Stream, event, capture, module or context management.
    Management = 7,
    /// Symbol lookup.
    Lookup = 8,
}

impl HookKind {
    /// The kind that `byte` stands for; a byte that no version of the layout has written gives `None`.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::None,
            1 => Self::Launch,
            2 => Self::Copy,
            3 => Self::Memset,
            4 => Self::DeviceMemory,
            5 => Self::HostMemory,
            6 => Self::Synchronise,
            7 => Self::Management,
            8 => Self::Lookup,
            _ => return None,
        })
    }
}

/// How far a hook has come in this process; the byte beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HookState {
    /// The driver that is loaded does not have the function: not hooked.
    Absent = 0,
    /// The driver has it; nobody has asked for it yet.
    Known = 1,
    /// Somebody was given our function for it.
    HandedOut = 2,
}

/// How a process stands to a coordinator; the value of [`Statistic::Coordinator`](crate::statistics::Statistic::Coordinator).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinator {
    /// None listens in the runtime directory.
    None,
    /// It is a client.
    Client,
    /// Somebody listens there who is neither root nor the process's own user.
    Stranger,
    /// It speaks another version.
    OtherVersion,
    /// It said something that makes no sense, or sent memory that is not sealed.
    Nonsense,
    /// The process has no page to show: the kernel is older than 5.1, or descriptors or memory are short.
    NoPage,
    /// It refused, for the reason of this number ([`Reason`](crate::message::Reason)).
    Refused(u32),
}

impl Coordinator {
    /// What stands in the segment for a refusal: this and the reason's number.
    const REFUSED: u64 = 100;

    /// The number that stands for it.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Client => 1,
            Self::Stranger => 2,
            Self::OtherVersion => 3,
            Self::Nonsense => 4,
            Self::NoPage => 5,
            Self::Refused(reason) => Self::REFUSED + reason as u64,
        }
    }

    /// What `number` stands for; a number of a later version is nonsense.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Client,
            2 => Self::Stranger,
            3 => Self::OtherVersion,
            5 => Self::NoPage,
            Self::REFUSED.. => Self::Refused((number - Self::REFUSED) as u32),
            _ => Self::Nonsense,
        }
    }
}

/// Why a shim only forwards calls; the value of [`Statistic::PassThrough`](crate::statistics::Statistic::PassThrough).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum PassThrough {
    /// It does not: the shim works.
    No = 0,
    /// A panic was caught inside the shim.
    Panic = 1,
    /// The process was forked after a context existed.
    Fork = 2,
}

/// One HDR histogram of values in nanoseconds.
#[repr(C, align(64))]
pub struct Histogram {
    /// Sum of all values, for the average.
    pub sum_ns: AtomicU64,
    /// Largest value.
    pub max_ns: AtomicU64,
    _reserved: [u64; 6],
    /// Counts; the bucket of a value is [`index_of`](crate::histogram::index_of).
    pub buckets: [AtomicU64; BUCKET_ROOM],
}

/// What one launching thread counts without locks; a page.
#[repr(C, align(4096))]
pub struct Shard {
    /// Kernel thread id of the owner, 0 when free. Shard 0 is never owned.
    pub owner_tid: AtomicU32,
    _reserved0: u32,
    /// Sum of the values in the shard's [`Window`], in nanoseconds.
    pub launch_sum_ns: AtomicU64,
    /// Largest value there, in nanoseconds.
    pub launch_max_ns: AtomicU64,
    _reserved1: [u64; 5],
    /// Launch calls that are not yet in the shard's [`Window`]: the host's cost in nanoseconds plus one, or 0.
    pub recent: [AtomicU32; RECENT],
    /// The owner's, of no meaning to others: launches until it looks at kernels of a kind again.
    pub countdowns: [AtomicU8; COUNTDOWNS],
    /// Calls of each hook; launches are the first.
    pub calls: [AtomicU64; HOOKS],
}

/// Host cost of a shard's launch calls below [`WINDOW_LIMIT_NS`](crate::histogram::WINDOW_LIMIT_NS), by bucket.
pub type Window = [AtomicU64; WINDOW_BUCKETS];

/// The first page of a segment: who wrote it and how to read the rest.
#[repr(C, align(4096))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: AtomicU32,
    /// Number of hooks named.
    pub hooks: AtomicU32,
    /// Size of the whole segment in bytes.
    pub segment_bytes: AtomicU64,
    /// Random id of this life of the process, so that a reused PID is noticed.
    pub generation: AtomicU64,
    /// Process id in the process's own PID namespace.
    pub pid: AtomicU32,
    /// User id.
    pub uid: AtomicU32,
    /// Start time of the process, field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot.
    pub start_ticks: AtomicU64,
    /// When the segment was made, nanoseconds since the epoch.
    pub created_unix_ns: AtomicU64,
    /// When the process ended in order, nanoseconds since the epoch; 0 while it lives or when it was killed.
    pub ended_unix_ns: AtomicU64,
    /// Priority, 0 to 100, higher is more important.
    pub priority: AtomicU32,
    /// Version of the driver, as cuDriverGetVersion tells it.
    pub driver_version: AtomicU32,
    /// Number of devices named in `devices`.
    pub device_count: AtomicU32,
    /// Number of names in `unknown`.
    pub unknown_count: AtomicU32,
    /// UUIDs of the devices on which the process has a context.
    pub devices: [[u8; 16]; DEVICES],
    /// Version of the library, zero-terminated.
    pub library: [u8; 32],
    /// Command line, blanks between arguments, cut and zero-terminated.
    pub command: [u8; 512],
    /// Hooked names that were looked up and not known, zero-terminated.
    pub unknown: [[u8; NAME_BYTES]; UNKNOWN_NAMES],
}

/// A whole segment.
#[repr(C, align(4096))]
pub struct Segment {
    /// Who wrote it.
    pub header: Header,
    /// Names of the hooks, zero-terminated.
    pub hook_names: [[u8; NAME_BYTES]; HOOKS],
    /// [`HookKind`] of each hook.
    pub hook_kinds: [u8; HOOKS],
    /// [`HookState`] of each hook.
    pub hook_states: [AtomicU8; HOOKS],
    /// Calls of each hook that returned an error.
    pub errors: [AtomicU64; HOOKS],
    /// Counters and gauges, by [`Statistic`](crate::statistics::Statistic).
    pub counters: [AtomicU64; COUNTERS],
    /// Host cost of launch calls of [`WINDOW_LIMIT_NS`](crate::histogram::WINDOW_LIMIT_NS) or more.
    pub launch: Histogram,
    /// GPU time of sampled launches.
    pub gpu: Histogram,
    /// Latency of requests: first work after idle to the synchronisation that ends it.
    pub request: Histogram,
    /// What launching threads count.
    pub shards: [Shard; SHARDS],
    /// For each shard its histogram.
    pub launches: [Window; SHARDS],
}

/// Size of a segment in bytes.
pub const SEGMENT_BYTES: usize = size_of::<Segment>();

const _: () = {
    assert!(BUCKETS <= BUCKET_ROOM);
    assert!(size_of::<Header>() == 4096);
    assert!(size_of::<Histogram>() == 64 + 8 * BUCKET_ROOM);
    assert!(size_of::<Shard>() == 4096);
    assert!(std::mem::offset_of!(Header, generation) == 24);
    assert!(std::mem::offset_of!(Header, devices) == 80);
    assert!(std::mem::offset_of!(Header, command) == 368);
    assert!(std::mem::offset_of!(Shard, recent) == 64);
    assert!(std::mem::offset_of!(Shard, countdowns) == 320);
    assert!(std::mem::offset_of!(Shard, calls) == 2368);
    assert!(std::mem::offset_of!(Segment, hook_names) == 4096);
    assert!(std::mem::offset_of!(Segment, hook_kinds) == 13312);
    assert!(std::mem::offset_of!(Segment, errors) == 13696);
    assert!(std::mem::offset_of!(Segment, counters) == 15232);
    assert!(std::mem::offset_of!(Segment, launch) == 16256);
    assert!(std::mem::offset_of!(Segment, shards) == 131_072);
    assert!(std::mem::offset_of!(Segment, launches) == 212_992);
    assert!(SEGMENT_BYTES == 499_712);
    assert!(SEGMENT_BYTES <= 512 * 1024);
    assert!(SEGMENT_BYTES.is_multiple_of(4096));
};

/// Writes `text` into a fixed field, cut so that a terminating zero stays.
pub fn put_text(field: &mut [u8], text: &[u8]) {
    let room = field.len().saturating_sub(1);
    let len = text.len().min(room);
    field.fill(0);
    if let (Some(to), Some(from)) = (field.get_mut(..len), text.get(..len)) {
        to.copy_from_slice(from);
    }
}

/// The text of a fixed field up to its first zero; bytes that are no UTF-8 or that control a terminal are replaced.
#[must_use]
pub fn text_of(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
