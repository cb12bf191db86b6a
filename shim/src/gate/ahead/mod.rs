//! The program runs ahead, and the GPU itself waits: in a process that has to give way, its launches stand in groups, each behind a wait for a
//! word of our memory (`cuStreamBatchMemOp`), which a thread of ours raises when the group may run.
//!
//! A launch that waits on the processor ([`wait`](super::wait)) takes from a program what hides its own slowness: with 150 us queued, each stretch of small
//! kernels runs only as fast as they are launched. With the wait on the GPU a thousand launches may be queued, as without us, and
//! what is in the way of somebody more important is still no more than was let through. What was measured on an H100 (driver 580.159.04,
//! docs/scheduling.md, log 6): a wait that is open and the write before it cost the GPU 2.8 us and the processor 1.6; another process's kernels run
//! beside a stream that waits as beside none; what waits begins 6 us after the word is raised; a process that is killed in that state is gone like any other.
//!
//! **Groups** are numbered in the order in which they are begun, over all streams of the process. A group ends where its estimated GPU time would pass
//! [`PART`]; a longer kernel, or a graph, is one by itself. In front of it stand on its stream a write of the number of that stream's group before it, so
//! that our memory says what is done, and a wait until the word has reached its own number. Both are read and written by the processor without a call
//! of the driver, so the thread that raises the word can never be kept waiting by a launch that waits in the driver for room in its queue.
//!
//! **Who raises the word:** whoever begins a group, if it may run at once, else the thread ([`attend`]). It lets through what [`limit_ns`](backlog::limit_ns)
//! allows to be on the GPU, and just before that has run dry the next group.
//!
//! **Fail open.** Where the driver cannot, or the thread is not there, launches wait on the processor. When the process ends, or is alone, or the thread
//! fails, the word is raised beyond all numbers.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`queue`] | the groups: what was begun, let through, and is done |
//! | [`words`] | the memory that we share with the GPU |
//!
//! Candidates for the word: *one that the more important process writes* (nothing to be done here, but it would be left shut by one that is killed); *events in the place of writes*
//! (nothing on the GPU, but a question is a call of the driver, and a launch may wait in the driver with its lock).

mod queue;
mod words;

use super::activity;
use super::backlog;
use super::situation;
use super::wait::{self, Punctual, Waiting};
use crate::clock;
use crate::cuda::{STREAM_PER_THREAD, sys};
use crate::driver;
use crate::fence::fenced;
use crate::handlers::capture::Section;
use crate::handlers::streams;
use crate::life;
use crate::mode;
use aishim_abi::client_page::Page;
use parking_lot::Mutex;
use queue::{GROWN_NS, IS_RELEASED, MOST_GROUPS, NONE, Next, PART, Queue, STREAM};
use std::sync::atomic::{
    AtomicBool,
    Ordering::{AcqRel, Relaxed},
};
use std::time::Duration;
use words::Mapped;

static QUEUE: Mutex<Queue> = Mutex::new(Queue::new());

/// The thread is there, so groups may be begun.
static IS_ATTENDED: AtomicBool = AtomicBool::new(false);

/// The driver cannot, or the user does not want it.
static IS_OFF: AtomicBool = AtomicBool::new(false);

/// In a forked child: none of this is its own, and the lock may be held by a thread that it has not got.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// In a forked child. Async-signal-safe.
pub(super) fn disown() {
    IS_CHILD.store(true, Relaxed);
    IS_ATTENDED.store(false, Relaxed);
}

/// Whether launches that would have to wait are queued behind a wait on the GPU.
#[inline]
pub(super) fn is_on() -> bool {
    IS_ATTENDED.load(Relaxed)
}

/// What becomes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// It may run.
    Released,
    /// The same, and so it was said on the page.
    Told,
    /// It waits on the GPU, and will be told of when it no longer does.
    Queued,
}

/// A launch on `stream`, which is called `key` here, joins a group. None where it has to wait on the processor.
#[inline]
pub(super) fn join(stream: usize, key: usize, cost_ns: u64) -> Option<Joined> {
    if STREAM.load(Relaxed) == key {
        let grown_ns = GROWN_NS.load(Relaxed) + cost_ns;
        if grown_ns <= PART.load(Relaxed) {
            GROWN_NS.store(grown_ns, Relaxed);
            return Some(joined());
        }
    }
    fenced(|| begin(stream, key, cost_ns))
}

