//! The background thread of the pool: reserves slabs ahead of need, and gives idle ones back.
//!
//! There is none until the first request has been served, or with `AISHIM_POOL=eager` until the first context is there;
//! it ends when nothing is left that could be given back. Between its looks it sleeps, and sleeping it is in nobody's way:
//! only a call of its to the driver keeps an ending process waiting.
//!
//! A slab comes in steps, see `source`: first its pages, some at a time, with nothing held that anybody waits for; then the
//! driver's part in one call, and after it a pause for the launches that waited. A slab that was begun is completed, also when nobody
//! needs it any more: it goes as others do.
//!
//! A slab goes by cuMemHostUnregister or cuMemFreeHost, which wait for the GPU and in which launches of other threads may
//! have to wait too. So nothing goes while any stream has work that no synchronisation has ended, while a capture is open,
//! or while a context may be ending; and one slab at a time.

use super::{GROWING, HOME, Home, headroom, home, is_paused, make, publish, shown};
use crate::driver;
use crate::handlers::capture::{RelaxedThread, Section};
use crate::handlers::context;
use crate::{life, log, mode, segment};
use aishim_abi::statistics::Statistic;
use aishim_pool::GrowOutcome;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};
use std::time::{Duration, Instant};

/// The thread is there.
static THREAD: AtomicBool = AtomicBool::new(false);

/// It is in the driver, or about to be.
static AT_WORK: AtomicBool = AtomicBool::new(false);

/// Somebody wants a slab, and the thread has not looked since.
static CALLED: AtomicBool = AtomicBool::new(false);

/// What the thread sleeps on. The lock is taken only to wake it, never by a request that finds it awake.
static SLEEP: Mutex<()> = Mutex::new(());
static WAKE: Condvar = Condvar::new();

/// How long a slab must not have been needed, in milliseconds; 0 for none ever going.
static IDLE_MS: AtomicU64 = AtomicU64::new(0);

/// How often to look whether what could not go on at some moment, in a capture say, can go on by now.
const HALF_DONE_MS: u64 = 100;

/// How many times what a step took the pause after it is: in three quarters of the time nothing is in the way of launches.
const PAUSES: u32 = 3;

/// The longest such pause. What takes longer than a third of it waits, most of the time, for somebody else in the driver:
/// a program that allocates page-locked memory without a rest would keep its pool from coming.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The context whose pool is to be made without being asked for; 0 for none.
static EAGER_CONTEXT: AtomicUsize = AtomicUsize::new(0);

/// Sets how long a slab must not have been needed before it goes.
pub(super) fn configure(idle_ms: u64) {
    IDLE_MS.store(idle_ms, Relaxed);
}

/// The pool wants a slab: somebody sees to it.
pub(super) fn call() {
    // Loads first: many threads may come by while a slab is on its way.
    if is_paused() || CALLED.load(Relaxed) && THREAD.load(Relaxed) {
        return;
    }
    headroom::look();
    let was_called = CALLED.swap(true, AcqRel);
    if !THREAD.swap(true, AcqRel) {
        if !life::spawn("aishim-pool", keep) {
            THREAD.store(false, Release);
        }
    } else if !was_called {
        // Once the lock is had, the thread either has yet to look at `CALLED` or sleeps.
        drop(SLEEP.lock());
        WAKE.notify_one();
    }
}

/// The pool of this context is to be made, and all of its ordinary size reserved, before anybody asks.
pub(super) fn begin_eagerly(context: usize) {
    EAGER_CONTEXT.store(context, Relaxed);
    call();
}

/// The process ends: the driver is about to be torn down, and a slab that is being reserved has to be there first.
/// Bounded, since nothing of ours may keep a process from ending.
pub(super) fn process_ends() {
    const PATIENCE: Duration = Duration::from_millis(500);
    let begun = Instant::now();
    // SeqCst, as the mode's bit before it: either this sees the work, or the work sees that the process ends.
    while AT_WORK.load(SeqCst) && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// In a forked child: the thread has stayed behind.
pub(super) fn disown() {
    THREAD.store(false, Release);
    AT_WORK.store(false, Release);
}

fn keep() {
    // Also after a panic: who ends the process waits for it.
    let _over = Over;
    loop {
        let Some(home) = home().or_else(|| at_work(make_eagerly)) else {
            return;
        };
        while leave_once(home) || grow_once(home) {}
        if !sleep(home) {
            return;
        }
        give_back(home);
    }
}

/// Says that the background thread is done.
struct Over;

impl Drop for Over {
    fn drop(&mut self) {
        AT_WORK.store(false, Release);
        THREAD.store(false, Release);
    }
}

/// Does what may call the driver, unless the process has begun to end; see [`process_ends`].
fn at_work<R: Default>(work: impl FnOnce() -> R) -> R {
    AT_WORK.store(true, SeqCst);
    let done = if mode::is_exiting() { R::default() } else { work() };
    AT_WORK.store(false, SeqCst);
    done
}

fn make_eagerly() -> Option<&'static Home> {
    let context = EAGER_CONTEXT.swap(0, Relaxed);
    let _section = Section::enter()?;
    let _relaxed = RelaxedThread::begin();
    // Asked with the lock held under which a context ends, so that one that is there stays.
    let is_there = || {
        let is_known = !is_paused() && context::all().contains(&context);
        is_known && driver::set_current_context(context as _).is_ok()
    };
    make(context, is_there)
}

