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
//! **Who raises the word:** whoever begins a group, if it may run at once, else the thread ([`run`]). It lets through what [`limit_ns`](backlog::limit_ns)
//! allows to be on the GPU, and just before that has run dry the next group.
//!
//! **Fail open.** Where the driver cannot, or the thread is not there, launches wait on the processor. When the process ends, or is alone, or the thread
//! fails, the word is raised beyond all numbers.
//!
//! Candidates for the word: *one that the more important process writes* (nothing to be done here, but it would be left shut by one that is killed); *events in the place of writes*
//! (nothing on the GPU, but a question is a call of the driver, and a launch may wait in the driver with its lock).

use super::activity;
use super::backlog;
use super::situation::{self, Closed, Room};
use super::wait::{self, Punctual};
use crate::clock;
use crate::cuda::sys;
use crate::driver;
use crate::fence::fenced;
use crate::handlers::capture::{RelaxedThread, Section};
use crate::life;
use crate::mode;
use aishim_abi::client_page::Page;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::thread::Thread;
use std::time::Duration;

/// Estimated GPU time of a group; and of one while nobody more important has been active for a while and nobody's turn is to end, since each costs the GPU 2.8 us.
const PART_NS: u64 = 80_000;
const PART_AT_REST_NS: u64 = 400_000;

/// The next group is let through when so much is left of what runs, so that the GPU does not run dry: to see a write and to be seen writing takes 6 us. (With 25 us
/// p50 was 1.16 in the place of 1.14 times alone, p99 1.5 and not 1.2, at 1 % more throughput.)
const EARLY_NS: u64 = 8_000;

/// The end of a request, where its process says when it expects that, is later by what others had queued when it began and by the time that the GPU takes to turn
/// from one process to another, 140 us on an H100. So much less after that end others' next groups may begin, which they then do when the GPU is free, and not
/// when the request's process and they themselves have been told.
const HANDOVER_NS: u64 = 80_000;

/// A long kernel is kept back for those who are due no longer than this: of several there is always one.
const HELD_MOST_NS: u64 = 10_000_000;

/// Groups that may be queued; beyond that the last one grows. The driver's own queue takes a thousand launches.
const MOST_GROUPS: usize = 1024;

/// Streams whose groups are told apart; of more, those used longest ago lose their place.
const TAILS: usize = 8;

/// Contexts with a word; launches in others wait on the processor.
const PLACES: usize = 4;

/// No stream.
const NONE: usize = usize::MAX;

/// Memory that the GPU reads and writes.
#[repr(C, align(4096))]
struct Words {
    /// Groups up to this number may run, compared as the GPU does, cyclically.
    open: AtomicU32,
    _line: [u32; 15],
    /// For each place in `Queue::tails` the number of a group that is done, and with it all before it on that stream.
    done: [AtomicU32; TAILS],
}

/// A context and its words.
#[derive(Clone, Copy)]
struct Place {
    context: usize,
    words: &'static Words,
    /// Where the GPU finds them.
    device: u64,
}

/// A stream, and the last group on it.
#[derive(Clone, Copy)]
struct Tail {
    stream: usize,
    context: usize,
    last: u32,
}

/// Launches behind one wait.
struct Group {
    number: u32,
    tail: usize,
    words: &'static Words,
    cost_ns: u64,
    /// Once it was let through: by then it is taken for done, if no other group on its stream would say so.
    over_ns: u64,
}

struct Queue {
    places: Vec<Place>,
    tails: Vec<Tail>,
    /// The place of the stream on which launches are added to a group.
    current: usize,
    /// Begun and not known to be done, the oldest first.
    groups: VecDeque<Group>,
    begun: u32,
    released: u32,
    /// Since when the oldest group has run, and when anything was last done.
    front_ns: u64,
    progress_ns: u64,
    /// Since when somebody more important has had the GPU, and since when nothing of ours has been on it, 0 where that is not so.
    closed_ns: u64,
    drained_ns: u64,
    /// Since when a long kernel is kept back for somebody who is due.
    held_ns: u64,
    /// Who raises the word, where that is not whoever begins a group.
    thread: Option<Thread>,
    /// Whatever there is or will be may run.
    is_open: bool,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue::new());

/// The thread is there, so groups may be begun.
static IS_ATTENDED: AtomicBool = AtomicBool::new(false);

