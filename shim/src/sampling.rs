//! GPU time by sampled event pairs.
//!
//! One launch in N, at random distances so that no period of the program is hit or missed, gets an event before and
//! after it. The time between the two, less what lies between two events with nothing between them, is the launch's
//! GPU time; with the number of launches it stands for as its weight it is added to the process's total
//! (Horvitz-Thompson, stratified into kernels and graphs). Three things would falsify it:
//!
//! * **The gap.** On an idle stream the first event is done long before the host has submitted the kernel: what the
//!   pair shows then is mostly the host. So the stream is asked before: if it is idle, the host's time from the first
//!   event to the end of the launch call is subtracted; if it is busy and the first event is still waiting when the
//!   launch call returns, the pair is exact; if it has run meanwhile nobody knows, and the sample is discarded, its
//!   weight passed on to the next.
//! * **First launches** of a function load code, on the host. A launch call that takes more than [`SLOW_NS`] is discarded.
//! * **Others on the GPU.** A slice given to another process inside a pair is not our time: 2 ms on a kernel of 10 us,
//!   so that a few such samples double the total. Of every function and grid the shortest time is remembered; a sample
//!   far above it counts as *contended*, and the mean of the quiet ones is taken instead. A long first sample is set
//!   aside until the second says what it was.
//!
//! N follows from a budget: the samples of a thread cost at most 1 % of the time its launches take. During captures
//! nothing is sampled, and launches with programmatic dependence are left alone, since an event between them and their
//! predecessor would undo it.
//!
//! Candidates weighed: an event after every launch (16 % slower, measured by the prototype); graphs made of
//! event-kernel-event (50 us a sample); a stream wait value that holds the kernel back until both events are queued
//! (exact, but a launch that has to synchronise would wait for ever); CUPTI (one client at a time, and its cost).

use crate::clock;
use crate::cuda::{Status, address, sys};
use crate::driver;
use crate::fence::fenced;
use crate::handlers::capture::Section;
use crate::handlers::launch::finish;
use crate::handlers::{streams, work};
use crate::hook::Hook;
use crate::life;
use crate::segment::{self, segment};
use crate::thread::Thread;
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Pairs a thread may have on the GPU at once.
const PAIRS: usize = 8;

/// One part in this many of a thread's time goes to sampling.
const BUDGET: u64 = 100;

/// A launch call that takes longer loads code or waits for room: nothing to learn from.
const SLOW_NS: u64 = 100_000;

/// What a launch call takes the host at most by assumption, when nothing is known of its GPU time.
const HOST_LAUNCH_NS: u64 = 10_000;

/// The distance between samples is at most one in this many of the launches so far.
const YOUTH: u64 = 8;

/// Functions remembered at most.
const LEARNT_MAX: usize = 8192;

/// What is longer than usual by this much looks like a time slice given to somebody else (they are 2 ms).
const SLICE_NS: u64 = 800_000;

/// Longest distance between samples, in launches.
const INTERVAL_MAX: u32 = 4096;

/// One busy sample in this many measures what an empty pair takes.
const EMPTY_EVERY: u64 = 32;

/// Whether sampling is wanted; see `AISHIM_SAMPLE`.
static ENABLED: AtomicBool = AtomicBool::new(true);

/// Raised when a context ends: events made before are gone with it.
static EPOCH: AtomicU32 = AtomicU32::new(0);

static LEARNT: Mutex<Option<HashMap<u64, Learnt>>> = Mutex::new(None);

/// What is launched, as far as its GPU time is concerned.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    key: u64,
    stratum: Stratum,
    /// May have events put around it.
    measurable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stratum {
    Kernels,
    Graphs,
}

impl Subject {
    pub(crate) fn kernel(function: usize, grid: [u32; 3]) -> Self {
        let mut key = function as u64;
        for size in grid {
            key = (key ^ u64::from(size))
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(29);
        }
        Self {
            key,
            stratum: Stratum::Kernels,
            measurable: true,
        }
    }

    /// # Safety
    /// `config` points to a launch configuration.
    pub(crate) unsafe fn kernel_ex(function: usize, config: *const sys::CUlaunchConfig) -> Self {
        // SAFETY: the caller's promise; read field by field, since its attributes hold enums.
        let (grid, attributes, count) = unsafe {
            let c = config;
            (
                [(*c).gridDimX, (*c).gridDimY, (*c).gridDimZ],
                (*c).attrs,
                (*c).numAttrs as usize,
            )
        };
        let ids = (0..if attributes.is_null() {
            0
        } else {
            count.min(64)
        })
            .map(|i| {
                // SAFETY: the configuration says that there are so many attributes; the enum is read as an integer.
                unsafe { (&raw const (*attributes.add(i)).id).cast::<u32>().read() }
            });
        let mut subject = Self::kernel(function, grid);
        subject.measurable = !ids.into_iter().any(|id| PROGRAMMATIC.contains(&id));
        subject
    }

