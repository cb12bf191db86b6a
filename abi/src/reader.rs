//! A validated private copy of somebody else's segment.
//!
//! What another process wrote is an allegation. The file is copied with pread(2), so that one that is truncated while
//! we read it gives a short count and not a SIGBUS; nothing is believed before `SegmentCopy::check` has passed; and
//! every number that is used as an index or a length is clipped to the layout.

use crate::histogram;
use crate::layout::{
    self, DEVICES, HOOKS, HookKind, MAGIC, NAME_BYTES, SEGMENT_BYTES, Segment, UNKNOWN_NAMES, VERSION,
};
use crate::mapping;
use crate::statistics::Statistic;
use rustix::fd::AsFd;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// Why a file is not a segment that this version can read.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The file could not be read; the error number of pread(2).
    Io(i32),
    /// The file ends before the header does, or before the segment does.
    Truncated {
        /// Bytes there are.
        bytes: usize,
    },
    /// It does not begin with the magic number of what is read.
    NotASegment,
    /// Another version of the library wrote it.
    OtherVersion {
        /// The version found.
        found: u32,
    },
    /// A field has a value that no writer of this version gives it.
    Corrupt {
        /// Which field.
        field: &'static str,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(errno) => write!(f, "cannot be read: {}", std::io::Error::from_raw_os_error(*errno)),
            Self::Truncated { bytes } => write!(f, "ends too early, after {bytes} bytes"),
            Self::NotASegment => f.write_str("is no such file of aishim's"),
            Self::OtherVersion { found } => {
                write!(f, "has layout version {found}, which this aishim does not know")
            }
            Self::Corrupt { field } => write!(f, "is damaged: {field} has an impossible value"),
        }
    }
}

impl std::error::Error for ReadError {}

/// A copy of a segment whose header has been checked.
pub struct SegmentCopy {
    copy: Box<Segment>,
}

/// One hooked entry point as a segment tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Symbol name in the driver.
    pub name: String,
    /// What it does.
    pub kind: HookKind,
    /// Whether the driver has it.
    pub present: bool,
    /// Whether anybody was given our function for it.
    pub handed_out: bool,
    /// Calls.
    pub calls: u64,
    /// Calls that returned an error.
    pub errors: u64,
}

/// One histogram with everything that is counted in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramCopy {
    /// Counts by [`histogram::index_of`].
    pub counts: Vec<u64>,
    /// Sum of the values in nanoseconds.
    pub sum_ns: u64,
    /// Largest value in nanoseconds.
    pub max_ns: u64,
}

impl HistogramCopy {
    /// Counts one more value.
    fn add(&mut self, value_ns: u64) {
        if let Some(count) = self.counts.get_mut(histogram::index_of(value_ns)) {
            *count = count.saturating_add(1);
        }
        self.sum_ns = self.sum_ns.saturating_add(value_ns);
        self.max_ns = self.max_ns.max(value_ns);
    }
}

/// Which histogram of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Host cost of a launch call.
    Launch,
    /// GPU time of a sampled launch.
    Gpu,
    /// Latency of a request.
    Request,
}

impl SegmentCopy {
    /// Copies and checks the segment in `file`.
    ///
    /// # Errors
    /// [`ReadError`] says what is wrong with it.
    pub fn read(file: impl AsFd) -> Result<Self, ReadError> {
        Self::read_into(None, file)
    }

