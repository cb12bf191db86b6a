//! What a client's page shows, turned into events: it begins to want, falls idle, has used GPU time.

use crate::order::{ClientId, Event};
use aishim_abi::client_page::PageView;

/// How long until a page is looked at again whose owner wants the GPU: half a turn.
const BUSY_NS: u64 = 2_000_000;

/// The same for one that does not: the others know by themselves that it is back, only its turns wait for this.
const IDLE_NS: u64 = 20_000_000;

/// What was seen of a client when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watched {
    looked_ns: u64,
    wants: bool,
    used_ns: Option<u64>,
}

impl Watched {
    /// Looks at the page; what has happened since.
    pub(crate) fn look(&mut self, page: &PageView, client: ClientId, now_ns: u64) -> [Option<Event>; 2] {
        if now_ns < self.look_again_ns(now_ns) {
            return [None; 2];
        }
        // On a grid, so that many clients are looked at together and not one after the other.
        self.looked_ns = now_ns - now_ns % BUSY_NS;
        let (wants, used_ns) = match page.check() {
            Ok(()) => (page.busy_until_ns(now_ns).is_some() || page.is_waiting() > 0, page.figures().used_ns),
            // Whoever has written over its page wants nothing any more.
            Err(_) => (false, 0),
        };
        // What it had used before it was first looked at, or before it wrote over its page, is nobody's concern.
        let more_ns = self.used_ns.map_or(0, |before| used_ns.saturating_sub(before));
        self.used_ns = Some(used_ns);
        let now = if wants { Event::Wanting(client) } else { Event::Idle(client) };
        let turned = (wants != self.wants).then_some(now);
        self.wants = wants;
        [(more_ns > 0).then_some(Event::Used(client, more_ns)), turned]
    }

    /// When to look again.
    pub(crate) fn look_again_ns(&self, now_ns: u64) -> u64 {
        let interval_ns = if self.wants { BUSY_NS } else { IDLE_NS };
        // A page that was never looked at is looked at now.
        if self.used_ns.is_none() { now_ns } else { self.looked_ns.saturating_add(interval_ns) }
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
        assert_eq!(watched.look(&view, id, 32 * MS), [Some(Event::Used(id, 500)), None]);
        assert_eq!(watched.look(&view, id, 40 * MS), [None, Some(Event::Idle(id))]);
        page.is_waiting.store(1, Relaxed);
        assert_eq!(watched.look(&view, id, 60 * MS), [None, Some(Event::Wanting(id))]);
        page.magic.store(0, Relaxed);
        page.used_ns.store(u64::MAX, Relaxed);
        assert_eq!(watched.look(&view, id, 62 * MS), [None, Some(Event::Idle(id))], "scribbled over");
    }
}
