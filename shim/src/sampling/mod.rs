//! GPU time by sampled event pairs.
//!
//! Launches are counted by kernel, all of them, and some of each kernel's are sampled: an event before and an event after
//! it. The time between the two, less what lies between two events with nothing between them, is the launch's GPU time;
//! launches times mean time, summed up over the kernels, is the process's ([`strata`]; a graph is timed as one, gaps
//! between its kernels included). What would falsify it:
//!
//! * **The gap.** On an idle stream the first event is done long before the host has submitted the kernel: the pair then
//!   shows mostly the host. So an idle stream is kept busy for that moment ([`hold`]), and a pair whose first event does
//!   not wait any more when the launch call has returned is thrown away. The gap could be subtracted instead, and is
//!   where streams cannot be held; in eager ResNet-50, whose kernels take 2 us, that was 2.4 us too much at the median.
//! * **First launches** of a function load code, on the host and on the device: never sampled.
//! * **Others on the GPU.** A time slice given to another process inside a pair is not our time: 2 ms on a kernel of
//!   10 us. [`learnt`] tells such samples by the history of the function. A held stream does not invite it: the GPU turns
//!   to others when it has nothing to do for us.
//!
//! How often is a matter of budget ([`sampler`]). During captures nothing is sampled, and launches with programmatic
//! dependence are left alone, since an event between them and their predecessor would undo it: they count as long as
//! the others are on average.
//!
//! Candidates weighed: an event after every launch (16 % slower, measured by the prototype); graphs made of
//! event-kernel-event (50 us a sample); a stream wait value that holds the kernel back until both events are queued
//! (exact, but a launch that has to synchronise would wait for ever); CUPTI (one client at a time, and its cost).
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`strata`] | launches counted by kernel, means, the sum |
//! | [`sampler`] | a thread's part: what sampling may cost, the pairs on their way |
//! | [`pair`] | two events, and what lies between them |
//! | [`hold`] | keeping an idle stream busy for a pair |
//! | [`learnt`] | what is known of each function, and whether a sample is to be believed |
//! | [`stopwatch`] | a pair around what is no launch |

mod hold;
mod learnt;
mod pair;
mod sampler;
mod stopwatch;
mod strata;

pub(crate) use learnt::{forget_functions, forget_graph};
pub(crate) use pair::forget_context;
pub(crate) use sampler::Sampler;
pub(crate) use stopwatch::Stopwatch;
pub(crate) use strata::{is_counted, settle_all, stratum_of, usual_ns};

use crate::behaviour;
use crate::clock;
use crate::cuda::{Status, sys};
use crate::fence::fenced;
use crate::handlers::launch::{Launching, finish};
use crate::handlers::streams;
use crate::hook::Hook;
use crate::thread::Thread;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether sampling is wanted; see `AISHIM_SAMPLE`.
static ENABLED: AtomicBool = AtomicBool::new(true);

/// What a kernel is known by: its function, its grid and a block's width, as one multiplication makes of them.
#[inline]
pub(crate) fn kernel_key(function: usize, grid: [u32; 3], block_x: u32) -> u64 {
    let [x, y, z] = grid.map(u64::from);
    let known = function as u64 ^ (x << 20) ^ (y << 36) ^ (z << 48) ^ (u64::from(block_x) << 54);
    known.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// What a graph is known by.
#[inline]
pub(crate) fn graph_key(graph: usize) -> u64 {
    kernel_key(graph, [0; 3], 0)
}

/// Whether events may be put around a launch.
///
/// # Safety
/// `config` points to a launch configuration.
pub(crate) unsafe fn is_measurable(config: *const sys::CUlaunchConfig) -> bool {
    // SAFETY: the caller's promise; read field by field, since the attributes hold enums.
    let (attributes, count) = unsafe { ((*config).attrs, (*config).numAttrs as usize) };
    let mut ids = (0..if attributes.is_null() { 0 } else { count.min(64) }).map(|i| {
        // SAFETY: the configuration says that there are so many attributes; the enum is read as an integer.
        unsafe { (&raw const (*attributes.add(i)).id).cast::<u32>().read() }
    });
    !ids.any(|id| PROGRAMMATIC.contains(&id))
}

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`, `_PROGRAMMATIC_EVENT`, `_LAUNCH_COMPLETION_EVENT`.
const PROGRAMMATIC: [u32; 3] = [6, 7, 12];

/// Turns sampling off for good.
pub(crate) fn disable() {
    ENABLED.store(false, Relaxed);
}

/// Whether anything is sampled.
pub(crate) fn is_enabled() -> bool {
    ENABLED.load(Relaxed)
}

/// Reads the samples that are done, and sums up; the program has just waited.
pub(crate) fn synchronised(thread: &mut Thread) {
    if ENABLED.load(Relaxed)
        && let Some(sampler) = thread.sampler()
    {
        sampler.synchronised();
    }
}

/// A launch that is not out of the ordinary but for one thing: as a rule that its stratum's countdown has run out, so that
/// it is visited, and perhaps sampled. Where it has not (the processor's counter does not serve; what was out of the
/// ordinary is over), the launch is counted down here.
#[cold]
pub(crate) fn launch(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: usize,
    thread: *mut Thread,
    key: u64,
    measurable: impl FnOnce() -> bool,
) -> Status {
    let handle = streams::key(stream, hook) as sys::CUstream;
    let stratum = stratum_of(key);
    // SAFETY: the calling thread's own, and no reference to it is held across the driver's call.
    let is_visited = !unsafe { &*thread }.shard().is_some_and(|shard| is_counted(shard, stratum));
    if is_visited {
        fenced(|| {
            // SAFETY: as above.
            let thread = unsafe { &mut *thread };
            let Some(sampler) = thread.sampler() else {
                return;
            };
            if ENABLED.load(Relaxed) {
                sampler.before(handle, key, stratum, measurable());
            } else {
                sampler.table().silence(stratum);
            }
        });
    }
    let start = clock::now();
    let status = call();
    let end = clock::now();
    if is_visited {
        fenced(|| {
            // SAFETY: as above.
            let thread = unsafe { &mut *thread };
            if let Some(sampler) = thread.sampler() {
                sampler.after(handle, status, end);
            }
            behaviour::look_by_the_way();
        });
    }
    // SAFETY: as above.
    if let Some(shard) = unsafe { &*thread }.shard() {
        let cost_ns = clock::ns(end.wrapping_sub(start));
        finish(hook, status, stream, Launching { thread, shard }, start, cost_ns);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thread;

    /// Where the processor's counter does not serve (a virtual machine may hide that it is invariant), every launch comes
    /// this way. Each was visited, its countdown begun anew each time: a lock for every launch, and samples up to 255
    /// times as often as was meant.
    #[test]
    fn a_launch_whose_countdown_has_not_run_out_is_counted_and_not_visited() {
        let key = graph_key(0x7f00_dead_0000);
        // One that the driver refuses opens no request, which other tests would see.
        let refused = || Status::INVALID_VALUE;
        let launched = || launch(Hook::cuGraphLaunch, refused, 0, thread::current_or_new(), key, || true);
        // SAFETY: the calling thread's own.
        let shard = unsafe { &*thread::current_or_new() }.shard().expect("there is memory");
        let left = &shard.countdowns[stratum_of(key)];
        left.store(200, Relaxed);
        for _ in 0..150 {
            assert_eq!(launched(), Status::INVALID_VALUE);
        }
        assert_eq!(left.load(Relaxed), 50);
        // Its table is given to no other test.
        thread::forget();
    }
}
