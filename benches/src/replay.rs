//! A record of a program's pinned memory ([`aishim_abi::trace`]), run through the pool.
//!
//! What comes out depends on sizes and order alone: events happen one after the other, each on a thread of its own as in
//! the record, since the pool keeps caches by thread. Two things that the record cannot know are modelled, in its own
//! time. The GPU is done with what was submitted before a free at the next synchronisation, or `gpu_us` later. A slab
//! after the first comes 0.375 ns a byte after it was wanted, which is what page-locking 256 MiB took on an H200.

use crate::shown::Shown;
use aishim_abi::pool_reader::Totals;
use aishim_abi::trace::{Event, What};
use aishim_pool::{ConfigError, FreeOutcome, Mark, PinnedSource, Pool, PoolConfig, PoolStats, WorkFence};
use std::collections::HashMap;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// How often the map is looked at.
const LOOKS: usize = 100;

/// What the pool is like, and the GPU.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Size the pool grows to ahead of need, in bytes.
    pub pool_bytes: usize,
    /// Size it may reach, in bytes.
    pub limit_bytes: usize,
    /// The GPU is done with a block so long after its free, in microseconds, if no synchronisation comes before.
    pub gpu_us: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Allocations in the record.
    pub requests: u64,
    /// Threads in the record.
    pub threads: usize,
    /// The pool's own figures in the end.
    pub stats: PoolStats,
    /// The most that the record itself had allocated at once, in bytes as asked for.
    pub requested_peak_bytes: u64,
    /// The most that was page-locked, in bytes.
    pub reserved_bytes: u64,
    /// Fragmentation, from 0 to 1, of each look at which something was free.
    pub fragmentation: Vec<f64>,
}

/// Runs a record through a pool.
///
/// # Errors
/// Where there can be no such pool, or its map cannot be made.
pub fn run(events: &[Event], settings: &Settings) -> io::Result<Report> {
    let invalid = |e: ConfigError| io::Error::new(io::ErrorKind::InvalidInput, e);
    let shape = PoolConfig::with_limit(settings.pool_bytes, settings.limit_bytes).map_err(invalid)?;
    let gpu = Arc::new(Gpu::new(events, settings.gpu_us));
    let pool = Pool::new(&shape, Box::new(Addresses(AtomicUsize::new(1 << 40))), Box::new(Arc::clone(&gpu)));
    let (shown, pool) = Shown::of(pool, &shape)?;
    let mut replay = Replay::new(&pool, gpu);
    let mut fragmentation = Vec::new();
    std::thread::scope(|scope| {
        let mut crew: HashMap<u32, Worker> = HashMap::new();
        for (number, event) in events.iter().enumerate() {
            let worker = crew.entry(event.thread).or_insert_with(|| Worker::start(scope, &pool));
            replay.step(number, event, worker);
            if number % events.len().div_ceil(LOOKS) == 0 || number + 1 == events.len() {
                fragmentation.extend(Totals::of(&shown.look(&pool).slabs()).fragmentation());
            }
        }
        replay.threads = crew.len();
    });
    Ok(replay.report(fragmentation))
}

struct Replay<'a> {
    pool: &'a Pool,
    gpu: Arc<Gpu>,
    /// Blocks of the record: where they are in the pool, if they are there, and their size.
    held: HashMap<u64, (Option<usize>, u64)>,
    requested_bytes: u64,
    requested_peak_bytes: u64,
    requests: u64,
    reserved_bytes: u64,
    threads: usize,
    /// When a slab that is being reserved will be there.
    slab_at_us: Option<u64>,
}

impl<'a> Replay<'a> {
    fn new(pool: &'a Pool, gpu: Arc<Gpu>) -> Self {
        Self {
            pool,
            gpu,
            held: HashMap::new(),
            requested_bytes: 0,
            requested_peak_bytes: 0,
            requests: 0,
            reserved_bytes: 0,
            threads: 0,
            slab_at_us: None,
        }
    }

    fn step(&mut self, number: usize, event: &Event, worker: &Worker) {
        self.gpu.begin(number);
        if self.slab_at_us.is_some_and(|at_us| at_us <= event.at_us) {
            self.slab_at_us = None;
            self.grow();
        }
        match event.what {
            What::Alloc { block, bytes } => self.alloc(event.at_us, block, bytes, worker),
            What::Free { block } => self.free(block, worker),
            What::Synchronise => {
                self.gpu.synchronise(number);
                worker.ask(Order::Tend);
            }
        }
    }

