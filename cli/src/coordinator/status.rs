//! `aictl daemon status`: who the coordinator is, and who its clients are.

use super::Coordinator;
use crate::failure::Failure;
use crate::stats::document;
use crate::{output, units};
use aishim_abi::board::{Entry, Gpu};
use aishim_abi::board_reader::BoardView;
use aishim_abi::message::Status;
use aishim_observe::{procfs, user};
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Changes with every change that a program reading the document would stumble over.
const SCHEMA_VERSION: u32 = 1;

/// Asks about the coordinator, aischedd
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Shows who the coordinator is, its GPUs and its clients; exit code 1 where there is none
    Status {
        /// Prints one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Shows what was asked for.
pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let What::Status { json } = arguments.what;
    let mut coordinator = Coordinator::find()?;
    let (status, board) = coordinator.status()?;
    let document = Document::of(&coordinator, &status, &board);
    let text = if json { document::written(&document, output::is_terminal())? + "\n" } else { document.page() };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// `CLOCK_MONOTONIC`, by which the board's times are meant.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec.cast_unsigned())
}

#[derive(Serialize)]
struct Document {
    schema_version: u32,
    program: String,
    pid: u32,
    user: String,
    directory: String,
    up_ns: u64,
    clients: usize,
    max_clients: u32,
    refused: u64,
    gpus: Vec<GpuRow>,
    processes: Vec<ClientRow>,
}

#[derive(Serialize)]
struct GpuRow {
    number: usize,
    uuid: String,
    policy: &'static str,
    clients: u32,
}

#[derive(Serialize)]
struct ClientRow {
    pid: u32,
    slot: usize,
    user: String,
    priority: u32,
    rank: u32,
    limit: u32,
    weight: u32,
    job: Option<u32>,
    gpus: Vec<usize>,
    command: Option<String>,
}

impl Document {
    fn of(coordinator: &Coordinator, status: &Status, board: &BoardView) -> Self {
        let mut names = user::Names::default();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_unix_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        Self {
            schema_version: SCHEMA_VERSION,
            program: status.program.as_str().to_owned(),
            pid: status.pid,
            user: names.of(status.uid),
            directory: coordinator.directory(),
            up_ns: now_unix_ns.saturating_sub(board.about().started_unix_ns),
            clients: board.clients(),
            max_clients: status.max_clients,
            refused: board.refused(),
            gpus: board.gpus(now_ns()).map(|(number, gpu)| GpuRow::of(number, &gpu)).collect(),
            processes: board.entries().map(|(slot, entry)| ClientRow::of(slot, &entry, &mut names)).collect(),
        }
    }

    fn page(&self) -> String {
        let mut page = format!(
            "{}, process {} of {}, in {}, up {}\n{} of {} clients; {} refused so far\n",
            self.program,
            self.pid,
            self.user,
            self.directory,
            units::duration(self.up_ns),
            self.clients,
            self.max_clients,
            self.refused
        );
        for gpu in &self.gpus {
            let GpuRow { number, uuid, policy, clients } = gpu;
            let _ = writeln!(page, "GPU {number}: {uuid}, policy {policy}, {clients} clients");
        }
        if !self.processes.is_empty() {
            page.push_str("\n    PID  USER      PRIORITY  RANK  LIMIT  WEIGHT  JOB  GPUS      COMMAND\n");
        }
        for client in &self.processes {
            let gpus: Vec<String> = client.gpus.iter().map(usize::to_string).collect();
            let _ = writeln!(
                page,
                "{:>7}  {:<8}  {:>8}  {:>4}  {:>5}  {:>6}  {:>3}  {:<8}  {}",
                client.pid,
                client.user,
                client.priority,
                client.rank,
                client.limit,
                client.weight,
                units::or_dash(client.job.map(|job| job.to_string())),
                gpus.join(","),
                client.command.as_deref().unwrap_or("-")
            );
        }
        page
    }
}

impl GpuRow {
    fn of(number: usize, gpu: &Gpu) -> Self {
        Self { number, uuid: gpu.uuid.to_string(), policy: gpu.policy.name(), clients: gpu.clients }
    }
}

impl ClientRow {
    fn of(slot: usize, entry: &Entry, names: &mut user::Names) -> Self {
        // The number may be another process's by now, or mean another one to us than to the coordinator.
        let is_it = procfs::start_ticks(entry.pid) == Some(entry.start_ticks);
        Self {
            pid: entry.pid,
            slot,
            user: names.of(entry.uid),
            priority: entry.priority.number(),
            rank: entry.rank.number(),
            limit: entry.limit.number(),
            weight: entry.weight.number(),
            job: (entry.job != 0).then_some(entry.job),
            gpus: (0..64).filter(|bit| entry.gpus >> bit & 1 != 0).collect(),
            command: if is_it { procfs::command(entry.pid) } else { None },
        }
    }
}
