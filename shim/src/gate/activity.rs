//! The process's own page: until when the GPU will be busy with what it has launched, as it estimates.
//!
//! An idle process also says when it will be back, as its habits say ([`habits`](super::habits)).
//!
//! A launch adds what its kind takes on average ([`expected_ns`](crate::sampling)) to what was there, or to now where that is
//! past. Plain loads and stores: of two threads that launch in the same few nanoseconds one addition may be lost, which is worth less
//! than the estimate itself, while a locked addition would cost each launch as much as all the rest of this.

use super::{backlog, habits, urgency};
use crate::clock;
use crate::segment::bump;
use aishim_abi::client_page::{Identity, OwnPage, Page};
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// The page; null before there is one. Never freed: launches write to it.
static PAGE: AtomicPtr<OwnPage> = AtomicPtr::new(null_mut());

/// What is written of it; a pointer of its own, since each launch in company follows it.
static WORDS: AtomicPtr<Page> = AtomicPtr::new(null_mut());

/// What to add to a time stamp in nanoseconds to get `CLOCK_MONOTONIC`. The stamps' rate is measured to one part in ten thousand, so
/// this is measured anew at every round of the listening thread.
static OFFSET_NS: AtomicU64 = AtomicU64::new(0);

/// Until when the GPU will be busy by the estimate alone, which the page may go beyond while a thread waits for the GPU ([`hold`]).
static ESTIMATE_NS: AtomicU64 = AtomicU64::new(0);

/// Since when it is busy, by the estimate.
static BURST_NS: AtomicU64 = AtomicU64::new(0);

/// The end of what is waited for is announced where nothing follows for at least so long, and where all of it fits into one time slice: others
/// who are ready before it has ended do not get the GPU before.
const REST_NS: u64 = 1_000_000;
const BURST_MOST_NS: u64 = 1_500_000;

/// How much longer than estimated the work that a thread waits for is believed to take, besides as long again: a time slice of
/// another process's.
const SLICE_NS: u64 = 2_000_000;

/// A launch renews what it says at most so often.
const RENEW_NS: u64 = 1_000_000;

/// Time stamps that have gone ahead of the clock by more than this since they were last set by it did so while the machine slept: a rate measured to one part in ten thousand
/// loses less, and so does a thread that is interrupted between reading the one and the other.
const LOST_LEAST_NS: i64 = 100_000_000;

/// `CLOCK_MONOTONIC` at the moment of a time stamp.
#[inline]
pub(super) fn monotonic_ns(ticks: u64) -> u64 {
    clock::ns(ticks).wrapping_add(OFFSET_NS.load(Relaxed))
}

/// Measures how time stamps stand to the clock.
///
/// While the machine sleeps `CLOCK_MONOTONIC` stands still and the counter of time stamps may not. Until that is noticed here, launches take it to be so much later, and what
/// they have said is taken back.
pub(super) fn set_clock() {
    let now_ns = clock::monotonic_ns();
    let offset_ns = now_ns.wrapping_sub(clock::ns(clock::now()));
    let lost_ns = OFFSET_NS.swap(offset_ns, Relaxed).wrapping_sub(offset_ns).cast_signed();
    if lost_ns > LOST_LEAST_NS
        && let Some(own) = shown()
    {
        ESTIMATE_NS.store(now_ns, Relaxed);
        own.fall_idle(now_ns);
    }
}

/// The page as it is to be shown; made where there is none, or where the program has closed its descriptor behind our back.
pub(super) fn own_page(identity: &Identity) -> io::Result<&'static OwnPage> {
    if let Some(page) = shown()
        && page.descriptor().is_some()
    {
        return Ok(page);
    }
    // The one before stays where it is, for the sake of launches that are writing to it.
    let page: &OwnPage = Box::leak(Box::new(OwnPage::create(identity)?));
    let words = page.page().ok_or(io::ErrorKind::InvalidData)?;
    // Pairs with the acquires in `shown` and `page`.
    PAGE.store(std::ptr::from_ref(page).cast_mut(), Release);
    WORDS.store(std::ptr::from_ref(words).cast_mut(), Release);
    Ok(page)
}

