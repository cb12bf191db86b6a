//! Stream captures: while one is open anywhere, nothing of ours goes to the driver that could end it.
//!
//! During a capture, event queries, synchronisation and allocation invalidate it, in GLOBAL mode from any thread. Code
//! of ours that does such things stands in a [`Section`]; a capture begins only when none is in one, and none enters
//! while a capture is open. The two sides decide as in Dekker's algorithm: each announces itself, then looks at the
//! other, all sequentially consistent, so at least one of two that meet sees the other and yields.

use crate::cuda::{Status, address, sys};
use crate::fence::fenced;
use crate::handlers::streams;
use crate::handlers::work::forward;
use crate::hook::Hook;
use crate::mode;
use crate::segment;
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

/// Captures open.
static OPEN: Mutex<usize> = Mutex::new(0);

/// Threads of ours in a section.
static IN_SECTION: AtomicU32 = AtomicU32::new(0);

/// A capture waits at most so long for a section: one may be stuck in a driver call that blocks. As a rule it is over in
/// microseconds; but on a busy machine a thread in one may have lost its processor for some milliseconds.
const PATIENCE: Duration = Duration::from_millis(30);

/// So many looks before the processor is given away between two.
const SPINS: usize = 20_000;

/// A stretch of code in which driver calls of ours are safe from captures and captures safe from them.
pub(crate) struct Section(());

impl Section {
    /// Enters, unless a capture is open or the driver is out of bounds for another reason.
    pub(crate) fn enter() -> Option<Self> {
        if !mode::may_call_driver() {
            return None;
        }
        IN_SECTION.fetch_add(1, SeqCst);
        if mode::mode_ordered() & mode::CAPTURING != 0 {
            IN_SECTION.fetch_sub(1, SeqCst);
            return None;
        }
        Some(Self(()))
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        IN_SECTION.fetch_sub(1, SeqCst);
    }
}

/// The capture mode RELAXED for the calling thread while it lives, for driver calls of ours that take longer than a
/// capture waits: they may then still be under way when one begins, and must not end it (CUDA Driver API,
/// cuThreadExchangeStreamCaptureMode).
pub(crate) struct RelaxedThread {
    thread_mode: u32,
}

impl RelaxedThread {
    pub(crate) fn begin() -> Self {
        /// `CU_STREAM_CAPTURE_MODE_RELAXED`.
        const RELAXED: u32 = 2;
        let mut relaxed = Self { thread_mode: RELAXED };
        relaxed.exchange();
        relaxed
    }

    fn exchange(&mut self) {
        // Where the driver lacks it (before CUDA 10.1) there is nothing to exchange.
        let _ = crate::driver::exchange_capture_mode(&raw mut self.thread_mode);
    }
}

impl Drop for RelaxedThread {
    fn drop(&mut self) {
        // A process that exits captures nothing any more, and we make no more calls in it.
        if mode::mode() & mode::EXITING == 0 {
            self.exchange();
        }
    }
}

/// cuStreamBeginCapture and its kin.
pub(crate) unsafe fn begin(hook: Hook, call: impl FnOnce() -> Status, stream: sys::CUstream) -> Status {
    if !mode::may_call_driver() {
        return forward(hook, call);
    }
    fenced(keep_out);
    let status = forward(hook, call);
    fenced(|| {
        if !status.is_ok() {
            return let_in();
        }
        segment::add(Statistic::Captures, 1);
        // A stream beyond our table, whose end we could not recognise: taken to be open for good, which costs samples
        // and the pool. Taken to be closed, our own events would end it.
        if let Some(slot) = streams::find_or_take(streams::capture_key(address(stream), hook)) {
            slot.capturing.store(true, Relaxed);
        }
    });
    status
}

/// cuStreamEndCapture; a capture that was invalidated ends with it too.
pub(crate) unsafe fn end(hook: Hook, call: impl FnOnce() -> Status, stream: sys::CUstream) -> Status {
    let status = forward(hook, call);
    if mode::may_call_driver() && !STILL_CAPTURING.contains(&status.0) {
        fenced(|| stream_ends(streams::capture_key(address(stream), hook)));
    }
    status
}

/// `CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD`: the capture goes on.
const STILL_CAPTURING: &[u32] = &[908];

/// The capture of a stream, if there is one, is over.
pub(crate) fn stream_ends(key: usize) {
    let was_capturing = streams::find(key).is_some_and(|slot| slot.capturing.swap(false, Relaxed));
    if was_capturing {
        let_in();
    }
}

/// Keeps code of ours out of the driver, and waits, for a moment, for what is in it.
pub(crate) fn keep_out() {
    let mut open = OPEN.lock();
    *open += 1;
    mode::set(mode::CAPTURING);
    drop(open);
    let is_quiet = || IN_SECTION.load(SeqCst) == 0;
    for _ in 0..SPINS {
        if is_quiet() {
            return;
        }
        std::hint::spin_loop();
    }
    let begun = Instant::now();
    while !is_quiet() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Undoes one [`keep_out`].
pub(crate) fn let_in() {
    let mut open = OPEN.lock();
    *open = open.saturating_sub(1);
    if *open == 0 {
        mode::clear(mode::CAPTURING);
    }
}
