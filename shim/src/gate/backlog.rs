//! How much of the process's own work is queued on the GPU, in estimated GPU time.
//!
//! What is queued runs before the first kernel of a more important process that begins to work, so it is bounded: launches wait while
//! more than [`Room`] says is out. An event after each third of that tells what has been done. It costs 0.8 us, and a
//! launch that waits asks it in steps.
//!
//! How much may be out was weighed against what it costs a process whose more important neighbour is there and idle (18 % of its throughput at
//! 300 us with a sleep of 30 us at a time, 3 x infer beside an idle bertg on an H100):
//!
//! * *no bound while nobody more important was active for 100 ms:* free, but an eager program runs a thousand launches
//!   ahead, and the first request after a pause waits for 28 ms of training;
//! * *the estimate alone, without events (sleep until `busy_until_ns` is near):* cheapest, but an estimate that is short by a
//!   tenth lets the queue grow for ever; worth another look once it is measured how far estimates are off;
//! * *a write to host memory after each part, by cuStreamWriteValue:* a look costs a load and not a call, but the part costs the same
//!   0.8 us, and memory operations may be switched off in the driver;
//! * *two bounds, 300 us while somebody more important was active in the last 100 ms and 3 ms else:* a tenth of the events and of the sleeps while
//!   nobody is there; beside somebody who is, the small one holds all the time, and a training job lost a quarter of its throughput (H100,
//!   100 us, 1 x train beside bertg at 150 a second);
//! * **up to the moment at which somebody may come ([`habits`](super::habits)), 150 us from then on, 3 ms at most:** the same job lost 16 % (with 100 us).
//!
//! While somebody is due no kernel is begun that is longer than a quarter of the time that is left until they will have come, since nothing can stop it: it waits
//! until they have come and gone, or have not come. (Half a millisecond whatever is left had, beside 1 x train, a p90 of 1.32 times alone in the place of 1.24, both
//! at 25 us of [`ahead`](super::ahead)'s earliness.) That is for programs in which kernels of more than half a millisecond are rare: where they are most of the
//! work it would leave the GPU idle. Nor does it hold for a process that belongs to a job with others: what takes long there may wait for them, and they for what it is.
//!
//! An event on one stream tells nothing about others; a program with several has the bound on average.

use super::activity;
use super::mps;
use super::situation::{self, Prospect, Room};
use crate::cuda::{Status, sys};
use crate::driver;
use crate::handlers::capture::Section;
use crate::segment::{self, bump};
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Most that may be out while somebody may come at any moment.
const TIGHT_NS: u64 = 150_000;

/// The same while nobody will.
const LOOSE_NS: u64 = 3_000_000;

/// How long somebody more important who was active is expected back at any moment, where nothing is known of their habits.
const RECENT_NS: u64 = 100_000_000;

/// A long kernel.
const LONG_NS: u64 = 500_000;

/// A kernel longer than one part in so many of the time in which somebody is due is not begun: the later it gets, the surer it is that they are
/// there before it is done.
const HASTE: u64 = 4;

/// A long kernel is kept back for those who are due no longer than this: of several there is always one.
const KEPT_MOST_NS: u64 = 10_000_000;

/// Unless more than one part in so many of the GPU's time goes into such kernels.
const RARE: u64 = 4;

/// Events for each bound.
const PARTS: u64 = 3;

/// And no less often than this, since much may be allowed now and little in a moment.
const LONGEST_PART_NS: u64 = 500_000;

/// Nothing completes for so long: perhaps kernels spin until others are launched (NCCL), and must not be kept waiting.
pub(super) const STUCK_NS: u64 = 5_000_000;

/// The same before the first mark of a bound is done, which stands behind all that was queued without one; and the most that is added for what is known to
/// be queued before the next mark, all but the last kernel. Where the bound widened for either, what came through kept the queue as long as it was, and
/// the bound widened for ever.
const FIRST_NS: u64 = 1_000_000_000;

/// So long is the bound wider then: by as much again, and twice that if it happens again meanwhile, and so on.
const OPEN_NS: u64 = 200_000_000;

/// The bound is not widened more than to 2^20 of the smallest, two and a half minutes.
const MOST_STUCK: u32 = 20;

/// The most events that there are; one more is not recorded.
const MARKS: usize = 64;

