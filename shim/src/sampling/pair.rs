//! Two events and what lies between them.

use super::{Stratum, Subject, learnt};
use crate::clock;
use crate::cuda::{Status, sys};
use crate::driver;
use crate::segment::{self, segment};
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Raised when a context ends: events made before are gone with it.
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// Events that threads which ended have left, for those that come: a program that starts a thread for each request must
/// not leave events behind for each.
static SPARE: Mutex<Vec<Pair>> = Mutex::new(Vec::new());

/// A context ends, and all events with it.
pub(crate) fn forget_context(_context: usize) {
    EPOCH.fetch_add(1, Relaxed);
}

/// Two events and what they were put around.
pub(super) struct Pair {
    start: sys::CUevent,
    end: sys::CUevent,
    /// Follows the end at once, now and then: the two are an empty pair.
    after: sys::CUevent,
    has_after: bool,
    context: usize,
    epoch: u32,
    pub(super) state: State,
    pub(super) subject: Subject,
    /// Launches that the sample stands for.
    pub(super) weight: u64,
    /// When the first event had been recorded, in ticks, and the host's time from there to the end of the launch call.
    recorded: u64,
    gap_ns: u64,
    order: Order,
}

// SAFETY: the pointers are handles of the driver, which any thread may use.
unsafe impl Send for Pair {}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// The first event is on its way, on a stream that was idle.
    StartedIdle,
    /// The same on a stream that was busy.
    StartedBusy,
    /// Both are.
    Pending,
}

/// How the first event and the launch lie to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The event ran at once; the GPU then waited for the host to submit the launch.
    Gap,
    /// The event waited behind earlier work until the launch was there.
    Close,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self {
            start: std::ptr::null_mut(),
            end: std::ptr::null_mut(),
            after: std::ptr::null_mut(),
            has_after: false,
            context: 0,
            epoch: 0,
            state: State::Free,
            subject: Subject { key: 0, stratum: Stratum::Kernels, measurable: false },
            weight: 0,
            recorded: 0,
            gap_ns: 0,
            order: Order::Gap,
        }
    }

    /// Puts the first event on the stream; false where it cannot be done.
    pub(super) fn begin(&mut self, stream: sys::CUstream, context: usize) -> bool {
        if !self.is_ready(context) {
            return false;
        }
        let state = match driver::stream_query(stream) {
            Status::SUCCESS => State::StartedIdle,
            Status::NOT_READY => State::StartedBusy,
            _ => return false,
        };
        if !driver::event_record(self.start, stream).is_ok() {
            return false;
        }
        self.recorded = clock::now();
        self.state = state;
        true
    }

    /// Puts the second event behind the launch, which ended at `launched` ticks; false when the pair cannot tell
    /// anything. `third` asks for an empty pair behind it.
    pub(super) fn finish(&mut self, stream: sys::CUstream, launched: u64, slow_ns: u64, third: bool) -> bool {
        if !driver::event_record(self.end, stream).is_ok() {
            return false;
        }
        self.has_after = third && driver::event_record(self.after, stream).is_ok();
        self.gap_ns = clock::ns(launched.wrapping_sub(self.recorded));
        self.order = match self.state {
            State::StartedIdle => Order::Gap,
            // Still waiting behind earlier work, a moment after the launch: the kernel follows it without a gap.
            _ if driver::event_query(self.start) == Status::NOT_READY => Order::Close,
            _ => Order::Gap,
        };
        let usable = self.order == Order::Close || self.gap_ns < slow_ns;
        self.state = if usable { State::Pending } else { State::Free };
        usable
    }

    /// Whether the stream was busy with earlier work when the launch was submitted.
    pub(super) fn was_busy(&self) -> bool {
        self.order == Order::Close
    }

    /// Whether its context has ended since.
    pub(super) fn is_gone(&self) -> bool {
        self.epoch != EPOCH.load(Relaxed)
    }

    /// The time between the events, when both are done.
    pub(super) fn elapsed(&mut self) -> Elapsed {
        let last = if self.has_after { self.after } else { self.end };
        let total = match elapsed_ns(self.start, last) {
            Ok(ns) => ns,
            Err(Status::NOT_READY) => return Elapsed::NotYet,
            Err(_) => return Elapsed::Unreadable,
        };
        let between = if std::mem::take(&mut self.has_after) {
            let between = elapsed_ns(self.start, self.end).unwrap_or(total);
            note_empty_pair(total.saturating_sub(between));
            between
        } else {
            total
        };
        self.launch_alone(between).map_or(Elapsed::Unreadable, Elapsed::Ns)
    }

    /// The launch's own time in what the pair shows, where that is plausible.
    ///
    /// Beyond it there are, in terms of an empty pair and measured against CUPTI on an H200
    /// (benches/gpu/pair_overhead.py): with a gap, the gap and one empty pair; close behind earlier work, two and a
    /// half. Where the stream seemed busy and the event had run all the same, the earlier work as a rule had just ended
    /// when the stream was asked, so that is a gap too. But an event may also have been held up, by that work or by
    /// another process's time slice: then there was no gap, and subtracting it leaves less than any kernel takes.
    fn launch_alone(&self, between_ns: u64) -> Option<u64> {
        const SHORTEST_NS: u64 = 500;
        let empty_ns = segment().counters[Statistic::EmptyPair as usize].load(Relaxed);
        let close = between_ns.saturating_sub(empty_ns * 5 / 2);
        let time_ns = match self.order {
            Order::Close => close.max(SHORTEST_NS),
            Order::Gap => match between_ns.saturating_sub(self.gap_ns + empty_ns) {
                too_short if too_short < SHORTEST_NS => close,
                plausible => plausible,
            },
        };
        (time_ns >= SHORTEST_NS).then_some(time_ns)
    }

    /// The events of an ended context went with it.
    pub(super) fn forget(&mut self) {
        *self = Self::new();
    }

    /// Whether it has events of `context`; they are made where they are missing.
    fn is_ready(&mut self, context: usize) -> bool {
        if context == 0 {
            return false;
        }
        if self.is_gone() {
            self.forget();
        }
        if self.context == context || self.take_spare(context) {
            return true;
        }
        if self.context != 0 {
            for event in [self.start, self.end, self.after] {
                let _ = driver::event_destroy(event);
            }
            self.forget();
        }
        (self.epoch, self.context) = (EPOCH.load(Relaxed), context);
        let made = [&raw mut self.start, &raw mut self.end, &raw mut self.after]
            .into_iter()
            .all(|event| driver::event_create(event, 0).is_ok());
        if !made {
            self.forget();
        }
        made
    }

    fn take_spare(&mut self, context: usize) -> bool {
        if self.context != 0 {
            return false;
        }
        let mut spare = SPARE.lock();
        spare.retain(|p| !p.is_gone());
        let Some(at) = spare.iter().position(|p| p.context == context) else {
            return false;
        };
        *self = spare.swap_remove(at);
        (self.state, self.has_after) = (State::Free, false);
        true
    }
}