/// The page, where there is one.
#[inline]
pub(super) fn shown() -> Option<&'static OwnPage> {
    // SAFETY: null, or a page that was leaked.
    unsafe { PAGE.load(Acquire).as_ref() }
}

/// What is written of it.
#[inline]
pub(super) fn page() -> Option<&'static Page> {
    // SAFETY: null, or the memory of a page that was leaked, which is never unmapped.
    unsafe { WORDS.load(Acquire).as_ref() }
}

/// A launch is made at `now_ns`, which is said before the driver is asked, so that others stop at once; true where the backlog is to be marked.
#[inline]
pub(super) fn launched(cost_ns: u64, now_ns: u64) -> bool {
    let Some(page) = page() else { return false };
    begins(page, now_ns);
    is_busy_for(page, cost_ns, now_ns);
    bump(&page.launched_ns, cost_ns);
    backlog::ran(cost_ns);
    if now_ns.wrapping_sub(page.renewed_ns.load(Relaxed)) > RENEW_NS {
        renew(page, now_ns);
    }
    backlog::is_mark_due(page.launched_ns.load(Relaxed))
}

/// The driver has refused what was launched last: nobody waits for it, and it is charged to nobody.
pub(super) fn refused(cost_ns: u64) {
    let Some(page) = page() else { return };
    let estimate_ns = ESTIMATE_NS.load(Relaxed);
    let rest_ns = estimate_ns.saturating_sub(cost_ns);
    ESTIMATE_NS.store(rest_ns, Relaxed);
    page.launched_ns.store(page.launched_ns.load(Relaxed).saturating_sub(cost_ns), Relaxed);
    if page.busy_until_ns.load(Relaxed) == estimate_ns {
        page.busy_until_ns.store(rest_ns, Relaxed);
    }
}

/// A copy over the bus is made: the process is busy, and has used nothing that others were kept from.
///
/// One whose call waits is the end of something and no beginning: where a request has two results, the second copy would else be a request of its own, a moment after the first.
pub(super) fn copies(cost_ns: u64, now_ns: u64, waits: bool) {
    let Some(page) = page() else { return };
    if !waits {
        begins(page, now_ns);
    }
    is_busy_for(page, cost_ns, now_ns);
    if now_ns.wrapping_sub(page.renewed_ns.load(Relaxed)) > RENEW_NS {
        renew(page, now_ns);
    }
}

/// Something is launched, which may begin a request.
#[inline]
fn begins(page: &Page, now_ns: u64) {
    if habits::launches(now_ns) {
        urgency::begins(page, now_ns);
    }
}

/// Work of so much comes on top of what there is.
#[inline]
fn is_busy_for(page: &Page, cost_ns: u64, now_ns: u64) {
    let before_ns = ESTIMATE_NS.load(Relaxed);
    if before_ns <= now_ns {
        BURST_NS.store(now_ns, Relaxed);
    }
    // What is not urgent yet may have to wait until it is.
    let estimate_ns = before_ns.max(now_ns).max(page.urgent_ns.load(Relaxed)).wrapping_add(cost_ns);
    ESTIMATE_NS.store(estimate_ns, Relaxed);
    if page.ends_ns.load(Relaxed) != 0 {
        page.ends_ns.store(0, Relaxed);
    }
    page.busy_until_ns.store(estimate_ns.max(page.busy_until_ns.load(Relaxed)), Relaxed);
}

/// A launch is made that waits on the GPU.
#[inline]
pub(super) fn queued(now_ns: u64) {
    let _ = habits::launches(now_ns);
}

/// How much longer the GPU will be busy, by the estimate alone.
pub(super) fn estimate_left_ns(now_ns: u64) -> u64 {
    ESTIMATE_NS.load(Relaxed).saturating_sub(now_ns)
}

