//! What was begun, what was let through and what is done; and what may be let through now.

use super::words::{self, Mapped, TAILS, Words};
use crate::clock;
use crate::gate::situation::{self, Closed, Room};
use crate::gate::{activity, backlog, mps, wait};
use crate::mode;
use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread::Thread;

/// Estimated GPU time of a group; and of one while nobody more important has been active for a while and nobody's turn is to end, since each costs the GPU 2.8 us.
const PART_NS: u64 = 80_000;
const PART_AT_REST_NS: u64 = 400_000;

/// The same under [`mps`], where nobody else of that rank is at it.
const PART_SHARED_NS: u64 = 160_000;

/// The next group is let through when so much is left of what runs, so that the GPU does not run dry: to see a write and to be seen writing takes 6 us. (With 25 us
/// p50 was 1.16 in the place of 1.14 times alone, p99 1.5 and not 1.2, at 1 % more throughput.)
const EARLY_NS: u64 = 8_000;

/// The end of a request, where its process says when it expects that, is later by what others had queued when it began and by the time that the GPU takes to turn
/// from one process to another, 140 us on an H100. So much less after that end others' next groups may begin, which they then do when the GPU is free, and not
/// when the request's process and they themselves have been told.
const HANDOVER_NS: u64 = 80_000;

/// Where somebody more important has another GPU of the job's, what that one's process has on it already may wait for ours (a collective of NCCL), in the way of whom all this is for.
/// So long we go on.
const PARTNER_NS: u64 = 300_000;

/// Groups that may be queued; beyond that the last one grows. The driver's own queue takes a thousand launches.
pub(super) const MOST_GROUPS: usize = 1024;

/// No stream.
pub(super) const NONE: usize = usize::MAX;

/// The stream of the group that grows, [`NONE`] where the next launch begins one. This and the next three are read without the lock.
pub(super) static STREAM: AtomicUsize = AtomicUsize::new(NONE);

/// What that group costs so far, and whether it may run.
pub(super) static GROWN_NS: AtomicU64 = AtomicU64::new(0);
pub(super) static IS_RELEASED: AtomicBool = AtomicBool::new(false);

/// [`PART_NS`], or as much as is right at the moment.
pub(super) static PART: AtomicU64 = AtomicU64::new(PART_NS);

/// `a <= b`, cyclically.
pub(super) fn is_up_to(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() >= 0
}

/// A stream, and the last group on it.
#[derive(Clone, Copy)]
struct Tail {
    stream: usize,
    context: usize,
    last: u32,
}

/// Launches behind one wait.
pub(super) struct Group {
    number: u32,
    tail: usize,
    words: &'static Words,
    cost_ns: u64,
    /// Once it was let through: by then it is taken for done, if no other group on its stream would say so.
    over_ns: u64,
}

pub(super) struct Queue {
    tails: Vec<Tail>,
    /// The place of the stream on which launches are added to a group.
    current: usize,
    /// Begun and not known to be done, the oldest first.
    pub(super) groups: VecDeque<Group>,
    begun: u32,
    released: u32,
    /// Since when the oldest group has run, and when anything was last done.
    pub(super) front_ns: u64,
    pub(super) progress_ns: u64,
    /// Since when somebody more important has had the GPU, and since when nothing of ours has been on it, 0 where that is not so.
    closed_ns: u64,
    drained_ns: u64,
    /// Since when a long kernel is kept back for somebody who is due.
    held_ns: u64,
    /// Others of equal rank have the GPU at the same time.
    is_crowded: bool,
    /// Who raises the word, where that is not whoever begins a group.
    pub(super) thread: Option<Thread>,
    /// Whatever there is or will be may run.
    is_open: bool,
}

impl Queue {
    pub(super) const fn new() -> Self {
        Self {
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
            is_crowded: false,
            thread: None,
            is_open: false,
        }
    }

    /// Takes words for a context, unless it has got some meanwhile, or others the last place.
    pub(super) fn settle_in(&mut self, context: usize, mapped: Mapped) -> Option<Mapped> {
        if words::of(context).is_none() && words::has_room_for(context) {
            mapped.words.open.store(self.released, Release);
            mapped.words.done.iter().for_each(|done| done.store(self.released, Relaxed));
            words::keep(context, mapped);
        }
        words::of(context)
    }

