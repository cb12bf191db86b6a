//! What a client's page shows, turned into events: it begins to want, falls idle, has used GPU time.

use crate::order::{ClientId, Event};
use aishim_abi::client_page::PageView;

/// How long until a page is looked at again whose owner wants the GPU: half a turn.
const BUSY_NS: u64 = 2_000_000;

/// The same for one that does not: the others know by themselves that it is back, only its turns wait for this.
const IDLE_NS: u64 = 20_000_000;

/// GPU time is told to the policies in sums, so long apart: two turns.
const TELL_NS: u64 = 8_000_000;

/// What was seen of a client when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watched {
    looked_ns: u64,
    wants: bool,
    /// What it had launched, and its word for falling idle.
    launched_ns: u64,
    turn_word: u32,
    /// What it had used when that was last told.
    used_ns: Option<u64>,
    told_ns: u64,
}

impl Watched {
    /// Looks at the page; what has happened since.
    pub(crate) fn look(&mut self, page: &PageView, client: ClientId, now_ns: u64) -> [Option<Event>; 2] {
        if now_ns < self.look_again_ns(now_ns) {
            return [None; 2];
        }
        self.looked_ns = now_ns;
        // Each part of a page is a cache line that its owner has just written; most looks are at one only.
        let (launched_ns, turn_word) = (page.launched_ns(), page.turn_word());
        // One that is on the CPU between two launches wants still, unless it has waited for its work to end: else its turn would be passed
        // on while it prepares its next kernel, and two would launch at a time.
        let is_between = self.wants && launched_ns != self.launched_ns && turn_word == self.turn_word;
        (self.launched_ns, self.turn_word) = (launched_ns, turn_word);
        let mut wants = page.busy_until_ns(now_ns).is_some() || page.is_waiting() > 0 || is_between;
        let mut more_ns = 0;
        if self.used_ns.is_none() || wants != self.wants || now_ns.saturating_sub(self.told_ns) >= TELL_NS {
            // Whoever has written over its page wants nothing any more, and has used nothing.
            let is_good = page.check().is_ok();
            wants &= is_good;
            let used_ns = if is_good { page.figures().used_ns } else { 0 };
            // What it had used before it was first looked at, or before it wrote over its page, is nobody's concern.
            more_ns = self.used_ns.map_or(0, |before| used_ns.saturating_sub(before));
            (self.used_ns, self.told_ns) = (Some(used_ns), now_ns);
        }
        let has_turned = wants != self.wants;
        let now = if wants { Event::Wanting(client) } else { Event::Idle(client) };
        let turned = has_turned.then_some(now);
        self.wants = wants;
        [(more_ns > 0).then_some(Event::Used(client, more_ns)), turned]
    }

    /// When to look again.
    pub(crate) fn look_again_ns(&self, now_ns: u64) -> u64 {
        let interval_ns = if self.wants { BUSY_NS } else { IDLE_NS };
        // On a grid, so that many clients are looked at together and not one after the other, each with a wake-up of its own.
        let next_ns = (self.looked_ns / interval_ns).saturating_add(1).saturating_mul(interval_ns);
        // A page that was never looked at is looked at now.
        if self.used_ns.is_none() { now_ns } else { next_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aishim_abi::client_page::{Identity, OwnPage};
    use std::sync::atomic::Ordering::Relaxed;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_page_shows_what_its_owner_does() {
        let own = OwnPage::create(&Identity { pid: 1, start_ticks: 1, generation: 1 }).unwrap();
        let passed = rustix::io::fcntl_dupfd_cloexec(own.descriptor().unwrap(), 3).unwrap();
        let view = PageView::open(passed).unwrap();
        let page = own.page().unwrap();
        let id = ClientId { slot: 1, generation: 1 };
        let mut watched = Watched::default();
        page.used_ns.store(1_000, Relaxed);
        assert_eq!(watched.look(&view, id, MS), [None, None], "used before it was looked at");
        page.renewed_ns.store(30 * MS, Relaxed);
        page.busy_until_ns.store(40 * MS, Relaxed);
        assert_eq!(watched.look(&view, id, 2 * MS), [None, None], "too early");
        assert_eq!(watched.look(&view, id, 30 * MS), [None, Some(Event::Wanting(id))]);
        page.used_ns.store(1_500, Relaxed);
        assert_eq!(watched.look(&view, id, 32 * MS), [None, None], "told in sums");
        page.used_ns.store(1_700, Relaxed);
        assert_eq!(watched.look(&view, id, 38 * MS), [Some(Event::Used(id, 700)), None]);
        page.used_ns.store(1_800, Relaxed);
        assert_eq!(watched.look(&view, id, 40 * MS), [Some(Event::Used(id, 100)), Some(Event::Idle(id))]);
        page.busy_until_ns.store(59 * MS, Relaxed);
        page.renewed_ns.store(58 * MS, Relaxed);
        assert_eq!(watched.look(&view, id, 58 * MS), [None, None], "not looked at so often while it is idle");
        page.busy_until_ns.store(0, Relaxed);
        page.is_waiting.store(1, Relaxed);
        assert_eq!(watched.look(&view, id, 60 * MS), [None, Some(Event::Wanting(id))]);
        page.magic.store(0, Relaxed);
        page.used_ns.store(u64::MAX, Relaxed);
        assert_eq!(watched.look(&view, id, 68 * MS), [None, Some(Event::Idle(id))], "scribbled over");
        assert_eq!(watched.look(&view, id, 88 * MS), [None, None]);
    }

    #[test]
    fn one_that_launches_wants_also_between_two_launches() {
        let own = OwnPage::create(&Identity { pid: 1, start_ticks: 1, generation: 1 }).unwrap();
        let view = PageView::open(rustix::io::fcntl_dupfd_cloexec(own.descriptor().unwrap(), 3).unwrap()).unwrap();
        let page = own.page().unwrap();
        let id = ClientId { slot: 1, generation: 1 };
        let mut watched = Watched::default();
        let mut at = |ms: u64, launched_ns: u64, busy_until_ms: u64| {
            page.launched_ns.store(launched_ns, Relaxed);
            page.renewed_ns.store(ms * MS, Relaxed);
            page.busy_until_ns.store(busy_until_ms * MS, Relaxed);
            watched.look(&view, id, ms * MS)[1]
        };
        assert_eq!(at(20, 100, 30), Some(Event::Wanting(id)));
        assert_eq!(at(22, 200, 0), None, "launched since, and on the CPU now");
        assert_eq!(at(24, 200, 0), Some(Event::Idle(id)), "nothing launched since");
        assert_eq!(at(60, 300, 70), Some(Event::Wanting(id)));
        page.turn_word.fetch_add(1, Relaxed);
        let mut at = |ms: u64, launched_ns: u64| {
            page.launched_ns.store(launched_ns, Relaxed);
            page.busy_until_ns.store(0, Relaxed);
            watched.look(&view, id, ms * MS)[1]
        };
        assert_eq!(at(62, 400), Some(Event::Idle(id)), "it has waited for its work to end");
    }
}