/// All in the unit of the page's `launched_ns`: up to where it is done for certain, and where the last mark stands.
static DONE_NS: AtomicU64 = AtomicU64::new(0);
static MARKED_NS: AtomicU64 = AtomicU64::new(0);

/// From one mark to the next; `u64::MAX` while nothing is bounded.
static PART_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// When somebody more important was last seen active, and until when the bound is wider.
static SEEN_NS: AtomicU64 = AtomicU64::new(0);
static OPEN_UNTIL_NS: AtomicU64 = AtomicU64::new(0);

/// What has to be done before the kernel that the next mark waits for, by the estimate.
static AHEAD_NS: AtomicU64 = AtomicU64::new(0);

/// No mark of this bound has been done yet.
static IS_FIRST: AtomicBool = AtomicBool::new(true);

/// How often nothing completed, the last times in a row.
static STUCK: AtomicU32 = AtomicU32::new(0);

/// What may be out.
static LIMIT_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// GPU time of long kernels and of all, of the last second or two.
static LONG_RAN_NS: AtomicU64 = AtomicU64::new(0);
static RAN_NS: AtomicU64 = AtomicU64::new(0);

static MARKED: Mutex<Marked> = Mutex::new(Marked { out: VecDeque::new(), spare: Vec::new() });

/// An event, with its context.
#[derive(Clone, Copy)]
struct Event {
    handle: usize,
    context: usize,
}

#[derive(Default)]
struct Marked {
    /// On the GPU, the oldest first.
    out: VecDeque<Mark>,
    spare: Vec<Event>,
}

/// An event behind launches.
#[derive(Clone, Copy)]
struct Mark {
    event: Event,
    /// What had been launched when it was put there, and what of that was the last launch.
    launched_ns: u64,
    last_ns: u64,
}

/// Whether a launch of so much fits that has waited for so long.
#[inline]
pub(super) fn has_room(cost_ns: u64, room: Room, now_ns: u64, waited_ns: u64) -> bool {
    if room == Room::Unbounded {
        unbind();
        return true;
    }
    let Some(page) = activity::page() else { return true };
    if PART_NS.load(Relaxed) == u64::MAX {
        begin();
    }
    let Some(limit_ns) = limit_ns(cost_ns, now_ns, TIGHT_NS, waited_ns) else { return false };
    set(&PART_NS, (limit_ns / PARTS).min(LONGEST_PART_NS));
    set(&LIMIT_NS, limit_ns);
    let out_ns = out_ns(page.launched_ns.load(Relaxed));
    out_ns == 0 || out_ns + cost_ns <= limit_ns
}

/// How much may be out with a launch of so much, `tight_ns` while somebody may come at any moment; none where it is too long to be begun then, and has not been
/// kept back for `kept_ns` already.
#[inline]
pub(super) fn limit_ns(cost_ns: u64, now_ns: u64, tight_ns: u64, kept_ns: u64) -> Option<u64> {
    let prospect = situation::prospect(now_ns);
    let may_be_kept = !mps::is_on() && !situation::has_partners();
    if may_be_kept && is_too_long(&prospect, cost_ns, now_ns, kept_ns) {
        return None;
    }
    let limit_ns = if prospect.is_due || prospect.is_open && is_recent(now_ns) {
        tight_ns
    } else {
        LOOSE_NS.min(prospect.until_ns.saturating_sub(now_ns)).max(tight_ns)
    };
    let wider_ns = if is_wider(now_ns) { tight_ns << STUCK.load(Relaxed).min(MOST_STUCK) } else { 0 };
    Some(limit_ns.saturating_add(wider_ns))
}

/// Whether the bound is wider for a while, since nothing completed.
pub(super) fn is_wider(now_ns: u64) -> bool {
    now_ns < OPEN_UNTIL_NS.load(Relaxed)
}

/// Whether a kernel is not to be begun while somebody is due.
#[inline]
fn is_too_long(prospect: &Prospect, cost_ns: u64, now_ns: u64, kept_ns: u64) -> bool {
    let longest_ns = prospect.due_until_ns.saturating_sub(now_ns) / HASTE;
    let is_in_the_way = prospect.urgent_ns.is_some_and(|urgent_ns| cost_ns > urgent_ns.saturating_sub(now_ns));
    let is_too_long = prospect.is_due && cost_ns > longest_ns || is_in_the_way;
    is_too_long && is_long_rare() && kept_ns < KEPT_MOST_NS
}

