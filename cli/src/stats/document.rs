//! The JSON document of `aictl stats --json`: raw numbers, units in the key names, null for what does not exist.

use super::detail;
use super::order::Standing;
use crate::failure::Failure;
use aishim_abi::rank::Class;
use aishim_abi::reader::Hook;
use aishim_abi::statistics::{ALL, Statistic};
use aishim_observe::snapshot::Foreigner;
use aishim_observe::{Board, Gpu, Process, Snapshot, State, Summary};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

/// Changes with every change that a program reading the document would stumble over.
const SCHEMA_VERSION: u32 = 1;

/// The document with every process, or with `selected` alone.
pub(super) fn text(snapshot: &Snapshot, selected: Option<&Process>, pretty: bool) -> Result<String, Failure> {
    written(&Document::of(snapshot, selected), pretty)
}

/// A document as text.
pub(crate) fn written(document: &impl Serialize, pretty: bool) -> Result<String, Failure> {
    let text = if pretty { serde_json::to_string_pretty(document) } else { serde_json::to_string(document) };
    text.map_err(|e| Failure::Error(format!("the document cannot be written: {e}")))
}

/// How many files were left out, by reason.
pub(crate) fn skipped_by_reason(snapshot: &Snapshot) -> BTreeMap<&'static str, u64> {
    let mut reasons = BTreeMap::new();
    for skipped in &snapshot.skipped {
        *reasons.entry(skipped.reason.key()).or_insert(0) += 1;
    }
    reasons
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    library_version: &'static str,
    simulated: bool,
    taken_unix_ns: u64,
    runtime_directories: Vec<String>,
    skipped_segments: BTreeMap<&'static str, u64>,
    nvml: Nvml<'a>,
    gpus: Vec<GpuEntry<'a>>,
    processes: Vec<ProcessEntry<'a>>,
    not_under_aishim: Vec<ForeignEntry<'a>>,
}

#[derive(Serialize)]
struct Nvml<'a> {
    available: bool,
    reason: Option<&'a str>,
    driver_version: Option<&'a str>,
}

#[derive(Serialize)]
struct GpuEntry<'a> {
    uuid: Option<&'a str>,
    name: Option<&'a str>,
    utilisation_percent: Option<u32>,
    memory_used_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    available: bool,
    unavailable_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct ProcessEntry<'a> {
    pid: u32,
    uid: u32,
    user: &'a str,
    command: &'a str,
    state: &'static str,
    ended_unix_ns: Option<u64>,
    start_ticks: u64,
    /// Hexadecimal: it is a name, not a number, and does not fit the numbers of every JSON reader.
    generation: String,
    priority: u32,
    class: Option<&'static str>,
    class_suggested: Option<&'static str>,
    class_reason: Option<&'static str>,
    weight: Option<u64>,
    is_gated: bool,
    gated_by_pid: Option<u64>,
    gated_share_per_mille: Option<u64>,
    library_version: &'a str,
    driver_version: u32,
    devices: &'a [String],
    gpu_time_ns: Option<u64>,
    launches: u64,
    launch_p50_ns: Option<u64>,
    launch_p99_ns: Option<u64>,
    request_p50_ns: Option<u64>,
    request_p99_ns: Option<u64>,
    pinned_bytes: u64,
    device_bytes: u64,
    counters: Map<&'static str>,
    calls: Map<&'a str>,
    errors: Map<&'a str>,
    hooks_missing: Vec<&'a str>,
    unknown_names: &'a [String],
    histograms: Histograms,
    pool: Option<Pool>,
}

#[derive(Serialize)]
struct Histograms {
    launch: HistogramEntry,
    gpu: HistogramEntry,
    request: HistogramEntry,
}

#[derive(Serialize)]
struct HistogramEntry {
    count: u64,
    sum_ns: u64,
    average_ns: Option<u64>,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    max_ns: Option<u64>,
    /// Smallest value, largest value, count; of buckets with something in them.
    buckets: Vec<[u64; 3]>,
}

/// The figures of a pool.
#[derive(Serialize)]
pub(crate) struct Pool {
    capacity_bytes: u64,
    reserved_bytes: u64,
    block_bytes: u64,
    total_blocks: Option<u64>,
    allocated_bytes: u64,
    allocated_blocks: Option<u64>,
    quarantined_bytes: u64,
    high_water_bytes: u64,
    hits: u64,
    misses: Map<&'static str>,
}

#[derive(Serialize)]
struct ForeignEntry<'a> {
    pid: u32,
    user: Option<&'a str>,
    command: Option<&'a str>,
    gpu_uuid: &'a str,
    gpu_memory_bytes: Option<u64>,
}

/// An object of numbers in the order in which they were declared.
struct Map<K>(Vec<(K, u64)>);

impl<K: Serialize> Serialize for Map<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, number)| (key, number)))
    }
}

impl<'a> Document<'a> {
    fn of(snapshot: &'a Snapshot, selected: Option<&'a Process>) -> Self {
        let all: Vec<&Process> = match selected {
            Some(process) => vec![process],
            None => snapshot.processes.iter().collect(),
        };
        let board = snapshot.board.as_ref();
        let gpus = board.map(|b| b.gpus.as_slice()).unwrap_or_default();
        Self {
            schema_version: SCHEMA_VERSION,
            library_version: env!("CARGO_PKG_VERSION"),
            simulated: board.is_ok_and(Board::is_simulated),
            taken_unix_ns: unix_ns(snapshot.taken),
            runtime_directories: snapshot.directories.iter().map(|d| path_text(d)).collect(),
            skipped_segments: skipped_by_reason(snapshot),
            nvml: Nvml {
                available: board.is_ok(),
                reason: board.err().map(String::as_str),
                driver_version: board.ok().and_then(|b| b.driver_version.as_deref()),
            },
            gpus: gpus.iter().map(GpuEntry::of).collect(),
            processes: all.into_iter().map(ProcessEntry::of).collect(),
            not_under_aishim: snapshot.not_under_aishim.iter().map(ForeignEntry::of).collect(),
        }
    }
}