    pub(crate) fn graph(graph: usize) -> Self {
        Self {
            key: graph as u64,
            stratum: Stratum::Graphs,
            measurable: true,
        }
    }
}

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`, `_PROGRAMMATIC_EVENT`, `_LAUNCH_COMPLETION_EVENT`.
const PROGRAMMATIC: [u32; 3] = [6, 7, 12];

/// A thread's part of the sampling.
pub(crate) struct Sampler {
    pairs: [Pair; PAIRS],
    random: u64,
    /// Launches that the next sample of each stratum stands for.
    weights: [u64; 2],
    /// When the last sample of each stratum began, in ticks, and how many launches were to follow it.
    began: [u64; 2],
    drawn: [u64; 2],
    /// Samples so far; now and then one gets a third event.
    measured: u64,
    /// Launches so far, about: a young thread is sampled more often.
    launches: u64,
    /// Running mean of the GPU time of a launch of each stratum, in nanoseconds.
    gpu_ns: [u64; 2],
    /// Running mean of what a sample costs the host, in nanoseconds.
    cost_ns: u64,
}

/// Two events and what they were put around.
struct Pair {
    start: sys::CUevent,
    end: sys::CUevent,
    /// Follows the end at once, now and then: the two are an empty pair.
    after: sys::CUevent,
    has_after: bool,
    context: usize,
    epoch: u32,
    state: State,
    subject: Subject,
    weight: u64,
    /// Host time to subtract; 0 where the stream was busy.
    gap_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// The first event is on its way, on a stream that was idle.
    StartedIdle,
    /// The same on a stream that was busy.
    StartedBusy,
    /// Both are.
    Pending,
}

/// What is known of one function and grid, or of one graph.
struct Learnt {
    shortest_ns: u64,
    quiet_sum_ns: u64,
    quiet: u64,
    /// A long first sample and its weight, until a second one tells whether the time was ours.
    suspended: Option<(u64, u64)>,
}

/// Turns sampling off for good.
pub(crate) fn disable() {
    ENABLED.store(false, Relaxed);
}

/// A new thread begins with a sample of its first launches; where sampling is off, it never comes to one.
pub(crate) fn prepared(thread: *mut Thread) -> Option<*mut Thread> {
    if thread.is_null() {
        return None;
    }
    if !ENABLED.load(Relaxed) {
        // SAFETY: the calling thread's own.
        let thread = unsafe { &mut *thread };
        (thread.kernels_to_sample, thread.graphs_to_sample) = (0, 0);
    }
    Some(thread)
}

/// A launch whose turn it is to be sampled.
#[cold]
pub(crate) fn launch(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: usize,
    thread: *mut Thread,
    subject: Subject,
) -> Status {
    let key = streams::key(stream, hook);
    let handle = key as sys::CUstream;
    // SAFETY: the calling thread's own, and no reference to it is held across the driver's call.
    let sampled = fenced(|| unsafe { &mut (*thread).sampler }.before(handle, subject));
    let start = clock::now();
    let status = call();
    let ticks = clock::now().wrapping_sub(start);
    fenced(|| {
        // SAFETY: as above.
        let thread = unsafe { &mut *thread };
        if let Some(pair) = sampled {
            thread.sampler.after(pair, handle, status, clock::ns(ticks));
        }
        let interval = thread.sampler.next_interval(subject.stratum);
        match subject.stratum {
            Stratum::Kernels => thread.kernels_to_sample = interval,
            Stratum::Graphs => thread.graphs_to_sample = interval,
        }
    });
    finish(hook, status, stream, thread, start, ticks);
    status
}

impl Sampler {
    pub(crate) fn new() -> Self {
        let seed = clock::monotonic_ns() ^ (std::ptr::from_ref(&EPOCH) as u64).rotate_left(32);
        Self {
            pairs: std::array::from_fn(|_| Pair::new()),
            random: seed | 1,
            weights: [1, 1],
            began: [0, 0],
            drawn: [1, 1],
            measured: 0,
            launches: 0,
            gpu_ns: [0, 0],
            cost_ns: 5_000,
        }
    }

    /// Puts the first event before a launch; which pair, where it could be done.
    fn before(&mut self, stream: sys::CUstream, subject: Subject) -> Option<usize> {
        let began = clock::now();
        let _section = Section::enter()?;
        self.collect_pending();
        let index = self
            .pairs
            .iter()
            .position(|p| p.state == State::Free)
            .filter(|_| subject.measurable)?;
        let pair = self.pairs.get_mut(index)?;
        if !pair.is_ready(driver::context()) {
            return None;
        }
        let idle = match driver::stream_query(stream) {
            Status::SUCCESS => State::StartedIdle,
            Status::NOT_READY => State::StartedBusy,
            _ => return None,
        };
        if !driver::event_record(pair.start, stream).is_ok() {
            return None;
        }
        let stratum = subject.stratum as usize;
        pair.subject = subject;
        pair.weight = std::mem::take(&mut self.weights[stratum]);
        pair.state = idle;
        self.spent(clock::ns(clock::now().wrapping_sub(began)));
        Some(index)
    }

    /// Puts the second event behind it.
    fn after(&mut self, index: usize, stream: sys::CUstream, status: Status, launch_ns: u64) {
        let began = clock::now();
        let Some(pair) = self.pairs.get_mut(index) else {
            return;
        };
        let usable = status.is_ok() && (launch_ns < SLOW_NS || pair.state == State::StartedBusy);
        let section = if usable { Section::enter() } else { None };
        let complete = section.is_some() && pair.finish(stream, launch_ns);
        if complete {
            self.measured += 1;
            if self.measured % EMPTY_EVERY == 1 {
                pair.follow(stream);
            }
        }
        drop(section);
        if complete {
            pair.state = State::Pending;
        } else {
            pair.state = State::Free;
            let (stratum, weight) = (pair.subject.stratum as usize, pair.weight);
            self.weights[stratum] += weight;
            segment::add(Statistic::GpuSamplesDiscarded, 1);
        }
        self.spent(clock::ns(clock::now().wrapping_sub(began)));
    }

    /// Half of a sample's cost is seen at a time: before, and after.
    fn spent(&mut self, half_ns: u64) {
        self.cost_ns = (self.cost_ns * 15 + half_ns.min(SLOW_NS) * 2) / 16;
    }

    /// How many launches until the next sample: the budget's share, spread at random from 1 to twice that less one.
    fn next_interval(&mut self, stratum: Stratum) -> u32 {
        let at = stratum as usize;
        let now = clock::now();
        let began = std::mem::replace(&mut self.began[at], now);
        // Idle time is no budget: a launch takes the host a few microseconds, or the GPU as long as it was seen to.
        let most_ns = HOST_LAUNCH_NS.max(self.gpu_ns[at]);
        let elapsed_ns = if began == 0 {
            most_ns
        } else {
            clock::ns(now.wrapping_sub(began))
        };
        let launch_ns = (elapsed_ns / self.drawn[at]).clamp(50, most_ns);
        // A young thread is sampled densely, so that a short program is not told by its first launch alone.
        let youth = 1 + self.launches / YOUTH;
        let mean = (self.cost_ns * BUDGET / launch_ns)
            .min(youth)
            .clamp(1, INTERVAL_MAX.into()) as u32;
        if stratum == Stratum::Kernels {
            segment::set(Statistic::SampleInterval, mean.into());
        }
        let interval = 1 + self.next_random() % (2 * mean - 1);
        self.weights[at] += u64::from(interval);
        self.drawn[at] = interval.into();
        self.launches += u64::from(interval);
        interval
    }

    /// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
    fn next_random(&mut self) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// Reads the pairs that are done. The program has just waited, or a new sample is due.
    pub(crate) fn collect(&mut self) {
        if self.pairs.iter().any(|p| p.state == State::Pending)
            && let Some(_section) = Section::enter()
        {
            self.collect_pending();
        }
    }

    fn collect_pending(&mut self) {
        let epoch = EPOCH.load(Relaxed);
        for pair in &mut self.pairs {
            if pair.state != State::Pending {
                continue;
            }
            if pair.epoch != epoch {
                pair.forget();
            } else if driver::event_query(pair.last()) != Status::NOT_READY {
                pair.state = State::Free;
                let at = pair.subject.stratum as usize;
                match pair.read() {
                    Some(gpu_ns) if self.gpu_ns[at] == 0 => self.gpu_ns[at] = gpu_ns,
                    Some(gpu_ns) => self.gpu_ns[at] = (self.gpu_ns[at] * 255 + gpu_ns) / 256,
                    None => self.weights[at] += pair.weight,
                }
            }
        }
    }
}

impl Pair {
    fn new() -> Self {
        Self {
            start: std::ptr::null_mut(),
            end: std::ptr::null_mut(),
            after: std::ptr::null_mut(),
            has_after: false,
            context: 0,
            epoch: 0,
            state: State::Free,
            subject: Subject {
                key: 0,
                stratum: Stratum::Kernels,
                measurable: false,
            },
            weight: 0,
            gap_ns: 0,
        }
    }

    /// The events of an ended context went with it.
    fn forget(&mut self) {
        *self = Self::new();
    }

    /// Whether it has events of `context`; they are made where they are missing.
    fn is_ready(&mut self, context: usize) -> bool {
        let epoch = EPOCH.load(Relaxed);
        if context == 0 {
            return false;
        }
        if self.epoch != epoch {
            self.forget();
        }
        if self.context == context {
            return true;
        }
        let mut spare = SPARE.lock();
        spare.retain(|p| p.epoch == epoch);
        if let Some(at) = spare
            .iter()
            .position(|p| p.context == context)
            .filter(|_| self.context == 0)
        {
            *self = spare.swap_remove(at);
            (self.state, self.has_after) = (State::Free, false);
            return true;
        }
        drop(spare);
        if self.context != 0 {
            let _ = driver::event_destroy(self.start);
            let _ = driver::event_destroy(self.end);
            let _ = driver::event_destroy(self.after);
            self.forget();
        }
        (self.epoch, self.context) = (epoch, context);
        let made = driver::event_create(&raw mut self.start, 0).is_ok()
            && driver::event_create(&raw mut self.end, 0).is_ok()
            && driver::event_create(&raw mut self.after, 0).is_ok();
        if !made {
            self.forget();
        }
        made
    }

    /// Records the second event, if the pair can still tell anything.
    fn finish(&mut self, stream: sys::CUstream, launch_ns: u64) -> bool {
        match self.state {
            State::StartedIdle => self.gap_ns = launch_ns,
            // Still waiting behind earlier work: the kernel follows it without a gap.
            State::StartedBusy if driver::event_query(self.start) == Status::NOT_READY => {
                self.gap_ns = 0;
            }
            _ => return false,
        }
        driver::event_record(self.end, stream).is_ok()
    }

    /// Records a third event directly behind the second.
    fn follow(&mut self, stream: sys::CUstream) {
        self.has_after = driver::event_record(self.after, stream).is_ok();
    }

    fn last(&self) -> sys::CUevent {
        if self.has_after { self.after } else { self.end }
    }

    /// Reads a finished pair and counts what it tells; none when it tells nothing.
    fn read(&mut self) -> Option<u64> {
        if std::mem::take(&mut self.has_after) {
            elapsed_ns(self.end, self.after)
                .into_iter()
                .for_each(empty_pair);
        }
        let Some(raw_ns) = elapsed_ns(self.start, self.end) else {
            segment::add(Statistic::GpuSamplesDiscarded, 1);
            return None;
        };
        let time_ns = raw_ns
            .saturating_sub(self.gap_ns + self.overhead_ns())
            .max(1);
        segment::add(Statistic::GpuSamples, 1);
        learn(self.subject.key, time_ns, self.weight);
        Some(time_ns)
    }

    /// What the pair shows beyond the launch itself, in terms of an empty pair. Measured against CUPTI on an H200
    /// (benches/gpu/pair_overhead.py): 1.5 us on an idle stream and 3.1 us on a busy one, with an empty pair of 1.25 us.
    fn overhead_ns(&self) -> u64 {
        let empty_ns = segment().counters[Statistic::EmptyPair as usize].load(Relaxed);
        if self.gap_ns == 0 {
            empty_ns * 5 / 2
        } else {
            empty_ns * 6 / 5
        }
    }
}

/// Events that threads which ended have left, for those that come: a program that starts a thread for each request must
/// not leave events behind for each.
static SPARE: Mutex<Vec<Pair>> = Mutex::new(Vec::new());

// SAFETY: the pointers are handles of the driver, which any thread may use.
unsafe impl Send for Pair {}

impl Drop for Sampler {
    fn drop(&mut self) {
        let pairs = std::mem::replace(&mut self.pairs, std::array::from_fn(|_| Pair::new()));
        SPARE
            .lock()
            .extend(pairs.into_iter().filter(|p| p.context != 0));
    }
}

fn elapsed_ns(start: sys::CUevent, end: sys::CUevent) -> Option<u64> {
    let mut milliseconds = 0.0_f32;
    let read = driver::event_elapsed(&raw mut milliseconds, start, end);
    let sound = read.is_ok() && milliseconds.is_finite() && milliseconds >= 0.0;
    sound.then(|| (f64::from(milliseconds) * 1e6) as u64)
}

/// Takes a sample into account: adds what it stands for to the total, once it can be believed.
fn learn(key: u64, time_ns: u64, weight: u64) {
    let mut learnt = LEARNT.lock();
    let learnt = learnt.get_or_insert_with(HashMap::new);
    if let Some(entry) = learnt.get_mut(&key) {
        entry.take(time_ns, weight);
    } else if learnt.len() >= LEARNT_MAX {
        believe(time_ns, weight);
    } else {
        learnt.insert(key, Learnt::first(time_ns, weight));
    }
}

impl Learnt {
    /// The first sample of a function and grid: a long one may be somebody else's time slice, and waits for the second
    /// to say so.
    fn first(time_ns: u64, weight: u64) -> Self {
        let suspect_ns = if life::others_present() {
            SLICE_NS / 2
        } else {
            SLICE_NS
        };
        let mut learnt = Self {
            shortest_ns: time_ns,
            quiet_sum_ns: 0,
            quiet: 0,
            suspended: None,
        };
        if time_ns >= suspect_ns {
            learnt.suspended = Some((time_ns, weight));
        } else {
            learnt.quiet(time_ns, weight);
        }
        learnt
    }

    /// Every later one.
    fn take(&mut self, time_ns: u64, mut weight: u64) {
        self.shortest_ns = self.shortest_ns.min(time_ns);
        if let Some((first_ns, first_weight)) = self.suspended.take() {
            if first_ns / 2 <= time_ns {
                self.quiet(first_ns, first_weight);
            } else {
                segment::add(Statistic::GpuSamplesContended, 1);
                weight += first_weight;
            }
        }
        if self.quiet > 0 && is_contended(time_ns, self.shortest_ns) {
            segment::add(Statistic::GpuSamplesContended, 1);
            let mean_ns = self.quiet_sum_ns / self.quiet;
            segment::add(Statistic::GpuTime, mean_ns.saturating_mul(weight));
        } else {
            self.quiet(time_ns, weight);
        }
    }

    fn quiet(&mut self, time_ns: u64, weight: u64) {
        self.quiet_sum_ns = self.quiet_sum_ns.saturating_add(time_ns);
        self.quiet += 1;
        believe(time_ns, weight);
    }
}

fn believe(time_ns: u64, weight: u64) {
    segment::record(&segment().gpu, time_ns);
    segment::add(Statistic::GpuTime, time_ns.saturating_mul(weight));
}

/// Far above the shortest, while somebody else could have been the reason; or by as much as a time slice anyway.
fn is_contended(time_ns: u64, shortest_ns: u64) -> bool {
    const NOISE_NS: u64 = 30_000;
    let excess_ns = time_ns.saturating_sub(shortest_ns + shortest_ns / 2);
    excess_ns > SLICE_NS || (excess_ns > NOISE_NS && life::others_present())
}

/// cuModuleUnload, cuLibraryUnload: a function's handle may come back for another.
pub(crate) unsafe fn forget_functions(hook: Hook, call: impl FnOnce() -> Status) -> Status {
    let status = work::forward(hook, call);
    fenced(|| {
        if let Some(learnt) = LEARNT.lock().as_mut() {
            learnt.clear();
        }
    });
    status
}

/// cuGraphExecDestroy: so may a graph's.
pub(crate) unsafe fn forget_graph(
    hook: Hook,
    call: impl FnOnce() -> Status,
    graph: sys::CUgraphExec,
) -> Status {
    fenced(|| {
        if let Some(learnt) = LEARNT.lock().as_mut() {
            learnt.remove(&(address(graph) as u64));
        }
    });
    work::forward(hook, call)
}

/// A context ends, and all events with it.
pub(crate) fn forget_context(context: usize) {
    let _ = context;
    EPOCH.fetch_add(1, Relaxed);
}

/// Time between two events with nothing between them, as told by the two that follow each other at once.
fn empty_pair(nanoseconds: u64) {
    static SHORTEST: AtomicU64 = AtomicU64::new(u64::MAX);
    let shortest = SHORTEST.fetch_min(nanoseconds, Relaxed).min(nanoseconds);
    segment::set(Statistic::EmptyPair, shortest);
}
