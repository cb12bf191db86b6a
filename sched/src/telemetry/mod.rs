//! What the GPUs do, and what follows from it for the processors: two threads beside the loop that passes turns on, which waits
//! for neither.
//!
//! * *[`pages`] and nice values:* every 500 ms, what each client says it has used, and from that and NVML's figures the nice values of its threads
//!   ([`cpu`](crate::cpu)). It reads /proc for every thread of every client, which takes tens of milliseconds with
//!   thousands of them.
//! * *[`nvml`]:* every 100 ms. A call may take milliseconds, or as long as the driver hangs: nobody waits for that thread, at
//!   the end for a moment.
//!
//! Both sleep while there are no clients, and NVML is not even initialised then. What they share lies under one lock, which is held to copy and
//! never while something is asked.
//!
//! **Which figure counts.** A GPU's utilisation is NVML's where that gives one, since it has seen all processes, also those that are no
//! clients. What a process uses is what its page says: NVML's figures of processes are empty or wrong in many
//! containers and virtual machines, and are only compared. Without NVML, and for a MIG instance, of which it tells no utilisation, a GPU's is
//! the sum of its clients' pages.

mod nvml;
mod pages;

use crate::cpu::niceness::{self, Gauge};
use crate::cpu::{self, CpuSide, Wish};
use aishim_abi::client_page::PageView;
use aishim_abi::message::{GpuFigures, Source, Version};
use aishim_abi::rank::{Priority, Uuid};
use aishim_observe::meter::Activity;
use pages::Pages;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How old NVML's figures may be, in nanoseconds: its thread may hang.
const STALE_NS: u64 = 3_000_000_000;

/// How often NVML is asked.
const NVML_PERIOD: Duration = Duration::from_millis(100);

/// How long the end waits for NVML.
const NVML_PATIENCE: Duration = Duration::from_millis(300);

/// A client, as the loop tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Present {
    /// Its process id as we see it.
    pub(crate) pid: u32,
    /// Start time of its process, in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// The priority that counts.
    pub(crate) rank: Priority,
    /// Its GPUs.
    pub(crate) gpus: Vec<Uuid>,
    /// Its page.
    pub(crate) page: Arc<PageView>,
}

/// What NVML said of a GPU.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    at_ns: u64,
    activity: Activity,
    memory_bytes: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Shared {
    clients: Arc<[Present]>,
    /// Raised with every change of `clients`.
    changes: u64,
    nvml: BTreeMap<Uuid, Said>,
    /// Parts of GPUs that NVML says processes had, in percent, by process id; what was not fetched yet.
    nvml_processes: BTreeMap<u32, u32>,
    pages_percent: BTreeMap<Uuid, u32>,
    is_over: bool,
}

/// The state of the threads, and what wakes them.
#[derive(Debug, Default)]
struct Common {
    shared: Mutex<Shared>,
    changed: Condvar,
}

