//! A ring of page-locked memory, with an event for each of its slots.

use super::crew;
use super::job::{Job, Route};
use super::plan::{Plan, RING_BYTES, SLOT_BYTES, SLOTS};
use super::{OnStream, Stop};
use crate::cuda::{Status, host_alloc, sys};
use crate::driver;
use std::ffi::c_void;
use std::sync::Arc;

/// See the module. It belongs to whoever holds it: the shelf, or the one copy for which it was taken off.
pub(super) struct Ring {
    /// The context in which its memory and its events live, and which life of it.
    pub(super) context: usize,
    pub(super) life: u64,
    memory: *mut c_void,
    /// Passed when the GPU is done with what was last sent through the slot.
    events: [sys::CUevent; SLOTS],
    /// Something was sent through the slot and is not known to have passed.
    is_sent: [bool; SLOTS],
    /// For copies on the legacy default stream: ordered with no other stream.
    own_stream: sys::CUstream,
    /// Recorded before a copy's first chunk: passed when the work before it is done.
    mark: sys::CUevent,
    /// Where the next copy begins.
    next_slot: usize,
    /// The GPU may use a slot whose event does not tell: never to be used again.
    pub(super) is_spoilt: bool,
    job: Arc<Job>,
}

// SAFETY: the pointers are the driver's memory and handles, which any thread may use; one at a time does.
unsafe impl Send for Ring {}

/// Why there is no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A capture has begun, or something of the kind.
    NotNow,
    /// The device reads pageable memory by itself, or the driver has no such memory.
    Never,
}

/// `CU_EVENT_BLOCKING_SYNC`, `CU_EVENT_DISABLE_TIMING`.
const BLOCKING_SYNC: u32 = 1;
const DISABLE_TIMING: u32 = 2;

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;

impl Ring {
    /// Makes one in the current context, which takes some milliseconds.
    pub(super) fn make(context: usize, life: u64) -> Result<Self, Refusal> {
        if reads_pageable_memory()? {
            return Err(Refusal::Never);
        }
        let mut ring = Self {
            context,
            life,
            memory: std::ptr::null_mut(),
            events: [std::ptr::null_mut(); SLOTS],
            is_sent: [false; SLOTS],
            own_stream: std::ptr::null_mut(),
            mark: std::ptr::null_mut(),
            next_slot: 0,
            is_spoilt: false,
            job: Arc::new(Job::new()),
        };
        let made = ring.fill();
        if !made.is_ok() {
            ring.unmake();
            // 900 to 908: a capture.
            return Err(if (900..=908).contains(&made.0) { Refusal::NotNow } else { Refusal::Never });
        }
        Ok(ring)
    }

    fn fill(&mut self) -> Status {
        let flags = DISABLE_TIMING | if waiting_threads_sleep() { BLOCKING_SYNC } else { 0 };
        for event in self.events.iter_mut().chain([&mut self.mark]) {
            let made = driver::event_create(event, flags);
            if !made.is_ok() {
                return made;
            }
        }
        let made = driver::stream_create(&raw mut self.own_stream, NON_BLOCKING);
        if !made.is_ok() {
            return made;
        }
        driver::host_alloc(&raw mut self.memory, RING_BYTES, host_alloc::PORTABLE)
    }

    /// Gives back what had been got before something failed.
    fn unmake(&self) {
        for event in self.events.iter().chain([&self.mark]).filter(|event| !event.is_null()) {
            let _ = driver::event_destroy(*event);
        }
        if !self.own_stream.is_null() {
            let _ = driver::stream_destroy(self.own_stream);
        }
    }

    /// Marks where the stream is now.
    pub(super) fn mark(&self, stream: sys::CUstream) -> Status {
        driver::event_record(self.mark, stream)
    }

    /// Whether the work before the mark is done.
    pub(super) fn is_mark_passed(&self) -> Result<bool, Status> {
        is_passed(self.mark)
    }

    /// Waits until it is.
    pub(super) fn wait_for_mark(&self) -> Status {
        driver::event_synchronize(self.mark)
    }

    /// Begins a copy: its pieces, none of which is open yet, are offered to so many threads.
    pub(super) fn begin(&mut self, copy: &OnStream, plan: &Plan, threads: usize) -> Offer {
        let transfer = &copy.transfer;
        let route = Route {
            direction: transfer.direction,
            host: transfer.host,
            ring: self.memory as usize,
            first_slot: self.next_slot,
            plan: *plan,
            threads,
        };
        self.next_slot = route.slot(plan.chunks());
        self.job.begin(route);
        crew::post(&self.job, threads);
        Offer { job: Arc::clone(&self.job), route }
    }

