//! The driver's state in this process: contexts, streams, events, memory, all behind one lock, and the threads that do
//! the work.

mod capture;
mod context;
mod event;
mod graph;
mod host_memory;
mod memory;
pub(crate) mod memory_op;
mod module;
mod pool;
mod stream;
mod table;
mod thread_pool;
mod transfer;
mod virtual_memory;
mod work;

pub(crate) mod thread;

pub(crate) use capture::CaptureStatus;
pub(crate) use context::Context;
pub(crate) use event::{DISABLE_TIMING, Event, INTERPROCESS, Mark};
pub(crate) use graph::{Executable, Graph};
pub(crate) use host_memory::{ALLOC_FLAGS, REGISTER_FLAGS};
pub(crate) use memory::{BlockKind, LARGE_PAGE};
pub(crate) use module::Function;
pub(crate) use pool::Pool;
pub(crate) use stream::{NON_BLOCKING, Stream, StreamId, StreamKind, Ticket};
pub(crate) use transfer::{Request, Returns};
pub(crate) use virtual_memory::GRANULARITY;
pub(crate) use work::{Fill, HostCall, Place, Work};

use crate::clock::sleep_until;
use crate::gpu::{SharedGpu, SlotIndex};
use crate::settings::Settings;
use crate::status::{self, R, Status};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use table::Table;
use work::Worker;

static PROCESS: OnceLock<Process> = OnceLock::new();
/// Set in the child of a fork once the driver was initialised: as with the real one, nothing works there.
static FORKED: AtomicBool = AtomicBool::new(false);

/// All there is, from cuInit on.
pub(crate) struct Process {
    pub(crate) settings: &'static Settings,
    pub(crate) gpu: SharedGpu,
    sim: Mutex<Sim>,
    page_locking: Mutex<()>,
    slot: Mutex<Option<SlotIndex>>,
    threads: OnceLock<()>,
    progress: Condvar,
    wake: [Condvar; 4],
}

/// The state behind the lock.
pub(crate) struct Sim {
    pub(crate) contexts: Table<Context>,
    pub(crate) primary: context::Primary,
    pub(crate) streams: HashMap<StreamId, Stream>,
    pub(crate) stream_handles: Table<StreamId>,
    pub(crate) events: Table<Arc<Event>>,
    pub(crate) modules: Table<module::Module>,
    pub(crate) functions: Table<Arc<Function>>,
    pub(crate) graphs: Table<Graph>,
    pub(crate) executables: Table<Arc<Executable>>,
    pub(crate) captures: HashMap<u64, capture::Capture>,
    pub(crate) memory: memory::Memory,
    pub(crate) pools: Table<pool::Pool>,
    pub(crate) current_pool: usize,
    next_id: u64,
    blocked: Vec<StreamId>,
    polled: Vec<StreamId>,
    ready: [Vec<StreamId>; 4],
    waiting: usize,
}

