//! `fair`: shares of GPU time by weight, whatever the priorities. [`turns`](super::turns) has the algorithm.
//!
//! Its promise: of two parties that want throughout, neither gets more GPU time over weight than the other by more
//! than a few turns of each, with the kernel that outlasts one. So each waits for the others' turns, and no longer.

use super::{Decision, Group, Priority, Turn, event::PartyEvent, registry::Policy, turns::Turns};

#[derive(Debug)]
pub(super) struct Fair {
    turns: Turns,
    published: Turn,
    until_ns: u64,
}

impl Default for Fair {
    fn default() -> Self {
        Self { turns: Turns::new(), published: Turn::All, until_ns: u64::MAX }
    }
}

impl Policy for Fair {
    fn decide(&mut self, now_ns: u64, event: PartyEvent, decisions: &mut Vec<Decision>) {
        match event {
            PartyEvent::Entered { party, weight, .. } => self.turns.enter(party, weight),
            PartyEvent::Departed { party } => self.turns.depart(party),
            PartyEvent::Wanting { party } => self.turns.want(party),
            PartyEvent::Idle { party } => self.turns.rest(party),
            PartyEvent::Used { party, gpu_ns } => self.turns.charge(party, gpu_ns),
            PartyEvent::TimePassed => (),
        }
        self.turns.settle(now_ns);
        let (turn, until_ns) = self.turns.turn();
        if (turn, until_ns) != (self.published, self.until_ns) {
            (self.published, self.until_ns) = (turn, until_ns);
            decisions.push(Decision::Turn { group: Group::ONLY, turn, until_ns });
        }
    }

    fn group(&self, _priority: Priority) -> Group {
        Group::ONLY
    }

    fn wake_ns(&self) -> Option<u64> {
        (self.until_ns != u64::MAX).then_some(self.until_ns)
    }
}