impl<'a> GpuEntry<'a> {
    fn of(gpu: &'a Gpu) -> Self {
        Self {
            uuid: gpu.uuid.as_deref(),
            name: gpu.name.as_deref(),
            utilisation_percent: gpu.utilisation_percent,
            memory_used_bytes: gpu.memory_used_bytes,
            memory_total_bytes: gpu.memory_total_bytes,
            available: gpu.unavailable.is_none(),
            unavailable_reason: gpu.unavailable.as_deref(),
        }
    }
}

impl<'a> ProcessEntry<'a> {
    fn of(process: &'a Process) -> Self {
        let standing = Standing::of(process);
        let histograms = Histograms {
            launch: HistogramEntry::of(&process.launch),
            gpu: HistogramEntry::of(&process.gpu),
            request: HistogramEntry::of(&process.request),
        };
        Self {
            pid: process.pid,
            uid: process.uid,
            user: &process.user,
            command: &process.command,
            state: state(process),
            ended_unix_ns: process.ended.map(unix_ns),
            start_ticks: process.start_ticks,
            generation: generation(process),
            priority: process.priority,
            class: standing.class.map(Class::name),
            class_suggested: standing.suggested.map(|(class, _)| class.name()),
            class_reason: standing.suggested.map(|(_, reason)| reason.name()),
            weight: standing.weight,
            is_gated: standing.gated_by.is_some(),
            gated_by_pid: standing.gated_by.filter(|pid| *pid != 0),
            gated_share_per_mille: standing.gated_per_mille,
            library_version: &process.library_version,
            driver_version: process.driver_version,
            devices: &process.devices,
            gpu_time_ns: process.gpu_time_ns(),
            launches: process.launches,
            launch_p50_ns: histograms.launch.p50_ns,
            launch_p99_ns: histograms.launch.p99_ns,
            request_p50_ns: histograms.request.p50_ns,
            request_p99_ns: histograms.request.p99_ns,
            pinned_bytes: process.statistic(Statistic::PinnedBytes),
            device_bytes: process.statistic(Statistic::DeviceBytes),
            counters: counters(process),
            calls: by_hook(process, |hook| hook.calls),
            errors: by_hook(process, |hook| hook.errors),
            hooks_missing: hooks_missing(process),
            unknown_names: &process.unknown_names,
            histograms,
            pool: Pool::of(process),
        }
    }
}

/// What a process is doing, in one word.
pub(crate) fn state(process: &Process) -> &'static str {
    match process.state {
        State::Running => "running",
        State::Idle => "idle",
        State::Ended => "ended",
    }
}

/// The name of this life of a process.
pub(crate) fn generation(process: &Process) -> String {
    format!("{:016x}", process.generation)
}

fn counters(process: &Process) -> Map<&'static str> {
    let pairs = ALL.iter().map(|s| (s.description().key, process.statistic(*s)));
    Map(pairs.collect())
}

/// The hooks for which `number` is not zero.
fn by_hook(process: &Process, number: impl Fn(&Hook) -> u64) -> Map<&str> {
    let pairs = process.hooks.iter().map(|h| (h.name.as_str(), number(h)));
    Map(pairs.filter(|(_, n)| *n > 0).collect())
}

fn hooks_missing(process: &Process) -> Vec<&str> {
    let missing = process.hooks.iter().filter(|h| !h.present);
    missing.map(|h| h.name.as_str()).collect()
}

impl HistogramEntry {
    fn of(summary: &Summary) -> Self {
        let figures = summary.figures;
        let buckets = summary.buckets.iter();
        Self {
            count: summary.count,
            sum_ns: summary.sum_ns,
            average_ns: figures.map(|f| f.average_ns),
            p50_ns: figures.map(|f| f.p50_ns),
            p90_ns: figures.map(|f| f.p90_ns),
            p99_ns: figures.map(|f| f.p99_ns),
            max_ns: figures.map(|f| f.max_ns),
            buckets: buckets.map(|b| [b.low_ns, b.high_ns, b.count]).collect(),
        }
    }
}

impl Pool {
    /// None where the pool is off.
    pub(crate) fn of(process: &Process) -> Option<Self> {
        let of = |s| process.statistic(s);
        (of(Statistic::PoolCapacity) > 0).then(|| Self {
            capacity_bytes: of(Statistic::PoolCapacity),
            reserved_bytes: of(Statistic::PoolReserved),
            block_bytes: of(Statistic::PoolBlock),
            total_blocks: detail::blocks(process, Statistic::PoolCapacity),
            allocated_bytes: of(Statistic::PoolAllocated),
            allocated_blocks: detail::blocks(process, Statistic::PoolAllocated),
            quarantined_bytes: of(Statistic::PoolQuarantined),
            high_water_bytes: of(Statistic::PoolHighWater),
            hits: of(Statistic::PoolHits),
            misses: Map(detail::misses(process).collect()),
        })
    }
}

impl<'a> ForeignEntry<'a> {
    fn of(foreigner: &'a Foreigner) -> Self {
        Self {
            pid: foreigner.pid,
            user: foreigner.user.as_deref(),
            command: foreigner.command.as_deref(),
            gpu_uuid: &foreigner.gpu_uuid,
            gpu_memory_bytes: foreigner.gpu_memory_bytes,
        }
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn unix_ns(moment: SystemTime) -> u64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
