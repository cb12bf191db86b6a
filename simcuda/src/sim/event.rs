//! Events: a place in a stream, and the time at which it was passed.

use super::stream::Ticket;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const DISABLE_TIMING: u32 = 2;
pub(crate) const INTERPROCESS: u32 = 4;

/// Where an event was last recorded.
#[derive(Clone, Debug, Default)]
pub(crate) enum Mark {
    #[default]
    Never,
    Stream(Ticket),
    /// In a capture: its number and the nodes the event stands for.
    Capture(u64, Vec<usize>),
}

/// An event.
pub(crate) struct Event {
    pub(crate) flags: u32,
    pub(crate) context: usize,
    pub(crate) mark: Mutex<Mark>,
    recorded: AtomicU64,
    completed: AtomicU64,
    time_ns: AtomicU64,
}

impl Event {
    pub(crate) fn new(flags: u32, context: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self { flags, context, mark: Mutex::default(), recorded: zero(), completed: zero(), time_ns: zero() }
    }

    /// A new recording; the returned number goes with the work that completes it.
    pub(crate) fn begin_record(&self) -> u64 {
        self.recorded.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Recording `serial` is passed.
    pub(crate) fn complete(&self, serial: u64, time_ns: u64) {
        self.time_ns.store(time_ns, Ordering::Release);
        self.completed.fetch_max(serial, Ordering::AcqRel);
    }

    /// True if the last recording is passed, or there was none.
    pub(crate) fn is_complete(&self) -> bool {
        self.completed.load(Ordering::Acquire) >= self.recorded.load(Ordering::Acquire)
    }

    pub(crate) fn was_recorded(&self) -> bool {
        self.recorded.load(Ordering::Acquire) > 0
    }

    pub(crate) fn is_timed(&self) -> bool {
        self.flags & DISABLE_TIMING == 0
    }

    pub(crate) fn time_ns(&self) -> u64 {
        self.time_ns.load(Ordering::Acquire)
    }
}