/// Leaves the events of a thread that ends to those that come.
pub(super) fn leave(pairs: impl Iterator<Item = Pair>) {
    SPARE.lock().extend(pairs.filter(|p| p.context != 0));
}

/// What a pair says when it is read.
pub(super) enum Elapsed {
    /// The launch's own GPU time, in nanoseconds.
    Ns(u64),
    /// The GPU is not done with it.
    NotYet,
    /// The driver refuses to tell.
    Unreadable,
}

fn elapsed_ns(start: sys::CUevent, end: sys::CUevent) -> Result<u64, Status> {
    let mut milliseconds = 0.0_f32;
    let status = driver::event_elapsed(&raw mut milliseconds, start, end);
    if !status.is_ok() {
        return Err(status);
    }
    let sound = milliseconds.is_finite() && milliseconds >= 0.0;
    if sound { Ok((f64::from(milliseconds) * 1e6) as u64) } else { Err(Status::INVALID_VALUE) }
}

/// The shortest time seen between two events with nothing between them.
fn note_empty_pair(nanoseconds: u64) {
    static SHORTEST: AtomicU64 = AtomicU64::new(u64::MAX);
    let shortest = SHORTEST.fetch_min(nanoseconds, Relaxed).min(nanoseconds);
    segment::set(Statistic::EmptyPair, shortest);
}

/// Reads `pair` and counts what it tells: the time, `None` when its weight has to find another sample, or an error when
/// it is not done.
pub(super) fn read(pair: &mut Pair, single_launches: bool) -> Result<Option<u64>, NotYet> {
    match pair.elapsed() {
        Elapsed::NotYet => Err(NotYet),
        Elapsed::Unreadable => {
            segment::add(Statistic::GpuSamplesDiscarded, 1);
            Ok(None)
        }
        Elapsed::Ns(time_ns) => {
            let sample =
                learnt::Sample { time_ns, weight: pair.weight, doubtful: !pair.was_busy() && !single_launches };
            segment::add(Statistic::GpuSamples, 1);
            Ok(learnt::learn(pair.subject.key, sample).then_some(time_ns))
        }
    }
}

/// The GPU is not done with a pair.
pub(super) struct NotYet;
