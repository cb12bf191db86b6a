//! What a client's page shows, turned into events: it begins to want, falls idle, has used GPU time.

use crate::order::{ClientId, Event};
use aishim_abi::client_page::PageView;

/// How long until a page is looked at again whose owner has the turn, which is passed on when it falls idle: not quite half a turn, so that the
/// second of these looks comes with its end. One that has not fallen idle for a second, since it does not wait for its work, is
/// looked at with the end only: if it does so after all, others wait for 2 ms more, once.
const TURN_NS: u64 = 1_800_000;
const STEADY_TURN_NS: u64 = 3_600_000;
const STEADY_NS: u64 = 1_000_000_000;

/// The same for one that has the GPU without a turn, since nobody of its rank waits or all gates are open: two turns.
const BUSY_NS: u64 = 8_000_000;

/// The same for one that waits at its gate, and so does nothing: whoever gets the turn is looked at then, and all are when all gates open.
const WAITING_NS: u64 = 40_000_000;

/// The same for one that does not want the GPU: the others know by themselves that it is back, only its turns wait for this.
const IDLE_NS: u64 = 20_000_000;

/// Of one that has the turn it is told no more often than this what it has used: with its end, so that it is charged before the next is chosen.
/// Of all others with each look.
const TELL_TURN_NS: u64 = 3_000_000;

/// What a client may do at the moment, as far as the coordinator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// It has the turn.
    Launch,
    /// All gates are open.
    LaunchWithAll,
    /// Neither; it may all the same where no other of its rank wants.
    Wait,
}

/// What was seen of a client when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watched {
    looked_ns: u64,
    wants: bool,
    is_waiting: bool,
    /// When it was last seen that it had fallen idle, or has come.
    stirred_ns: u64,
    /// What it had launched, and its word for falling idle.
    launched_ns: u64,
    turn_word: u32,
    /// What it had used when that was last told.
    used_ns: Option<u64>,
    told_ns: u64,
}

impl Watched {
    /// Looks at the page, where that is due; what has happened since.
    pub(crate) fn look(&mut self, page: &PageView, client: ClientId, may: May, now_ns: u64) -> [Option<Event>; 2] {
        if now_ns < self.look_again_ns(may) {
            return [None; 2];
        }
        self.looked_ns = now_ns;
        // Each part of a page is a cache line that its owner has just written; most looks are at one only.
        let (launched_ns, turn_word) = (page.launched_ns(), page.turn_word());
        // One that is on the CPU between two launches wants still, unless it has waited for its work to end: else its turn would be passed
        // on while it prepares its next kernel, and two would launch at a time.
        let is_between = self.wants && launched_ns != self.launched_ns && turn_word == self.turn_word;
        let has_waited = turn_word != self.turn_word;
        (self.launched_ns, self.turn_word) = (launched_ns, turn_word);
        self.is_waiting = page.is_waiting(now_ns) > 0;
        let mut wants = self.is_waiting || page.busy_until_ns(now_ns).is_some() || is_between;
        let mut more_ns = 0;
        let is_to_tell = may != May::Launch || now_ns.saturating_sub(self.told_ns) >= TELL_TURN_NS;
        if self.used_ns.is_none() || wants != self.wants || is_to_tell {
            // Whoever has written over its page wants nothing any more, and has used nothing.
            let is_good = page.check().is_ok();
            wants &= is_good;
            let used_ns = if is_good { page.figures().used_ns } else { 0 };
            // What it had used before it was first looked at, or before it wrote over its page, is nobody's concern.
            more_ns = self.used_ns.map_or(0, |before| used_ns.saturating_sub(before));
            (self.used_ns, self.told_ns) = (Some(used_ns), now_ns);
        }
        let has_turned = wants != self.wants;
        if has_turned || has_waited {
            self.stirred_ns = now_ns;
        }
        let now = if wants { Event::Wanting(client) } else { Event::Idle(client) };
        let turned = has_turned.then_some(now);
        self.wants = wants;
        [(more_ns > 0).then_some(Event::Used(client, more_ns)), turned]
    }

