//! `aictl pool`: what lies where in the pools of pinned memory.

mod blocks;
mod document;
mod map;

use crate::failure::Failure;
use crate::stats::SIMULATED;
use crate::{output, select};
use aishim_observe::skipped::Skipped;
use aishim_observe::{Board, Options, PoolMap, Process, Snapshot};
use std::process::ExitCode;

/// Shows what lies where in the pools of pinned memory
///
/// For each process under aishim that has asked for pinned memory, slab by
/// slab, a map of its pool; a character stands for as many blocks as the
/// terminal's width asks for:
///
///   allocated by the program                                      #
///   allocated in part                                             +
///   freed, and waiting until the GPU work before its free is done ~
///   free                                                          .
///
/// Beside it the totals, the share of requests that were served, the most that
/// was ever allocated, and the fragmentation: how much of what is free is not
/// in the longest run. Below it the largest allocated blocks, with their owner,
/// size and age. A pool serves one process, so the owner of its blocks is that.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Shows the pool of this process alone
    pid: Option<u32>,

    /// Lists allocated blocks and free stretches, a line each: `0xSTART - 0xEND  Block N [FREE]`, `[ALLOCATED: PID p]`
    /// or `[WAITING FOR GPU: PID p]`; END is the first address behind it, N the number of its first block of 4 KiB
    #[arg(long)]
    blocks: bool,

    /// Prints one JSON document: raw numbers, units in the key names, null for a figure that does not exist
    #[arg(long, conflicts_with = "blocks")]
    json: bool,
}

/// Shows what was asked for.
pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let snapshot = Snapshot::take(&Options { pools: true, ..Options::of_environment() });
    let processes: Vec<&Process> = match arguments.pid {
        Some(pid) => vec![readable(select::process(&snapshot, pid)?)?],
        None => snapshot.processes.iter().collect(),
    };
    let text = if arguments.json {
        document::text(&snapshot, &processes)?
    } else if arguments.blocks {
        blocks::list(&processes, arguments.pid.is_none())
    } else {
        page(&snapshot, &processes)
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn readable(process: &Process) -> Result<&Process, Failure> {
    match &process.pool_map {
        Some(Err(skipped)) => {
            let sentence = format!("the pool's map of process {} ({}", process.pid, why_unreadable(skipped));
            Err(Failure::Error(sentence))
        }
        _ => Ok(process),
    }
}

/// The file and what is wrong with it; the parenthesis is the caller's to open.
fn why_unreadable(skipped: &Skipped) -> String {
    format!("{}) {}", skipped.file.display(), skipped.detail)
}

/// The whole answer for people.
fn page(snapshot: &Snapshot, processes: &[&Process]) -> String {
    let simulated = snapshot.board.as_ref().is_ok_and(Board::is_simulated);
    let mut page = if simulated { format!("{SIMULATED}\n") } else { String::new() };
    if processes.is_empty() {
        page.push_str("No process under aishim. Start one with: aictl run -- CMD\n");
    }
    for (number, process) in processes.iter().enumerate() {
        if number > 0 {
            page.push('\n');
        }
        map::process(&mut page, process, snapshot.taken, output::columns());
    }
    page
}

/// The map, where there is one that can be read.
fn map_of(process: &Process) -> Option<&PoolMap> {
    process.pool_map.as_ref()?.as_ref().ok()
}
