//! Keeping an idle stream busy for a moment, so that a pair's first event is not over before the launch is there.
//!
//! On an idle stream the first event runs at once, and the time to the second shows how long the host took to submit
//! the launch: some 10 us, known too roughly beside a kernel of 2 us; and a GPU that others use turns to them while
//! nothing is there to do. A few memory operations before the event (cuStreamBatchMemOp: the stream's own front end
//! works them off, one in 0.9 us on an H100, without a kernel and without memory of the program's) hold it back until
//! the launch has followed. They end by themselves, so whatever the launch may wait for, it is never for us.
//! (Measured: 16 barriers hold an H100's stream for 13.6 us and cost the host 2 us; writes of a value to host memory do
//! it as well, for 15.4 us and 3 us, but need memory.)
//!
//! Memory operations are not work of the compute engine, which another process may have meanwhile. Where that matters
//! ([`learnt`](super::learnt)), a memset of a word of our own comes first.

use crate::cuda::{MemoryOp, address, host_alloc, sys};
use crate::driver;
use crate::handlers::capture::RelaxedThread;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Most operations in one call that the driver takes.
const OPERATIONS_MAX: u32 = 64;
const OPERATIONS_MIN: u32 = 8;

/// How many operations hold long enough, as far as is known; [`OFF`] where they do not help.
static OPERATIONS: AtomicU32 = AtomicU32::new(16);

/// Holds in a row that were too short, whatever their length.
static SLIPS: AtomicU32 = AtomicU32::new(0);

const OFF: u32 = 0;

/// So many slips in a row, at full length or behind slow calls, say that holding is of no use here: launches that wait
/// for the kernel (CUDA_LAUNCH_BLOCKING) see to that.
const SLIPS_MAX: u32 = 32;

/// Whether a stream can be held at all.
pub(super) fn is_possible() -> bool {
    OPERATIONS.load(Relaxed) != OFF
}

/// Our words of page-locked memory by context; they end with it.
static WORDS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Puts work of the compute engine on the stream; false where that cannot be done.
pub(super) fn take_engine(stream: sys::CUstream, context: usize) -> bool {
    let word = word_of(context);
    word != 0 && driver::memset_d32(word as sys::CUdeviceptr, 0, 1, stream).is_ok()
}

/// A word in `context`, which is current; 0 where there is none to be had.
fn word_of(context: usize) -> usize {
    let mut words = WORDS.lock();
    if let Some((_, word)) = words.iter().find(|(c, _)| *c == context) {
        return *word;
    }
    let mut word = std::ptr::null_mut();
    let _relaxed = RelaxedThread::begin();
    let made = driver::host_alloc(&raw mut word, size_of::<u32>(), host_alloc::DEVICEMAP).is_ok();
    let word = if made { address(word) } else { 0 };
    words.push((context, word));
    word
}

/// A context ends, and its word with it.
pub(super) fn forget_context(context: usize) {
    WORDS.lock().retain(|(c, _)| *c != context);
}

/// Puts the operations on the stream; false where the driver refuses, which it then always does.
pub(super) fn put(stream: sys::CUstream) -> bool {
    let count = OPERATIONS.load(Relaxed);
    let mut operations = [MemoryOp::BARRIER; OPERATIONS_MAX as usize];
    let held = count != OFF && driver::put_memory_ops(stream, &mut operations[..count.min(OPERATIONS_MAX) as usize]);
    if !held {
        OPERATIONS.store(OFF, Relaxed);
    }
    held
}

/// The first event was still waiting when the launch had followed: the hold was long enough, perhaps too long.
pub(super) fn was_long_enough() {
    SLIPS.store(0, Relaxed);
    static SUCCESSES: AtomicU32 = AtomicU32::new(0);
    let count = OPERATIONS.load(Relaxed);
    if SUCCESSES.fetch_add(1, Relaxed).is_multiple_of(64) && count > OPERATIONS_MIN {
        OPERATIONS.store(count - 1, Relaxed);
    }
}

/// It was not, with a launch call that took `gap_ns`: the next ones are longer, unless that took too long anyway.
pub(super) fn was_too_short(gap_ns: u64) {
    const WORTH_HOLDING_NS: u64 = 40_000;
    let count = OPERATIONS.load(Relaxed);
    if count == OFF {
        return;
    }
    if gap_ns < WORTH_HOLDING_NS && count < OPERATIONS_MAX {
        OPERATIONS.store((count + count / 4).min(OPERATIONS_MAX), Relaxed);
    } else if SLIPS.fetch_add(1, Relaxed) + 1 >= SLIPS_MAX {
        OPERATIONS.store(OFF, Relaxed);
    }
}