    /// The stream on which a copy's chunks go.
    pub(super) fn stream_for(&self, copy: &OnStream) -> sys::CUstream {
        if copy.is_apart() { self.own_stream } else { copy.stream }
    }

    /// Where the bytes of a slot are.
    pub(super) fn slot(&self, slot: usize) -> *mut c_void {
        self.memory.wrapping_byte_add(slot * SLOT_BYTES)
    }

    /// Whether the GPU is done with a slot.
    pub(super) fn is_free(&mut self, slot: usize) -> Result<bool, Stop> {
        if self.is_sent[slot] && is_passed(self.events[slot]).map_err(|status| self.spoil(status))? {
            self.is_sent[slot] = false;
        }
        Ok(!self.is_sent[slot])
    }

    /// Waits until it is.
    pub(super) fn wait_for(&mut self, slot: usize) -> Result<(), Stop> {
        let status = if self.is_sent[slot] { driver::event_synchronize(self.events[slot]) } else { Status::SUCCESS };
        if !status.is_ok() {
            return Err(self.spoil(status));
        }
        self.is_sent[slot] = false;
        Ok(())
    }

    /// A chunk has been sent through a slot: the slot's event goes behind it.
    pub(super) fn sent(&mut self, slot: usize, copy: &OnStream) -> Result<(), Stop> {
        let status = driver::event_record(self.events[slot], self.stream_for(copy));
        if !status.is_ok() {
            return Err(self.spoil(status));
        }
        self.is_sent[slot] = true;
        Ok(())
    }

    fn spoil(&mut self, status: Status) -> Stop {
        self.is_spoilt = true;
        Stop::Failed(status)
    }
}

/// A copy whose pieces are offered; when it is dropped, nobody has one in hand any more.
pub(super) struct Offer {
    job: Arc<Job>,
    pub(super) route: Route,
}

impl Offer {
    /// A chunk's pieces may be taken.
    pub(super) fn open(&self, chunk: usize) {
        self.job.open(chunk);
        crew::opened((self.route.threads - 1).min(self.route.plan.pieces()));
    }

    /// Whether all of an open chunk has been moved.
    pub(super) fn is_moved(&self, chunk: usize) -> bool {
        self.job.is_moved(chunk)
    }

    /// Moves a piece itself, if there is one.
    pub(super) fn move_one(&self) -> bool {
        self.job.move_one()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        crew::withdraw(&self.job);
        let mut patience = Patience::default();
        while !self.job.close() {
            patience.wait();
        }
    }
}

/// Waiting for another thread that is in the middle of a piece.
#[derive(Default)]
pub(super) struct Patience {
    rounds: u32,
}

impl Patience {
    /// A piece takes some 20 us: so long it spins, and then lets others run, for one of them may be the one.
    pub(super) fn wait(&mut self) {
        const SPINS: u32 = 50;
        self.rounds += 1;
        if self.rounds < SPINS {
            (0..32).for_each(|_| std::hint::spin_loop());
        } else {
            std::thread::yield_now();
        }
    }
}

fn is_passed(event: sys::CUevent) -> Result<bool, Status> {
    match driver::event_query(event) {
        Status::SUCCESS => Ok(true),
        Status::NOT_READY => Ok(false),
        status => Err(status),
    }
}

/// Whether threads that wait in the current context are to sleep: `CU_CTX_SCHED_BLOCKING_SYNC` of
/// `CU_CTX_SCHED_MASK`. Waiting for our events follows it.
fn waiting_threads_sleep() -> bool {
    const SCHED_MASK: u32 = 7;
    const SCHED_BLOCKING_SYNC: u32 = 4;
    let mut flags = 0;
    driver::context_flags(&raw mut flags).is_ok() && flags & SCHED_MASK == SCHED_BLOCKING_SYNC
}

/// Whether the current device reads pageable memory through the host's page tables, as those on NVLink-C2C do: there
/// nothing is to be gained.
fn reads_pageable_memory() -> Result<bool, Refusal> {
    /// `CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES`.
    const USES_HOST_PAGE_TABLES: u32 = 100;
    let (mut device, mut answer) = (0, 0);
    let asked = driver::current_device(&raw mut device).is_ok()
        && driver::device_attribute(&raw mut answer, USES_HOST_PAGE_TABLES, device).is_ok();
    if asked { Ok(answer != 0) } else { Err(Refusal::NotNow) }
}