/// The driver cannot, or the user does not want it.
static IS_OFF: AtomicBool = AtomicBool::new(false);

/// The stream of the group that grows, [`NONE`] where the next launch begins one.
static STREAM: AtomicUsize = AtomicUsize::new(NONE);

/// [`PART_NS`], or as much as is right at the moment.
static PART: AtomicU64 = AtomicU64::new(PART_NS);

/// What that group costs so far, and whether it may run.
static GROWN_NS: AtomicU64 = AtomicU64::new(0);
static IS_RELEASED: AtomicBool = AtomicBool::new(false);

/// `a <= b`, cyclically.
fn is_up_to(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() >= 0
}

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
    let context = driver::context();
    let Some(mut queue) = QUEUE.try_lock_for(PATIENCE) else {
        return (STREAM.load(Relaxed) == key).then(joined);
    };
    let mut place = queue.place(context);
    if place.is_none() {
        // Without the lock: the driver may wait for a launch that waits for room in its queue, which the thread sees to.
        drop(queue);
        let made = make_words()?;
        queue = QUEUE.lock();
        place = queue.settle_in(context, made);
    }
    let place = place?;
    // Under the lock, or it would be shut again after it was opened for good.
    if !is_on() {
        return None;
    }
    queue.settle();
    let (tail, is_new) = queue.tail(key, context);
    if !is_new && queue.go_on(tail, cost_ns) {
        return Some(joined());
    }
    queue.shut();
    let before = queue.tails[tail].last;
    queue.begun = queue.begun.wrapping_add(1);
    let number = queue.begun;
    queue.tails[tail].last = number;
    queue.groups.push_back(Group { number, tail, words: place.words, cost_ns, over_ns: 0 });
    queue.current = tail;
    STREAM.store(key, Relaxed);
    GROWN_NS.store(cost_ns, Relaxed);
    IS_RELEASED.store(false, Relaxed);
    let _ = queue.release();
    let is_released = is_up_to(number, queue.released);
    if !is_released && let Some(thread) = &queue.thread {
        thread.unpark();
    }
    // Without the lock: the driver may keep us waiting until there is room in its queue, which the thread sees to.
    drop(queue);
    let done = place.device + (std::mem::offset_of!(Words, done) + tail * size_of::<u32>()) as u64;
    if !put(stream as sys::CUstream, (done, before), (place.device, number)) {
        give_up();
        return None;
    }
    Some(if is_released { Joined::Told } else { Joined::Queued })
}

/// Words for the current context, of which there are to be as many as there are places and one for each race; where none can be had launches wait on the processor.
#[cold]
fn make_words() -> Option<(&'static Words, u64)> {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    if IS_OFF.load(Relaxed) || MADE.fetch_add(1, Relaxed) >= 4 * PLACES {
        return None;
    }
    let made = Words::make();
    if made.is_none() {
        IS_OFF.store(true, Relaxed);
    }
    made
}

/// `CUstreamBatchMemOpParams` of a wait or a write of 32 bits.
#[derive(Clone, Copy)]
#[repr(C)]
struct Operation {
    operation: u32,
    address: u64,
    value: u64,
    /// `CU_STREAM_WAIT_VALUE_GEQ` and `CU_STREAM_WRITE_VALUE_DEFAULT`, which comes after all work before it, are both 0.
    flags: u32,
    alias: u64,
    _rest: u64,
}

const _: () = assert!(size_of::<Operation>() == size_of::<sys::CUstreamBatchMemOpParams>());

/// `CU_STREAM_MEM_OP_WAIT_VALUE_32` and `CU_STREAM_MEM_OP_WRITE_VALUE_32`.
const WAIT: u32 = 1;
const WRITE: u32 = 2;

/// Puts a write and a wait on the stream, each of an address and a number; false where the driver refuses.
fn put(stream: sys::CUstream, done: (u64, u32), open: (u64, u32)) -> bool {
    let operation = |operation, (address, number): (u64, u32)| Operation {
        operation,
        address,
        value: number.into(),
        flags: 0,
        alias: 0,
        _rest: 0,
    };
    let mut operations = [operation(WRITE, done), operation(WAIT, open)];
    driver::batch_mem_op(stream, operations.len() as u32, operations.as_mut_ptr().cast(), 0).is_ok()
}

