//! What is known of each function and grid, and of each graph, and whether a sample is to be believed.
//!
//! Time slices are 2 ms. A sample far above what its function usually takes is *contended*: the mean of the quiet
//! samples is counted in its place. Two cases have no usual time to compare with:
//!
//! * a function's first sample, when it is long: it is set aside until a second one says what it was;
//! * launches on an idle stream: the event before them runs at once, then the GPU may turn to another process while the
//!   kernel is on its way, and beside one that works without pause it does so again and again at the same place of a
//!   program. A long one is not believed at all (unless the function is known to be long from launches on a busy
//!   stream); its weight goes to the next. Only where a program waits for each launch alone is there no other to be had.

use crate::cuda::{Status, address, sys};
use crate::fence::fenced;
use crate::handlers::work;
use crate::hook::Hook;
use crate::life;
use crate::mode;
use crate::segment::{self, segment};
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Functions remembered at most.
const LEARNT_MAX: usize = 8192;

/// What is longer than usual by this much looks like a time slice given to somebody else.
const SLICE_NS: u64 = 800_000;

/// What is longer than half as much again by this much is no noise, while others are there.
const NOISE_NS: u64 = 30_000;

static LEARNT: Mutex<Option<HashMap<u64, Learnt>>> = Mutex::new(None);

/// One measured launch.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    pub(super) time_ns: u64,
    /// Launches it stands for.
    pub(super) weight: u64,
    /// It came to an idle stream, in a program that launches several at a time.
    pub(super) doubtful: bool,
}

/// What is known of one function and grid, or of one graph.
#[derive(Default)]
struct Learnt {
    shortest_ns: u64,
    quiet_sum_ns: u64,
    quiet: u64,
    /// A long first sample, until a second one tells whether the time was ours.
    suspended: Option<Sample>,
}

/// Takes a sample into account; false when it is not believed and its weight has to go elsewhere.
pub(super) fn learn(key: u64, sample: Sample) -> bool {
    // Asked before the lock is taken, since it may read a directory.
    let others = life::others_present();
    let is_long = sample.time_ns >= if others { SLICE_NS / 2 } else { SLICE_NS };
    let mut learnt = LEARNT.lock();
    let learnt = learnt.get_or_insert_with(HashMap::new);
    let is_new = !learnt.contains_key(&key);
    if is_new && learnt.len() >= LEARNT_MAX {
        believe(sample);
        return true;
    }
    if is_new && is_long && sample.doubtful {
        segment::add(Statistic::GpuSamplesContended, 1);
        return false;
    }
    let entry = learnt.entry(key).or_default();
    if is_new && is_long {
        entry.shortest_ns = sample.time_ns;
        entry.suspended = Some(sample);
    } else {
        entry.take(sample, is_new, others);
    }
    true
}

impl Learnt {
    fn take(&mut self, mut sample: Sample, is_new: bool, others: bool) {
        self.shortest_ns = if is_new { sample.time_ns } else { self.shortest_ns.min(sample.time_ns) };
        if let Some(first) = self.suspended.take() {
            if first.time_ns / 2 <= sample.time_ns {
                self.quiet(first);
            } else {
                segment::add(Statistic::GpuSamplesContended, 1);
                sample.weight += first.weight;
            }
        }
        if self.quiet > 0 && is_contended(sample.time_ns, self.shortest_ns, others) {
            segment::add(Statistic::GpuSamplesContended, 1);
            let mean_ns = self.quiet_sum_ns / self.quiet;
            segment::add(Statistic::GpuTime, mean_ns.saturating_mul(sample.weight));
        } else {
            self.quiet(sample);
        }
    }

    fn quiet(&mut self, sample: Sample) {
        self.quiet_sum_ns = self.quiet_sum_ns.saturating_add(sample.time_ns);
        self.quiet += 1;
        believe(sample);
    }
}

fn believe(sample: Sample) {
    segment::record(&segment().gpu, sample.time_ns);
    segment::add(Statistic::GpuTime, sample.time_ns.saturating_mul(sample.weight));
}

/// Far above the shortest, while somebody else could have been the reason; or by as much as a time slice anyway.
fn is_contended(time_ns: u64, shortest_ns: u64, others: bool) -> bool {
    let excess_ns = time_ns.saturating_sub(shortest_ns + shortest_ns / 2);
    excess_ns > SLICE_NS || (excess_ns > NOISE_NS && others)
}

/// cuModuleUnload, cuLibraryUnload: a function's handle may come back for another.
pub(crate) unsafe fn forget_functions(hook: Hook, call: impl FnOnce() -> Status) -> Status {
    let status = work::forward(hook, call);
    if mode::is_pass_through() {
        return status;
    }
    fenced(|| {
        if let Some(learnt) = LEARNT.lock().as_mut() {
            learnt.clear();
        }
    });
    status
}

/// cuGraphExecDestroy: so may a graph's.
pub(crate) unsafe fn forget_graph(hook: Hook, call: impl FnOnce() -> Status, graph: sys::CUgraphExec) -> Status {
    if mode::is_pass_through() {
        return call();
    }
    fenced(|| {
        if let Some(learnt) = LEARNT.lock().as_mut() {
            learnt.remove(&(address(graph) as u64));
        }
    });
    work::forward(hook, call)
}