    /// As [`read`](Self::read), into the memory of a copy that is no longer needed: who reads many segments has fresh
    /// pages made for the first alone.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_into(spare: Option<Self>, file: impl AsFd) -> Result<Self, ReadError> {
        // What an earlier segment left is overwritten in full, or the check says that the file ends too early.
        let mut copy = spare.map_or_else(mapping::zeroed, |spare| spare.copy);
        let done = self::copy(&file, mapping::bytes_mut(&mut copy), 0)?;
        Self::check(copy, done)
    }

    /// Checks a segment that is at hand as bytes.
    ///
    /// # Errors
    /// [`ReadError`] says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut copy = mapping::zeroed();
        let len = bytes.len().min(SEGMENT_BYTES);
        mapping::bytes_mut(&mut copy)[..len].copy_from_slice(&bytes[..len]);
        Self::check(copy, len)
    }

    fn check(copy: Box<Segment>, bytes: usize) -> Result<Self, ReadError> {
        let header = &copy.header;
        if bytes < 16 {
            return Err(ReadError::Truncated { bytes });
        }
        if header.magic != MAGIC {
            return Err(ReadError::NotASegment);
        }
        // The version comes before the size: another version's segment may well be shorter.
        let found = header.version.load(Relaxed);
        if found != VERSION {
            return Err(ReadError::OtherVersion { found });
        }
        if bytes < SEGMENT_BYTES {
            return Err(ReadError::Truncated { bytes });
        }
        let corrupt = |field| Err(ReadError::Corrupt { field });
        if header.segment_bytes.load(Relaxed) != SEGMENT_BYTES as u64 {
            return corrupt("segment_bytes");
        }
        if header.hooks.load(Relaxed) as usize > HOOKS {
            return corrupt("hooks");
        }
        if header.device_count.load(Relaxed) as usize > DEVICES {
            return corrupt("device_count");
        }
        if header.unknown_count.load(Relaxed) as usize > UNKNOWN_NAMES {
            return corrupt("unknown_count");
        }
        if header.priority.load(Relaxed) > 100 {
            return corrupt("priority");
        }
        if header.pid.load(Relaxed) == 0 {
            return corrupt("pid");
        }
        if copy.hook_kinds.iter().any(|k| HookKind::from_byte(*k).is_none()) {
            return corrupt("hook_kinds");
        }
        Ok(Self { copy })
    }

    /// Process id, as the process itself sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.copy.header.pid.load(Relaxed)
    }

    /// User id.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.copy.header.uid.load(Relaxed)
    }

    /// Start time in clock ticks since boot, field 22 of /proc/PID/stat.
    #[must_use]
    pub fn start_ticks(&self) -> u64 {
        self.copy.header.start_ticks.load(Relaxed)
    }

    /// Random id of this life of the process.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.copy.header.generation.load(Relaxed)
    }

    /// Priority, 0 to 100.
    #[must_use]
    pub fn priority(&self) -> u32 {
        self.copy.header.priority.load(Relaxed)
    }

    /// Version of the CUDA driver, 13000 for 13.0.
    #[must_use]
    pub fn driver_version(&self) -> u32 {
        self.copy.header.driver_version.load(Relaxed)
    }

    /// Command line.
    #[must_use]
    pub fn command(&self) -> String {
        layout::text_of(&self.copy.header.command)
    }

    /// Version of the library that wrote the segment.
    #[must_use]
    pub fn library(&self) -> String {
        layout::text_of(&self.copy.header.library)
    }

    /// When the segment was made.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        moment(self.copy.header.created_unix_ns.load(Relaxed))
    }

    /// When the process ended in order; none while it lives, or when it was killed.
    #[must_use]
    pub fn ended(&self) -> Option<SystemTime> {
        match self.copy.header.ended_unix_ns.load(Relaxed) {
            0 => None,
            ns => Some(moment(ns)),
        }
    }

    /// UUIDs of the devices on which the process has a context.
    pub fn devices(&self) -> impl Iterator<Item = [u8; 16]> + '_ {
        let count = self.copy.header.device_count.load(Relaxed) as usize;
        self.copy.header.devices.iter().take(count).copied()
    }

    /// Hooked names that were looked up and not known.
    pub fn unknown_names(&self) -> impl Iterator<Item = String> + '_ {
        let count = self.copy.header.unknown_count.load(Relaxed) as usize;
        let names: &[[u8; NAME_BYTES]] = &self.copy.header.unknown;
        names.iter().take(count).map(|n| layout::text_of(n))
    }

    /// A counter or gauge.
    #[must_use]
    pub fn statistic(&self, which: Statistic) -> u64 {
        self.copy.counters[which as usize].load(Relaxed)
    }

    /// The hooked entry points with their calls.
    pub fn hooks(&self) -> impl Iterator<Item = Hook> + '_ {
        let count = self.copy.header.hooks.load(Relaxed) as usize;
        (0..count.min(HOOKS)).map(|i| {
            let state = self.copy.hook_states[i].load(Relaxed);
            Hook {
                name: layout::text_of(&self.copy.hook_names[i]),
                kind: HookKind::from_byte(self.copy.hook_kinds[i]).unwrap_or(HookKind::None),
                present: state != layout::HookState::Absent as u8,
                handed_out: state == layout::HookState::HandedOut as u8,
                calls: total(self.copy.shards.iter().map(|s| &s.calls[i])),
                errors: self.copy.errors[i].load(Relaxed),
            }
        })
    }

    /// Launches of every form.
    #[must_use]
    pub fn launches(&self) -> u64 {
        let count = self.copy.header.hooks.load(Relaxed) as usize;
        let is_launch = |i: &usize| self.copy.hook_kinds[*i] == HookKind::Launch as u8;
        let calls = |i| self.copy.shards.iter().map(move |s| &s.calls[i]);
        total((0..count.min(HOOKS)).filter(is_launch).flat_map(calls))
    }

    /// A histogram, the shards added up.
    #[must_use]
    pub fn histogram(&self, which: Which) -> HistogramCopy {
        let full = match which {
            Which::Launch => &self.copy.launch,
            Which::Gpu => &self.copy.gpu,
            Which::Request => &self.copy.request,
        };
        let mut copy = HistogramCopy {
            counts: full.buckets[..histogram::BUCKETS].iter().map(|c| c.load(Relaxed)).collect(),
            sum_ns: full.sum_ns.load(Relaxed),
            max_ns: full.max_ns.load(Relaxed).min(histogram::HIGHEST_NS),
        };
        if which == Which::Launch {
            self.add_shards(&mut copy);
        }
        copy
    }

    fn add_shards(&self, to: &mut HistogramCopy) {
        for (shard, window) in self.copy.shards.iter().zip(&self.copy.launches) {
            for (count, more) in to.counts.iter_mut().zip(window) {
                *count = count.saturating_add(more.load(Relaxed));
            }
            to.sum_ns = to.sum_ns.saturating_add(shard.launch_sum_ns.load(Relaxed));
            to.max_ns = to.max_ns.max(shard.launch_max_ns.load(Relaxed).min(histogram::HIGHEST_NS));
            shard.recent.iter().filter_map(|noted| noted.load(Relaxed).checked_sub(1)).for_each(|ns| to.add(ns.into()));
        }
    }
}

/// Copies from `offset` of a file on, as much as there is; how many bytes that were.
pub(crate) fn copy(file: impl AsFd, to: &mut [u8], offset: u64) -> Result<usize, ReadError> {
    let mut done = 0;
    while done < to.len() {
        match rustix::io::pread(&file, &mut to[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(ReadError::Io(e.raw_os_error())),
        }
    }
    Ok(done)
}

fn total<'a>(counts: impl Iterator<Item = &'a AtomicU64>) -> u64 {
    counts.fold(0, |sum, c| sum.saturating_add(c.load(Relaxed)))
}

fn moment(unix_ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns)
}
