//! One process under aishim, from its segment.

use crate::gpu;
use crate::pool_map::PoolMap;
use crate::skipped::Skipped;
use crate::summary::Summary;
use crate::user::Names;
use aishim_abi::layout::PassThrough;
use aishim_abi::reader::{Hook, SegmentCopy, Which};
use aishim_abi::segment_file::{self, Entry};
use aishim_abi::statistics::{self, Statistic};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has work on a GPU that no synchronisation has ended yet.
    Running,
    /// It lives and has no such work.
    Idle,
    /// It is no more; these are its final figures.
    Ended,
}

/// One process under aishim.
#[derive(Debug)]
pub struct Process {
    /// Process id, as the process itself sees it.
    pub pid: u32,
    /// User id: the owner of the segment's file, whatever the segment says.
    pub uid: u32,
    /// Name of that user, or its number where it has none.
    pub user: String,
    /// Command line.
    pub command: String,
    /// What it is doing.
    pub state: State,
    /// When it ended, or was found dead.
    pub ended: Option<SystemTime>,
    /// Start time, field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot.
    pub start_ticks: u64,
    /// Random id of this life of the process.
    pub generation: u64,
    /// Priority, 0 to 100.
    pub priority: u32,
    /// Version of the library that counts in it.
    pub library_version: String,
    /// Version of the CUDA driver, 13000 for 13.0.
    pub driver_version: u32,
    /// UUIDs of the devices on which it has a context, as NVML writes them.
    pub devices: Vec<String>,
    /// The hooked entry points.
    pub hooks: Vec<Hook>,
    /// Hooked names that were looked up and not known.
    pub unknown_names: Vec<String>,
    /// Launches of every form.
    pub launches: u64,
    /// Host cost of launch calls.
    pub launch: Summary,
    /// GPU time of sampled launches.
    pub gpu: Summary,
    /// Latency of requests.
    pub request: Summary,
    /// The segment's file.
    pub file: PathBuf,
    /// What lies where in its pool, where that was asked for and there is a map; or why it cannot be read.
    pub pool_map: Option<Result<PoolMap, Skipped>>,
    statistics: Vec<u64>,
}

/// What is kept from one segment to the next.
#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) names: Names,
    pub(crate) with_pools: bool,
    spare: Option<SegmentCopy>,
}

impl Process {
    /// Reads the segment file at `path`, and notes the end of a process found dead where we may.
    pub(crate) fn read(path: &Path, reader: &mut Reader) -> Result<Self, Skipped> {
        let unopened = |e: io::Error| Skipped::unopened(path, &e);
        let file = segment_file::open(path).or_else(|e| reopen(path, e)).map_err(unopened)?;
        let uid = rustix::fs::fstat(&file).map_err(|e| unopened(e.into()))?.st_uid;
        let (entry, path) = segment_file::probe_open(&file, path).map_err(unopened)?;
        let segment = SegmentCopy::read_into(reader.spare.take(), &file).map_err(|e| Skipped::unread(&path, &e))?;
        let mut process = Self::of(&segment, &entry, path, uid, &mut reader.names);
        if reader.with_pools {
            process.pool_map = PoolMap::beside(&process.file, process.generation, process.ended).transpose();
        }
        reader.spare = Some(segment);
        Ok(process)
    }

    fn of(segment: &SegmentCopy, entry: &Entry, file: PathBuf, uid: u32, names: &mut Names) -> Self {
        let (state, ended) = match entry {
            Entry::Ended(when) => (State::Ended, Some(*when)),
            Entry::Alive if segment.statistic(Statistic::OpenRequests) > 0 => (State::Running, None),
            Entry::Alive => (State::Idle, None),
        };
        let summary = |which| Summary::of(&segment.histogram(which));
        Self {
            pid: segment.pid(),
            uid,
            user: names.of(uid),
            command: segment.command(),
            state,
            ended,
            start_ticks: segment.start_ticks(),
            generation: segment.generation(),
            priority: segment.priority(),
            library_version: segment.library(),
            driver_version: segment.driver_version(),
            devices: segment.devices().map(|uuid| gpu::uuid_text(&uuid)).collect(),
            hooks: segment.hooks().collect(),
            unknown_names: segment.unknown_names().collect(),
            launches: segment.launches(),
            launch: summary(Which::Launch),
            gpu: summary(Which::Gpu),
            request: summary(Which::Request),
            file,
            pool_map: None,
            statistics: statistics::ALL.iter().map(|s| segment.statistic(*s)).collect(),
        }
    }

    /// A counter or gauge.
    #[must_use]
    pub fn statistic(&self, which: Statistic) -> u64 {
        self.statistics.get(which as usize).copied().unwrap_or(0)
    }

    /// Whether it is no more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// GPU time used, in nanoseconds; none where no launch was measured.
    #[must_use]
    pub fn gpu_time_ns(&self) -> Option<u64> {
        let sampled = self.statistic(Statistic::GpuSamples) > 0;
        sampled.then(|| self.statistic(Statistic::GpuTime))
    }

    /// Why its library only forwards calls; a value unknown to this version counts as a panic.
    #[must_use]
    pub fn pass_through(&self) -> PassThrough {
        match self.statistic(Statistic::PassThrough) {
            0 => PassThrough::No,
            2 => PassThrough::Fork,
            _ => PassThrough::Panic,
        }
    }
}

/// Another observer may have renamed the file since the directory was listed.
fn reopen(path: &Path, error: io::Error) -> io::Result<rustix::fd::OwnedFd> {
    if error.kind() == io::ErrorKind::NotFound {
        return segment_file::open(&path.with_extension("ended"));
    }
    Err(error)
}
