//! Waiting at the gate: no lock is held, and each sleep has a time limit of its own.

use super::activity;
use super::backlog;
use super::situation::{self, Closed, Places, Room};
use crate::clock;
use crate::cuda::sys;
use crate::mode;
use crate::segment;
use aishim_abi::client_page::{Page, STALE_NS};
use aishim_abi::statistics::Statistic;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What is as near as this is waited for awake: to sleep and be woken takes as long.
const SPIN_NS: u64 = 5_000;

/// Room in the own backlog that is further off than this, by the estimate, is slept for, but for what it takes to wake up; else it is waited for
/// awake, since a sleep of 30 us takes about 90, more than half of the smallest bound. With a bound of 300 us it made no difference on an H100 (83 and 84 % of
/// the leftover); the process has nothing else to do on that thread.
pub(super) const FAR_NS: u64 = 150_000;
pub(super) const WAKE_NS: u64 = 80_000;

/// Awake for so long since something was last done, a time slice of another process's; a processor is not for more than that. From then on, and where
/// nothing is out and only somebody's coming is waited for, steps are slept.
pub(super) const AWAKE_NS: u64 = 2_000_000;
pub(super) const STEP_NS: u64 = 100_000;

/// One sleep on a more important client is no longer than this, since the board may open all gates meanwhile, which that client does
/// not announce.
pub(super) const LONGEST_NS: u64 = 5_000_000;

/// Waits until a launch that keeps the GPU busy for so long may be made.
#[cold]
pub(super) fn wait(cost_ns: u64, stream: sys::CUstream) {
    let (Some(places), Some(page)) = (situation::places(), activity::page()) else { return };
    let _punctual = Punctual::begin();
    let begun_ns = clock::monotonic_ns();
    let _waiting = Waiting::begin(page, begun_ns);
    while applies() {
        let now_ns = clock::monotonic_ns();
        match situation::look_at_all(now_ns) {
            Err(_) => closed(places, page, None),
            Ok(Room::Unbounded) => break,
            Ok(room) if backlog::has_room(cost_ns, room, now_ns, now_ns.saturating_sub(begun_ns)) => break,
            Ok(_) => own_work(cost_ns, stream, begun_ns),
        }
    }
}

/// One more waits at the gate, as the page says while this lives: also after a panic no longer.
pub(super) struct Waiting<'a>(&'a Page);

impl<'a> Waiting<'a> {
    pub(super) fn begin(page: &'a Page, now_ns: u64) -> Self {
        page.is_waiting.fetch_add(1, Relaxed);
        // It is believed for as long as what is renewed, which the listening thread goes on with.
        activity::renew(page, now_ns);
        Self(page)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.is_waiting.fetch_sub(1, Relaxed);
    }
}

/// Whether there is anything to wait for still: a capture that begins is not kept waiting, nor a process that ends.
fn applies() -> bool {
    mode::mode() & !mode::TRACING == mode::IN_COMPANY
}

/// Waits until nothing more important is on the GPU, and the turn is not another's; the process's own work is as long as it is.
#[cold]
pub(super) fn while_closed() {
    let (Some(places), Some(page)) = (situation::places(), activity::page()) else { return };
    let _punctual = Punctual::begin();
    let _waiting = Waiting::begin(page, clock::monotonic_ns());
    closed(places, page, None);
}

/// Waits while the gate is closed to work that is queued behind a wait on the GPU, as [`situation::look_beyond`] has it.
pub(super) fn for_others(page: &Page, after_ns: Option<u64>) {
    let Some(places) = situation::places() else { return };
    if applies() {
        closed(places, page, after_ns);
    } else {
        sleep(STEP_NS);
    }
}

/// Waits while the gate is closed.
fn closed(places: &Places, page: &Page, after_ns: Option<u64>) {
    let begun_ns = clock::monotonic_ns();
    let mut now_ns = begun_ns;
    while applies()
        && let Err(why) = situation::look_beyond(now_ns, after_ns)
    {
        match why {
            Closed::Peer { slot, .. } | Closed::Partner { slot, .. } => for_peer(places, page, slot, after_ns),
            Closed::Turn { gpu, .. } => for_turn(places, page, gpu),
        }
        now_ns = clock::monotonic_ns();
    }
    let waited_ns = now_ns.saturating_sub(begun_ns);
    page.gate_waits.fetch_add(1, Relaxed);
    page.gated_ns.fetch_add(waited_ns, Relaxed);
    segment::add(Statistic::GateWaits, 1);
    segment::add(Statistic::GatedTime, waited_ns);
}

