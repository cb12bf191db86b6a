//! One operation at a time that is no launch, timed by a pair of events: what a memset takes, for the gate.

use super::pair::{Elapsed, Pair, State};
use super::sampler::SLOW_NS;
use crate::cuda::sys;
use crate::driver;
use crate::handlers::capture::Section;
use parking_lot::Mutex;

/// See the module. Nobody waits for it: a thread that finds another at it times nothing.
pub(crate) struct Stopwatch(Mutex<Pair>);

impl Stopwatch {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Pair::new()))
    }

    /// Puts the first event on the stream; false where another operation is being timed, or it cannot be done. No section spans the driver's call that follows: a thread may
    /// be cancelled in there, which leaves the stopwatch running for good and nothing worse.
    pub(crate) fn begin(&self, stream: sys::CUstream) -> bool {
        let Some(mut pair) = self.0.try_lock() else { return false };
        if pair.state != State::Free {
            return false;
        }
        let Some(_section) = Section::enter() else { return false };
        pair.begin_unheld(stream, driver::context())
    }

    /// Puts the second event behind the operation, whose call ended at `called` ticks, where it was made.
    pub(crate) fn end(&self, stream: sys::CUstream, called: u64, is_made: bool) {
        let mut pair = self.0.lock();
        let section = Section::enter();
        let is_usable = is_made && section.is_some() && !pair.is_gone() && pair.finish(stream, called, SLOW_NS, false);
        if !is_usable {
            pair.state = State::Free;
        }
    }

    /// What the last operation took on the GPU, in nanoseconds, where that is known by now.
    pub(crate) fn read(&self) -> Option<u64> {
        let mut pair = self.0.try_lock()?;
        if pair.state != State::Pending {
            return None;
        }
        if pair.is_gone() {
            pair.forget();
            return None;
        }
        let _section = Section::enter()?;
        let elapsed = pair.elapsed();
        if !matches!(elapsed, Elapsed::NotYet) {
            pair.state = State::Free;
        }
        match elapsed {
            Elapsed::Ns(time_ns) => Some(time_ns),
            Elapsed::NotYet | Elapsed::Unreadable => None,
        }
    }
}
