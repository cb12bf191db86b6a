//! When the GPU has finished with a freed block: events on every stream of every context.
//!
//! The driver's own free waits for the GPU. Ours never waits: the block is kept aside until a *mark* made after the
//! free has passed. A mark is one event on each stream the program has created and that has work, and on the legacy
//! default stream of each context where that, or a per-thread default stream (which the legacy one waits for), has been
//! used. Unified addressing makes a block usable from every context, so all contexts are covered. That is more than the
//! driver does: on an H100 (driver 580.159.04) a free in a block's own context did not wait for another context's work
//! that still used the block, and the program ended with an illegal address (benches/gpu/reuse.c). It holds for blocks of
//! the pool alone: what the driver served is freed the driver's way. A stream that is destroyed leaves an event behind for
//! the work it still had.
//!
//! While a capture is open no mark is made; the blocks wait. A stream that is destroyed meanwhile, or on which no event
//! can be recorded, is *lost*: its work may still run, and no mark is made until the program has synchronised its
//! context. Should there be streams we have no record of, no mark is made either: never wrong, only wasteful.

use crate::cuda::{STREAM_LEGACY, Status, address, sys};
use crate::driver;
use crate::handlers::capture::Section;
use crate::handlers::{context, streams};
use crate::mode;
use aishim_pool::{Mark, WorkFence};
use parking_lot::Mutex;
use std::sync::Arc;

/// The pool's view of all streams.
pub(crate) struct StreamFence;

/// An event that is on its way on some stream.
struct Signal {
    event: usize,
    context: usize,
}

/// What became of a question to a stream.
enum Sent {
    /// An event that comes behind the work there.
    OnItsWay(Signal),
    /// There is no work.
    NotNeeded,
}

/// All that is on its way.
struct Fences {
    next: Mark,
    /// Marks not known to have passed, with the events they wait for.
    open: Vec<(Mark, Vec<Arc<Signal>>)>,
    /// Events left by destroyed streams.
    left: Vec<Arc<Signal>>,
    /// Contexts of streams that were lost with work perhaps still on them, numbered as they came.
    lost: Vec<(u64, usize)>,
    next_lost: u64,
    /// Events that may be used again.
    spare: Vec<Signal>,
}

static FENCES: Mutex<Fences> = Mutex::new(Fences {
    next: 1,
    open: Vec::new(),
    left: Vec::new(),
    lost: Vec::new(),
    next_lost: 0,
    spare: Vec::new(),
});

/// Marks that nobody asks about any more are dropped beyond this many.
const OPEN_MAX: usize = 8;

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

impl WorkFence for StreamFence {
    fn mark(&self) -> Option<Mark> {
        let _section = Section::enter()?;
        if streams::some_unknown() {
            return None;
        }
        // Never waits for another thread, which may wait for the GPU in the driver.
        FENCES.try_lock()?.mark()
    }

    fn passed(&self, mark: Mark) -> bool {
        let Some(_section) = Section::enter() else {
            return false;
        };
        FENCES.try_lock().is_some_and(|mut fences| fences.passed(mark))
    }
}

impl Fences {
    fn mark(&mut self) -> Option<Mark> {
        if !self.lost.is_empty() {
            return None;
        }
        let (done, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.left).into_iter().partition(is_done);
        self.left = left;
        self.recycle(done);
        let mut signals = self.left.clone();
        let legacy = streams::find(STREAM_LEGACY).is_some() || streams::per_thread_used();
        let defaults = context::all().into_iter().filter(|_| legacy).map(|c| (STREAM_LEGACY, c));
        let all: Vec<(usize, usize)> = streams::with_handles().chain(defaults).collect();
        for (stream, context) in all {
            // A capture waits for us, but not for ever, and we may have lost our processor for longer: it may be this stream's.
            let is_quiet = mode::mode_ordered() & mode::CAPTURING == 0;
            match is_quiet.then(|| self.signal(stream, context)).flatten() {
                Some(Sent::OnItsWay(signal)) => signals.push(Arc::new(signal)),
                Some(Sent::NotNeeded) => {}
                None => {
                    self.recycle(signals);
                    return None;
                }
            }
        }
        let mark = self.next;
        self.next += 1;
        self.open.push((mark, signals));
        if self.open.len() > OPEN_MAX {
            let (_, abandoned) = self.open.remove(0);
            self.recycle(abandoned);
        }
        Some(mark)
    }