/// Whether somebody more important was active a moment ago.
pub(super) fn is_recent(now_ns: u64) -> bool {
    now_ns.wrapping_sub(SEEN_NS.load(Relaxed)) < RECENT_NS
}

/// Whether long kernels are the exception in this program.
fn is_long_rare() -> bool {
    LONG_RAN_NS.load(Relaxed) * RARE <= RAN_NS.load(Relaxed)
}

/// What kernels the program launches; plain stores, as all that is estimated.
#[inline]
pub(super) fn ran(cost_ns: u64) {
    const SECOND_NS: u64 = 1_000_000_000;
    let all_ns = RAN_NS.load(Relaxed) + cost_ns;
    if cost_ns > LONG_NS {
        LONG_RAN_NS.store(LONG_RAN_NS.load(Relaxed) + cost_ns, Relaxed);
    }
    RAN_NS.store(all_ns, Relaxed);
    if all_ns > 2 * SECOND_NS {
        RAN_NS.store(all_ns / 2, Relaxed);
        LONG_RAN_NS.store(LONG_RAN_NS.load(Relaxed) / 2, Relaxed);
    }
}

/// Written only when it changes: every launching thread reads it.
#[inline]
fn set(place: &AtomicU64, ns: u64) {
    if place.load(Relaxed) != ns {
        place.store(ns, Relaxed);
    }
}

/// Nothing is known to be out.
pub(super) fn is_empty() -> bool {
    activity::page().is_none_or(|page| out_ns(page.launched_ns.load(Relaxed)) == 0)
}

/// Something has been launched since the last mark.
pub(super) fn is_unmarked() -> bool {
    activity::page().is_some_and(|page| page.launched_ns.load(Relaxed) > MARKED_NS.load(Relaxed))
}

/// What is out, as far as is known.
fn out_ns(launched_ns: u64) -> u64 {
    launched_ns.saturating_sub(DONE_NS.load(Relaxed))
}

/// Whether, with so much launched, a mark is due.
#[inline]
pub(super) fn is_mark_due(launched_ns: u64) -> bool {
    launched_ns.saturating_sub(MARKED_NS.load(Relaxed)) >= PART_NS.load(Relaxed)
}

/// Somebody more important is active.
pub(super) fn seen_active(now_ns: u64) {
    SEEN_NS.store(now_ns, Relaxed);
}

/// Nothing is bounded any more, or not yet: the next launch that is begins a bound.
pub(super) fn unbind() {
    set(&PART_NS, u64::MAX);
}

/// A bound begins: what was launched before is none of its business.
fn begin() {
    let launched_ns = activity::page().map_or(0, |page| page.launched_ns.load(Relaxed));
    MARKED_NS.store(launched_ns, Relaxed);
    DONE_NS.fetch_max(launched_ns, Relaxed);
    IS_FIRST.store(true, Relaxed);
}

/// Puts an event behind what has been launched on `stream`, the last launch of which takes so long.
#[cold]
pub(super) fn mark(stream: sys::CUstream, last_ns: u64) {
    let Some(page) = activity::page() else { return };
    // Another thread is at it: its mark stands for this launch too, or the next one's does.
    let Some(mut marked) = MARKED.try_lock() else { return };
    let launched_ns = page.launched_ns.load(Relaxed);
    MARKED_NS.store(launched_ns, Relaxed);
    let recorded = if marked.out.len() < MARKS { record(&mut marked, stream) } else { None };
    match recorded {
        Some(event) => marked.out.push_back(Mark { event, launched_ns, last_ns }),
        // What cannot be watched is not bounded.
        None if marked.out.is_empty() => DONE_NS.store(launched_ns, Relaxed),
        None => {}
    }
}

fn record(marked: &mut Marked, stream: sys::CUstream) -> Option<Event> {
    /// `CU_EVENT_DISABLE_TIMING`.
    const DISABLE_TIMING: u32 = 2;
    let _section = Section::enter()?;
    let context = driver::context();
    let spare = marked.spare.iter().position(|event| event.context == context);
    let event = match spare {
        Some(place) => marked.spare.swap_remove(place),
        None => {
            let mut made = std::ptr::null_mut();
            driver::event_create(&raw mut made, DISABLE_TIMING).is_ok().then_some(())?;
            Event { handle: made as usize, context }
        }
    };
    if driver::event_record(event.handle as sys::CUevent, stream).is_ok() {
        return Some(event);
    }
    marked.spare.push(event);
    None
}

