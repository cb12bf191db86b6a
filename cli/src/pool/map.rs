//! A pool drawn: totals, a map for each slab, the largest blocks.

use super::{blocks, map_of, why_unreadable};
use crate::{stats, units};
use aishim_abi::pool_reader::{Extent, SlabCopy, State};
use aishim_abi::statistics::Statistic;
use aishim_observe::{PoolMap, Process};
use std::fmt::Write;
use std::time::SystemTime;

/// Characters in a line where no terminal says how many it has, and the fewest that are of use.
const USUAL_COLUMNS: usize = 80;
const FEWEST_COLUMNS: usize = 16;

/// Longest line of a map: beyond that nobody finds a place in it.
const MOST_COLUMNS: usize = 128;

/// A character stands for so many blocks that all maps of a pool take about this many lines.
const LINES: usize = 16;

/// The largest blocks that are told of one by one.
const LARGEST: usize = 10;

/// What maps are indented by.
const INDENT: &str = "  ";

/// All about the pool of one process.
pub(super) fn process(page: &mut String, process: &Process, now: SystemTime, columns: Option<usize>) {
    let heading = format!("PID {} {} {}, {}", process.pid, process.user, process.command, stats::state(process, now));
    let _ = writeln!(page, "{}", columns.map_or(heading.clone(), |columns| stats::cut(&heading, columns)));
    if process.statistic(Statistic::PoolCapacity) == 0 {
        page.push_str("  the pool is off\n");
        return;
    }
    totals(page, process);
    if let Some(Err(skipped)) = &process.pool_map {
        let _ = writeln!(page, "  no map: the file ({}", why_unreadable(skipped));
    }
    let Some(map) = map_of(process) else { return };
    let width = columns.unwrap_or(USUAL_COLUMNS).saturating_sub(INDENT.len()).clamp(FEWEST_COLUMNS, MOST_COLUMNS);
    slabs(page, map, width);
    largest(page, process.pid, map);
}

fn totals(page: &mut String, process: &Process) {
    let size = |s| units::bytes(process.statistic(s));
    let reserved = format!("{} of {} page-locked", size(Statistic::PoolReserved), size(Statistic::PoolCapacity));
    let slabs = map_of(process).map_or(String::new(), |map| {
        let (many, block) = (map.slabs.len(), units::bytes(map.block_bytes));
        format!(" in {many} slab{}, in blocks of {block}", if many == 1 { "" } else { "s" })
    });
    let hits = process.statistic(Statistic::PoolHits);
    let rate = units::or_dash(hit_rate(process).map(|rate| format!("{:.1} %", rate * 100.0)));
    let requests = hits.saturating_add(missed(process));
    let mut lines = vec![
        ("Pool", reserved + &slabs),
        ("High-water mark", size(Statistic::PoolHighWater)),
        ("Hit rate", format!("{rate} ({hits} of {requests} requests)")),
    ];
    if let Some(map) = map_of(process) {
        let bytes = |blocks: u64| units::bytes(blocks * map.block_bytes);
        let t = &map.totals;
        lines.extend([
            ("Allocated", bytes(t.allocated_blocks)),
            ("Waiting for GPU", bytes(t.waiting_blocks)),
            ("Free", format!("{}, {} of it in one piece", bytes(t.free_blocks), bytes(t.largest_free_blocks))),
            ("Fragmentation", units::or_dash(t.fragmentation().map(|f| format!("{:.0} %", f * 100.0)))),
        ]);
    }
    for (title, text) in lines {
        let _ = writeln!(page, "  {title:<16} {text}");
    }
}

/// The share of requests that were served; none where there was none.
pub(super) fn hit_rate(process: &Process) -> Option<f64> {
    let hits = process.statistic(Statistic::PoolHits);
    let requests = hits.saturating_add(missed(process));
    (requests > 0).then(|| hits as f64 / requests as f64)
}

fn missed(process: &Process) -> u64 {
    stats::misses(process).fold(0, |sum, (_, count)| sum.saturating_add(count))
}

fn slabs(page: &mut String, map: &PoolMap, width: usize) {
    if map.slabs.is_empty() {
        return;
    }
    let cell = cell_blocks(map.totals.blocks, width);
    let size = units::bytes(cell * map.block_bytes);
    let _ = writeln!(page, "  # allocated, + in part, ~ waiting for the GPU, . free; each {size}");
    for slab in &map.slabs {
        let bytes = units::bytes(u64::from(slab.blocks) * map.block_bytes);
        let _ = writeln!(page, "  Slab {} at {:#014x}, {bytes}", slab.number, slab.start);
        let cells = cells(slab, cell);
        for line in cells.as_bytes().chunks(width) {
            let _ = writeln!(page, "{INDENT}{}", String::from_utf8_lossy(line));
        }
    }
}