impl Queue {
    const fn new() -> Self {
        Self {
            places: Vec::new(),
            tails: Vec::new(),
            current: NONE,
            groups: VecDeque::new(),
            begun: 0,
            released: 0,
            front_ns: 0,
            progress_ns: 0,
            closed_ns: 0,
            drained_ns: 0,
            held_ns: 0,
            thread: None,
            is_open: false,
        }
    }

    /// The words of a context, where there are such.
    fn place(&self, context: usize) -> Option<Place> {
        self.places.iter().find(|place| place.context == context).copied()
    }

    /// Takes words for a context, unless it has got some meanwhile, or there are too many.
    fn settle_in(&mut self, context: usize, (words, device): (&'static Words, u64)) -> Option<Place> {
        if let Some(place) = self.place(context) {
            return Some(place);
        }
        if context == 0 || self.places.len() == PLACES {
            return None;
        }
        words.open.store(self.released, Release);
        words.done.iter().for_each(|done| done.store(self.released, Relaxed));
        let place = Place { context, words, device };
        self.places.push(place);
        Some(place)
    }

    /// The place of a stream, and whether it has just got that.
    fn tail(&mut self, stream: usize, context: usize) -> (usize, bool) {
        if let Some(tail) = self.tails.iter().position(|tail| tail.stream == stream && tail.context == context) {
            return (tail, false);
        }
        let tail = Tail { stream, context, last: self.begun };
        if self.tails.len() < TAILS {
            self.tails.push(tail);
            return (self.tails.len() - 1, true);
        }
        // What is queued on that stream still will be taken for done with the next stream's first group: a little more is let through.
        let age = |tail: &Tail| self.begun.wrapping_sub(tail.last);
        let oldest = self.tails.iter().enumerate().max_by_key(|(_, tail)| age(tail)).map_or(0, |(at, _)| at);
        self.tails[oldest] = tail;
        (oldest, true)
    }

    /// Notes what the group that grows has come to.
    fn settle(&mut self) {
        let (current, grown_ns) = (self.current, GROWN_NS.load(Relaxed));
        let Some(last) = self.tails.get(current).map(|tail| tail.last) else { return };
        if let Some(group) = self.groups.iter_mut().rev().find(|group| group.number == last) {
            group.over_ns += 2 * grown_ns.saturating_sub(group.cost_ns);
            group.cost_ns = grown_ns;
        }
    }

    /// Adds a launch to the last group of a stream, where that has room for it and is not done, or where there may be no more groups.
    fn go_on(&mut self, tail: usize, cost_ns: u64) -> bool {
        let (stream, last) = (self.tails[tail].stream, self.tails[tail].last);
        let is_full = self.groups.len() >= MOST_GROUPS;
        // Launches that stand in no group may have come after it.
        let is_left = STREAM.load(Relaxed) == NONE;
        let group = self.groups.iter().rev().find(|group| group.number == last && group.tail == tail);
        let Some(grown_ns) = group.map(|group| group.cost_ns + cost_ns) else { return false };
        if is_left || !is_full && grown_ns > PART.load(Relaxed) {
            return false;
        }
        GROWN_NS.store(grown_ns, Relaxed);
        self.current = tail;
        IS_RELEASED.store(is_up_to(last, self.released), Relaxed);
        STREAM.store(stream, Relaxed);
        true
    }

    /// Takes note of what is done; true where that is more than before.
    fn collect(&mut self, now_ns: u64) -> bool {
        let before = self.groups.len();
        let (released, tails) = (self.released, &self.tails);
        self.groups.retain(|group| {
            let done = group.words.done[group.tail].load(Acquire);
            let is_last = tails.get(group.tail).is_none_or(|tail| tail.last == group.number);
            let is_done = is_up_to(group.number, done) || is_last && now_ns > group.over_ns;
            !(is_up_to(group.number, released) && is_done)
        });
        let is_more = self.groups.len() != before;
        if is_more {
            self.front_ns = now_ns;
            self.progress_ns = now_ns;
        }
        is_more
    }

    /// Lets through what may run now.
    fn release(&mut self) -> Next {
        let now_ns = clock::monotonic_ns();
        self.settle();
        self.collect(now_ns);
        let is_at_rest = !backlog::is_recent(now_ns) && situation::prospect(now_ns).until_ns == u64::MAX;
        PART.store(if is_at_rest { PART_AT_REST_NS } else { PART_NS }, Relaxed);
        let mut out_ns = self.out_ns(now_ns);
        loop {
            let released = self.released;
            let Some(at) = self.groups.iter().position(|group| !is_up_to(group.number, released)) else {
                return Next::Nothing;
            };
            let (number, cost_ns) = (self.groups[at].number, self.groups[at].cost_ns);
            if mode::mode() & (mode::IN_COMPANY | mode::EXITING | mode::PASS_THROUGH) == mode::IN_COMPANY {
                match self.look(now_ns) {
                    Err(Closed::Peer { .. }) if self.is_draining(now_ns) => return Next::Draining { ns: out_ns },
                    Err(_) => return Next::Closed { after_ns: self.after_ns() },
                    Ok(Room::Unbounded) => {}
                    Ok(Room::Bounded) => match backlog::limit_ns(cost_ns, now_ns, PART_NS + EARLY_NS) {
                        None if self.is_held(now_ns) => return Next::Held,
                        limit_ns => {
                            let allowed_ns = limit_ns.unwrap_or(0).saturating_sub(cost_ns).max(EARLY_NS);
                            if out_ns > allowed_ns {
                                return Next::Later { ns: out_ns - allowed_ns };
                            }
                        }
                    },
                }
            }
            if out_ns == 0 {
                self.front_ns = now_ns;
                self.progress_ns = now_ns;
            }
            out_ns += cost_ns;
            self.groups[at].over_ns = now_ns + out_ns + cost_ns + wait::AWAKE_NS;
            self.held_ns = 0;
            self.let_through(number);
            activity::launched(cost_ns, now_ns);
        }
    }

    /// Whether others have the GPU, and since when.
    fn look(&mut self, now_ns: u64) -> Result<Room, Closed> {
        let strictly = situation::look_at_all(now_ns);
        if strictly.is_ok() {
            (self.closed_ns, self.drained_ns) = (0, 0);
            return strictly;
        }
        let is_early = self.drained_ns != 0;
        let looked = if is_early { situation::look_beyond(now_ns, self.after_ns()) } else { strictly };
        // Another request has followed the one whose end was not waited for.
        let is_another = is_early && looked.is_err() && self.is_any_out();
        if self.closed_ns == 0 || is_another {
            (self.closed_ns, self.drained_ns) = (now_ns, 0);
        }
        if looked.is_err() && self.drained_ns == 0 && !self.is_any_out() {
            self.drained_ns = now_ns;
        }
        looked
    }

    /// Whether a long kernel is kept back for somebody who is due, and not for too long already.
    fn is_held(&mut self, now_ns: u64) -> bool {
        if self.held_ns == 0 {
            self.held_ns = now_ns;
        }
        now_ns.saturating_sub(self.held_ns) < HELD_MOST_NS
    }

    /// Whether something of ours may be on the GPU still, which others have. Where a time slice has passed it stands behind them, or nothing says that it is done.
    fn is_draining(&self, now_ns: u64) -> bool {
        self.drained_ns == 0 && now_ns.saturating_sub(self.closed_ns) < wait::AWAKE_NS
    }

    /// So long after the end that a request's process expects our next group may begin.
    fn after_ns(&self) -> Option<u64> {
        (self.drained_ns != 0).then(|| self.drained_ns.saturating_sub(self.closed_ns) + HANDOVER_NS)
    }

    fn let_through(&mut self, number: u32) {
        self.released = number;
        for place in &self.places {
            // Pairs with the GPU's read: nothing of ours has to be seen before it.
            place.words.open.store(number, Release);
        }
        if self.begun == number {
            IS_RELEASED.store(true, Relaxed);
        }
    }

    /// What may be on the GPU still, by the estimate.
    fn out_ns(&self, now_ns: u64) -> u64 {
        let mut out = self.groups.iter().take_while(|group| is_up_to(group.number, self.released));
        let front_ns = out.next().map_or(0, |group| group.cost_ns.saturating_sub(now_ns.saturating_sub(self.front_ns)));
        front_ns + out.map(|group| group.cost_ns).sum::<u64>()
    }

    fn is_any_out(&self) -> bool {
        self.groups.front().is_some_and(|group| is_up_to(group.number, self.released))
    }

    /// Lets everything through that there is or will be.
    fn open(&mut self) {
        self.released = self.begun;
        for place in &self.places {
            place.words.open.store(self.begun.wrapping_add(FAR), Release);
        }
        self.is_open = true;
        self.groups.clear();
        IS_RELEASED.store(true, Relaxed);
        STREAM.store(NONE, Relaxed);
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }

    /// After that: groups wait again.
    fn shut(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.places.iter().for_each(|place| place.words.open.store(self.released, Release));
        }
    }
}

