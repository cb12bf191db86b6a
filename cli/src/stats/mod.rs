//! `aictl stats`: what the processes under aishim and the GPUs are doing.

mod detail;
pub(crate) mod document;
mod order;
mod table;

use crate::failure::Failure;
use crate::{output, select};
use aishim_observe::{Board, Options, Process, Snapshot};
pub(crate) use detail::{cuda_version, misses, why_pass_through};
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;
pub(crate) use table::{cut, state};

/// Clears a terminal and goes to its first line (console_codes(4)).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What a simulator's figures are headed with, so that nobody takes them for a GPU's.
pub(crate) const SIMULATED: &str = "SIMULATED GPU";

/// Shows the GPUs and the processes under aishim
///
/// For each GPU its utilisation, its memory and whether a new process can use
/// it. For each process, running or ended in the last 10 minutes:
///
///   PRIORITY, CLASS  how important it is, and what kind of work it does: what
///                    was asked for, else in brackets what its behaviour
///                    suggests
///   STATE            running (work on the GPU that no synchronisation has
///                    ended yet), idle, gated (a launch waits for others) and
///                    by which process, or ended and how long ago
///   GATED            share of the last second in which a launch waited
///   WEIGHT           its share among those with whom it takes turns
///   GPU-TIME         time it had the GPU, estimated from sampled launches
///   LAUNCHES         kernels and graphs launched
///   LAUNCH p50/p99   what a launch call costs the calling thread: median
///                    and 99th percentile
///   REQUEST p50/p99  first work after idle to the synchronisation that ends
///                    it: median and 99th percentile
///   PINNED           page-locked host memory the program holds
///   DEVICE           device memory it holds
///
/// A dash stands for a figure that does not exist: nothing was measured.
/// Processes that the driver sees on a GPU and that publish nothing are listed
/// as not under aishim. With PID, the class that its behaviour suggests and why,
/// its histograms and its pool of pinned memory are added.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Shows this process in detail
    pid: Option<u32>,

    /// Prints one JSON document: raw numbers, units in the key names, null for a figure that does not exist
    #[arg(long)]
    json: bool,

    /// Shows it again every so many seconds until interrupted (with --json: one document a line)
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    watch: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|n| (0.1..=86_400.0).contains(n));
    let number = number.ok_or("it is no number from 0.1 to 86400")?;
    Ok(Duration::from_secs_f64(number))
}

/// Shows what was asked for, once or again and again.
pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let options = Options::of_environment();
    loop {
        show(arguments, &Snapshot::take(&options))?;
        match arguments.watch {
            Some(pause) => std::thread::sleep(pause),
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn show(arguments: &Arguments, snapshot: &Snapshot) -> Result<(), Failure> {
    let selected = match arguments.pid {
        Some(pid) => Some(select::process(snapshot, pid)?),
        None => None,
    };
    if arguments.json {
        let document = document::text(snapshot, selected, arguments.watch.is_none())?;
        return output::print(&format!("{document}\n"));
    }
    let clear = arguments.watch.is_some() && output::is_terminal();
    let mut text = String::from(if clear { CLEAR } else { "" });
    text.push_str(&page(snapshot, selected, output::columns()));
    output::print(&text)
}

/// The whole answer for people, at most `columns` wide.
fn page(snapshot: &Snapshot, selected: Option<&Process>, columns: Option<usize>) -> String {
    let mut page = String::new();
    if snapshot.board.as_ref().is_ok_and(Board::is_simulated) {
        page.push_str(SIMULATED);
        page.push('\n');
    }
    table::gpus(&mut page, &snapshot.board);
    page.push('\n');
    match selected {
        Some(process) => {
            table::processes(&mut page, &[process], columns);
            detail::process(&mut page, process);
        }
        None => {
            let all: Vec<&Process> = snapshot.processes.iter().collect();
            table::processes(&mut page, &all, columns);
            table::foreigners(&mut page, &snapshot.not_under_aishim, columns);
            skipped(&mut page, snapshot);
        }
    }
    page
}

fn skipped(page: &mut String, snapshot: &Snapshot) {
    let reasons = document::skipped_by_reason(snapshot);
    if reasons.is_empty() {
        return;
    }
    let words: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {}", reason.replace('_', " "))).collect();
    let _ = writeln!(page, "\nSegments left out: {} (aictl doctor says more)", words.join(", "));
}