/// Looks at what has been done; true where that is more than before.
pub(super) fn collect() -> bool {
    let Some(mut marked) = MARKED.try_lock() else { return false };
    let Some(_section) = Section::enter() else { return false };
    let mut is_more = false;
    while let Some(Mark { event, launched_ns, .. }) = marked.out.front().copied() {
        if driver::event_query(event.handle as sys::CUevent) == Status::NOT_READY {
            break;
        }
        marked.out.pop_front();
        marked.spare.push(event);
        DONE_NS.fetch_max(launched_ns, Relaxed);
        IS_FIRST.store(false, Relaxed);
        is_more = true;
    }
    let ahead_ns = marked.out.front().map_or(0, |mark| mark.launched_ns.saturating_sub(mark.last_ns));
    AHEAD_NS.store(ahead_ns.saturating_sub(DONE_NS.load(Relaxed)), Relaxed);
    // Nothing is watched: what there is beyond the last mark gets one with the next launch.
    if marked.out.is_empty() {
        is_more |= DONE_NS.fetch_max(MARKED_NS.load(Relaxed), Relaxed) < MARKED_NS.load(Relaxed);
    }
    is_more
}

/// How long it will be, by the estimate, until there is room. The estimate is not corrected by what was seen done, and where launches take less than
/// they are thought to, it runs ahead for ever; so it counts for no more than what is out.
pub(super) fn until_room_ns(now_ns: u64) -> u64 {
    let out_ns = activity::page().map_or(0, |page| out_ns(page.launched_ns.load(Relaxed)));
    activity::estimate_left_ns(now_ns).min(out_ns).saturating_sub(LIMIT_NS.load(Relaxed))
}

/// How long nothing has to complete before the bound widens.
pub(super) fn stuck_ns() -> u64 {
    if IS_FIRST.load(Relaxed) { FIRST_NS } else { STUCK_NS + AHEAD_NS.load(Relaxed).min(FIRST_NS) }
}

/// Nothing has completed for so long: the bound is wider for a while, and so long that it is known the next time that it is not the first.
pub(super) fn widen(now_ns: u64, stuck_ns: u64) {
    let is_again = now_ns < OPEN_UNTIL_NS.load(Relaxed);
    STUCK.store(if is_again { STUCK.load(Relaxed).saturating_add(1) } else { 0 }, Relaxed);
    OPEN_UNTIL_NS.store(now_ns.saturating_add(OPEN_NS.max(2 * stuck_ns)), Relaxed);
    segment::add(Statistic::Openings, 1);
    if let Some(page) = activity::page() {
        bump(&page.openings, 1);
    }
}

/// A context has gone, and its events with it.
pub(super) fn forget_context(context: usize) {
    let mut marked = MARKED.lock();
    marked.spare.retain(|event| event.context != context);
    let before = marked.out.len();
    marked.out.retain(|mark| mark.event.context != context);
    if marked.out.len() != before && marked.out.is_empty() {
        DONE_NS.fetch_max(MARKED_NS.load(Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_NS: u64 = 1_000_000_000;

    fn due_for(ns: u64) -> Prospect {
        Prospect { is_due: true, is_open: false, due_until_ns: NOW_NS + ns, until_ns: NOW_NS, urgent_ns: None }
    }

    #[test]
    fn the_nearer_somebody_is_the_shorter_are_kernels() {
        assert!(!is_too_long(&due_for(400), 100, NOW_NS, 0) && is_too_long(&due_for(399), 100, NOW_NS, 0));
        let nobody = Prospect { is_due: false, ..due_for(0) };
        assert!(!is_too_long(&nobody, u64::MAX, NOW_NS, 0));
        let urgent = Prospect { urgent_ns: Some(NOW_NS + 100), ..nobody };
        assert!(!is_too_long(&urgent, 100, NOW_NS, 0) && is_too_long(&urgent, 100, NOW_NS + 1, 0));
    }

    #[test]
    fn a_long_kernel_is_not_kept_back_for_ever() {
        let is_kept = |kept_ns| is_too_long(&due_for(0), 100, NOW_NS, kept_ns);
        assert!(is_kept(0) && is_kept(KEPT_MOST_NS - 1) && !is_kept(KEPT_MOST_NS));
    }
}
