//! One look at everything.

use crate::gpu::{Board, GpuProcess};
use crate::places::{self, Place};
use crate::process::{Process, Reader, State};
use crate::procfs::{self, Identity};
use crate::skipped::Skipped;
use aishim_abi::segment_file;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime};

/// The library that answers for the GPUs.
pub const NVML: &str = "libnvidia-ml.so.1";

/// Without persistence mode NVML initialises every GPU anew, which takes seconds; what takes longer than this hangs.
const NVML_PATIENCE: Duration = Duration::from_secs(10);

/// More segments than this in one directory are not looked at: a directory may be somebody else's.
const MOST_SEGMENTS: usize = 4096;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Options {
    /// The runtime directory, as [`aishim_abi::directory::path`] tells it.
    pub directory: PathBuf,
    /// Whether to look into the directories of the system and of other users too, as far as they may be read.
    pub everybody: bool,
    /// Name or path of the NVML library; none leaves the GPUs out.
    pub nvml: Option<PathBuf>,
    /// Whether to read the maps of pools too.
    pub pools: bool,
}

/// What was seen at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// When.
    pub taken: SystemTime,
    /// The directories that were looked into.
    pub directories: Vec<PathBuf>,
    /// Processes under aishim: the living by PID, then those that ended in the last
    /// [`KEEP_ENDED`](segment_file::KEEP_ENDED).
    pub processes: Vec<Process>,
    /// Segments of processes that ended before that; the next shim that starts in the directory removes them.
    pub expired: usize,
    /// Files that were left out.
    pub skipped: Vec<Skipped>,
    /// The GPUs, or why there is nothing to tell of them.
    pub board: Result<Board, String>,
    /// Processes that NVML sees on a GPU and that have no segment.
    pub not_under_aishim: Vec<Foreigner>,
}

/// A process on a GPU that is not under aishim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreigner {
    /// Process id as NVML tells it.
    pub pid: u32,
    /// Name of its user, where /proc tells it.
    pub user: Option<String>,
    /// Command line, where /proc tells it.
    pub command: Option<String>,
    /// UUID of the GPU.
    pub gpu_uuid: String,
    /// Memory it uses there, in bytes, where the driver tells it.
    pub gpu_memory_bytes: Option<u64>,
}

impl Options {
    /// What `aictl` uses: the runtime directory of this user as `variable` (the value of `AISHIM_DIR`) has it. Where that
    /// is set, it alone is looked into.
    #[must_use]
    pub fn of_environment() -> Self {
        let variable = std::env::var_os(aishim_abi::directory::VARIABLE);
        let everybody = variable.as_ref().is_none_or(|v| v.is_empty());
        let uid = rustix::process::geteuid().as_raw();
        Self {
            directory: aishim_abi::directory::path(variable, uid),
            everybody,
            nvml: Some(PathBuf::from(NVML)),
            pools: false,
        }
    }
}

impl Snapshot {
    /// Looks at everything once.
    #[must_use]
    pub fn take(options: &Options) -> Self {
        // NVML takes its time to load; the segments are read meanwhile.
        let board = options.nvml.clone().map(ask);
        let seen = Segments::read(&places::all(options), options.pools);
        let board = board.map_or_else(|| Err("not asked for".to_owned()), |b| answer(&b));
        seen.with_board(board)
    }
}

/// Asks NVML on a thread of its own: a GPU that has fallen off the bus can keep a caller waiting for ever.
fn ask(library: PathBuf) -> Receiver<Result<Board, String>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens any more where it took too long.
        let _ = sender.send(Board::read(&library));
    });
    receiver
}

fn answer(board: &Receiver<Result<Board, String>>) -> Result<Board, String> {
    board.recv_timeout(NVML_PATIENCE).unwrap_or_else(|_| {
        let seconds = NVML_PATIENCE.as_secs();
        Err(format!("NVML did not answer in {seconds} s; a GPU may be lost"))
    })
}

/// The half of a snapshot that comes from files.
#[derive(Default)]
struct Segments {
    directories: Vec<PathBuf>,
    processes: Vec<Process>,
    expired: usize,
    skipped: Vec<Skipped>,
    reader: Reader,
}

impl Segments {
    fn read(places: &[Place], with_pools: bool) -> Self {
        let mut seen = Self::default();
        seen.reader.with_pools = with_pools;
        for place in places {
            // A directory that is missing or closed to us has nothing to show.
            let Ok(mut files) = segment_file::list(&place.reach) else {
                continue;
            };
            seen.directories.push(place.directory.clone());
            files.sort();
            for file in files.iter().skip(MOST_SEGMENTS) {
                let name = file.file_name().unwrap_or_default();
                seen.skipped.push(Skipped::one_too_many(&place.directory.join(name)));
            }
            for file in files.iter().take(MOST_SEGMENTS) {
                seen.add(file, &place.directory);
            }
        }
        seen.processes.sort_by_key(|p| (p.has_ended(), p.pid, p.start_ticks));
        seen
    }

    fn add(&mut self, file: &Path, directory: &Path) {
        let named = |file: &Path| directory.join(file.file_name().unwrap_or_default());
        match Process::read(file, &mut self.reader) {
            Ok(process) if process.ended.is_some_and(is_long_ago) => self.expired += 1,
            Ok(mut process) => {
                process.file = named(&process.file);
                if let Some(Err(skipped)) = &mut process.pool_map {
                    skipped.file = named(&skipped.file);
                }
                self.processes.push(process);
            }
            Err(skipped) if skipped.has_vanished() => {}
            Err(mut skipped) => {
                skipped.file = named(&skipped.file);
                self.skipped.push(skipped);
            }
        }
    }

    fn with_board(mut self, board: Result<Board, String>) -> Snapshot {
        let on_gpus = board.as_ref().map(|b| b.processes.clone()).unwrap_or_default();
        let not_under_aishim = self.foreigners(on_gpus);
        Snapshot {
            taken: SystemTime::now(),
            directories: self.directories,
            processes: self.processes,
            expired: self.expired,
            skipped: self.skipped,
            board,
            not_under_aishim,
        }
    }

    fn foreigners(&mut self, on_gpus: Vec<GpuProcess>) -> Vec<Foreigner> {
        let living = self.processes.iter().filter(|p| p.state != State::Ended);
        let ours: HashSet<(u32, u64)> = living.map(|p| (p.pid, p.start_ticks)).collect();
        let pids: HashSet<u32> = ours.iter().map(|(pid, _)| *pid).collect();
        // A process in a container knows itself by another PID than we do; its start time is the same everywhere.
        let is_ours = |pid: u32| match Identity::of(pid) {
            Some(i) => ours.contains(&(i.innermost_pid, i.start_ticks)),
            None => pids.contains(&pid),
        };
        let mut foreigners: Vec<Foreigner> = on_gpus
            .into_iter()
            .filter(|p| !is_ours(p.pid))
            .map(|p| Foreigner {
                pid: p.pid,
                user: procfs::owner(p.pid).map(|uid| self.reader.names.of(uid)),
                command: procfs::command(p.pid),
                gpu_uuid: p.gpu_uuid,
                gpu_memory_bytes: p.memory_bytes,
            })
            .collect();
        foreigners.sort_by(|a, b| (a.pid, &a.gpu_uuid).cmp(&(b.pid, &b.gpu_uuid)));
        foreigners
    }
}

fn is_long_ago(ended: SystemTime) -> bool {
    ended.elapsed().is_ok_and(|age| age > segment_file::KEEP_ENDED)
}