    /// Records an event on `stream`, unless that has nothing to do; none when the driver refuses. An idle stream is left
    /// alone, since an event on the legacy default stream makes the blocking streams of its context wait for each other.
    /// Whether that one is idle says nothing of the threads' own default streams, which have no handle to ask by: once
    /// there are such, only an event will do.
    fn signal(&mut self, stream: usize, context: usize) -> Option<Sent> {
        let entered = context != 0 && context != driver::context();
        if entered && !driver::push_context(context as sys::CUcontext).is_ok() {
            return None;
        }
        let stream = stream as sys::CUstream;
        let speaks_for_others = address(stream) == STREAM_LEGACY && streams::per_thread_used();
        let sent = match driver::stream_query(stream) {
            Status::SUCCESS if !speaks_for_others => Some(Sent::NotNeeded),
            _ => self
                .event(context)
                .filter(|signal| driver::event_record(signal.event as sys::CUevent, stream).is_ok())
                .map(Sent::OnItsWay),
        };
        if entered {
            let mut popped = std::ptr::null_mut();
            let _ = driver::pop_context(&raw mut popped);
        }
        sent
    }

    fn lose(&mut self, context: usize) {
        self.lost.push((self.next_lost, context));
        self.next_lost += 1;
    }

    fn event(&mut self, context: usize) -> Option<Signal> {
        if let Some(at) = self.spare.iter().position(|s| s.context == context) {
            return Some(self.spare.swap_remove(at));
        }
        let mut event = std::ptr::null_mut();
        let made = driver::event_create(&raw mut event, DISABLE_TIMING);
        made.is_ok().then_some(Signal { event: event as usize, context })
    }

    fn passed(&mut self, mark: Mark) -> bool {
        let Some(at) = self.open.iter().position(|(m, _)| *m == mark) else {
            // Abandoned, so never known to have passed.
            return false;
        };
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.open[at].1).into_iter().partition(is_done);
        self.recycle(done);
        let passed = waiting.is_empty();
        self.open[at].1 = waiting;
        if passed {
            self.open.remove(at);
        }
        passed
    }

    /// Keeps the events that nothing else waits for.
    fn recycle(&mut self, signals: Vec<Arc<Signal>>) {
        self.spare.extend(signals.into_iter().filter_map(Arc::into_inner));
    }
}

fn is_done(signal: &Arc<Signal>) -> bool {
    driver::event_query(signal.event as sys::CUevent) == Status::SUCCESS
}

/// A stream is about to be destroyed with work perhaps still on it; `forget` takes it out of the record. Both under the
/// lock under which marks are made, so that none is made on a stream that has gone.
pub(crate) fn stream_ends(stream: usize, forget: impl FnOnce()) {
    let context = streams::context_of(stream);
    let section = Section::enter();
    let mut fences = FENCES.lock();
    match section.as_ref().and_then(|_| fences.signal(stream, context)) {
        Some(Sent::OnItsWay(signal)) => fences.left.push(Arc::new(signal)),
        Some(Sent::NotNeeded) => {}
        None => fences.lose(context),
    }
    forget();
}

/// How many streams had been lost by now.
pub(crate) fn lost_before() -> u64 {
    FENCES.try_lock().map_or(0, |fences| fences.next_lost)
}

/// The program has waited for a context: the streams of it that had been lost before have nothing left to do.
pub(crate) fn context_done(context: usize, lost_before: u64) {
    if let Some(mut fences) = FENCES.try_lock() {
        fences.lost.retain(|(number, lost)| *lost != context || *number >= lost_before);
    }
}

/// A context ends, its work with it, and its events.
pub(crate) fn forget_context(context: usize) {
    let mut fences = FENCES.lock();
    for (_, signals) in &mut fences.open {
        signals.retain(|s| s.context != context);
    }
    fences.left.retain(|s| s.context != context);
    fences.lost.retain(|(_, lost)| *lost != context);
    fences.spare.retain(|s| s.context != context);
}
