//! Two events and what lies between them.

use super::hold;
use super::learnt::{self, Verdict};
use crate::clock;
use crate::cuda::{Status, sys};
use crate::driver;
use crate::segment;
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Raised when a context ends: events made before are gone with it.
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// Events that threads which ended have left, for those that come: a program that starts a thread for each request must
/// not leave events behind for each.
static SPARE: Mutex<Vec<Pair>> = Mutex::new(Vec::new());

/// A context ends, and all events with it.
pub(crate) fn forget_context(context: usize) {
    hold::forget_context(context);
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
    /// What is launched.
    pub(super) key: u64,
    /// The place of its stratum.
    pub(super) place: usize,
    /// When the first event had been recorded, in ticks, and the host's time from there to the end of the launch call.
    recorded: u64,
    gap_ns: u64,
    /// The stream was kept busy for the first event.
    held: bool,
    /// Nothing of the compute engine's stood before it.
    exposed: bool,
    order: Order,
}

// SAFETY: the pointers are handles of the driver, which any thread may use.
unsafe impl Send for Pair {}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// The first event is on its way.
    Started,
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
    pub(super) const fn new() -> Self {
        Self {
            start: std::ptr::null_mut(),
            end: std::ptr::null_mut(),
            after: std::ptr::null_mut(),
            has_after: false,
            context: 0,
            epoch: 0,
            state: State::Free,
            key: 0,
            place: 0,
            recorded: 0,
            gap_ns: 0,
            held: false,
            exposed: false,
            order: Order::Gap,
        }
    }

    /// Puts the first event on the stream; false where it cannot be done. `beyond_doubt` asks for work of the compute
    /// engine before it, if there is none.
    pub(super) fn begin(&mut self, stream: sys::CUstream, context: usize, beyond_doubt: bool) -> bool {
        if !self.is_ready(context) {
            return false;
        }
        let is_idle = match driver::stream_query(stream) {
            Status::SUCCESS => true,
            Status::NOT_READY => false,
            _ => return false,
        };
        self.exposed = is_idle && !(beyond_doubt && hold::take_engine(stream, context));
        self.held = is_idle && hold::is_possible() && hold::put(stream);
        self.start_on(stream)
    }

    /// The same where a gap before the operation does not matter: nothing is put before the event to avoid one, and nothing learnt of how long that lasts.
    pub(super) fn begin_unheld(&mut self, stream: sys::CUstream, context: usize) -> bool {
        if !self.is_ready(context) {
            return false;
        }
        (self.exposed, self.held) = (false, false);
        self.start_on(stream)
    }

    fn start_on(&mut self, stream: sys::CUstream) -> bool {
        if !driver::event_record(self.start, stream).is_ok() {
            return false;
        }
        self.recorded = clock::now();
        self.state = State::Started;
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
        // Still waiting, a moment after the launch: the kernel follows it without a gap.
        let is_close = driver::event_query(self.start) == Status::NOT_READY;
        self.order = if is_close { Order::Close } else { Order::Gap };
        match (self.held, is_close) {
            (true, true) => hold::was_long_enough(),
            (true, false) => hold::was_too_short(self.gap_ns),
            (false, _) => {}
        }
        self.exposed |= !is_close;
        let usable = is_close || self.gap_ns < slow_ns;
        self.state = if usable { State::Pending } else { State::Free };
        usable
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
    /// Beyond it there are, in terms of an empty pair (1.25 us) and measured against CUPTI on an H100 and an H200: close
    /// behind what held the stream 1.9 of them; close behind earlier work 2.4; with a gap, the gap and one. A gap is the
    /// host's time and right to some microseconds only, so it has to be small beside the launch, unless streams cannot
    /// be held.
    fn launch_alone(&self, between_ns: u64) -> Option<u64> {
        const SHORTEST_NS: u64 = 500;
        const LONG_BESIDE_GAP: u64 = 8;
        let empty_ns = segment::value(Statistic::EmptyPair);
        let beyond_ns = match (self.order, self.held) {
            (Order::Close, true) => empty_ns * 19 / 10,
            (Order::Close, false) => empty_ns * 24 / 10,
            (Order::Gap, _) => self.gap_ns + empty_ns,
        };
        let time_ns = between_ns.saturating_sub(beyond_ns);
        match self.order {
            Order::Close => Some(time_ns.max(SHORTEST_NS)),
            Order::Gap if hold::is_possible() && time_ns < LONG_BESIDE_GAP * self.gap_ns => None,
            // An event may also have been held up by earlier work, or by another process's time slice: then there was
            // no gap, and subtracting it leaves less than any kernel takes.
            Order::Gap => {
                Some(if time_ns < SHORTEST_NS { between_ns.saturating_sub(empty_ns * 24 / 10) } else { time_ns })
                    .filter(|ns| *ns >= SHORTEST_NS)
            }
        }
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

/// Reads `pair` and counts what it tells: the time and its worth, `None` when it tells nothing, or an error when
/// it is not done.
pub(super) fn read(pair: &mut Pair) -> Result<Option<(u64, Verdict)>, NotYet> {
    match pair.elapsed() {
        Elapsed::NotYet => Err(NotYet),
        Elapsed::Unreadable => {
            segment::add(Statistic::GpuSamplesDiscarded, 1);
            Ok(None)
        }
        Elapsed::Ns(time_ns) => {
            segment::add(Statistic::GpuSamples, 1);
            let sample = learnt::Sample { time_ns, exposed: pair.exposed };
            Ok(Some((time_ns, learnt::learn(pair.key, sample))))
        }
    }
}

/// The GPU is not done with a pair.
pub(super) struct NotYet;
