//! Who is looked at when, and what follows from it for the turns.

use super::{Roster, SUGGESTION_NS};
use crate::watch::May;
use aishim_abi::board::Turn;

/// How long a look at the page of one that has the turn can wait for something else that is due, and how long one at the others'.
const TURN_SLACK_NS: u64 = 500_000;
const LOOK_SLACK_NS: u64 = 4_000_000;

/// How often in one round the turn of one that has fallen idle meanwhile is passed on; what is left is done in the next round.
const HANDOVERS: usize = 8;

impl Roster {
    /// Does what is due at this moment: looks at the pages, and tells policies that time has passed.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        if now_ns >= self.look_ns {
            self.look_at_all(now_ns);
        } else {
            self.look_at_holders(now_ns);
        }
        self.gpus.pass_time(now_ns, &mut self.board);
        // Those who waited may launch, and are looked at more often until they have had what the gates were opened for.
        if self.gpus.take_opened() {
            self.look_ns = 0;
        }
        // Whoever has got the turn may have fallen idle while it waited.
        for _ in 0..HANDOVERS {
            if !self.gpus.take_turned() {
                break;
            }
            self.find_holders();
            self.look_at_holders(now_ns);
        }
        if self.followers > 0 && now_ns.saturating_sub(self.suggested_ns) >= SUGGESTION_NS {
            self.suggested_ns = now_ns;
            self.follow_suggestions(now_ns);
        }
    }

    /// When something is due next.
    pub(crate) fn wake_ns(&self, now_ns: u64) -> Option<u64> {
        if self.gpus.has_turned() {
            return Some(now_ns);
        }
        let turns_ns = self.gpus.wake_ns().unwrap_or(u64::MAX);
        // A look can wait a little for the end of a turn, and one wake-up do for both; not the other way round, since a turn that
        // has ended is everybody's until the next begins.
        let with_turns = |at_ns: u64, slack_ns: u64| {
            if turns_ns.saturating_sub(at_ns) < slack_ns { turns_ns } else { at_ns }
        };
        let is_watched = self.gpus.watched() != 0;
        let slack_ns = if self.gpus.is_any_open(u64::MAX, now_ns) { TURN_SLACK_NS } else { LOOK_SLACK_NS };
        let look_ns = if is_watched { with_turns(self.look_ns, slack_ns) } else { u64::MAX };
        let holders =
            self.holders.iter().filter_map(|slot| Some(self.client(*slot)?.watched.look_again_ns(May::Launch)));
        let holders_ns = with_turns(holders.min().unwrap_or(u64::MAX), TURN_SLACK_NS);
        let suggestion_ns = self.suggested_ns.saturating_add(SUGGESTION_NS);
        let suggestion_ns = if self.followers > 0 { suggestion_ns } else { u64::MAX };
        [turns_ns, look_ns, holders_ns, suggestion_ns].into_iter().min().filter(|wake_ns| *wake_ns != u64::MAX)
    }

    fn look_at_all(&mut self, now_ns: u64) {
        let watched = self.gpus.watched();
        self.look_ns = u64::MAX;
        for place in 0..self.taken.len() {
            let Some(slot) = self.taken.get(place).copied() else { break };
            let Some(client) = self.clients.get(slot).and_then(Option::as_ref) else { continue };
            if client.entry.gpus & watched != 0 {
                let may = match self.holders.contains(&slot) {
                    true => May::Launch,
                    false if self.gpus.is_any_open(client.entry.gpus, now_ns) => May::LaunchWithAll,
                    false => May::Wait,
                };
                let again_ns = self.look(slot, may, now_ns);
                self.look_ns = self.look_ns.min(if may == May::Launch { u64::MAX } else { again_ns });
            }
        }
    }

    fn look_at_holders(&mut self, now_ns: u64) {
        for place in 0..self.holders.len() {
            let Some(slot) = self.holders.get(place).copied() else { break };
            self.look(slot, May::Launch, now_ns);
        }
    }

    /// Looks at a client's page, where that is due, and tells the policies of its GPUs; when to look again.
    fn look(&mut self, slot: usize, may: May, now_ns: u64) -> u64 {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { return u64::MAX };
        let id = client.id(slot);
        for event in client.watched.look(&client.page, id, may, now_ns).into_iter().flatten() {
            for place in client.places() {
                self.gpus.tell(place, event, now_ns, &mut self.board);
            }
        }
        client.watched.look_again_ns(may)
    }

    /// Finds out who has a turn, after one has changed.
    fn find_holders(&mut self) {
        let mut before = std::mem::take(&mut self.holders);
        let again = |slot: &usize| Some(self.client(*slot)?.watched.look_again_ns(May::Wait));
        self.look_ns = before.iter().filter_map(again).fold(self.look_ns, u64::min);
        before.clear();
        for turn in self.gpus.turns() {
            match turn {
                Turn::Everybody => {}
                Turn::Client(slot) => before.push(slot as usize),
                Turn::Job(number) => {
                    let job = self.jobs.values().find(|members| members.number == number);
                    before.extend(job.into_iter().flat_map(|members| members.slots.iter().copied()));
                }
            }
        }
        self.holders = before;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::newcomer;
    use super::*;
    use crate::gpus::Gpus;
    use aishim_abi::board_reader::BoardView;
    use aishim_abi::board_writer::Board;
    use aishim_abi::client_page::OwnPage;
    use aishim_abi::rank::{PolicyKind, Priority, Uuid};
    use std::sync::atomic::Ordering::Relaxed;

    const MS: u64 = 1_000_000;

    /// One that waits is not looked at for 40 ms, in which it may have fallen idle: whoever gets the turn is looked at then.
    #[test]
    fn a_turn_of_one_that_has_fallen_idle_while_it_waited_is_passed_on_at_once() {
        let board = Board::create(8, 1, 1, 1).unwrap();
        let seen = BoardView::open(rustix::io::fcntl_dupfd_cloexec(board.descriptor().unwrap(), 3).unwrap()).unwrap();
        let mut roster = Roster::new(board, Gpus::new(PolicyKind::Priority).unwrap());
        let pages: Vec<OwnPage> = (0..8)
            .map(|pid| {
                let (client, page) = newcomer(11 + pid, &[1]);
                page.page().unwrap().is_waiting.store(1, Relaxed);
                roster.admit(client, None, 0).unwrap();
                page
            })
            .collect();
        roster.tick(0);
        let turn = |now_ns| seen.turn(0, Priority::NORMAL, now_ns).0;
        assert_eq!(turn(0), Turn::Client(0));
        assert_eq!(roster.wake_ns(0), Some(1_800_000), "the others can wait");
        (1..7).for_each(|idle| pages[idle].page().unwrap().is_waiting.store(0, Relaxed));
        roster.tick(4 * MS);
        assert_eq!(turn(4 * MS), Turn::Client(7));
        // The one that is alone in the end waits for no turn.
        pages[7].page().unwrap().is_waiting.store(0, Relaxed);
        roster.tick(6 * MS);
        assert_eq!(turn(6 * MS), Turn::Everybody);
    }

    /// What the gates were opened for is over when those who waited have had it, and they are not looked at for 40 ms while they wait: that is seen to
    /// also where those of another GPU opened before and close meanwhile.
    #[test]
    fn all_are_looked_at_when_all_gates_open() {
        let board = Board::create(8, 1, 1, 1).unwrap();
        let seen = BoardView::open(rustix::io::fcntl_dupfd_cloexec(board.descriptor().unwrap(), 3).unwrap()).unwrap();
        let mut roster = Roster::new(board, Gpus::new(PolicyKind::Priority).unwrap());
        let mut pages: Vec<OwnPage> = Vec::new();
        let (mut now_ns, mut opened_ns, mut closed_ns) = (0, [0; 2], [0; 2]);
        while closed_ns.contains(&0) && now_ns < 150 * MS {
            // One more important and two that wait on each of two GPUs, 4 ms later on the second.
            if pages.len() < 6 && now_ns >= pages.len() as u64 / 3 * 4 * MS {
                for priority in [80, 20, 20] {
                    let (mut client, page) = newcomer(11 + pages.len() as u32, &[1 + pages.len() as u8 / 3]);
                    client.priority = Priority::new(priority).unwrap();
                    page.page().unwrap().is_waiting.store(1, Relaxed);
                    roster.admit(client, None, now_ns).unwrap();
                    pages.push(page);
                }
            }
            pages.iter().for_each(|page| page.page().unwrap().renewed_ns.store(now_ns, Relaxed));
            roster.tick(now_ns);
            for gpu in 0..2 {
                let is_open = seen.gpu(gpu, now_ns).is_some_and(|gpu| gpu.is_open);
                if opened_ns[gpu] == 0 && is_open {
                    opened_ns[gpu] = now_ns;
                }
                // Those of the first have had their part when the second opens, those of the second 4 ms later.
                if opened_ns[1] != 0 && now_ns >= opened_ns[1] + gpu as u64 * 4 * MS {
                    pages[3 * gpu + 1].page().unwrap().used_ns.store(3 * MS, Relaxed);
                }
                if opened_ns[gpu] != 0 && closed_ns[gpu] == 0 && !is_open {
                    closed_ns[gpu] = now_ns;
                }
            }
            now_ns = roster.wake_ns(now_ns).unwrap().max(now_ns + 1);
        }
        assert_eq!(opened_ns[0], 75 * MS);
        assert!(opened_ns[1] > opened_ns[0] && opened_ns[1] < 85 * MS, "{opened_ns:?}");
        for gpu in 0..2 {
            let open_us = (closed_ns[gpu] - opened_ns[gpu]) / 1_000;
            assert!(open_us <= 12_000, "GPU {gpu} closed after {open_us} us");
        }
    }

    /// It had fallen idle since it was last looked at, and the GPU that it used before went on giving it turns.
    #[test]
    fn one_that_uses_another_gpu_is_still_idle_on_the_first() {
        let board = Board::create(8, 1, 1, 1).unwrap();
        let seen = BoardView::open(rustix::io::fcntl_dupfd_cloexec(board.descriptor().unwrap(), 3).unwrap()).unwrap();
        let mut roster = Roster::new(board, Gpus::new(PolicyKind::Priority).unwrap());
        let admit = |roster: &mut Roster, pid| {
            let (client, page) = newcomer(pid, &[1]);
            page.page().unwrap().is_waiting.store(1, Relaxed);
            (roster.admit(client, None, 0).unwrap(), page)
        };
        let clients: Vec<_> = (11..14).map(|pid| admit(&mut roster, pid)).collect();
        let (mut now_ns, mut had) = (0, 0);
        while now_ns < 200 * MS {
            clients.iter().for_each(|(_, page)| page.page().unwrap().renewed_ns.store(now_ns, Relaxed));
            roster.tick(now_ns);
            if now_ns >= 50 * MS && clients[0].1.page().unwrap().is_waiting.swap(0, Relaxed) == 1 {
                roster.use_gpu(clients[0].0, Uuid([2; 16]), now_ns).unwrap();
                roster.tick(now_ns);
            }
            let turn = seen.turn(0, Priority::NORMAL, now_ns).0;
            had += u32::from(now_ns > 60 * MS && turn == Turn::Client(clients[0].0 as u32));
            now_ns = roster.wake_ns(now_ns).unwrap().max(now_ns + 1);
        }
        assert_eq!(had, 0);
    }
}
