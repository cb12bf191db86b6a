//! The pool in this process: whose context it belongs to, how it grows, what is told of it.
//!
//! Page-locked memory dies with the context in which it was allocated, so a pool belongs to one context, the first that
//! asks for pinned memory, and serves only requests made while that context is current; others go to the driver. When
//! the context ends, so does its pool, and the next request makes another. A pool is never freed: a thread may be in
//! it, and a process has few contexts.

mod content;
mod headroom;
mod keeper;
#[cfg(feature = "poison")]
mod poison;
mod shown;
mod source;
mod stretch;
mod warm;

use crate::block_notes;
use crate::clock;
use crate::config::PoolSettings;
use crate::cuda::{Status, host_alloc};
use crate::driver;
use crate::gpu_fence::{self, StreamFence};
use crate::mode;
use crate::segment;
use aishim_abi::statistics::Statistic;
use aishim_pool::{BLOCK_BYTES, BlockInfo, FreeOutcome, Miss, Pool, PoolConfig, PoolStats, SlabInfo};
use parking_lot::Mutex;
use source::Source;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};

/// A pool and the context its memory lives in.
struct Home {
    pool: Pool,
    /// Where its slabs come from; the pool has it too.
    source: Arc<Source>,
    context: usize,
}

static HOME: AtomicPtr<Home> = AtomicPtr::new(std::ptr::null_mut());

/// Size the pool may grow to; 0 while there is to be none.
static CAPACITY: AtomicUsize = AtomicUsize::new(0);

/// What pools of contexts that have ended had counted.
static EARLIER_HITS: AtomicU64 = AtomicU64::new(0);
static EARLIER_MARKS: AtomicU64 = AtomicU64::new(0);

/// Held in the driver's part of reserving a slab, and while a context ends.
static GROWING: Mutex<()> = Mutex::new(());

/// The slabs to have, and whether before anybody asks; set once.
static SHAPE: OnceLock<(PoolConfig, bool)> = OnceLock::new();

/// How many contexts the program is about to end, in as many threads: no new reservations.
static PAUSED: AtomicUsize = AtomicUsize::new(0);

fn is_paused() -> bool {
    PAUSED.load(Relaxed) != 0
}

fn home() -> Option<&'static Home> {
    // SAFETY: null, or a leaked box.
    unsafe { HOME.load(Acquire).as_ref() }
}

/// Sets what the pool is to be like. Called once, when the shim comes to life.
pub(crate) fn configure(settings: &PoolSettings) {
    segment::set(Statistic::PoolBlock, BLOCK_BYTES as u64);
    // Fails for 0 bytes alone, which is no pool.
    let Ok(config) = PoolConfig::with_limit(settings.bytes, settings.limit_bytes) else {
        return;
    };
    let shape = if settings.is_eager { config.eager() } else { config };
    let bytes = shape.slab_bytes().iter().sum();
    let _ = SHAPE.set((shape, settings.is_eager));
    keeper::configure(settings.idle_ms);
    content::configure(settings.is_zeroed);
    CAPACITY.store(bytes, Relaxed);
    segment::set(Statistic::PoolCapacity, bytes as u64);
}

/// A context has been made, and is known to be there.
pub(crate) fn context_made(context: usize) {
    let is_eager = SHAPE.get().is_some_and(|(_, is_eager)| *is_eager);
    if is_eager && home().is_none() && CAPACITY.load(Relaxed) != 0 {
        keeper::begin_eagerly(context);
    }
}

/// Whether the address lies in the pool's memory.
#[inline]
pub(crate) fn contains(at: usize) -> bool {
    home().is_some_and(|h| h.pool.contains(at as *const u8))
}

/// The allocated block of the pool in which the address lies.
pub(crate) fn block_of(at: usize) -> Option<BlockInfo> {
    home()?.pool.block_of(at as *const u8)
}

/// The addresses of the slab in which the address lies.
pub(crate) fn slab_of(at: usize) -> Option<Range<usize>> {
    let bounds = |slab: SlabInfo| slab.start..slab.start + slab.blocks as usize * BLOCK_BYTES;
    home()?.pool.slabs().map(bounds).find(|slab| slab.contains(&at))
}

/// For an address in a slab that is registered: one inside a slab that the driver has allocated, for calls in which the
/// driver would make a difference. The first slab is always such a one.
pub(crate) fn stand_in(at: usize) -> Option<usize> {
    let home = home().filter(|h| h.pool.contains(at as *const u8) && h.source.is_registered(at))?;
    home.pool.slabs().next().map(|first| first.start + BLOCK_BYTES)
}