    /// When to look again; a page that was never looked at is looked at now.
    pub(crate) fn look_again_ns(&self, may: May) -> u64 {
        let interval_ns = match (self.wants, may) {
            _ if self.used_ns.is_none() => return 0,
            (true, May::Launch) => {
                let is_steady = self.looked_ns.saturating_sub(self.stirred_ns) >= STEADY_NS;
                return self.looked_ns.saturating_add(if is_steady { STEADY_TURN_NS } else { TURN_NS });
            }
            (true, May::Wait) if self.is_waiting => WAITING_NS,
            (true, _) => BUSY_NS,
            (false, _) => IDLE_NS,
        };
        // On a grid, so that many clients are looked at together and not one after the other, each with a wake-up of its own.
        (self.looked_ns / interval_ns).saturating_add(1).saturating_mul(interval_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aishim_abi::client_page::{Identity, OwnPage};
    use std::sync::atomic::Ordering::Relaxed;

    const MS: u64 = 1_000_000;

    fn watched() -> (OwnPage, PageView, ClientId) {
        let own = OwnPage::create(&Identity { pid: 1, start_ticks: 1, generation: 1 }).unwrap();
        let view = PageView::open(rustix::io::fcntl_dupfd_cloexec(own.descriptor().unwrap(), 3).unwrap()).unwrap();
        (own, view, ClientId { slot: 1, generation: 1 })
    }

    #[test]
    fn a_page_shows_what_its_owner_does() {
        let (own, view, id) = watched();
        let page = own.page().unwrap();
        let mut watched = Watched::default();
        let mut look = |ns: u64| watched.look(&view, id, May::Wait, ns);
        page.used_ns.store(1_000, Relaxed);
        assert_eq!(look(MS), [None, None], "used before it was looked at");
        page.renewed_ns.store(30 * MS, Relaxed);
        page.busy_until_ns.store(40 * MS, Relaxed);
        assert_eq!(look(2 * MS), [None, None], "too early");
        assert_eq!(look(30 * MS), [None, Some(Event::Wanting(id))]);
        page.used_ns.store(1_700, Relaxed);
        assert_eq!(look(31 * MS), [None, None], "not looked at");
        assert_eq!(look(32 * MS), [Some(Event::Used(id, 700)), None]);
        page.used_ns.store(1_800, Relaxed);
        assert_eq!(look(40 * MS), [Some(Event::Used(id, 100)), Some(Event::Idle(id))]);
        page.busy_until_ns.store(59 * MS, Relaxed);
        page.renewed_ns.store(58 * MS, Relaxed);
        assert_eq!(look(58 * MS), [None, None], "not looked at so often while it is idle");
        page.busy_until_ns.store(0, Relaxed);
        page.is_waiting.store(1, Relaxed);
        page.renewed_ns.store(60 * MS, Relaxed);
        assert_eq!(look(60 * MS), [None, Some(Event::Wanting(id))]);
        page.magic.store(0, Relaxed);
        page.used_ns.store(u64::MAX, Relaxed);
        assert_eq!(look(79 * MS), [None, None], "nor while it waits");
        assert_eq!(look(80 * MS), [None, Some(Event::Idle(id))], "scribbled over");
        assert_eq!(look(100 * MS), [None, None]);
    }

    /// Else it would be given turns in which nobody launches for as long as it is stopped.
    #[test]
    fn one_that_is_stopped_while_it_waits_wants_nothing() {
        let (own, view, id) = watched();
        let page = own.page().unwrap();
        let mut watched = Watched::default();
        let mut at = |ms: u64| watched.look(&view, id, May::Wait, ms * MS)[1];
        page.is_waiting.store(1, Relaxed);
        page.renewed_ns.store(MS, Relaxed);
        assert_eq!(at(1), Some(Event::Wanting(id)));
        assert_eq!(at(80), None);
        assert_eq!(at(120), Some(Event::Idle(id)), "nothing was heard of it for 100 ms");
        page.renewed_ns.store(139 * MS, Relaxed);
        assert_eq!(at(140), Some(Event::Wanting(id)), "it goes on");
    }

    /// By who has the turn it depends how long the others wait for one that has fallen idle.
    #[test]
    fn one_that_has_the_turn_is_looked_at_in_the_middle_of_it_until_it_has_not_fallen_idle_for_a_second() {
        let (own, view, id) = watched();
        let page = own.page().unwrap();
        let mut watched = Watched::default();
        page.is_waiting.store(1, Relaxed);
        let mut look = |us: u64, may: May| {
            page.renewed_ns.store(us * 1_000, Relaxed);
            let events = watched.look(&view, id, may, us * 1_000);
            let again_us = watched.look_again_ns(may) / 1_000;
            (events, again_us)
        };
        assert_eq!(look(1_000, May::Wait).1, 40_000);
        page.used_ns.store(500, Relaxed);
        assert_eq!(look(50_000, May::Launch), ([Some(Event::Used(id, 500)), None], 51_800), "when it gets the turn");
        page.used_ns.store(700, Relaxed);
        assert_eq!(look(51_800, May::Launch), ([None, None], 53_600));
        assert_eq!(look(54_000, May::Launch), ([Some(Event::Used(id, 200)), None], 55_800), "with the end");
        assert_eq!(look(990_000, May::Launch).1, 991_800);
        assert_eq!(look(1_010_000, May::Launch).1, 1_013_600, "it has not fallen idle for a second");
        page.turn_word.fetch_add(1, Relaxed);
        assert_eq!(look(1_020_000, May::Launch).1, 1_021_800, "it has, and is back");
        assert_eq!(look(1_030_000, May::LaunchWithAll).1, 1_032_000, "and whoever may launch is looked at each 8 ms");
        page.is_waiting.store(0, Relaxed);
        let (events, again_us) = look(1_040_000, May::Launch);
        assert_eq!((events[1], again_us), (Some(Event::Idle(id)), 1_060_000));
    }

    #[test]
    fn one_that_launches_wants_also_between_two_launches() {
        let (own, view, id) = watched();
        let page = own.page().unwrap();
        let mut watched = Watched::default();
        let mut at = |ms: u64, launched_ns: u64, busy_until_ms: u64| {
            page.launched_ns.store(launched_ns, Relaxed);
            page.renewed_ns.store(ms * MS, Relaxed);
            page.busy_until_ns.store(busy_until_ms * MS, Relaxed);
            watched.look(&view, id, May::Launch, ms * MS)[1]
        };
        assert_eq!(at(20, 100, 30), Some(Event::Wanting(id)));
        assert_eq!(at(22, 200, 0), None, "launched since, and on the CPU now");
        assert_eq!(at(24, 200, 0), Some(Event::Idle(id)), "nothing launched since");
        assert_eq!(at(60, 300, 70), Some(Event::Wanting(id)));
        page.turn_word.fetch_add(1, Relaxed);
        let mut at = |ms: u64, launched_ns: u64| {
            page.launched_ns.store(launched_ns, Relaxed);
            page.busy_until_ns.store(0, Relaxed);
            watched.look(&view, id, May::Launch, ms * MS)[1]
        };
        assert_eq!(at(62, 400), Some(Event::Idle(id)), "it has waited for its work to end");
    }
}