/// Says that what stands there is so at this moment.
pub(super) fn renew(page: &Page, now_ns: u64) {
    page.renewed_ns.store(now_ns, Relaxed);
    // What has been launched but for what is still queued.
    let queued_ns = ESTIMATE_NS.load(Relaxed).saturating_sub(now_ns);
    let used_ns = page.launched_ns.load(Relaxed).saturating_sub(queued_ns);
    page.used_ns.store(used_ns.max(page.used_ns.load(Relaxed)), Relaxed);
}

/// Renews while there is work on the GPU or some waits at the gate: called by the listening thread, since the launching one may wait for that work.
pub(super) fn keep_fresh(now_ns: u64) {
    if let Some(page) = page()
        && (page.busy_until_ns.load(Relaxed) > now_ns || page.is_waiting.load(Relaxed) > 0)
    {
        renew(page, now_ns);
    }
}

/// A thread begins to wait for work that is on the GPU. It returns when that is done, so until then there is some, whatever the
/// estimate says: others that had the GPU meanwhile make it too short, and whoever came in when it has passed would make it shorter
/// still. Bounded, since a program may wait for something else too.
pub(super) fn hold() {
    let Some(page) = page() else { return };
    let now_ns = monotonic_ns(clock::now());
    let sooner_ns = urgency::is_waited_for(page, now_ns);
    let left_ns = ESTIMATE_NS.load(Relaxed).saturating_sub(now_ns).saturating_sub(sooner_ns);
    if sooner_ns != 0 {
        ESTIMATE_NS.store(now_ns + left_ns, Relaxed);
    }
    if left_ns == 0 {
        return;
    }
    let until_ns = now_ns.saturating_add(2 * left_ns + SLICE_NS);
    let estimate_ns = now_ns + left_ns;
    if habits::shortest_ns() > REST_NS && estimate_ns.saturating_sub(BURST_NS.load(Relaxed)) < BURST_MOST_NS {
        page.ends_ns.store(estimate_ns, Relaxed);
    }
    page.renewed_ns.store(now_ns, Relaxed);
    page.busy_until_ns.store(until_ns.max(page.busy_until_ns.load(Relaxed)), Relaxed);
}

/// There is no work on the GPU any more; wakes those who would still wait for it.
pub(super) fn fall_idle() {
    let Some((own, page)) = shown().and_then(|own| Some((own, own.page()?))) else { return };
    let now_ns = monotonic_ns(clock::now());
    habits::falls_idle(page, now_ns);
    urgency::is_over(page);
    ESTIMATE_NS.store(now_ns, Relaxed);
    if page.ends_ns.load(Relaxed) != 0 {
        page.ends_ns.store(0, Relaxed);
    }
    // Where it was idle by its own estimate, nobody sleeps on it: no system call.
    if page.busy_until_ns.load(Relaxed) > now_ns {
        own.fall_idle(now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The processor's counter may go on while the machine sleeps, `CLOCK_MONOTONIC` does not: what was launched before that was noticed is an hour ahead.
    #[test]
    fn a_page_is_not_busy_for_as_long_as_the_machine_slept() {
        let page = own_page(&Identity { pid: 1, start_ticks: 1, generation: 1 }).unwrap().page().unwrap();
        set_clock();
        let hour_ns = 3_600_000_000_000;
        OFFSET_NS.fetch_add(hour_ns, Relaxed);
        is_busy_for(page, 1_000, monotonic_ns(clock::now()));
        assert!(page.busy_until_ns.load(Relaxed) > clock::monotonic_ns() + hour_ns / 2);
        set_clock();
        let now_ns = clock::monotonic_ns();
        assert!(page.busy_until_ns.load(Relaxed) <= now_ns && page.renewed_ns.load(Relaxed) <= now_ns);
        is_busy_for(page, 1_000_000_000, now_ns);
        let until_ns = page.busy_until_ns.load(Relaxed);
        assert!(until_ns >= now_ns + 1_000_000_000 && until_ns < now_ns + 2_000_000_000);
        set_clock();
        assert_eq!(page.busy_until_ns.load(Relaxed), until_ns, "nothing is taken back where no time was lost");
    }
}
