//! `aictl set`: another priority, weight or class for a process that runs.

use super::Coordinator;
use crate::failure::Failure;
use crate::run::wishes;
use aishim_abi::board::Entry;
use aishim_abi::board_reader::BoardView;
use aishim_abi::message::{SetClient, Version};
use aishim_abi::rank::{Class, Priority, Weight};
use aishim_observe::procfs::{self, Identity};
use std::process::ExitCode;

/// Gives a process that runs another priority, weight or class
///
/// It counts from the next launch on. A class is the priority that goes with it (inference 80, normal 20, batch 5; auto: what its
/// behaviour suggests); where a priority is given too, that counts. The priority of one's own processes can be lowered and raised up to one's limit; above it,
/// and for processes of other users, that takes root or the user whose coordinator it is.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["priority", "weight", "class"]))]
pub(crate) struct Arguments {
    /// The process
    pid: u32,

    /// Its new priority, 0 to 100; higher is more important
    #[arg(long, value_name = "N", value_parser = wishes::priority)]
    priority: Option<Priority>,

    /// Its new share among those with whom it takes turns, 1 to 10000; 100 is usual
    #[arg(long, value_name = "N", value_parser = wishes::weight)]
    weight: Option<Weight>,

    /// Its new class: inference, normal, batch or auto
    #[arg(long, value_name = "CLASS", value_parser = wishes::class)]
    class: Option<Class>,
}

/// Sets it.
pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut coordinator = Coordinator::find()?;
    let (_, board) = coordinator.status()?;
    let (slot, entry) = find(&board, arguments.pid).ok_or_else(|| missing(arguments.pid))?;
    let slot = u32::try_from(slot).unwrap_or(u32::MAX);
    let Arguments { priority, weight, class, .. } = *arguments;
    coordinator.have_done(SetClient {
        version: Version,
        slot,
        generation: entry.generation,
        priority,
        weight,
        class,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The client that we know as `pid`: in a container the coordinator may know it by another number.
fn find(board: &BoardView, pid: u32) -> Option<(usize, Entry)> {
    let identity = Identity::of(pid);
    let is_it = |entry: &Entry| {
        identity.is_some_and(|i| (entry.own_pid, entry.start_ticks) == (i.innermost_pid, i.start_ticks))
    };
    board.entries().find(|(_, entry)| is_it(entry))
}

fn missing(pid: u32) -> Failure {
    Failure::NoSuchProcess(match procfs::exists(pid) {
        true => format!(
            "process {pid} is no client of the coordinator: it is not under aishim, has made no CUDA context yet, or was refused; \
             `aictl doctor {pid}` says more"
        ),
        false => format!("there is no process {pid}; `aictl daemon status` lists those that can be set"),
    })
}
