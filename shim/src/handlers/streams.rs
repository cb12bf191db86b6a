//! The streams of the process: which exist, which have a request open, which capture.
//!
//! A fixed table of slots, found by hashing the handle, no lock: a launch reads one line of it. A slot is taken at a
//! stream's creation or first use and given back at its destruction. A stream that finds the table full is served
//! without: its requests are not timed, and the pool is told that it does not know all streams.

use crate::clock;
use crate::cuda::{STREAM_LEGACY, STREAM_PER_THREAD, Status, address, sys};
use crate::driver;
use crate::fence::fenced;
use crate::gate;
use crate::gpu_fence;
use crate::handlers::{capture, context, work};
use crate::hook::Hook;
use crate::hot::HOT;
use crate::mode;
use crate::open_slots::{self, OpenSlots};
use crate::segment::{self, segment};
use crate::thread;
use aishim_abi::statistics::Statistic;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

const SLOTS: usize = 1024;
const PROBES: usize = 16;

/// A slot that was given back; a search goes on past it.
const TOMBSTONE: usize = usize::MAX;

/// A slot that is being filled.
const BUSY: usize = usize::MAX - 1;

/// One stream, in a cache line of its own.
#[repr(align(64))]
pub(crate) struct Slot {
    key: AtomicUsize,
    /// Its context, 0 when not known.
    context: AtomicUsize,
    /// When its open request began, in ticks; 0 when there is none.
    open_since: AtomicU64,
    /// It is a stream with a handle, not a default stream.
    has_handle: AtomicBool,
    /// A capture was begun on it.
    pub(crate) capturing: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        key: AtomicUsize::new(0),
        context: AtomicUsize::new(0),
        open_since: AtomicU64::new(0),
        has_handle: AtomicBool::new(false),
        capturing: AtomicBool::new(false),
    }
}; SLOTS];

/// The slots that may have a request open: a program that waits for everything after each copy would otherwise pay 0.6 us
/// for a walk through the whole table, and have it in its caches.
static OPEN: OpenSlots<{ SLOTS / open_slots::BITS }> = OpenSlots::new();

static OVERFLOWED: AtomicBool = AtomicBool::new(false);
static PER_THREAD_USED: AtomicBool = AtomicBool::new(false);

/// A stream handle as the key of the table: 0 is the legacy default stream, or the thread's own in a `_ptsz` form.
#[inline]
pub(crate) fn key(stream: usize, hook: Hook) -> usize {
    match stream {
        0 if hook.per_thread_default_stream() => STREAM_PER_THREAD,
        0 => STREAM_LEGACY,
        other => other,
    }
}

/// Notes that work goes to a stream: a request begins unless one is open.
#[inline]
pub(crate) fn work_begins(key: usize, now: u64) {
    let key = if key == STREAM_PER_THREAD { per_thread_key() } else { key };
    let slot = &TABLE[start_of(key)];
    if slot.key.load(Relaxed) == key {
        if slot.open_since.load(Relaxed) == 0 {
            open(slot, now);
        }
    } else {
        work_begins_elsewhere(key, now);
    }
}

#[cold]
#[inline(never)]
fn work_begins_elsewhere(key: usize, now: u64) {
    if let Some(slot) = find_or_take(key)
        && slot.open_since.load(Relaxed) == 0
    {
        open(slot, now);
    }
}

/// Notes that work goes to a stream without a request: in a capture, or before the shim has come to life. The pool has
/// to know the stream all the same.
#[cold]
pub(crate) fn used(key: usize) {
    find_or_take(if key == STREAM_PER_THREAD { per_thread_key() } else { key });
}

#[cold]
#[inline(never)]
fn open(slot: &'static Slot, now: u64) {
    if !slot.has_handle.load(Relaxed) {
        fenced(context::note_current);
    }
    if slot.open_since.compare_exchange(0, now.max(1), Relaxed, Relaxed).is_ok() {
        OPEN.note(index_of(slot));
        segment::add(Statistic::OpenRequests, 1);
    }
}

/// Where in the table a slot is.
fn index_of(slot: &'static Slot) -> usize {
    (std::ptr::from_ref(slot) as usize - TABLE.as_ptr() as usize) / size_of::<Slot>()
}

/// How many requests have ended, modulo 2^32.
#[inline]
pub(crate) fn requests_ended() -> u32 {
    HOT.requests_ended.load(Acquire)
}