fn for_peer(places: &Places, page: &Page, slot: usize, after_ns: Option<u64>) {
    // Before the look that follows, so that no wake-up between the two is missed.
    let seen = places.peers.turn_word(slot);
    let renewed_ns = places.peers.renewed_ns(slot);
    let now_ns = clock::monotonic_ns();
    backlog::seen_active(now_ns);
    let Err(Closed::Peer { slot: still, until_ns } | Closed::Partner { slot: still, until_ns }) =
        situation::look_beyond(now_ns, after_ns)
    else {
        return;
    };
    if still != slot {
        return;
    }
    let left_ns = until_ns - now_ns;
    if left_ns < SPIN_NS {
        return spin();
    }
    places.peers.wait(slot, seen, Duration::from_nanos(left_ns.min(LONGEST_NS)));
    let is_lost = until_ns == renewed_ns.saturating_add(STALE_NS) && clock::monotonic_ns() >= until_ns;
    if is_lost && places.peers.renewed_ns(slot) == renewed_ns {
        timed_out(page);
    }
}

fn for_turn(places: &Places, page: &Page, gpu: usize) {
    let seen = places.board.changes(gpu, situation::rank());
    let now_ns = clock::monotonic_ns();
    let Err(Closed::Turn { gpu: still, until_ns }) = situation::look_at_all(now_ns) else { return };
    if still != gpu {
        return;
    }
    let left_ns = until_ns.saturating_sub(now_ns);
    if left_ns < SPIN_NS {
        return spin();
    }
    places.board.wait(gpu, situation::rank(), situation::own_turn(), seen, until_ns);
    if clock::monotonic_ns() >= until_ns && places.board.changes(gpu, situation::rank()) == seen {
        timed_out(page);
    }
}

fn timed_out(page: &Page) {
    page.gate_timeouts.fetch_add(1, Relaxed);
    segment::add(Statistic::GateTimeouts, 1);
}

/// Waits until less of the process's own work is queued, or somebody more important has come, or it does not get less; for a launch that waits since `since_ns`.
fn own_work(cost_ns: u64, stream: sys::CUstream, since_ns: u64) {
    let begun_ns = clock::monotonic_ns();
    let (mut now_ns, mut progress_ns) = (begun_ns, begun_ns);
    // What no mark stands behind would not be seen done.
    if backlog::is_unmarked() {
        backlog::mark(stream, 0);
    }
    while applies()
        && let Ok(room) = situation::look_at_all(now_ns)
    {
        let is_empty = backlog::is_empty();
        if backlog::collect() || is_empty {
            progress_ns = now_ns;
        }
        if backlog::has_room(cost_ns, room, now_ns, now_ns.saturating_sub(since_ns)) {
            break;
        }
        if now_ns.saturating_sub(progress_ns) > backlog::stuck_ns() {
            backlog::widen(now_ns, now_ns.saturating_sub(progress_ns));
            break;
        }
        match backlog::until_room_ns(now_ns) {
            far_ns if far_ns > FAR_NS => sleep((far_ns - WAKE_NS).min(LONGEST_NS)),
            _ if is_empty || now_ns.saturating_sub(progress_ns) > AWAKE_NS => sleep(STEP_NS),
            _ => spin(),
        }
        now_ns = clock::monotonic_ns();
    }
    segment::add(Statistic::BacklogWaits, 1);
    segment::add(Statistic::BacklogTime, now_ns.saturating_sub(begun_ns));
}

pub(super) fn spin() {
    (0..50).for_each(|_| std::hint::spin_loop());
}

pub(super) fn sleep(ns: u64) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: ns.min(999_999_999) as libc::c_long };
    // SAFETY: nanosleep(2) reads the structure; a signal may cut it short, which does no harm.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

/// The calling thread's sleeps end on time while it lives, and not up to 50 us later as is usual (`PR_SET_TIMERSLACK`).
pub(super) struct Punctual {
    before_ns: libc::c_int,
}

impl Punctual {
    pub(super) fn begin() -> Self {
        // SAFETY: prctl(2) with a number; it concerns the calling thread alone.
        let before_ns = unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) };
        // SAFETY: as above.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000) };
        Self { before_ns }
    }
}

impl Drop for Punctual {
    fn drop(&mut self) {
        if let Ok(before_ns) = libc::c_ulong::try_from(self.before_ns) {
            // SAFETY: as above.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, before_ns) };
        }
    }
}