/// Numbers that far ahead are still ahead, cyclically.
const FAR: u32 = 1 << 30;

/// Why nothing more is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// There is nothing.
    Nothing,
    /// Others have the GPU, or what is left of ours.
    Closed { after_ns: Option<u64> },
    /// The same, while something of ours is on it still, for so long by the estimate.
    Draining { ns: u64 },
    /// A long kernel, while somebody is due.
    Held,
    /// As much as may be is on the GPU already, for so long by the estimate.
    Later { ns: u64 },
}

impl Words {
    /// Words that the GPU of the current context sees, and where. Shared, or a fork would part the processor's page from the GPU's. Never unmapped.
    fn make() -> Option<(&'static Self, u64)> {
        /// `CU_MEMHOSTREGISTER_PORTABLE` and `_DEVICEMAP`: a stream may be another context's than the current one.
        const PORTABLE_DEVICEMAP: u32 = 1 | 2;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: mmap(2) of fresh memory, at no address in particular.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Self>(), protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: madvise(2) of what was just mapped: a child has no use for it.
        unsafe { libc::madvise(mapped, size_of::<Self>(), libc::MADV_DONTFORK) };
        let _relaxed = RelaxedThread::begin();
        let mut device = 0;
        let is_there = can_wait()
            && driver::host_register(mapped, size_of::<Self>(), PORTABLE_DEVICEMAP).is_ok()
            && driver::host_device_pointer(&raw mut device, mapped, 0).is_ok();
        if !is_there {
            // SAFETY: munmap(2) of what was just mapped, which nobody knows of.
            unsafe { libc::munmap(mapped, size_of::<Self>()) };
            return None;
        }
        // SAFETY: a page of zeroes, which are values of all fields, aligned to a page, and never unmapped from here on.
        Some((unsafe { &*mapped.cast::<Self>() }, device))
    }
}

