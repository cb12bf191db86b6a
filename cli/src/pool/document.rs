//! The JSON document of `aictl pool --json`: raw numbers, units in the key names, null for what does not exist.

use super::{blocks, map, map_of};
use crate::failure::Failure;
use crate::stats::document::{Pool as Figures, generation, skipped_by_reason, state, unix_ns, written};
use aishim_abi::pool_reader::{Extent, SlabCopy, State};
use aishim_observe::{Board, PoolMap, Process, Snapshot};
use serde::Serialize;
use std::collections::BTreeMap;

/// Changes with every change that a program reading the document would stumble over.
const SCHEMA_VERSION: u32 = 1;

/// The document of these processes.
pub(super) fn text(snapshot: &Snapshot, processes: &[&Process]) -> Result<String, Failure> {
    let document = Document {
        schema_version: SCHEMA_VERSION,
        library_version: env!("CARGO_PKG_VERSION"),
        simulated: snapshot.board.as_ref().is_ok_and(Board::is_simulated),
        taken_unix_ns: unix_ns(snapshot.taken),
        skipped_segments: skipped_by_reason(snapshot),
        processes: processes.iter().map(|process| ProcessEntry::of(process)).collect(),
    };
    Ok(written(&document, true)? + "\n")
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    library_version: &'static str,
    simulated: bool,
    taken_unix_ns: u64,
    skipped_segments: BTreeMap<&'static str, u64>,
    processes: Vec<ProcessEntry<'a>>,
}

#[derive(Serialize)]
struct ProcessEntry<'a> {
    pid: u32,
    user: &'a str,
    command: &'a str,
    state: &'static str,
    ended_unix_ns: Option<u64>,
    start_ticks: u64,
    generation: String,
    /// None where the pool is off.
    pool: Option<Figures>,
    /// From 0 to 1.
    hit_rate: Option<f64>,
    map: Option<MapEntry>,
    /// Why there is no map, where there should be one.
    map_error: Option<String>,
}

#[derive(Serialize)]
struct MapEntry {
    block_bytes: u64,
    total_blocks: u64,
    allocated_blocks: u64,
    waiting_for_gpu_blocks: u64,
    free_blocks: u64,
    largest_free_blocks: u64,
    /// From 0 to 1: how much of what is free is not in the longest run.
    fragmentation: Option<f64>,
    slabs: Vec<SlabEntry>,
}

#[derive(Serialize)]
struct SlabEntry {
    number: usize,
    /// Hexadecimal, as all addresses: they do not fit the numbers of every JSON reader.
    start: String,
    bytes: u64,
    first_block: u64,
    blocks: u32,
    extents: Vec<ExtentEntry>,
}

#[derive(Serialize)]
struct ExtentEntry {
    start: String,
    bytes: u64,
    first_block: u64,
    blocks: u32,
    state: &'static str,
    owner_pid: Option<u32>,
    requested_bytes: Option<u64>,
    age_ns: Option<u64>,
}

impl<'a> ProcessEntry<'a> {
    fn of(process: &'a Process) -> Self {
        let error = process.pool_map.as_ref().and_then(|map| map.as_ref().err());
        Self {
            pid: process.pid,
            user: &process.user,
            command: &process.command,
            state: state(process),
            ended_unix_ns: process.ended.map(unix_ns),
            start_ticks: process.start_ticks,
            generation: generation(process),
            pool: Figures::of(process),
            hit_rate: map::hit_rate(process),
            map: map_of(process).map(|map| MapEntry::of(process.pid, map)),
            map_error: error.map(|skipped| skipped.detail.clone()),
        }
    }
}

impl MapEntry {
    fn of(pid: u32, map: &PoolMap) -> Self {
        let totals = &map.totals;
        Self {
            block_bytes: map.block_bytes,
            total_blocks: totals.blocks,
            allocated_blocks: totals.allocated_blocks,
            waiting_for_gpu_blocks: totals.waiting_blocks,
            free_blocks: totals.free_blocks,
            largest_free_blocks: totals.largest_free_blocks,
            fragmentation: totals.fragmentation(),
            slabs: map.slabs.iter().map(|slab| SlabEntry::of(pid, map, slab)).collect(),
        }
    }
}

impl SlabEntry {
    fn of(pid: u32, map: &PoolMap, slab: &SlabCopy) -> Self {
        Self {
            number: slab.number,
            start: format!("{:#x}", slab.start),
            bytes: u64::from(slab.blocks) * map.block_bytes,
            first_block: slab.first_block,
            blocks: slab.blocks,
            extents: slab.extents.iter().map(|extent| ExtentEntry::of(pid, map, slab, extent)).collect(),
        }
    }
}

impl ExtentEntry {
    fn of(pid: u32, map: &PoolMap, slab: &SlabCopy, extent: &Extent) -> Self {
        let (state, requested_bytes, age) = match extent.state {
            State::Free => ("free", None, None),
            State::Allocated { requested_bytes, since_created } => {
                ("allocated", Some(requested_bytes), Some(map.age(since_created)))
            }
            State::WaitingForGpu { requested_bytes } => ("waiting_for_gpu", Some(requested_bytes), None),
        };
        Self {
            start: format!("{:#x}", blocks::start(map, slab, extent)),
            bytes: u64::from(extent.blocks) * map.block_bytes,
            first_block: slab.first_block + u64::from(extent.first_block),
            blocks: extent.blocks,
            state,
            owner_pid: requested_bytes.map(|_| pid),
            requested_bytes,
            age_ns: age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        }
    }
}