/// Serves a request from the pool, if it can; else counts why not.
pub(crate) fn alloc(bytes: usize, flags: u32) -> Option<NonNull<u8>> {
    match try_alloc(bytes, flags) {
        Ok(block) => Some(block),
        Err(reason) => {
            segment::add(reason, 1);
            None
        }
    }
}

fn try_alloc(bytes: usize, flags: u32) -> Result<NonNull<u8>, Statistic> {
    if CAPACITY.load(Relaxed) == 0 {
        return Err(Statistic::PoolMissNotReady);
    }
    if flags & !(host_alloc::PORTABLE | host_alloc::DEVICEMAP) != 0 {
        return Err(Statistic::PoolMissFlags);
    }
    // In a capture the driver refuses (900), and so must we; see FACTS on RELAXED, which it would allow.
    if mode::mode() & mode::CAPTURING != 0 {
        return Err(Statistic::PoolMissCapture);
    }
    let context = driver::context();
    if context == 0 {
        return Err(Statistic::PoolMissContext);
    }
    let home = home().or_else(|| make(context, || true)).ok_or(Statistic::PoolMissNotReady)?;
    if home.context != context {
        return Err(Statistic::PoolMissContext);
    }
    let outcome = home.pool.alloc(bytes, flags).inspect(|&block| content::prepare(block, bytes));
    if home.pool.wants_growth() {
        keeper::call();
    }
    if publish_now_and_then(&home.pool, bytes) {
        warm::fetch_free();
    }
    outcome.map_err(|miss| match miss {
        Miss::TooLarge => Statistic::PoolMissTooLarge,
        Miss::WaitingForGpu => Statistic::PoolMissWaiting,
        Miss::NoRoom | Miss::Busy => Statistic::PoolMissNoRoom,
        _ => Statistic::PoolMissNotReady,
    })
}

/// Frees a block of the pool; false when the address is not the pool's at all.
pub(crate) fn free(at: usize) -> Option<Status> {
    let home = home()?;
    let status = match home.pool.free(at as *const u8) {
        FreeOutcome::NotOurs => return None,
        FreeOutcome::Freed => Status::SUCCESS,
        // As the driver answers for an address inside a block, and for one freed before.
        FreeOutcome::NotABlockStart | FreeOutcome::AlreadyFree => Status::INVALID_VALUE,
    };
    publish_now_and_then(&home.pool, 0);
    Some(status)
}

/// `CUDA_ERROR_INVALID_CONTEXT` and `CUDA_ERROR_CONTEXT_IS_DESTROYED`: the thread's context has been reset, say.
const CONTEXT_ERRORS: &[i32] = &[201, 709];

/// Whether an error of the driver's is no reason to give up: a capture that began meanwhile, or a context that is none any
/// more.
fn is_passing(code: i32) -> bool {
    (900..=908).contains(&code) || CONTEXT_ERRORS.contains(&code)
}

/// The first request of a context makes the pool and waits for its first slab; the others come in the background. Where
/// `is_there` says so, the context is current.
fn make(context: usize, is_there: impl FnOnce() -> bool) -> Option<&'static Home> {
    let _growing = GROWING.lock();
    if let Some(made_meanwhile) = home() {
        return Some(made_meanwhile);
    }
    let (shape, _) = SHAPE.get()?;
    if !is_there() {
        return None;
    }
    let source = Arc::new(Source::find());
    let pool = shown::show(Pool::new(shape, Box::new(Arc::clone(&source)), Box::new(StreamFence)), shape);
    if let Err(code) = pool.grow() {
        if is_passing(code) {
            return None;
        }
        // The driver has no such memory to give; it will say so to the program itself.
        CAPACITY.store(0, Relaxed);
        crate::log::once(format_args!(
            "the driver gives no page-locked memory for a pool (error {code}): pinned memory comes from the driver"
        ));
        return None;
    }
    publish(&pool);
    shown::show_slabs(&pool);
    let made = Box::into_raw(Box::new(Home { pool, source, context }));
    HOME.store(made, Release);
    home()
}

/// The program may be about to end a context: waits until no slab is being reserved, and lets none be until
/// [`context_stays`].
pub(crate) fn context_may_end() {
    PAUSED.fetch_add(1, Relaxed);
    drop(GROWING.lock());
}