    /// The place of a stream, and whether it has just got that.
    pub(super) fn tail(&mut self, stream: usize, context: usize) -> (usize, bool) {
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

    /// Begins a group of the stream in that place, and lets it through if it may run: the number of the group before it there, and its own.
    pub(super) fn begin(&mut self, tail: usize, words: &'static Words, cost_ns: u64) -> (u32, u32) {
        self.settle();
        self.shut();
        let now_ns = clock::monotonic_ns();
        let is_at_rest = !backlog::is_recent(now_ns) && situation::prospect(now_ns).until_ns == u64::MAX;
        PART.store(if is_at_rest { PART_AT_REST_NS } else { self.part_ns() }, Relaxed);
        self.begun = self.begun.wrapping_add(1);
        BEGUN.store(self.begun, Relaxed);
        let number = self.begun;
        let before = std::mem::replace(&mut self.tails[tail].last, number);
        self.groups.push_back(Group { number, tail, words, cost_ns, over_ns: 0 });
        self.current = tail;
        STREAM.store(self.tails[tail].stream, Relaxed);
        GROWN_NS.store(cost_ns, Relaxed);
        IS_RELEASED.store(false, Relaxed);
        let _ = self.release();
        (before, number)
    }

    pub(super) fn is_released(&self, number: u32) -> bool {
        is_up_to(number, self.released)
    }

    /// Adds a launch to the last group of a stream, where that has room for it and is not done, or where there may be no more groups.
    pub(super) fn go_on(&mut self, tail: usize, cost_ns: u64) -> bool {
        self.settle();
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
        IS_RELEASED.store(self.is_released(last), Relaxed);
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
    pub(super) fn release(&mut self) -> Next {
        let now_ns = clock::monotonic_ns();
        self.settle();
        self.collect(now_ns);
        let mut out_ns = self.out_ns(now_ns);
        let mut at = self.groups.partition_point(|group| is_up_to(group.number, self.released));
        while let Some((number, cost_ns)) = self.groups.get(at).map(|group| (group.number, group.cost_ns)) {
            if let Some(why) = self.keeps_back(cost_ns, out_ns, now_ns) {
                return why;
            }
            // Where something is on the GPU by the number though not by the estimate, that is what runs.
            if at == 0 {
                self.front_ns = now_ns;
            }
            if out_ns == 0 {
                self.progress_ns = now_ns;
            }
            out_ns += cost_ns;
            self.groups[at].over_ns = now_ns + out_ns + cost_ns + wait::AWAKE_NS;
            self.held_ns = 0;
            self.let_through(number);
            activity::launched(cost_ns, now_ns);
            at += 1;
        }
        Next::Nothing
    }

    /// How long a group is while somebody may come.
    fn part_ns(&self) -> u64 {
        if mps::is_on() && !self.is_crowded { PART_SHARED_NS } else { PART_NS }
    }

    /// What keeps a group of so much back, with so much on the GPU.
    fn keeps_back(&mut self, cost_ns: u64, out_ns: u64, now_ns: u64) -> Option<Next> {
        if mode::mode() & (mode::IN_COMPANY | mode::EXITING | mode::PASS_THROUGH) != mode::IN_COMPANY {
            return None;
        }
        match self.look(now_ns) {
            Err(Closed::Partner { .. }) if now_ns.saturating_sub(self.closed_ns) < PARTNER_NS => {}
            Err(Closed::Peer { .. }) if self.is_draining(now_ns) => return Some(Next::Draining { ns: out_ns }),
            Err(_) => return Some(Next::Closed { after_ns: self.after_ns() }),
            Ok(Room::Unbounded) => return None,
            Ok(room) => self.is_crowded = room == Room::Crowded,
        }
        // Where nothing completes, what is out may be waiting for what is kept back.
        if self.is_crowded && self.is_any_out() && !backlog::is_wider(now_ns) {
            return Some(Next::Later { ns: out_ns });
        }
        let held_ns = if self.held_ns == 0 { 0 } else { now_ns.saturating_sub(self.held_ns) };
        let Some(limit_ns) = backlog::limit_ns(cost_ns, now_ns, self.part_ns() + EARLY_NS, held_ns) else {
            if self.held_ns == 0 {
                self.held_ns = now_ns;
            }
            return Some(Next::Held);
        };
        let allowed_ns = limit_ns.saturating_sub(cost_ns).max(EARLY_NS);
        (out_ns > allowed_ns).then(|| Next::Later { ns: out_ns - allowed_ns })
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

    /// Whether something of ours may be on the GPU still, which others have. Where a time slice has passed it stands behind them, or nothing says that it is done.
    fn is_draining(&self, now_ns: u64) -> bool {
        self.drained_ns == 0 && now_ns.saturating_sub(self.closed_ns) < wait::AWAKE_NS
    }

    /// So long after the end that a request's process expects our next group may begin, where it may before that has come.
    fn after_ns(&self) -> Option<u64> {
        let is_early = self.drained_ns != 0 && !mps::is_on();
        is_early.then(|| self.drained_ns.saturating_sub(self.closed_ns) + HANDOVER_NS)
    }

    fn let_through(&mut self, number: u32) {
        self.released = number;
        words::open_all(number);
        if self.tails.get(self.current).is_some_and(|grows| is_up_to(grows.last, number)) {
            IS_RELEASED.store(true, Relaxed);
        }
    }

    /// What may be on the GPU still, by the estimate.
    pub(super) fn out_ns(&self, now_ns: u64) -> u64 {
        let mut out = self.groups.iter().take_while(|group| is_up_to(group.number, self.released));
        let front_ns = out.next().map_or(0, |group| group.cost_ns.saturating_sub(now_ns.saturating_sub(self.front_ns)));
        front_ns + out.map(|group| group.cost_ns).sum::<u64>()
    }

    pub(super) fn is_any_out(&self) -> bool {
        self.groups.front().is_some_and(|group| is_up_to(group.number, self.released))
    }

    /// A context has gone, and with it what waits in it.
    pub(super) fn forget_context(&mut self, context: usize) {
        let Some(words) = words::forget(context) else { return };
        // What waits there is not waited for any more; where it is still there, it goes on.
        words.open.store(self.begun.wrapping_add(FAR), Release);
        self.groups.retain(|group| !std::ptr::eq(group.words, words));
        // No handle of it is ever met again, but for a context that has the same number.
        self.tails.iter_mut().filter(|tail| tail.context == context).for_each(|tail| tail.context = 0);
        STREAM.store(NONE, Relaxed);
    }

    /// Lets everything through that there is or will be.
    pub(super) fn open(&mut self) {
        self.released = self.begun;
        words::open_all(self.begun.wrapping_add(FAR));
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
            words::open_all(self.released);
        }
    }
}

/// The last group that was begun, for who has not got the lock.
static BEGUN: AtomicU32 = AtomicU32::new(0);

/// Lets everything through that there is or will be, without the lock and for good: the process ends, and [`Queue::release`] keeps nothing back any more.
pub(super) fn raise_all() {
    words::open_all(BEGUN.load(Relaxed).wrapping_add(FAR));
}

/// Numbers that far ahead are still ahead, cyclically.
const FAR: u32 = 1 << 30;

/// Why nothing more is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use parking_lot::Mutex;

    /// Held by tests that write what is read without the lock.
    pub(in crate::gate::ahead) static ALONE: Mutex<()> = Mutex::new(());

    /// Without contexts, so that nothing goes to a driver.
    fn queue(groups: &[(u32, usize, u64)], released: u32, words: &'static Words) -> Queue {
        let group = |&(number, tail, cost_ns)| Group { number, tail, words, cost_ns, over_ns: u64::MAX };
        let tails = [(3, 1), (4, 1)].map(|(stream, context)| Tail { stream, context, last: 0 }).to_vec();
        let begun = groups.last().map_or(0, |group| group.0);
        Queue { tails, groups: groups.iter().map(group).collect(), begun, released, ..Queue::new() }
    }

    pub(in crate::gate::ahead) fn words() -> &'static Words {
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

    /// Launches had gone on with the older group while a younger one was waiting, and were not told of when theirs ran.
    #[test]
    fn launches_join_what_runs_though_a_younger_group_waits() {
        let _alone = ALONE.lock();
        let words = words();
        let mut queue = queue(&[(1, 0, 100), (2, 1, 50)], 0, words);
        (queue.tails[0].last, queue.tails[1].last) = (1, 2);
        queue.groups.iter_mut().for_each(|group| group.over_ns = 1_000);
        STREAM.store(4, Relaxed);
        assert!(queue.go_on(0, 10) && !IS_RELEASED.load(Relaxed));
        queue.let_through(1);
        assert!(IS_RELEASED.load(Relaxed), "it is the older one that grows");
        assert!(queue.go_on(1, 10) && !IS_RELEASED.load(Relaxed));
        queue.let_through(2);
        assert!(IS_RELEASED.load(Relaxed));
        STREAM.store(NONE, Relaxed);
    }

    /// What waits there goes on where the context does not end after all, or the stream is another's.
    #[test]
    fn what_waits_in_a_context_that_is_forgotten_goes_on() {
        let _alone = ALONE.lock();
        let words = words();
        let mut queue = queue(&[(1, 0, 100), (2, 0, 50)], 1, words);
        words::keep(1, Mapped::of(words));
        queue.forget_context(1);
        assert!(is_up_to(2, words.open.load(Relaxed)));
        assert!(queue.groups.is_empty());
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
