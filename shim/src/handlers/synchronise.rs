//! Waiting for work, and asking whether it is done: what ends a request.

use crate::behaviour;
use crate::cuda::{Status, address, sys};
use crate::driver;
use crate::fence::fenced;
use crate::gate;
use crate::gpu_fence;
use crate::handlers::streams;
use crate::hook::Hook;
use crate::mode;
use crate::pinned;
use crate::sampling;
use crate::segment;
use crate::thread;
use crate::trace;
use aishim_abi::trace::What;

/// cuCtxSynchronize.
pub(crate) unsafe fn context(hook: Hook, call: impl FnOnce() -> Status, context: sys::CUcontext) -> Status {
    // What was lost sight of before the call is done after it; what is lost during it may not be.
    let lost = gpu_fence::lost_before();
    gate::waits();
    after(hook, call, || {
        gpu_fence::context_done(if context.is_null() { driver::context() } else { address(context) }, lost);
        streams::all_requests_end();
        waited();
    })
}

/// cuStreamSynchronize.
pub(crate) unsafe fn stream(hook: Hook, call: impl FnOnce() -> Status, stream: sys::CUstream) -> Status {
    gate::waits();
    after(hook, call, || {
        streams::request_ends(streams::key(address(stream), hook));
        waited();
    })
}

/// cuStreamQuery, which answers success only once everything is done.
pub(crate) unsafe fn query(hook: Hook, call: impl FnOnce() -> Status, stream: sys::CUstream) -> Status {
    after(hook, call, || {
        streams::request_ends(streams::key(address(stream), hook));
        gate::idle();
    })
}

/// cuEventSynchronize. An event does not tell its stream; what a thread waits for is as a rule what it launched last.
pub(crate) unsafe fn event(hook: Hook, call: impl FnOnce() -> Status) -> Status {
    gate::waits();
    after(hook, call, || {
        let thread = thread::current();
        if !thread.is_null() {
            // SAFETY: the calling thread's own.
            streams::request_ends(unsafe { (*thread).last_stream });
        }
        waited();
    })
}

fn after(hook: Hook, call: impl FnOnce() -> Status, done: impl FnOnce()) -> Status {
    let status = call();
    if mode::is_pass_through() {
        return status;
    }
    thread::count(hook);
    if status.is_ok() {
        fenced(done);
    } else if status != Status::NOT_READY {
        segment::error(hook);
    }
    status
}

/// The program has just waited, so a moment of ours is not missed: samples can be read, freed blocks may be safe.
fn waited() {
    // First: others may be waiting for this.
    gate::idle();
    gate::look_again();
    let thread = thread::current();
    if !thread.is_null() {
        // SAFETY: the calling thread's own, and no other reference to it is held.
        sampling::synchronised(unsafe { &mut *thread });
    }
    pinned::tend();
    behaviour::look_by_the_way();
    trace::note(What::Synchronise);
}
