//! From when on somebody waits for what a request has launched.
//!
//! An eager program launches for milliseconds before it waits, and until then nobody needs what it has launched: the GPU may be others' for most of
//! that time, as long as it catches up before the wait begins, since the program and not the GPU is what the request waits for. So the process says with a request's first
//! launch until when its work is not urgent: after the shortest time from there to the wait, of the last times, less all that such a request has
//! the GPU do, and what the GPU takes to turn from one process to another. Others go on until then, and the request gets the GPU for the rest of it.
//!
//! Candidates:
//!
//! * *others stop from the first launch to the end of the wait:* nothing is in the request's way, and beside 80 requests a second of 6 ms a training job gets
//!   half of the GPU;
//! * *others fill each gap between the request's kernels* (what holds where nothing is known of a program, or its GPU is busy throughout): where processes share the GPU
//!   in time slices each change from one to another takes 0.14 ms, longer than most gaps;
//! * **the GPU is others' first and the request's then (built):** two changes for each request.
//!
//! A program that begins to wait sooner than it did the last [`REQUESTS`] times waits for what others have queued, once. One whose requests differ, so
//! that some are waited for at once, has no time to give away, and nothing is lost or gained.

use aishim_abi::client_page::Page;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// So many requests are looked back at.
const REQUESTS: usize = 32;

/// What the GPU takes from one process to another (0.14 ms on an H100), and to be told.
const TURN_NS: u64 = 300_000;

/// Of the time that is left of a request, so many parts in a hundred are given away: the GPU has to catch up while the program goes on launching.
const GIVEN_PERCENT: u64 = 75;

/// Less than this is not worth two changes.
const LEAST_NS: u64 = 500_000;

/// A request that launches for longer is none.
const LONGEST_NS: u64 = 50_000_000;

/// From the first launch to the wait; and the estimated GPU time of what was launched.
static UNTIL_WAIT_NS: [AtomicU64; REQUESTS] = [const { AtomicU64::new(0) }; REQUESTS];
static WORK_NS: [AtomicU64; REQUESTS] = [const { AtomicU64::new(0) }; REQUESTS];
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// When the request began that is not waited for yet, 0 where there is none; and what had been launched by then.
static BEGUN_NS: AtomicU64 = AtomicU64::new(0);
static BEGUN_AT_NS: AtomicU64 = AtomicU64::new(0);

/// A request begins: a launch after the process was idle.
#[cold]
pub(super) fn begins(page: &Page, now_ns: u64) {
    BEGUN_AT_NS.store(page.launched_ns.load(Relaxed), Relaxed);
    BEGUN_NS.store(now_ns, Relaxed);
    let fold = |of: &[AtomicU64], pick: fn(u64, u64) -> u64| of.iter().map(|ns| ns.load(Relaxed)).reduce(pick);
    // Zeroes stand for requests that were not seen yet.
    let shortest_ns = fold(&UNTIL_WAIT_NS, u64::min).unwrap_or(0);
    let (longest_ns, work_ns) = (fold(&UNTIL_WAIT_NS, u64::max).unwrap_or(0), fold(&WORK_NS, u64::max).unwrap_or(0));
    let given_ns = shortest_ns.saturating_sub(work_ns + TURN_NS) * GIVEN_PERCENT / 100;
    if given_ns < LEAST_NS || longest_ns > LONGEST_NS {
        return;
    }
    page.urgent_ns.store(now_ns + given_ns, Relaxed);
    // From then on the GPU is the request's, also where it has caught up and waits for launches.
    let until_ns = now_ns + longest_ns + work_ns;
    page.busy_until_ns.store(until_ns.max(page.busy_until_ns.load(Relaxed)), Relaxed);
}

/// The program begins to wait; how much sooner that is than was said.
pub(super) fn is_waited_for(page: &Page, now_ns: u64) -> u64 {
    let begun_ns = BEGUN_NS.load(Relaxed);
    if begun_ns == 0 {
        return 0;
    }
    BEGUN_NS.store(0, Relaxed);
    let seen = SEEN.load(Relaxed);
    SEEN.store(seen.wrapping_add(1), Relaxed);
    UNTIL_WAIT_NS[seen % REQUESTS].store(now_ns.saturating_sub(begun_ns).max(1), Relaxed);
    let work_ns = page.launched_ns.load(Relaxed).saturating_sub(BEGUN_AT_NS.load(Relaxed));
    WORK_NS[seen % REQUESTS].store(work_ns, Relaxed);
    settle(page).saturating_sub(now_ns)
}

/// The process is idle, whether it has waited or not.
pub(super) fn is_over(page: &Page) {
    BEGUN_NS.store(0, Relaxed);
    settle(page);
}

/// What was said is said no more.
fn settle(page: &Page) -> u64 {
    let urgent_ns = page.urgent_ns.load(Relaxed);
    if urgent_ns != 0 {
        page.urgent_ns.store(0, Relaxed);
    }
    urgent_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use aishim_abi::client_page::{Identity, OwnPage};

    const MS: u64 = 1_000_000;

    /// All in one, since habits are the process's own.
    #[test]
    fn a_request_that_is_waited_for_late_is_not_urgent_before() {
        let own = OwnPage::create(&Identity { pid: 1, start_ticks: 1, generation: 1 }).unwrap();
        let page = own.page().unwrap();
        let mut now_ns = 1_000 * MS;
        let mut request = |launching_ns: u64, work_ns: u64| {
            begins(page, now_ns);
            let urgent_ns = page.urgent_ns.load(Relaxed).saturating_sub(now_ns);
            page.launched_ns.fetch_add(work_ns, Relaxed);
            now_ns += launching_ns;
            let early_ns = is_waited_for(page, now_ns);
            assert_eq!(page.urgent_ns.load(Relaxed), 0, "it is waited for");
            assert_eq!(is_waited_for(page, now_ns), 0, "once");
            now_ns += 2 * MS;
            (urgent_ns, early_ns)
        };
        (0..REQUESTS).for_each(|_| assert_eq!(request(6 * MS, MS), (0, 0), "too little was seen"));
        let given_ns = (6 * MS - MS - TURN_NS) * GIVEN_PERCENT / 100;
        assert_eq!(request(7 * MS, MS), (given_ns, 0));
        assert_eq!(request(MS, MS), (given_ns, given_ns - MS), "sooner than ever");
        assert_eq!(request(6 * MS, MS), (0, 0), "and once is enough");
        (0..REQUESTS).for_each(|_| _ = request(6 * MS, MS));
        assert_eq!(request(6 * MS, 6 * MS).0, given_ns);
        assert_eq!(request(6 * MS, MS).0, 0, "the GPU has enough to do by itself");
        (0..REQUESTS).for_each(|_| _ = request(80 * MS, MS));
        assert_eq!(request(80 * MS, MS).0, 0, "none that is to be believed");
    }
}
