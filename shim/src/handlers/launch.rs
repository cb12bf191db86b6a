//! Launches: the hot path.
//!
//! program -> count and stamp -> the driver -> stamp, histogram -> back. No allocation, no lock, no system call. What is
//! out of the ordinary (first launch of a thread, a sample due, a capture open, a gate to look at) is found before the call: the
//! handlers exist twice, `ORDINARY` and not, and the first answers None where the second is needed. Each stands in a function of
//! its own (`exports`), because a call that is handed to a function out of line has its dozen arguments stored in memory
//! from the beginning, also where it never comes to that.

use crate::clock;
use crate::cuda::{Status, address, sys};
use crate::fence::fenced;
use crate::gate;
use crate::handlers::streams;
use crate::hook::Hook;
use crate::life;
use crate::mode;
use crate::sampling;
use crate::segment;
use crate::thread::{self, Thread};
use aishim_abi::layout::Shard;

/// cuLaunchKernel, cuLaunchCooperativeKernel.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "what is known of a launch, in registers")]
pub(crate) unsafe fn kernel<const ORDINARY: bool>(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    function: sys::CUfunction,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
) -> Option<Status> {
    let key = sampling::kernel_key(address(function), [grid_x, grid_y, grid_z], block_x);
    launch::<ORDINARY>(hook, call, address(stream), key, || true)
}

/// cuLaunchKernelEx.
///
/// # Safety
/// `config` is null or points to a launch configuration, as the driver demands.
#[inline(always)]
pub(crate) unsafe fn kernel_ex<const ORDINARY: bool>(
    hook: Hook,
    call: impl FnOnce() -> Status,
    config: *const sys::CUlaunchConfig,
    function: sys::CUfunction,
) -> Option<Status> {
    if config.is_null() {
        return (!ORDINARY).then(|| crate::handlers::work::forward(hook, call));
    }
    // SAFETY: not null, and the program's to keep valid for the call; read field by field, since its attributes hold
    // enums.
    let (stream, grid, block) = unsafe {
        let c = config;
        (address((*c).hStream), [(*c).gridDimX, (*c).gridDimY, (*c).gridDimZ], (*c).blockDimX)
    };
    let key = sampling::kernel_key(address(function), grid, block);
    // SAFETY: as above.
    launch::<ORDINARY>(hook, call, stream, key, || unsafe { sampling::is_measurable(config) })
}

/// cuGraphLaunch.
#[inline(always)]
pub(crate) unsafe fn graph<const ORDINARY: bool>(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    graph: sys::CUgraphExec,
) -> Option<Status> {
    launch::<ORDINARY>(hook, call, address(stream), sampling::graph_key(address(graph)), || true)
}

#[inline(always)]
fn launch<const ORDINARY: bool>(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: usize,
    key: u64,
    measurable: impl FnOnce() -> bool,
) -> Option<Status> {
    let mode = mode::mode();
    let is_counted = mode == 0 || !ORDINARY && mode == mode::IN_COMPANY;
    let thread = if is_counted { thread::current_hot() } else { std::ptr::null_mut() };
    if !ORDINARY {
        return Some(match thread.is_null() {
            true => unusual(hook, call, stream),
            false if mode == mode::IN_COMPANY => gate::launch(hook, call, stream, thread, key, measurable),
            false => sampling::launch(hook, call, stream, thread, key, measurable),
        });
    }
    if thread.is_null() {
        return None;
    }
    // SAFETY: the calling thread's own; nothing else refers to it while this function runs, but for what the driver
    // calls back, which goes through this same function and leaves consistent numbers.
    let own = unsafe { &mut *thread };
    let (shard, counter) = (own.shard()?, clock::counter()?);
    let stratum = sampling::stratum_of(key);
    if !sampling::is_counted(shard, stratum) {
        return None;
    }
    thread::prefetch(&raw const shard.calls[hook as usize]);
    let start = counter.now();
    let status = call();
    let cost_ns = counter.ns(counter.now().wrapping_sub(start));
    finish(hook, status, stream, Launching { thread, shard }, start, cost_ns);
    Some(status)
}

/// The thread that launches, and where it counts.
#[derive(Clone, Copy)]
pub(crate) struct Launching {
    pub(crate) thread: *mut Thread,
    pub(crate) shard: &'static Shard,
}

/// What follows every counted launch.
#[inline(always)]
pub(crate) fn finish(
    hook: Hook,
    status: Status,
    stream: usize,
    Launching { thread, shard }: Launching,
    start: u64,
    cost_ns: u64,
) {
    // SAFETY: as in `launch`.
    let thread = unsafe { &mut *thread };
    thread.launched(shard, hook, cost_ns);
    if !status.is_ok() {
        return segment::error(hook);
    }
    let key = streams::key(stream, hook);
    // As a rule it is.
    if !thread.has_open(key) {
        work_begins(thread, key, start);
    }
}

/// The first work of a thread on another stream, or since a request has ended.
#[inline(never)]
fn work_begins(thread: &mut Thread, key: usize, start: u64) {
    thread.requests_ended = streams::requests_ended();
    thread.last_stream = key;
    streams::work_begins(key, start);
}

/// Not the ordinary case: no context known yet, first launch of the thread, capture, exit, or nothing of ours wanted.
#[cold]
fn unusual(hook: Hook, call: impl FnOnce() -> Status, stream: usize) -> Status {
    if mode::is_pass_through() {
        return call();
    }
    let thread = fenced(|| {
        life::late_activation();
        Some(thread::current_or_new())
    });
    let thread = thread.unwrap_or(std::ptr::null_mut());
    if thread.is_null() {
        return crate::handlers::work::forward(hook, call);
    }
    gate::enter(stream, hook);
    let start = clock::now();
    let status = call();
    let cost_ns = clock::ns(clock::now().wrapping_sub(start));
    let key = streams::key(stream, hook);
    // SAFETY: as in `launch`.
    let thread = unsafe { &mut *thread };
    if let Some(shard) = thread.shard() {
        thread.launched(shard, hook, cost_ns);
    }
    if !status.is_ok() {
        segment::error(hook);
    } else if mode::mode() & mode::CAPTURING == 0 {
        work_begins(thread, key, start);
    } else {
        streams::used(key);
    }
    status
}
