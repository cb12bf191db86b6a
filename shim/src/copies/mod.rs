//! Staged copies: what the program copies between pageable memory and the device goes through page-locked memory of
//! ours, moved by several threads, because one thread moves 10 GB/s where the bus takes 55.
//!
//! A copy is cut into *chunks*, each of which passes through a *slot* of a *ring* of page-locked memory. To the device,
//! a chunk is moved into its slot by the calling thread and its helpers, in *pieces* that each takes as it comes free;
//! when it is full the caller sends it off and records the slot's event behind it. From the device the caller sends for
//! chunks ahead, and what has arrived is moved out. Only the calling thread calls the driver.
//!
//! | module | what lives there |
//! | --- | --- |
//! | `plan` | from which size on, with how many threads, in which chunks: every constant, and where it is from |
//! | `job` | the pieces of one copy, which threads take and give back |
//! | `crew` | the threads that help |
//! | `mover` | moving bytes |
//! | `ring`, `shelf` | page-locked memory and its events; the rings of each context, and how they are made |
//! | `to_device`, `from_device` | the two directions, as the caller sees them |
//!
//! # Which copies
//!
//! cuMemcpyHtoD, cuMemcpyDtoH, cuMemcpy and their Async forms. The host side must be nothing we know and nothing the
//! driver knows ([`is_pageable`]), since memory may have been registered in ways that are not hooked; the device side
//! must lie in device memory whose allocation we have seen, to the last byte, so that the driver would not refuse the
//! copy as a whole and we, having sent a part of it, could not. Everything else goes to the driver as it is, and so
//! does every copy while a capture is open.
//!
//! # Order
//!
//! No byte of a source is read before the work that was on the stream is done: a host function may be filling it. The
//! driver reads the first 2 MiB at once (measured, tests/conformance/runs), so it returns at once from a small
//! asynchronous copy behind other work, and we must not return later: such a copy is the driver's
//! ([`plan::LEAST_BEHIND_WORK`]). A larger one waits for its stream in both. An asynchronous copy from pageable memory
//! returns when its source has been read, one to pageable memory when it is done; the synchronous ones when they are
//! done.
//!
//! Candidates for whose stream the chunks go on: always a stream of ours (then every asynchronous copy has to be waited
//! for to its end, since the program's waiting for its stream does not cover ours); always the program's (then a
//! capture that another thread begins on a blocking stream, beside a copy on the legacy default stream that is half
//! done, is ended by the next chunk: error 906 for the copy and 901 for the capture, where the driver's copy was one
//! call); **chosen:** the program's own, in which all it asks of that stream is right by construction, but for the
//! legacy default stream. There the work before the copy is waited for, the chunks go on a stream of the ring's that is
//! ordered with no other, and the call returns when they are done, 40 us at most after the last of them was sent.
//!
//! # Who does what, and how they meet
//!
//! Candidates: a thread a chunk (what one thread fills takes as long as one thread needs: 200 us for 2 MiB, in which
//! the bus stands still at the beginning of every copy); a queue without locks of pieces (its indices have to carry a
//! generation, and stale takers are hard to shut out when a copy ends); **chosen:** pieces handed out under a lock that
//! is held for some 20 ns, once in 10 us a thread. Nothing is lock-free here but a counter that idle helpers watch, and
//! helpers are a matter of speed alone: the caller does all pieces that nobody else takes.
//!
//! Helpers start with the first copy that needs them, one fewer than the processors that the caller may run on and the
//! control group's quota allow, sleep between copies, and leave after some seconds of it, so that a process whose own
//! threads have all ended ends. They block all signals but the faults.
//!
//! # Faults
//!
//! A page of the program's memory that cannot be had raises SIGSEGV or SIGBUS on the thread that touches it, as in the
//! driver's own copying. It may be a helper's: a handler that mends the page and returns works as before, the process
//! dies by default as before; but a handler that jumps out of the copy (siglongjmp), or looks for the faulting thread
//! in tables of its own, meets a thread it does not know. `AISHIM_COPY=off` is for such programs.
//!
//! # What is shared with nobody
//!
//! A ring is taken off its shelf for one copy and put back after it. A copy that finds none takes the driver's way, and
//! another ring is made in the background up to [`plan::RINGS`] a context. A ring dies with its context: one that is
//! put back after that finds its shelf gone and is dropped without a driver call. A caller that never comes back (a
//! signal handler jumped out of it) has lost its ring, and where it waited at the gate then, the process counts as one that waits there from then on. A copy that is held back at the
//! gate keeps its ring: further ones take the driver's way.

mod crew;
mod from_device;
mod job;
mod mover;
mod plan;
mod ring;
mod shelf;
mod to_device;

pub(crate) use plan::Direction;
pub(crate) use shelf::{context_may_end, disown, forget_context, process_ends};

use crate::cuda::{STREAM_LEGACY, Status, address, sys};
use crate::driver;
use crate::handlers::capture::{RelaxedThread, Section};
use crate::handlers::streams;
use crate::hook::Hook;
use crate::mode;
use crate::ranges;
use crate::segment;
use aishim_abi::statistics::Statistic;
use plan::Plan;
use ring::Ring;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// `AISHIM_COPY`, once the shim has come to life.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// One copy between pageable memory and the device.
#[derive(Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) direction: Direction,
    /// Address in the program's memory.
    pub(crate) host: usize,
    /// Address on the device.
    pub(crate) device: usize,
    pub(crate) bytes: usize,
    /// The call returns when the copy is done.
    pub(crate) synchronous: bool,
}