    fn alloc(&mut self, at_us: u64, block: u64, bytes: u64, worker: &Worker) {
        // The first request waits for the first slab.
        if self.requests == 0 {
            self.grow();
        }
        self.requests += 1;
        let got = worker.ask(Order::Alloc(bytes as usize));
        // Asked each time, so that the high-water mark is exact.
        let _ = self.pool.stats();
        self.held.insert(block, (got, bytes));
        self.requested_bytes += bytes;
        self.requested_peak_bytes = self.requested_peak_bytes.max(self.requested_bytes);
        if self.slab_at_us.is_none() && self.pool.wants_growth() {
            self.slab_at_us = self.pool.next_slab_bytes().map(|bytes| at_us + bytes as u64 * 3 / 8 / 1000);
        }
    }

    /// A block that the record does not know was allocated before it began, or never.
    fn free(&mut self, block: u64, worker: &Worker) {
        let Some((address, bytes)) = self.held.remove(&block) else {
            return;
        };
        self.requested_bytes -= bytes;
        if let Some(address) = address {
            worker.ask(Order::Free(address));
        }
    }

    fn grow(&mut self) {
        let _ = self.pool.grow();
        self.reserved_bytes = self.reserved_bytes.max(self.pool.stats().reserved_bytes);
    }

    fn report(self, fragmentation: Vec<f64>) -> Report {
        Report {
            requests: self.requests,
            threads: self.threads,
            stats: self.pool.stats(),
            requested_peak_bytes: self.requested_peak_bytes,
            reserved_bytes: self.reserved_bytes,
            fragmentation,
        }
    }
}

/// A thread of the record.
struct Worker {
    orders: Sender<Order>,
    answers: Receiver<Option<usize>>,
}

#[derive(Clone, Copy)]
enum Order {
    Alloc(usize),
    Free(usize),
    Tend,
}

impl Worker {
    fn start<'scope>(scope: &'scope std::thread::Scope<'scope, '_>, pool: &'scope Pool) -> Self {
        let ((orders, to_do), (done, answers)) = (channel(), channel());
        scope.spawn(move || {
            while let Ok(order) = to_do.recv() {
                if done.send(obey(pool, order)).is_err() {
                    return;
                }
            }
        });
        Self { orders, answers }
    }

    /// Has it done, and waits for that.
    fn ask(&self, order: Order) -> Option<usize> {
        self.orders.send(order).ok()?;
        self.answers.recv().ok()?
    }
}

fn obey(pool: &Pool, order: Order) -> Option<usize> {
    match order {
        Order::Alloc(bytes) => return pool.alloc(bytes, 0).ok().map(|block| block.as_ptr().addr()),
        Order::Free(address) => {
            let outcome = pool.free(std::ptr::without_provenance(address));
            assert_eq!(outcome, FreeOutcome::Freed, "a block of the pool's own");
        }
        Order::Tend => pool.tend(),
    }
    None
}

/// A GPU in the record's time; a mark is the number of an event.
struct Gpu {
    at_us: Vec<u64>,
    gpu_us: u64,
    now: AtomicUsize,
    synchronised: Mutex<Option<usize>>,
}

impl Gpu {
    fn new(events: &[Event], gpu_us: u64) -> Self {
        let at_us = events.iter().map(|event| event.at_us).collect();
        Self { at_us, gpu_us, now: AtomicUsize::new(0), synchronised: Mutex::new(None) }
    }

    fn begin(&self, number: usize) {
        self.now.store(number, SeqCst);
    }

    fn synchronise(&self, number: usize) {
        *self.synchronised.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(number);
    }

    fn time_of(&self, number: usize) -> u64 {
        self.at_us.get(number).copied().unwrap_or(u64::MAX)
    }
}

impl WorkFence for Gpu {
    fn mark(&self) -> Option<Mark> {
        Some(self.now.load(SeqCst) as Mark)
    }

    fn passed(&self, mark: Mark) -> bool {
        let mark = mark as usize;
        let synchronised = *self.synchronised.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now_us = self.time_of(self.now.load(SeqCst));
        synchronised.is_some_and(|number| number >= mark) || now_us >= self.time_of(mark).saturating_add(self.gpu_us)
    }
}

/// Gives out addresses with nothing behind them.
struct Addresses(AtomicUsize);

impl PinnedSource for Addresses {
    fn reserve(&self, bytes: usize) -> Result<NonNull<u8>, i32> {
        let start = self.0.fetch_add(bytes, SeqCst);
        NonNull::new(std::ptr::without_provenance_mut(start)).ok_or(2)
    }

    fn release(&self, _address: NonNull<u8>, _bytes: usize) {}
}