/// It did not, or that is done.
pub(crate) fn context_stays() {
    PAUSED.fetch_sub(1, Relaxed);
}

/// A context ends, and with it the memory of its pool.
pub(crate) fn forget_context(context: usize) {
    let _growing = GROWING.lock();
    gpu_fence::forget_context(context);
    if let Some(home) = home().filter(|h| h.context == context) {
        let stats = home.pool.stats();
        HOME.store(std::ptr::null_mut(), Release);
        home.pool.forget();
        home.source.forget();
        block_notes::pool_gone();
        shown::show_slabs(&home.pool);
        EARLIER_HITS.fetch_add(stats.hits, Relaxed);
        EARLIER_MARKS.fetch_add(stats.marks_made, Relaxed);
        publish_requested(0);
        for gauge in [Statistic::PoolReserved, Statistic::PoolAllocated, Statistic::PoolQuarantined] {
            segment::set(gauge, 0);
        }
    }
}

/// The process ends: see [`keeper::process_ends`].
pub(crate) fn process_ends() {
    keeper::process_ends();
    if let Some(home) = home() {
        publish(&home.pool);
    }
}

/// In a forked child: the pool is the parent's, and the driver has no memory for the child.
pub(crate) fn disown() {
    keeper::disown();
    shown::disown();
    HOME.store(std::ptr::null_mut(), Release);
}

/// The program has waited for work: a good moment to see which freed blocks are safe again.
pub(crate) fn tend() {
    if let Some(home) = home() {
        home.pool.tend();
        if BEHIND.load(Relaxed) {
            publish(&home.pool);
        }
    }
}

/// Blocks have come or gone since the figures were published.
static BEHIND: AtomicBool = AtomicBool::new(false);

/// From this size on a block is published at once: what is gone by the next tick would be missed in the peak.
const PROMPT_BYTES: usize = 8 << 20;

/// What follows every allocation and free, of `bytes` if that is known. The figures are sums over all threads' accounts,
/// which cost more than the block did; so they are published at a tick of the kernel's clock, and when the program
/// waits or ends. The pool's map has every block at once. True when they were published: nothing came or went in this tick.
#[inline]
fn publish_now_and_then(pool: &Pool, bytes: usize) -> bool {
    static TICK: AtomicU64 = AtomicU64::new(0);
    let tick = clock::coarse_ns();
    if tick != TICK.load(Relaxed) || bytes >= PROMPT_BYTES {
        TICK.store(tick, Relaxed);
        publish(pool);
        return true;
    }
    if !BEHIND.load(Relaxed) {
        BEHIND.store(true, Relaxed);
    }
    false
}

#[cold]
fn publish(pool: &Pool) {
    BEHIND.store(false, Relaxed);
    let stats = pool.stats();
    publish_requested(stats.requested_bytes);
    segment::set(Statistic::PoolReserved, stats.reserved_bytes);
    segment::set(Statistic::PoolAllocated, stats.allocated_bytes);
    segment::set(Statistic::PoolQuarantined, stats.quarantined_bytes);
    segment::raise(Statistic::PoolHighWater, stats.high_water_bytes);
    segment::raise(Statistic::PoolHits, EARLIER_HITS.load(Relaxed) + stats.hits);
    segment::raise(Statistic::PoolFences, EARLIER_MARKS.load(Relaxed) + stats.marks_made);
}

/// The pool's part of the page-locked memory in the program's hands; the other is the driver's, see `ranges`.
fn publish_requested(bytes: u64) {
    static PUBLISHED: AtomicU64 = AtomicU64::new(0);
    let before = PUBLISHED.swap(bytes, Relaxed);
    if bytes >= before {
        segment::add_with_peak(Statistic::PinnedBytes, Statistic::PinnedPeakBytes, bytes - before);
    } else {
        segment::subtract(Statistic::PinnedBytes, before - bytes);
    }
}

/// The figures of the pool there is; all 0 where there is none.
pub(crate) fn stats() -> PoolStats {
    home().map_or_else(PoolStats::default, |home| home.pool.stats())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of several GPUs ends their contexts in as many threads. Whichever was done first let the next slab be
    /// registered, in a context that another thread was just ending.
    #[test]
    fn no_slab_comes_until_the_last_of_several_contexts_has_ended() {
        context_may_end();
        context_may_end();
        context_stays();
        assert!(is_paused());
        context_stays();
        assert!(!is_paused());
    }
}