/// Whether the GPU of the current context can wait for memory.
fn can_wait() -> bool {
    /// `CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS`, of the calls' second version; the attribute of 32 bits is that of the first.
    const CAN_USE_STREAM_MEM_OPS: u32 = 122;
    let (mut device, mut can) = (0, 0);
    driver::current_device(&raw mut device).is_ok()
        && driver::device_attribute(&raw mut can, CAN_USE_STREAM_MEM_OPS, device).is_ok()
        && can == 1
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

/// Nothing is to be waited for any more: of the conversation's end, and of the process's.
pub(super) fn end_company() {
    open();
}

/// A context ends, and with it what waits in it.
pub(super) fn forget_context(context: usize) {
    if IS_CHILD.load(Relaxed) {
        return;
    }
    let mut queue = QUEUE.lock();
    let Some(at) = queue.places.iter().position(|place| place.context == context) else { return };
    let place = queue.places.remove(at);
    queue.groups.retain(|group| !std::ptr::eq(group.words, place.words));
    // No handle of it is ever met again, but for a context that has the same number.
    queue.tails.iter_mut().filter(|tail| tail.context == context).for_each(|tail| tail.context = 0);
    STREAM.store(NONE, Relaxed);
}

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
    QUEUE.lock().thread = Some(std::thread::current());
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

/// Lets through what waits, until nothing does.
fn wait_for(mut next: Next, page: &Page) {
    page.is_waiting.fetch_add(1, Relaxed);
    loop {
        match next {
            Next::Nothing => break,
            Next::Closed { after_ns } => wait::for_others(page, after_ns),
            Next::Draining { ns: 0 } => wait::sleep(DRAIN_NS),
            Next::Held => wait::sleep(wait::STEP_NS),
            // Half of it: where others' time is in the estimate, all is done before.
            Next::Later { ns } | Next::Draining { ns } if ns > wait::FAR_NS => {
                wait::sleep((ns / 2).min(wait::LONGEST_NS));
            }
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
    page.is_waiting.fetch_sub(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without contexts, so that nothing goes to a driver.
    fn queue(groups: &[(u32, usize, u64)], released: u32, words: &'static Words) -> Queue {
        let group = |&(number, tail, cost_ns)| Group { number, tail, words, cost_ns, over_ns: u64::MAX };
        let tails = [(3, 1), (4, 1)].map(|(stream, context)| Tail { stream, context, last: 0 }).to_vec();
        let begun = groups.last().map_or(0, |group| group.0);
        Queue { tails, groups: groups.iter().map(group).collect(), begun, released, ..Queue::new() }
    }

    fn words() -> &'static Words {
        let words = Words { open: AtomicU32::new(0), _line: [0; 15], done: Default::default() };
        Box::leak(Box::new(words))
    }

    #[test]
    fn numbers_are_compared_as_the_gpu_does() {
        assert!(is_up_to(1, 1) && is_up_to(1, 2) && !is_up_to(2, 1));
        assert!(is_up_to(u32::MAX, 3) && !is_up_to(3, u32::MAX));
        assert!(is_up_to(7, 7_u32.wrapping_add(FAR)) && is_up_to(u32::MAX, u32::MAX.wrapping_add(FAR)));
    }

    #[test]
    fn what_is_out_is_what_was_let_through_and_is_not_done() {
        let words = words();
        let mut queue = queue(&[(1, 0, 100), (2, 1, 50), (3, 0, 80), (4, 0, 70)], 3, words);
        assert_eq!((queue.out_ns(0), queue.out_ns(60), queue.out_ns(1_000)), (230, 170, 130), "the first runs");
        assert!(!queue.collect(10), "nothing is done");
        // On the second stream, out of turn.
        words.done[1].store(2, Relaxed);
        assert!(queue.collect(20) && queue.front_ns == 20);
        assert_eq!(queue.out_ns(20), 180);
        // The first stream is past its last group, which was never let through: that is no group that is done.
        words.done[0].store(4, Relaxed);
        assert!(queue.collect(30) && queue.out_ns(30) == 0 && queue.groups.len() == 1);
        assert!(!queue.is_any_out());
    }

    #[test]
    fn a_long_kernel_is_not_kept_back_for_ever() {
        let mut queue = queue(&[(1, 0, 100)], 0, words());
        assert!(queue.is_held(5) && queue.is_held(4 + HELD_MOST_NS) && !queue.is_held(5 + HELD_MOST_NS));
    }

    #[test]
    fn the_last_group_of_a_stream_is_over_in_time() {
        let words = words();
        let mut queue = queue(&[(1, 0, 100), (2, 1, 50)], 2, words);
        queue.tails[1].last = 2;
        queue.groups.iter_mut().for_each(|group| group.over_ns = 500);
        assert!(!queue.collect(500));
        assert!(
            queue.collect(501) && queue.groups.len() == 1,
            "behind the first another group will say that it is done"
        );
        assert_eq!(queue.groups[0].number, 1);
    }

    #[test]
    fn a_stream_that_takes_the_place_of_another_has_no_group_yet() {
        let mut queue = queue(&[(1, 0, 100)], 0, words());
        queue.tails.clear();
        for stream in 0..TAILS {
            assert_eq!(queue.tail(stream, 1), (stream, true));
            queue.begun += 1;
            queue.tails[stream].last = queue.begun;
        }
        assert_eq!((queue.tail(3, 1), queue.tail(100, 1), queue.tail(100, 1)), ((3, false), (0, true), (0, false)));
    }

    #[test]
    fn the_numbers_may_wrap() {
        let words = words();
        words.done[0].store(u32::MAX - 2, Relaxed);
        let mut queue = queue(&[(u32::MAX - 1, 0, 10), (u32::MAX, 0, 10), (0, 0, 10), (1, 0, 10)], 0, words);
        assert!(!queue.collect(5) && queue.out_ns(0) == 30);
        words.done[0].store(0, Relaxed);
        assert!(queue.collect(5) && queue.groups.len() == 1 && queue.out_ns(5) == 0);
    }
}