impl Process {
    /// The process, once cuInit was called here.
    pub(crate) fn get() -> Option<&'static Self> {
        if FORKED.load(Ordering::Relaxed) { None } else { PROCESS.get() }
    }

    /// cuInit.
    pub(crate) fn initialise() -> R {
        if FORKED.load(Ordering::Relaxed) {
            return Err(Status::CUDA_ERROR_NOT_INITIALIZED);
        }
        PROCESS.get_or_init(|| {
            // SAFETY: the handler only stores to an atomic.
            unsafe { libc::pthread_atfork(None, None, Some(after_fork_in_child)) };
            let settings = Settings::of_this_process();
            let gpu = SharedGpu::open(settings.memory_bytes);
            Self {
                settings,
                gpu,
                sim: Mutex::new(Sim::new()),
                page_locking: Mutex::new(()),
                slot: Mutex::new(None),
                threads: OnceLock::new(),
                progress: Condvar::new(),
                wake: [const { Condvar::new() }; 4],
            }
        });
        Ok(())
    }

    /// Takes the time that page-locking costs, or unlocking: launches of this process wait for it, as observed.
    pub(crate) fn page_lock_until(&self, end_ns: u64) {
        let _launches_wait = self.page_locking.lock();
        sleep_until(end_ns);
    }

    /// Waits until nothing is being page-locked.
    pub(crate) fn wait_for_page_locking(&self) {
        drop(self.page_locking.lock());
    }

    /// The state, locked.
    pub(crate) fn sim(&self) -> MutexGuard<'_, Sim> {
        self.sim.lock()
    }

    pub(crate) fn with_sim<T>(&self, act: impl FnOnce(&mut Sim) -> T) -> T {
        act(&mut self.sim.lock())
    }

    /// Waits until `done` holds, or the context of the waiting has met an error.
    pub(crate) fn wait_until(&self, sim: &mut MutexGuard<'_, Sim>, mut done: impl FnMut(&Sim) -> bool) {
        while !done(sim) {
            sim.waiting += 1;
            self.progress.wait(sim);
            sim.waiting -= 1;
        }
    }

    /// Waits until `ticket` is reached.
    pub(crate) fn wait_for(&self, sim: &mut MutexGuard<'_, Sim>, ticket: Ticket) {
        self.wait_until(sim, |sim| sim.is_done(ticket));
    }

    /// Waits for everything submitted so far to the streams of `context`, or of all contexts.
    pub(crate) fn drain(&self, sim: &mut MutexGuard<'_, Sim>, context: Option<usize>) {
        let wanted = |stream: &Stream| context.is_none_or(|context| stream.context == context);
        let pending = sim.streams.iter().filter(|(_, stream)| wanted(stream) && stream.is_pending());
        let tickets: Vec<_> = pending.map(|(id, stream)| Ticket { stream: *id, sequence: stream.submitted }).collect();
        for ticket in tickets {
            self.wait_for(sim, ticket);
        }
    }

    /// This process's place on the GPU. Work exists only in contexts, and a context has claimed it.
    pub(crate) fn slot(&self) -> SlotIndex {
        self.slot.lock().unwrap_or_default()
    }

    /// Lets others have the compute engine, if this process is on the GPU.
    fn yield_compute(&self) {
        if let Some(slot) = *self.slot.lock() {
            self.gpu.yield_compute(slot);
        }
    }

    /// Makes this process one of the GPU's: a slot, and threads to work.
    pub(crate) fn join_gpu(&'static self) -> R {
        let mut slot = self.slot.lock();
        if slot.is_none() {
            if self.threads.get().is_none() {
                thread_pool::start(self).map_err(|_| Status::CUDA_ERROR_OUT_OF_MEMORY)?;
                let _ = self.threads.set(());
            }
            *slot = Some(self.gpu.claim_slot().ok_or(Status::CUDA_ERROR_OUT_OF_MEMORY)?);
        }
        Ok(())
    }

    /// Ends that, once nothing on the GPU is this process's.
    pub(crate) fn leave_gpu(&self) {
        let mut slot = self.slot.lock();
        if let Some(index) = slot.filter(|index| self.gpu.memory_of(*index) == 0) {
            self.gpu.release_slot(index);
            *slot = None;
        }
    }
}

impl Sim {
    fn new() -> Self {
        Self {
            contexts: Table::new(1),
            primary: context::Primary::default(),
            streams: HashMap::new(),
            stream_handles: Table::new(2),
            events: Table::new(3),
            modules: Table::new(4),
            functions: Table::new(5),
            graphs: Table::new(6),
            executables: Table::new(7),
            captures: HashMap::new(),
            memory: memory::Memory::new(),
            pools: Table::new(8),
            current_pool: 0,
            next_id: 0,
            blocked: Vec::new(),
            polled: Vec::new(),
            ready: [const { Vec::new() }; 4],
            waiting: 0,
        }
    }

    fn wake(&self, worker: Worker) {
        if let Some(process) = PROCESS.get() {
            process.wake[worker as usize].notify_one();
        }
    }

    fn wake_waiting(&self) {
        if let Some(process) = PROCESS.get().filter(|_| self.waiting > 0) {
            process.progress.notify_all();
        }
    }
}

extern "C" fn after_fork_in_child() {
    FORKED.store(true, Ordering::Relaxed);
}

/// What every driver call begins with.
pub(crate) fn enter(function: &str, call: impl FnOnce(&'static Process) -> R) -> Status {
    let Some(process) = Process::get() else {
        return Status::CUDA_ERROR_NOT_INITIALIZED;
    };
    if thread::in_host_function() {
        return Status::CUDA_ERROR_NOT_PERMITTED;
    }
    let mut faults = process.settings.faults.iter();
    if let Some(code) = faults.find_map(|fault| fault.strikes(function)) {
        return status::from_code(code).unwrap_or(Status::CUDA_ERROR_UNKNOWN);
    }
    match call(process) {
        Ok(()) => Status::CUDA_SUCCESS,
        Err(status) => status,
    }
}