/// With the group that grows.
fn joined() -> Joined {
    if IS_RELEASED.load(Relaxed) { Joined::Released } else { Joined::Queued }
}

/// A launch stands in no group, since nobody is there for whom it would have to wait.
#[inline]
pub(super) fn leave() {
    if STREAM.load(Relaxed) != NONE {
        STREAM.store(NONE, Relaxed);
    }
}

/// How long a launch waits for another thread of ours that is at it; then it goes with the group before it.
const PATIENCE: Duration = Duration::from_micros(100);

#[cold]
fn begin(stream: usize, key: usize, cost_ns: u64) -> Option<Joined> {
    let _section = Section::enter()?;
    let current = driver::context();
    // A stream waits for the words of its own context, which no other's end takes away.
    let context = if stream > STREAM_PER_THREAD { streams::context_of(stream) } else { current };
    let Some(mut queue) = QUEUE.try_lock_for(PATIENCE) else {
        return (STREAM.load(Relaxed) == key).then(joined);
    };
    let mut mapped = words::of(context);
    // Words are made in the current context, and end with it: where that is another, the launch waits on the processor.
    if mapped.is_none() && context == current && words::has_room_for(context) {
        // Without the lock: the driver may wait for a launch that waits for room in its queue, which the thread sees to.
        drop(queue);
        let made = map()?;
        queue = QUEUE.lock();
        mapped = queue.settle_in(context, made);
    }
    let mapped = mapped?;
    // Under the lock, or it would be shut again after it was opened for good.
    if !is_on() {
        return None;
    }
    let (tail, is_new) = queue.tail(key, context);
    if !is_new && queue.go_on(tail, cost_ns) {
        return Some(joined());
    }
    let (before, number) = queue.begin(tail, mapped.words, cost_ns);
    let is_released = queue.is_released(number);
    if !is_released && let Some(thread) = &queue.thread {
        thread.unpark();
    }
    // Without the lock: the driver may keep us waiting until there is room in its queue, which the thread sees to.
    drop(queue);
    if !mapped.put(stream as sys::CUstream, tail, before, number) {
        give_up();
        return None;
    }
    Some(if is_released { Joined::Told } else { Joined::Queued })
}

/// Words for the current context; where they cannot be had once, launches wait on the processor from then on.
#[cold]
fn map() -> Option<Mapped> {
    let mapped = if IS_OFF.load(Relaxed) { None } else { Mapped::make() };
    if mapped.is_none() {
        IS_OFF.store(true, Relaxed);
    }
    mapped
}

/// Launches wait on the processor from now on, and what waits on the GPU goes on.
#[cold]
fn give_up() {
    IS_OFF.store(true, Relaxed);
    IS_ATTENDED.store(false, Relaxed);
    open();
}

fn open() {
    if !IS_CHILD.load(Relaxed) {
        QUEUE.lock().open();
    }
}

/// `AISHIM_GATE`.
pub(super) fn configure(is_wanted: bool) {
    IS_OFF.store(!is_wanted, Relaxed);
}

/// The process is in company: starts the thread, where there is none.
pub(super) fn begin_company() {
    if IS_OFF.load(Relaxed) || IS_ATTENDED.swap(true, AcqRel) {
        return;
    }
    if !life::spawn("aishim-ahead", attend) {
        IS_ATTENDED.store(false, Relaxed);
        open();
    }
}

/// Nothing is to be waited for any more, since the conversation has ended.
pub(super) fn end_company() {
    open();
}

/// The same at the process's end, of which exit(3) in a signal handler may be the cause: the launch that it has interrupted may have the lock, and never gives it back.
pub(super) fn process_ends() {
    if IS_CHILD.load(Relaxed) {
        return;
    }
    queue::raise_all();
    if let Some(mut queue) = QUEUE.try_lock_for(ENDING) {
        queue.open();
    }
}