/// How many blocks a character stands for: a power of two, so that it is a round size.
fn cell_blocks(blocks: u64, width: usize) -> u64 {
    blocks.div_ceil((width * LINES) as u64).next_power_of_two()
}

/// A slab, a character for each `cell` blocks.
fn cells(slab: &SlabCopy, cell: u64) -> String {
    let count = u64::from(slab.blocks).div_ceil(cell) as usize;
    let mut allocated = vec![0; count];
    let mut waiting = vec![0; count];
    for extent in &slab.extents {
        let to = match extent.state {
            State::Free => continue,
            State::Allocated { .. } => &mut allocated,
            State::WaitingForGpu { .. } => &mut waiting,
        };
        let (first, last) = (u64::from(extent.first_block), u64::from(extent.first_block + extent.blocks));
        for (number, blocks) in to.iter_mut().enumerate().skip((first / cell) as usize) {
            let begin = number as u64 * cell;
            if begin >= last {
                break;
            }
            *blocks += last.min(begin + cell) - first.max(begin);
        }
    }
    let size = |number: usize| cell.min(u64::from(slab.blocks) - number as u64 * cell);
    let mark = |(number, (&allocated, &waiting)): (usize, (&u64, &u64))| match (allocated, waiting) {
        (0, 0) => '.',
        (0, _) => '~',
        (blocks, _) if blocks == size(number) => '#',
        _ => '+',
    };
    allocated.iter().zip(&waiting).enumerate().map(mark).collect()
}

fn largest(page: &mut String, pid: u32, map: &PoolMap) {
    let all = map.slabs.iter().flat_map(|slab| slab.extents.iter().map(move |extent| (slab, extent)));
    let mut held: Vec<(&SlabCopy, &Extent)> = all.filter(|(_, e)| matches!(e.state, State::Allocated { .. })).collect();
    if held.is_empty() {
        return;
    }
    held.sort_by_key(|(_, extent)| std::cmp::Reverse(extent.blocks));
    let _ = writeln!(page, "  {:>14} {:>10} {:>10} {:>8} {:>8}", "ADDRESS", "SIZE", "REQUESTED", "AGE", "OWNER");
    for (slab, extent) in held.iter().take(LARGEST) {
        let State::Allocated { requested_bytes, since_created } = extent.state else { continue };
        let age_ns = u64::try_from(map.age(since_created).as_nanos()).unwrap_or(u64::MAX);
        let _ = writeln!(
            page,
            "  {:#014x} {:>10} {:>10} {:>8} {pid:>8}",
            blocks::start(map, slab, extent),
            units::bytes(u64::from(extent.blocks) * map.block_bytes),
            units::bytes(requested_bytes),
            units::duration(age_ns),
        );
    }
    if held.len() > LARGEST {
        let _ = writeln!(page, "  and {} smaller ones (aictl pool {pid} --blocks)", held.len() - LARGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn slab(blocks: u32, extents: &[(u32, u32, State)]) -> SlabCopy {
        let extent = |&(first_block, blocks, state)| Extent { first_block, blocks, state };
        SlabCopy { number: 0, start: 0x1000, first_block: 0, blocks, extents: extents.iter().map(extent).collect() }
    }

    const HELD: State = State::Allocated { requested_bytes: 1, since_created: Duration::ZERO };
    const WAITING: State = State::WaitingForGpu { requested_bytes: 1 };

    #[test]
    fn a_character_says_what_is_in_its_blocks() {
        let slab = slab(
            18,
            &[(0, 4, HELD), (4, 1, HELD), (5, 3, State::Free), (8, 1, WAITING), (9, 7, State::Free), (16, 2, HELD)],
        );
        assert_eq!(cells(&slab, 4), "#+~.#");
        assert_eq!(cells(&slab, 1), "#####...~.......##");
        assert_eq!(cells(&slab, 32), "+");
    }

    #[test]
    fn a_map_takes_a_page_whatever_its_size() {
        assert_eq!(cell_blocks(1, 78), 1);
        assert_eq!(cell_blocks(65_536, 128), 32);
        for width in [FEWEST_COLUMNS, 78, MOST_COLUMNS] {
            assert!(1_048_576 / cell_blocks(1_048_576, width) <= (width * LINES) as u64);
        }
    }
}
