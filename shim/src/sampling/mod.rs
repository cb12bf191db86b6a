//! GPU time by sampled event pairs.
//!
//! One launch in N, at random distances so that no period of the program is hit or missed, gets an event before and
//! after it. The time between the two, less what lies between two events with nothing between them, is the launch's
//! GPU time; with the number of launches it stands for as its weight it is added to the process's total
//! (Horvitz-Thompson, stratified into kernels and graphs; a graph is timed as one, gaps between its kernels included).
//! What would falsify it:
//!
//! * **The gap.** On an idle stream the first event is done long before the host has submitted the kernel: the pair then
//!   shows mostly the host. So the stream is asked before: if it is idle, the host's time from the first event to the
//!   end of the launch call is subtracted; if it is busy and the first event still waits when the launch call has
//!   returned, there was no gap. For the same reason nothing of ours stands between the launch and the second event.
//! * **First launches** of a function load code, on the host: a launch call on an idle stream that takes more than
//!   [`SLOW_NS`](sampler::SLOW_NS) is discarded.
//! * **Others on the GPU.** A time slice given to another process inside a pair is not our time: 2 ms on a kernel of
//!   10 us, so that a few such samples double the total. [`learnt`] tells them by the history of the function.
//!
//! N follows from a budget ([`sampler`]). During captures nothing is sampled, and launches with programmatic dependence
//! are left alone, since an event between them and their predecessor would undo it.
//!
//! Candidates weighed: an event after every launch (16 % slower, measured by the prototype); graphs made of
//! event-kernel-event (50 us a sample); a stream wait value that holds the kernel back until both events are queued
//! (exact, but a launch that has to synchronise would wait for ever); CUPTI (one client at a time, and its cost).
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`sampler`] | a thread's part: when to sample, what it may cost |
//! | [`pair`] | two events, and what lies between them |
//! | [`learnt`] | what is known of each function, and whether a sample is to be believed |

mod learnt;
mod pair;
mod sampler;

pub(crate) use learnt::{forget_functions, forget_graph};
pub(crate) use pair::forget_context;
pub(crate) use sampler::Sampler;

use crate::clock;
use crate::cuda::{Status, sys};
use crate::fence::fenced;
use crate::handlers::launch::finish;
use crate::handlers::streams;
use crate::hook::Hook;
use crate::thread::Thread;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether sampling is wanted; see `AISHIM_SAMPLE`.
static ENABLED: AtomicBool = AtomicBool::new(true);

/// What is launched, as far as its GPU time is concerned.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    key: u64,
    stratum: Stratum,
    /// May have events put around it.
    measurable: bool,
}

/// Launches that are alike enough for one to stand for others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stratum {
    Kernels,
    Graphs,
}

impl Subject {
    /// A kernel, known by its function and grid.
    pub(crate) fn kernel(function: usize, grid: [u32; 3]) -> Self {
        let mut key = function as u64;
        for size in grid {
            key = (key ^ u64::from(size)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        }
        Self { key, stratum: Stratum::Kernels, measurable: true }
    }

    /// # Safety
    /// `config` points to a launch configuration.
    pub(crate) unsafe fn kernel_ex(function: usize, config: *const sys::CUlaunchConfig) -> Self {
        // SAFETY: the caller's promise; read field by field, since its attributes hold enums.
        let (grid, attributes, count) = unsafe {
            let c = config;
            ([(*c).gridDimX, (*c).gridDimY, (*c).gridDimZ], (*c).attrs, (*c).numAttrs as usize)
        };
        let ids = (0..if attributes.is_null() { 0 } else { count.min(64) }).map(|i| {
            // SAFETY: the configuration says that there are so many attributes; the enum is read as an integer.
            unsafe { (&raw const (*attributes.add(i)).id).cast::<u32>().read() }
        });
        let mut subject = Self::kernel(function, grid);
        subject.measurable = !ids.into_iter().any(|id| PROGRAMMATIC.contains(&id));
        subject
    }

    /// A graph.
    pub(crate) fn graph(graph: usize) -> Self {
        Self { key: graph as u64, stratum: Stratum::Graphs, measurable: true }
    }
}

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`, `_PROGRAMMATIC_EVENT`, `_LAUNCH_COMPLETION_EVENT`.
const PROGRAMMATIC: [u32; 3] = [6, 7, 12];

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
    let handle = streams::key(stream, hook) as sys::CUstream;
    let enabled = ENABLED.load(Relaxed);
    if enabled {
        // SAFETY: the calling thread's own, and no reference to it is held across the driver's call.
        fenced(|| unsafe { &mut (*thread).sampler }.before(handle, subject));
    }
    let start = clock::now();
    let status = call();
    let end = clock::now();
    // Where sampling is off the countdown comes by here once in 2^32 launches.
    fenced(|| {
        if !enabled {
            return;
        }
        // SAFETY: as above.
        let thread = unsafe { &mut *thread };
        thread.sampler.after(handle, status, end);
        let interval = thread.sampler.next_interval(subject.stratum);
        match subject.stratum {
            Stratum::Kernels => thread.kernels_to_sample = interval,
            Stratum::Graphs => thread.graphs_to_sample = interval,
        }
    });
    finish(hook, status, stream, thread, start, end.wrapping_sub(start));
    status
}