/// Ends the request open on a stream, if there is one: the program has waited for it.
pub(crate) fn request_ends(key: usize) {
    let key = if key == STREAM_PER_THREAD { per_thread_key() } else { key };
    if let Some(slot) = find(key)
        && let Some(since) = close(slot)
    {
        record(since);
    }
}

/// Ends the requests open on all streams: the program has waited for everything. They count as one, from the first
/// work on.
pub(crate) fn all_requests_end() {
    if segment().counters[Statistic::OpenRequests as usize].load(Relaxed) == 0 {
        return;
    }
    let now = clock::now();
    let oldest = OPEN.take().filter_map(|index| close(&TABLE[index])).max_by_key(|since| now.wrapping_sub(*since));
    if let Some(since) = oldest {
        record(since);
    }
}

fn close(slot: &Slot) -> Option<u64> {
    if slot.open_since.load(Relaxed) == 0 {
        return None;
    }
    let since = slot.open_since.swap(0, Relaxed);
    if since == 0 {
        return None;
    }
    // After the swap: a thread that sees the new number finds the request closed and opens another. One that launches
    // at this very moment and does not see it yet takes its work for part of the request that ends, which it may be.
    HOT.requests_ended.fetch_add(1, Release);
    segment::subtract(Statistic::OpenRequests, 1);
    Some(since)
}

fn record(since: u64) {
    segment::record(&segment().request, clock::ns(clock::now().wrapping_sub(since)));
}

/// cuStreamCreate and its kin.
///
/// # Safety
/// `stream` is the out-pointer the program passed.
pub(crate) unsafe fn created(hook: Hook, call: impl FnOnce() -> Status, stream: *mut sys::CUstream) -> Status {
    let status = work::forward(hook, call);
    if status.is_ok() && !stream.is_null() && !mode::is_pass_through() {
        // SAFETY: the driver has just stored the new stream there.
        let handle = address(unsafe { *stream });
        fenced(|| {
            forget(handle);
            find_or_take(handle);
        });
    }
    status
}

/// cuStreamDestroy.
pub(crate) unsafe fn destroy(hook: Hook, call: impl FnOnce() -> Status, stream: sys::CUstream) -> Status {
    let key = address(stream);
    let is_ours_to_note = key > STREAM_PER_THREAD && !mode::is_pass_through();
    if is_ours_to_note {
        fenced(|| {
            capture::stream_ends(key);
            // Forgotten before the call, and while no mark is made: none may record an event on it from here on.
            gpu_fence::stream_ends(key, || forget(key));
        });
    }
    let status = work::forward(hook, call);
    if is_ours_to_note && !status.is_ok() {
        fenced(|| {
            // Still there, if it ever was.
            if driver::stream_query(stream) != Status::INVALID_HANDLE {
                find_or_take(key);
            }
        });
    }
    status
}

/// A thread ends, and with it the record of its own default stream.
pub(crate) fn thread_ends(thread: *const thread::Thread) {
    forget(address(thread));
}

fn forget(key: usize) {
    gate::stream_ends();
    if let Some(slot) = find(key) {
        close(slot);
        slot.capturing.store(false, Relaxed);
        slot.key.store(TOMBSTONE, Release);
    }
}

/// Forgets all streams of a context that is being destroyed.
pub(crate) fn forget_context(context: usize) {
    for slot in &TABLE {
        let key = slot.key.load(Acquire);
        if is_handle(key, slot) && slot.context.load(Relaxed) == context {
            capture::stream_ends(key);
            forget(key);
        }
    }
}

fn is_handle(key: usize, slot: &Slot) -> bool {
    key > STREAM_PER_THREAD && key != TOMBSTONE && key != BUSY && slot.has_handle.load(Relaxed)
}

/// The streams with handles, known by creation or by use, with their contexts.
pub(crate) fn with_handles() -> impl Iterator<Item = (usize, usize)> {
    let live = |s: &Slot| {
        let key = s.key.load(Acquire);
        is_handle(key, s).then(|| (key, s.context.load(Relaxed)))
    };
    TABLE.iter().filter_map(live)
}

/// Whether there may be streams with work that [`with_handles`] and the legacy stream do not cover.
pub(crate) fn some_unknown() -> bool {
    OVERFLOWED.load(Relaxed)
}