impl Common {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Plain values, each of them good by itself.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until there are clients, or there is work without any, and so long has passed, or something changes where `wakes`; false once all is over.
    fn pause(&self, period: Duration, seen: u64, wakes: bool, has_work: bool) -> bool {
        let until = Instant::now() + period;
        let mut shared = self.lock();
        loop {
            if shared.is_over {
                return false;
            }
            if wakes && shared.changes != seen {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            let wait = |shared| self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
            shared = match (shared.clients.is_empty() && !has_work, left.is_zero()) {
                (true, _) => wait(shared),
                (false, true) => return true,
                (false, false) => self.changed.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

/// The threads.
#[derive(Debug)]
pub(crate) struct Telemetry {
    common: Arc<Common>,
    side: Option<JoinHandle<()>>,
    nvml: JoinHandle<()>,
}

impl Telemetry {
    /// Starts them. `cpu` is what changes nice values.
    pub(crate) fn start(cpu: CpuSide) -> std::io::Result<Self> {
        let common = Arc::new(Common::default());
        let (of_side, of_nvml) = (Arc::clone(&common), Arc::clone(&common));
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let side = thread("aischedd-cpu").spawn(move || keep_side(&of_side, cpu))?;
        let nvml = thread("aischedd-nvml").spawn(move || nvml::watch(&of_nvml))?;
        Ok(Self { common, side: Some(side), nvml })
    }

    /// Says who is there.
    pub(crate) fn set_clients(&self, clients: Vec<Present>) {
        let mut shared = self.common.lock();
        let used: BTreeSet<Uuid> = clients.iter().flat_map(|client| client.gpus.iter().copied()).collect();
        shared.nvml.retain(|uuid, _| used.contains(uuid));
        shared.pages_percent.retain(|uuid, _| used.contains(uuid));
        shared.clients = clients.into();
        shared.changes += 1;
        drop(shared);
        self.common.changed.notify_all();
    }

    /// What a GPU does.
    pub(crate) fn figures(&self, uuid: Uuid, now_ns: u64) -> GpuFigures {
        let shared = self.common.lock();
        let said = shared.nvml.get(&uuid).filter(|said| now_ns.saturating_sub(said.at_ns) < STALE_NS).copied();
        let (pages_percent, said) = (shared.pages_percent.get(&uuid).copied(), said.unwrap_or_default());
        let (source, utilisation_percent) = utilisation(said.activity.utilisation_percent, pages_percent);
        GpuFigures {
            version: Version,
            source,
            utilisation_percent,
            pages_percent,
            sm_mhz: said.activity.sm_mhz,
            power_mw: said.activity.power_mw,
            memory_used_bytes: said.memory_bytes.map(|(used, _)| used),
            memory_total_bytes: said.memory_bytes.map(|(_, total)| total),
        }
    }
}

impl Drop for Telemetry {
    /// Waits until everything has been put back, and a moment for NVML, which should not be called while the process takes it down.
    fn drop(&mut self) {
        self.common.lock().is_over = true;
        self.common.changed.notify_all();
        if let Some(side) = self.side.take() {
            let _ = side.join();
        }
        let begun = Instant::now();
        while !self.nvml.is_finished() && begun.elapsed() < NVML_PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The utilisation that counts, and where it comes from.
fn utilisation(nvml: Option<u32>, pages: Option<u32>) -> (Source, Option<u32>) {
    match (nvml, pages) {
        (Some(percent), _) => (Source::Nvml, Some(percent)),
        (None, Some(percent)) => (Source::Pages, Some(percent)),
        (None, None) => (Source::Nowhere, None),
    }
}

/// The thread that reads pages and changes nice values.
fn keep_side(common: &Common, mut cpu: CpuSide) {
    let (mut pages, mut gauges) = (Pages::default(), BTreeMap::<Uuid, Gauge>::new());
    let mut seen = 0;
    while common.pause(cpu::PERIOD, seen, true, cpu.is_changed()) {
        let now_ns = crate::clock::monotonic_ns();
        let mut shared = common.lock();
        let clients = Arc::clone(&shared.clients);
        seen = shared.changes;
        let of_processes = std::mem::take(&mut shared.nvml_processes);
        drop(shared);
        let percents = pages.look(&clients, now_ns);
        pages.compare(&clients, &of_processes);
        let mut shared = common.lock();
        if seen == shared.changes {
            shared.pages_percent.extend(percents);
        }
        let used: BTreeSet<Uuid> = clients.iter().flat_map(|client| client.gpus.iter().copied()).collect();
        let percent = |uuid: &Uuid| {
            let nvml = shared.nvml.get(uuid).filter(|said| now_ns.saturating_sub(said.at_ns) < STALE_NS);
            utilisation(
                nvml.and_then(|said| said.activity.utilisation_percent),
                shared.pages_percent.get(uuid).copied(),
            )
            .1
        };
        let percents: Vec<(Uuid, Option<u32>)> = used.iter().map(|uuid| (*uuid, percent(uuid))).collect();
        drop(shared);
        gauges.retain(|uuid, _| used.contains(uuid));
        let loads: BTreeMap<Uuid, _> = percents
            .into_iter()
            .map(|(uuid, percent)| (uuid, gauges.entry(uuid).or_default().update(percent, now_ns)))
            .collect();
        let wish = |client: &Present| {
            let loads: Vec<_> = client.gpus.iter().filter_map(|uuid| loads.get(uuid).copied()).collect();
            let offset = niceness::offset(client.rank, &loads, cpu.settings());
            Wish { pid: client.pid, start_ticks: client.start_ticks, offset }
        };
        let wishes: Vec<Wish> = clients.iter().map(wish).collect();
        cpu.adjust(&wishes);
    }
    cpu.end();
}