/// A context ends, and with it what waits in it.
pub(super) fn forget_context(context: usize) {
    if IS_CHILD.load(Relaxed) || words::of(context).is_none() {
        return;
    }
    // As above; a process that ends has raised the words already.
    let held = if mode::is_exiting() { QUEUE.try_lock_for(ENDING) } else { Some(QUEUE.lock()) };
    if let Some(mut queue) = held {
        queue.forget_context(context);
    }
}

/// How long the lock is waited for by a process that ends.
const ENDING: Duration = Duration::from_millis(10);

/// The thread, until the process ends.
fn attend() {
    /// Also after a panic.
    struct Opens;
    impl Drop for Opens {
        fn drop(&mut self) {
            give_up();
        }
    }
    let _opens = Opens;
    let _punctual = Punctual::begin();
    {
        let mut queue = QUEUE.lock();
        queue.thread = Some(std::thread::current());
        // Now, and not in the midst of a launch.
        queue.groups.reserve(MOST_GROUPS);
    }
    while mode::mode() & (mode::EXITING | mode::PASS_THROUGH) == 0 && !IS_OFF.load(Relaxed) {
        let next = QUEUE.lock().release();
        let Some(page) = activity::page() else { return };
        match next {
            Next::Nothing => std::thread::park(),
            next => wait_for(next, page),
        }
    }
}

/// What takes longer than estimated while others have the GPU may stand behind them: it is looked at in such steps.
const DRAIN_NS: u64 = 20_000;

/// How long is slept where that much is left by the estimate. Half of it: where others' time is in the estimate, all is done before. Of kernels that wait for other processes' it says
/// nothing at all.
fn nap_ns(left_ns: u64) -> u64 {
    (left_ns / 2).min(if situation::has_partners() { DRAIN_NS } else { wait::LONGEST_NS })
}

/// Lets through what waits, until nothing does.
fn wait_for(mut next: Next, page: &Page) {
    let _waiting = Waiting::begin(page, clock::monotonic_ns());
    loop {
        match next {
            Next::Nothing => break,
            Next::Closed { after_ns } => wait::for_others(page, after_ns),
            Next::Draining { ns: 0 } => wait::sleep(DRAIN_NS),
            Next::Held => wait::sleep(wait::STEP_NS),
            Next::Later { ns } | Next::Draining { ns } if ns > wait::FAR_NS => wait::sleep(nap_ns(ns)),
            Next::Later { .. } | Next::Draining { .. } => wait::spin(),
        }
        let mut queue = QUEUE.lock();
        if !matches!(next, Next::Later { .. }) {
            // Others had the GPU: no wonder that nothing was done.
            queue.progress_ns = clock::monotonic_ns();
        }
        next = queue.release();
        let now_ns = clock::monotonic_ns();
        if matches!(next, Next::Later { .. }) && queue.is_any_out() {
            let stuck_ns = now_ns.saturating_sub(queue.progress_ns);
            if stuck_ns > backlog::STUCK_NS + queue.out_ns(queue.front_ns) {
                backlog::widen(now_ns, stuck_ns);
                queue.progress_ns = now_ns;
            } else if stuck_ns > wait::AWAKE_NS {
                drop(queue);
                wait::sleep(wait::STEP_NS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_stream_with_the_handle_of_one_that_has_gone_joins_no_group_of_it() {
        let _alone = queue::tests::ALONE.lock();
        let gone = 0x7000;
        STREAM.store(gone, Relaxed);
        assert!(join(gone, gone, 1).is_some());
        streams::thread_ends(gone as *const _);
        assert_ne!(STREAM.load(Relaxed), gone);
    }

    /// A signal handler that calls exit(3) may have interrupted the launch that has the lock.
    #[test]
    fn a_process_ends_though_a_launch_never_gives_back_the_lock() {
        let _alone = queue::tests::ALONE.lock();
        let words = queue::tests::words();
        let mut held = QUEUE.lock();
        held.settle_in(7, Mapped::of(words));
        let (ended, ends) = mpsc::channel();
        std::thread::spawn(move || {
            forget_context(8);
            process_ends();
            let _ = ended.send(());
        });
        assert_eq!(ends.recv_timeout(Duration::from_secs(5)), Ok(()));
        assert!(queue::is_up_to(1_000, words.open.load(Relaxed)), "what waits on the GPU goes on");
        held.forget_context(7);
    }
}
