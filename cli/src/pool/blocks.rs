//! The list of `aictl pool --blocks`.

use super::map_of;
use aishim_abi::pool_reader::{Extent, SlabCopy, State};
use aishim_observe::{PoolMap, Process};
use std::fmt::Write;

/// A line for each allocated block and each stretch that is free; with `headings` one before those of each process.
pub(super) fn list(processes: &[&Process], headings: bool) -> String {
    let mut list = String::new();
    for process in processes {
        let Some(map) = map_of(process) else { continue };
        if headings {
            let _ = writeln!(list, "Process {} ({})", process.pid, process.command);
        }
        for slab in &map.slabs {
            for extent in &slab.extents {
                let _ = writeln!(list, "{}", line(process.pid, map, slab, extent));
            }
        }
    }
    list
}

fn line(pid: u32, map: &PoolMap, slab: &SlabCopy, extent: &Extent) -> String {
    let start = start(map, slab, extent);
    let end = start + u64::from(extent.blocks) * map.block_bytes;
    let number = slab.first_block + u64::from(extent.first_block);
    let what = match extent.state {
        State::Free => "FREE".to_owned(),
        State::Allocated { .. } => format!("ALLOCATED: PID {pid}"),
        State::WaitingForGpu { .. } => format!("WAITING FOR GPU: PID {pid}"),
    };
    format!("{start:#014x} - {end:#014x}  Block {number} [{what}]")
}

/// The address of an extent's first byte, in its process.
pub(super) fn start(map: &PoolMap, slab: &SlabCopy, extent: &Extent) -> u64 {
    slab.start + u64::from(extent.first_block) * map.block_bytes
}
