//! When an idle process will be back: after how long it was, the last times.
//!
//! What the less important may have queued at the moment it launches is what it waits for, so that has to be little; but little queued costs
//! them throughput, a fifth and more of it beside a service that is there at each moment with the same likelihood. A service whose requests
//! come at about equal distances is not: after its last request nothing comes for a while, and in that time more may be queued, as long as it is
//! done by then. Said on the page are the shortest and the longest of the last gaps; where they come at random, the shortest is next to nothing, and
//! nothing is gained or lost.

use aishim_abi::client_page::Page;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// So many gaps are looked back at: a gap shorter than the shortest of them comes once in so many.
const GAPS: usize = 32;

/// What is longer is a pause, after which nothing is known.
const LONGEST_NS: u64 = 50_000_000;

static GAP_NS: [AtomicU64; GAPS] = [const { AtomicU64::new(0) }; GAPS];
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// The shortest of them; 0 while not all were seen.
static SHORTEST_NS: AtomicU64 = AtomicU64::new(0);

/// Since when the process is idle; 0 while it is not.
static IDLE_NS: AtomicU64 = AtomicU64::new(0);

/// A launch is made; true where it is the first after the process was idle.
#[inline]
pub(super) fn launches(now_ns: u64) -> bool {
    let idle_ns = IDLE_NS.load(Relaxed);
    if idle_ns == 0 {
        return false;
    }
    ends(now_ns.saturating_sub(idle_ns));
    true
}

#[cold]
fn ends(gap_ns: u64) {
    IDLE_NS.store(0, Relaxed);
    let seen = SEEN.load(Relaxed);
    SEEN.store(seen.wrapping_add(1), Relaxed);
    GAP_NS[seen % GAPS].store(gap_ns, Relaxed);
}

/// How long at least the process is idle after it has waited, as far as is known.
pub(super) fn shortest_ns() -> u64 {
    SHORTEST_NS.load(Relaxed)
}

/// The process has fallen idle, or is still: a program that asks again and again whether its work is done has nothing new to say.
pub(super) fn falls_idle(page: &Page, now_ns: u64) {
    if IDLE_NS.load(Relaxed) != 0 {
        return;
    }
    IDLE_NS.store(now_ns, Relaxed);
    let (shortest_ns, longest_ns) = GAP_NS.iter().fold((u64::MAX, 0), |(shortest_ns, longest_ns), gap| {
        let gap_ns = gap.load(Relaxed);
        (shortest_ns.min(gap_ns), longest_ns.max(gap_ns))
    });
    SHORTEST_NS.store(shortest_ns, Relaxed);
    // Zeroes stand for gaps that were not seen yet.
    if shortest_ns == 0 || shortest_ns > LONGEST_NS {
        return page.due_ns.store(0, Relaxed);
    }
    page.due_until_ns.store(now_ns + longest_ns.min(LONGEST_NS), Relaxed);
    page.due_ns.store(now_ns + shortest_ns, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use aishim_abi::client_page::{Identity, OwnPage};

    const MS: u64 = 1_000_000;

    /// All in one, since habits are the process's own.
    #[test]
    fn a_process_is_back_as_it_used_to_be() {
        let own = OwnPage::create(&Identity { pid: 1, start_ticks: 1, generation: 1 }).unwrap();
        let page = own.page().unwrap();
        let due_ns = || (page.due_ns.load(Relaxed), page.due_until_ns.load(Relaxed));
        let mut now_ns = 1_000 * MS;
        let mut gap = |gap_ns: u64| {
            falls_idle(page, now_ns);
            now_ns += gap_ns;
            launches(now_ns);
            launches(now_ns + MS);
            now_ns += MS;
            now_ns
        };
        (0..GAPS - 1).for_each(|_| _ = gap(5 * MS));
        assert_eq!(due_ns().0, 0, "too little was seen");
        gap(6 * MS);
        let now = gap(5 * MS);
        falls_idle(page, now);
        assert_eq!(due_ns(), (now + 5 * MS, now + 6 * MS));
        falls_idle(page, now + MS);
        assert_eq!(due_ns(), (now + 5 * MS, now + 6 * MS), "idle since then");
        (0..GAPS).for_each(|_| _ = gap(7_000 * MS));
        falls_idle(page, now);
        assert_eq!(due_ns().0, 0, "pauses say nothing");
    }
}
