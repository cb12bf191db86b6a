//! `aictl daemon status`: who the coordinator is, and who its clients are.

use super::Coordinator;
use crate::failure::Failure;
use crate::stats::document;
use crate::{output, units};
use aishim_abi::board::{Entry, Gpu};
use aishim_abi::board_reader::BoardView;
use aishim_abi::message::{GpuFigures, Source, Status};
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
    let gpus: Vec<(usize, Gpu)> = board.gpus(now_ns()).collect();
    let gpus =
        gpus.into_iter().map(|(number, gpu)| Ok(GpuRow::of(number, &gpu, coordinator.figures(gpu.uuid)?.as_ref())));
    let gpus = gpus.collect::<Result<Vec<_>, Failure>>()?;
    let document = Document::of(&coordinator, &status, &board, gpus);
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
    /// Where `utilisation_percent` comes from: `nvml`, `pages`, or nothing.
    source: Option<&'static str>,
    utilisation_percent: Option<u32>,
    pages_percent: Option<u32>,
    memory_used_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    sm_mhz: Option<u32>,
    power_mw: Option<u32>,
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
    fn of(coordinator: &Coordinator, status: &Status, board: &BoardView, gpus: Vec<GpuRow>) -> Self {
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
            gpus,
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
            let GpuRow { number, uuid, policy, clients, .. } = gpu;
            let _ = writeln!(page, "GPU {number}: {uuid}, policy {policy}, {clients} clients");
            let _ = writeln!(page, "    {}", gpu.figures());
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
    /// A GPU as the board and the coordinator tell of it.
    fn of(number: usize, gpu: &Gpu, figures: Option<&GpuFigures>) -> Self {
        Self {
            number,
            uuid: gpu.uuid.to_string(),
            policy: gpu.policy.name(),
            clients: gpu.clients,
            source: figures.and_then(|figures| source(figures.source)),
            utilisation_percent: figures.and_then(|figures| figures.utilisation_percent),
            pages_percent: figures.and_then(|figures| figures.pages_percent),
            memory_used_bytes: figures.and_then(|figures| figures.memory_used_bytes),
            memory_total_bytes: figures.and_then(|figures| figures.memory_total_bytes),
            sm_mhz: figures.and_then(|figures| figures.sm_mhz),
            power_mw: figures.and_then(|figures| figures.power_mw),
        }
    }

    /// What it does, in a line.
    fn figures(&self) -> String {
        let percent = |percent: Option<u32>| units::or_dash(percent.map(|percent| format!("{percent} %")));
        let by = match self.source {
            Some("nvml") => format!(" (NVML; its clients' pages: {})", percent(self.pages_percent)),
            Some(_) => " (its clients' pages)".to_owned(),
            None => String::new(),
        };
        format!(
            "utilisation {}{by}, memory {} of {}, SM clock {}, power {}",
            percent(self.utilisation_percent),
            units::or_dash(self.memory_used_bytes.map(units::bytes)),
            units::or_dash(self.memory_total_bytes.map(units::bytes)),
            units::or_dash(self.sm_mhz.map(|mhz| format!("{mhz} MHz"))),
            units::or_dash(self.power_mw.map(|mw| format!("{} W", (mw + 500) / 1_000)))
        )
    }
}

fn source(source: Source) -> Option<&'static str> {
    match source {
        Source::Nowhere => None,
        Source::Pages => Some("pages"),
        Source::Nvml => Some("nvml"),
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
