//! What is known of each function and grid, and of each graph, and whether a sample is to be believed.
//!
//! Another process that has work takes the GPU in slices of 2 ms, and one inside a pair adds that much. A sample so far
//! above the shortest of its function is *contended* and tells nothing. Two cases have no usual time to compare with:
//!
//! * a function's first sample, when it is long: it is set aside until a second one says what it was;
//! * launches on an idle stream: what holds such a stream is not work of the compute engine, so the other process may
//!   have that until the launch arrives, and then to the end of its slice, again and again at the same place of a
//!   program. A long one without history is *doubtful*: the next sample gets work for the compute engine put before it.
//!
//! Should long ones have been believed all the same, the first that is shorter by a slice shows it.

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

/// What is longer than usual by this much was cut by somebody else's time slice. The same function may well take
/// 0.4 ms and 1.4 ms on one grid (batch_norm_backward_kernel in ResNet-50's training).
const SLICE_NS: u64 = 1_500_000;

/// The same where others are known to be there, who may need less than a slice.
const SHORT_SLICE_NS: u64 = 800_000;

static LEARNT: Mutex<Option<HashMap<u64, Learnt>>> = Mutex::new(None);

/// What is known of one function and grid, or of one graph.
#[derive(Default)]
struct Learnt {
    shortest_ns: u64,
    /// Samples that were believed.
    quiet: u64,
    /// A long first sample, until a second one tells whether the time was ours.
    suspended_ns: Option<u64>,
}

/// One measured launch.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    pub(super) time_ns: u64,
    /// Nothing of the compute engine's stood before it.
    pub(super) exposed: bool,
}

/// What a sample is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts.
    Believed,
    /// It counts, and shows that those before were not to be believed.
    Corrects,
    /// It tells nothing.
    Contended,
    /// It may have been long for another's sake.
    Doubtful,
}

/// Takes a sample into account.
pub(super) fn learn(key: u64, sample: Sample) -> Verdict {
    // Asked before the lock is taken, since it may read a directory.
    let slice_ns = if life::others_present() { SHORT_SLICE_NS } else { SLICE_NS };
    let mut learnt = LEARNT.lock();
    let learnt = learnt.get_or_insert_with(HashMap::new);
    let verdict = if learnt.len() >= LEARNT_MAX && !learnt.contains_key(&key) {
        Verdict::Believed
    } else {
        learnt.entry(key).or_default().take(sample, slice_ns)
    };
    match verdict {
        Verdict::Believed | Verdict::Corrects => believe(sample.time_ns),
        Verdict::Contended | Verdict::Doubtful => segment::add(Statistic::GpuSamplesContended, 1),
    }
    verdict
}

impl Learnt {
    fn take(&mut self, sample: Sample, slice_ns: u64) -> Verdict {
        let time_ns = sample.time_ns;
        if self.quiet == 0 && time_ns >= SHORT_SLICE_NS / 2 && sample.exposed {
            return Verdict::Doubtful;
        }
        if self.quiet == 0 && self.suspended_ns.is_none() && time_ns >= slice_ns {
            self.suspended_ns = Some(time_ns);
            return Verdict::Contended;
        }
        if self.suspended_ns.take().is_some_and(|first_ns| first_ns / 2 <= time_ns) {
            self.quiet += 1;
            self.shortest_ns = time_ns;
        }
        let shortest_ns = if self.quiet == 0 { time_ns } else { self.shortest_ns };
        if time_ns.saturating_sub(shortest_ns + shortest_ns / 2) > slice_ns {
            return Verdict::Contended;
        }
        self.quiet += 1;
        self.shortest_ns = shortest_ns.min(time_ns);
        if shortest_ns.saturating_sub(time_ns) > slice_ns { Verdict::Corrects } else { Verdict::Believed }
    }
}

fn believe(time_ns: u64) {
    segment::record(&segment().gpu, time_ns);
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

#[cfg(test)]
mod tests {
    use super::Verdict::{Believed, Contended, Corrects, Doubtful};
    use super::*;

    fn verdicts<const N: usize>(times_us: [u64; N], exposed: bool, slice_ns: u64) -> [Verdict; N] {
        let mut learnt = Learnt::default();
        times_us.map(|us| learnt.take(Sample { time_ns: us * 1000, exposed }, slice_ns))
    }

    #[test]
    fn a_slice_above_the_shortest_is_anothers() {
        assert!(verdicts([10, 2_100, 12, 2_100], true, SLICE_NS) == [Believed, Contended, Believed, Contended]);
        // The same kernel may take as long as this for its own sake, where nobody is known to be there.
        assert!(verdicts([400, 1_400], false, SLICE_NS) == [Believed, Believed]);
        assert!(verdicts([400, 1_500], false, SHORT_SLICE_NS) == [Believed, Contended]);
    }

    #[test]
    fn a_long_first_sample_waits_for_a_second() {
        assert!(verdicts([3_000, 3_100, 3_000], false, SLICE_NS) == [Contended, Believed, Believed]);
        assert!(verdicts([3_000, 10, 3_000], false, SLICE_NS) == [Contended, Believed, Contended]);
    }

    #[test]
    fn a_long_one_on_an_idle_stream_is_doubtful_until_there_is_a_history() {
        assert!(verdicts([400, 3_000, 10, 700], true, SLICE_NS) == [Doubtful, Doubtful, Believed, Believed]);
        assert!(verdicts([399, 700], true, SLICE_NS) == [Believed, Believed]);
    }

    #[test]
    fn what_is_shorter_by_a_slice_corrects() {
        assert!(verdicts([3_000, 3_000, 10, 12], false, SLICE_NS) == [Contended, Believed, Corrects, Believed]);
        assert!(verdicts([1_400, 10], false, SLICE_NS) == [Believed, Believed]);
    }
}