/// The driver, for a call of ours that concerns this pool, which nothing may take away meanwhile.
fn with_driver<R: Default>(home: &'static Home, act: impl FnOnce() -> R) -> R {
    at_work(|| undisturbed(home, act))
}

fn undisturbed<R: Default>(home: &'static Home, act: impl FnOnce() -> R) -> R {
    let _growing = GROWING.lock();
    if is_paused() || !is_current(home) {
        return R::default();
    }
    let Some(_section) = Section::enter() else {
        return R::default();
    };
    // Only now, with the lock held: a context that ends waits for it, so this one is still there.
    if !driver::set_current_context(home.context as _).is_ok() {
        return R::default();
    }
    let _relaxed = RelaxedThread::begin();
    let done = act();
    publish(&home.pool);
    shown::show_slabs(&home.pool);
    done
}

/// Has the next slab come one step further; whether to go on.
fn grow_once(home: &'static Home) -> bool {
    if !home.pool.wants_growth() && !home.source.is_coming() {
        return false;
    }
    if !home.source.is_coming() && home.pool.recall().is_some() {
        return true;
    }
    if home.source.touch_some(home.pool.next_slab_bytes()) {
        return !mode::is_exiting();
    }
    step(home, || home.source.lock() && grow(home))
}

/// Has the pool take its next slab; whether it did.
fn grow(home: &'static Home) -> bool {
    let outcome = home.pool.grow();
    if let Err(code) = outcome {
        let mib = home.pool.stats().reserved_bytes >> 20;
        log::once(format_args!(
            "the driver gives no more page-locked memory than {mib} MiB for the pool (error {code}); AISHIM_POOL_MIB={mib} asks for no more"
        ));
    }
    matches!(outcome, Ok(GrowOutcome::Grown(_)))
}

/// Has what is leaving go one step further; whether to go on.
fn leave_once(home: &'static Home) -> bool {
    home.source.is_leaving() && !is_gpu_at_work() && step(home, || home.source.leave())
}

/// Takes a step in which launches may have to wait, and then gives them the time that is theirs; whether it could be taken.
fn step(home: &'static Home, act: impl FnOnce() -> bool) -> bool {
    let (is_taken, took) = with_driver(home, || {
        let begun = Instant::now();
        (act(), begun.elapsed())
    });
    std::thread::sleep((took * PAUSES).min(LONGEST_PAUSE));
    is_taken
}

fn is_gpu_at_work() -> bool {
    segment::segment().counters[Statistic::OpenRequests as usize].load(Relaxed) != 0
}

/// Sleeps until it is time for another look, or somebody wants a slab; false when there is nothing to look for.
fn sleep(home: &'static Home) -> bool {
    let idle_ms = IDLE_MS.load(Relaxed);
    let is_half_done = home.source.is_coming() || home.source.is_leaving();
    let is_worth_it = idle_ms != 0 && home.pool.may_shrink() || is_half_done;
    if !is_worth_it || !is_current(home) || !mode::may_call_driver() {
        return false;
    }
    let mut sleep = SLEEP.lock();
    if !CALLED.swap(false, AcqRel) {
        let look_ms = if is_half_done { HALF_DONE_MS } else { (idle_ms / 4).max(1) };
        WAKE.wait_for(&mut sleep, Duration::from_millis(look_ms));
    }
    true
}

fn give_back(home: &'static Home) {
    let idle_ms = IDLE_MS.load(Relaxed);
    if idle_ms != 0 && !home.source.is_coming() && !is_gpu_at_work() {
        with_driver(home, || home.pool.give_back_idle(idle_ms));
    }
}

fn is_current(home: &'static Home) -> bool {
    std::ptr::from_ref(home) == HOME.load(Acquire).cast_const()
}