/// Whether any thread has used its per-thread default stream.
pub(crate) fn per_thread_used() -> bool {
    PER_THREAD_USED.load(Relaxed)
}

/// The slot of a stream, where it has one.
pub(crate) fn find(key: usize) -> Option<&'static Slot> {
    probe(key).find(|s| s.key.load(Acquire) == key)
}

/// The slot of a stream, taken now where it has none.
pub(crate) fn find_or_take(key: usize) -> Option<&'static Slot> {
    find(key).or_else(|| fenced(|| take(key)))
}

fn take(key: usize) -> Option<&'static Slot> {
    let has_handle = key > STREAM_PER_THREAD && key != address(thread::current());
    let context = if has_handle { context_of(key) } else { 0 };
    let mut patience = 10_000;
    for slot in probe(key) {
        loop {
            let seen = slot.key.load(Acquire);
            if seen == key {
                return Some(slot);
            }
            if seen == BUSY && patience > 0 {
                // Another thread is a few stores away from saying which stream it is; it may be this one. Should it
                // never do so (a signal handler may have jumped away from there), the slot is lost and no more.
                patience -= 1;
                std::hint::spin_loop();
                continue;
            }
            if seen != 0 && seen != TOMBSTONE {
                break;
            }
            if slot.key.compare_exchange(seen, BUSY, AcqRel, Relaxed).is_ok() {
                slot.open_since.store(0, Relaxed);
                slot.capturing.store(false, Relaxed);
                slot.context.store(context, Relaxed);
                slot.has_handle.store(has_handle, Relaxed);
                // Release: who finds the key finds the rest.
                slot.key.store(key, Release);
                return Some(slot);
            }
        }
    }
    OVERFLOWED.store(true, Relaxed);
    None
}

/// The context of a stream: as it was noted, else as the driver tells, else the current one. The driver is not asked
/// while a capture is open.
pub(crate) fn context_of(stream: usize) -> usize {
    let noted = find(stream).map_or(0, |slot| slot.context.load(Relaxed));
    if noted != 0 {
        return noted;
    }
    let mut context = std::ptr::null_mut();
    let may_ask = mode::mode() & mode::CAPTURING == 0;
    if may_ask && driver::stream_context(stream as sys::CUstream, &raw mut context).is_ok() && !context.is_null() {
        return address(context);
    }
    driver::context()
}

fn probe(key: usize) -> impl Iterator<Item = &'static Slot> {
    let start = start_of(key);
    (0..PROBES).map(move |i| &TABLE[(start + i) % SLOTS])
}

/// Handles are addresses of the driver's objects, so their low bits say little: multiplicative hashing (Knuth, TAOCP
/// vol. 3, 6.4) takes the high bits of a product.
#[inline]
fn start_of(key: usize) -> usize {
    (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (usize::BITS - SLOTS.ilog2())) % SLOTS
}

/// The key under which a stream's captures are kept: each thread's own default stream is one of its own.
pub(crate) fn capture_key(stream: usize, hook: Hook) -> usize {
    match key(stream, hook) {
        // Made here where it is missing, so that it is the same when the capture ends.
        STREAM_PER_THREAD if !thread::current_or_new().is_null() => per_thread_key(),
        key => key,
    }
}

/// The key for the calling thread's own default stream: the address of what the thread has of its own, which is no
/// stream's.
#[cold]
#[inline(never)]
pub(crate) fn per_thread_key() -> usize {
    PER_THREAD_USED.store(true, Relaxed);
    let thread = thread::current();
    if thread.is_null() { STREAM_PER_THREAD } else { thread as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_everything_ends_the_requests_of_all_streams_once() {
        let streams: Vec<usize> = (1..=40).map(|i| 0x5610_0000_0000 + i * 0x3f0).collect();
        let open = || streams.iter().filter_map(|key| find(*key)).filter(|s| s.open_since.load(Relaxed) != 0).count();
        for round in 1..=3 {
            for (index, key) in streams.iter().enumerate() {
                work_begins(*key, 1000 * round + index as u64);
            }
            assert_eq!((open(), segment::value(Statistic::OpenRequests)), (40, 40));
            // One is waited for by itself, and so belongs to none of the others.
            request_ends(streams[0]);
            all_requests_end();
            assert_eq!((open(), segment::value(Statistic::OpenRequests)), (0, 0));
            let requests: u64 = segment().request.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum();
            assert_eq!(requests, 2 * round);
        }
    }
}