/// A transfer and the program's stream for it, as a handle that means the same in every form of a call.
#[derive(Clone, Copy)]
struct OnStream {
    transfer: Transfer,
    stream: sys::CUstream,
}

impl OnStream {
    /// Whether its chunks go on the ring's own stream, so that the call waits for the work before it and for its end.
    fn is_apart(&self) -> bool {
        address(self.stream) == STREAM_LEGACY
    }
}

/// Sets whether copies are staged. Called once, when the shim comes to life.
pub(crate) fn configure(enabled: bool) {
    ENABLED.store(enabled, Relaxed);
}

/// Whether a copy of that size and direction may be staged; all others cost no more than this question.
#[inline]
pub(crate) fn is_candidate(transfer: &Transfer) -> bool {
    transfer.bytes >= plan::least_bytes_of_all(transfer.direction) && mode::is_ordinary() && ENABLED.load(Relaxed)
}

/// Carries a copy out; what the driver would have answered. None: nothing was done, and the copy is the driver's.
pub(crate) fn carry(hook: Hook, stream: sys::CUstream, transfer: Transfer) -> Option<Status> {
    let threads = crew::threads();
    if transfer.bytes < plan::least_bytes(transfer.direction, threads) || !suits(&transfer) {
        return None;
    }
    let section = Section::enter()?;
    let context = driver::context();
    if context == 0 || !is_pageable(transfer.host) {
        return None;
    }
    let copy = OnStream { transfer, stream: streams::key(address(stream), hook) as sys::CUstream };
    let _relaxed = RelaxedThread::begin();
    let mut ring = shelf::take(context, &transfer, threads)?;
    // Also tells whether the stream is one of this context's at all.
    let is_marked = ring.mark(copy.stream).is_ok();
    // From here on nothing goes on a stream that a capture could come upon, and this thread's other calls, which take
    // longer than a capture waits, are no harm to one.
    drop(section);
    let status = if is_marked { stage(&mut ring, &copy, threads) } else { None };
    shelf::put_back(ring);
    if status == Some(Status::SUCCESS) {
        segment::add(Statistic::StagedCopies, 1);
        segment::add(Statistic::StagedBytes, transfer.bytes as u64);
    }
    status
}

/// Whether both sides are what they must be, as far as we know without the driver.
fn suits(transfer: &Transfer) -> bool {
    let end = transfer.host.checked_add(transfer.bytes);
    end.is_some()
        && ranges::place_of(transfer.host).is_none()
        && ranges::is_device_memory(transfer.device, transfer.bytes)
}

/// Whether the driver does not know the address either: "CUDA_ERROR_INVALID_VALUE is returned if ptr was not allocated
/// by, mapped by, or registered with a CUcontext" (CUDA Driver API, cuPointerGetAttribute).
fn is_pageable(at: usize) -> bool {
    /// `CU_POINTER_ATTRIBUTE_MEMORY_TYPE`.
    const MEMORY_TYPE: u32 = 2;
    let mut memory_type = 0_u32;
    driver::pointer_attribute((&raw mut memory_type).cast(), MEMORY_TYPE, at as sys::CUdeviceptr)
        == Status::INVALID_VALUE
}

fn stage(ring: &mut Ring, copy: &OnStream, threads: usize) -> Option<Status> {
    let plan = Plan::new(copy.transfer.bytes);
    let carried = match copy.transfer.direction {
        Direction::ToDevice => to_device::carry(ring, copy, &plan, threads),
        Direction::FromDevice => from_device::carry(ring, copy, &plan, threads),
    };
    match carried {
        Ok(()) => Some(Status::SUCCESS),
        Err(Stop::Untouched) => None,
        Err(Stop::Failed(status)) => Some(status),
        Err(Stop::Exiting { done_bytes }) => Some(rest_natively(copy, done_bytes)),
    }
}

/// Why a copy was not carried to its end.
enum Stop {
    /// Nothing was sent.
    Untouched,
    /// The driver's answer to one of the chunks; those after it were not sent.
    Failed(Status),
    /// The process has begun to exit, before which so many bytes were seen to.
    Exiting { done_bytes: usize },
}

/// Once the process exits we make no calls of our own: what remains is the program's own call, as it would be made and
/// answered without us.
fn rest_natively(copy: &OnStream, done_bytes: usize) -> Status {
    let Transfer { direction, host, device, bytes, .. } = copy.transfer;
    let (host, device, rest) = (host + done_bytes, (device + done_bytes) as sys::CUdeviceptr, bytes - done_bytes);
    match direction {
        Direction::ToDevice => driver::copy_to_device(device, host as *const _, rest, copy.stream),
        Direction::FromDevice => driver::copy_from_device(host as *mut _, device, rest, copy.stream),
    }
}

fn is_exiting() -> bool {
    mode::mode() & mode::EXITING != 0
}
