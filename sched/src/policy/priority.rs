//! `priority`: strict from 0 to 100; turns among those of equal rank; a floor for all that wait together.
//!
//! That a launch waits while a more important client is on the GPU, the gates see to by themselves. Here each rank
//! has its turns ([`turns`](super::turns)), at equal weights, and [`floor`](super::floor) opens the gates.
//!
//! Its promise: a party of the most important rank that wants waits for the turns of its equals. No party there is
//! charged more than [`MOST_DEBT_NS`] beyond the others, so whoever has run over, it is back within that much of
//! theirs. All that wait behind more important ones have the floor together, and the lowest of them by themselves if
//! those above them had theirs.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Decision, Group, PartyId, Priority, Turn, Weight,
    event::PartyEvent,
    floor::Floor,
    registry::Policy,
    turns::{LONG_TURN_NS, TURN_NS, Turns},
};

/// Ranks below this, which the class `batch` has, take longer turns: nobody waits for their jobs.
pub const LONG_TURNS_BELOW: u8 = 20;

/// Equals take turns, so a kernel of a second is not paid for by a second of waiting for each of many others.
const MOST_DEBT_NS: u64 = 100_000_000;

#[derive(Debug, Default)]
pub(super) struct ByPriority {
    groups: BTreeMap<PartyId, Group>,
    ranks: BTreeMap<Group, Rank>,
    /// The ends of the turns that end.
    ends: BTreeSet<(u64, Group)>,
    floor: Floor,
}

#[derive(Debug)]
struct Rank {
    turns: Turns,
    published: (Turn, u64),
}

impl Policy for ByPriority {
    fn decide(&mut self, now_ns: u64, event: PartyEvent, decisions: &mut Vec<Decision>) {
        match event {
            PartyEvent::Entered { party, priority, .. } => {
                let group = self.group(priority);
                self.groups.insert(party, group);
                self.ranks.entry(group).or_insert_with(|| Rank::of(group)).turns.enter(party, Weight::NORMAL);
            }
            PartyEvent::Departed { party } => {
                self.change(party, now_ns, decisions, |turns| turns.depart(party));
                self.forget(party);
            }
            PartyEvent::Wanting { party } => self.change(party, now_ns, decisions, |turns| turns.want(party)),
            PartyEvent::Idle { party } => self.change(party, now_ns, decisions, |turns| turns.rest(party)),
            PartyEvent::Used { party, gpu_ns } => {
                self.groups.get(&party).inspect(|group| self.floor.used(**group, gpu_ns));
                self.change(party, now_ns, decisions, |turns| turns.charge(party, gpu_ns));
            }
            PartyEvent::TimePassed => self.end_turns(now_ns, decisions),
        }
        decisions.extend(self.floor.settle(now_ns).map(|until_ns| Decision::Open { until_ns }));
    }

    fn group(&self, priority: Priority) -> Group {
        Group::of(priority)
    }

    fn wake_ns(&self) -> Option<u64> {
        let turn_ns = self.ends.first().map(|(until_ns, _)| *until_ns);
        turn_ns.into_iter().chain(self.floor.wake_ns()).min()
    }
}

impl ByPriority {
    /// Changes something about one party and publishes what comes of it for its rank.
    fn change(&mut self, party: PartyId, now_ns: u64, decisions: &mut Vec<Decision>, change: impl FnOnce(&mut Turns)) {
        let Some(group) = self.groups.get(&party).copied() else { return };
        let Some(rank) = self.ranks.get_mut(&group) else { return };
        change(&mut rank.turns);
        self.floor.wants(group, rank.turns.wanting() > 0, now_ns);
        self.settle(group, now_ns, decisions);
    }

    fn end_turns(&mut self, now_ns: u64, decisions: &mut Vec<Decision>) {
        // What is due is taken out first: whatever comes of it, this ends.
        let later = self.ends.split_off(&(now_ns.saturating_add(1), Group::ONLY));
        for (_, group) in std::mem::replace(&mut self.ends, later) {
            self.settle(group, now_ns, decisions);
        }
    }

    fn settle(&mut self, group: Group, now_ns: u64, decisions: &mut Vec<Decision>) {
        let Some(rank) = self.ranks.get_mut(&group) else { return };
        rank.turns.settle(now_ns);
        let (turn, until_ns) = rank.turns.turn();
        if rank.published == (turn, until_ns) {
            return;
        }
        self.ends.remove(&(rank.published.1, group));
        if until_ns != u64::MAX {
            self.ends.insert((until_ns, group));
        }
        rank.published = (turn, until_ns);
        decisions.push(Decision::Turn { group, turn, until_ns });
    }

    fn forget(&mut self, party: PartyId) {
        if let Some(group) = self.groups.remove(&party)
            && self.ranks.get(&group).is_some_and(|rank| rank.turns.is_empty())
        {
            self.ranks.remove(&group);
        }
    }
}

impl Rank {
    fn of(group: Group) -> Self {
        let longest_ns = if group.index() < usize::from(LONG_TURNS_BELOW) { LONG_TURN_NS } else { TURN_NS };
        Self { turns: Turns::among_equals(longest_ns, MOST_DEBT_NS), published: (Turn::All, u64::MAX) }
    }
}
