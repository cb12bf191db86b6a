//! The gates of all clients, and the board they look at.

use std::collections::BTreeSet;

use super::{client::Client, run::Model};
use crate::policy::{Decision, Group, Kind, PartyId, Turn};

#[derive(Debug)]
pub(super) struct Gates {
    kind: Kind,
    model: Model,
    turns: Vec<Turn>,
    open_until_ns: u64,
    /// By client.
    placed: Vec<Placed>,
    /// By rank: until when the GPU has work of any of its clients, as they say.
    busy_until_ns: Vec<u64>,
    by_rank: Vec<Vec<usize>>,
    /// By group.
    waiting: Vec<BTreeSet<usize>>,
    highest: usize,
}

#[derive(Debug, Clone, Copy)]
struct Placed {
    party: PartyId,
    group: Group,
    rank: usize,
}

/// What a gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Go,
    /// Until that time; `u64::MAX` if only something that happens can end it.
    Wait {
        until_ns: u64,
    },
}

impl Gates {
    /// For as many clients as there are parties here.
    pub(super) fn new(kind: Kind, model: Model, parties: &[PartyId]) -> Self {
        let placed = parties.iter().map(|party| Placed { party: *party, group: Group::ONLY, rank: 0 }).collect();
        Self {
            kind,
            model,
            turns: vec![Turn::All; Group::COUNT],
            open_until_ns: 0,
            placed,
            busy_until_ns: vec![0; Group::COUNT],
            by_rank: vec![Vec::new(); Group::COUNT],
            waiting: vec![BTreeSet::new(); Group::COUNT],
            highest: 0,
        }
    }

    /// Applies a decision. The clients that it may let go on are appended to `woken`.
    pub(super) fn apply(&mut self, decision: Decision, now_ns: u64, woken: &mut Vec<usize>) {
        match decision {
            Decision::Policy { kind } => self.kind = kind,
            Decision::Placed { party, group, priority } => self.place(party, group, usize::from(priority.level())),
            Decision::Turn { group, turn, .. } => {
                self.turns[group.index()] = turn;
                self.wake_group(group.index(), woken);
            }
            Decision::Open { until_ns } => {
                self.open_until_ns = until_ns;
                if until_ns > now_ns {
                    woken.extend(self.waiting.iter().flatten());
                }
            }
        }
    }

    fn place(&mut self, party: PartyId, group: Group, rank: usize) {
        for (client, placed) in self.placed.iter_mut().enumerate().filter(|(_, placed)| placed.party == party) {
            self.by_rank[placed.rank].retain(|other| *other != client);
            self.by_rank[rank].push(client);
            let is_waiting = self.waiting[placed.group.index()].remove(&client);
            (placed.group, placed.rank) = (group, rank);
            if is_waiting {
                self.waiting[group.index()].insert(client);
            }
        }
        self.highest = (0..Group::COUNT).rev().find(|rank| !self.by_rank[*rank].is_empty()).unwrap_or(0);
    }

    /// Whether a client may launch now.
    pub(super) fn ask(&self, client: usize, backlog_ns: u64, now_ns: u64) -> Answer {
        let Placed { party, group, rank } = self.placed[client];
        let turn = self.turns[group.index()];
        let by_rank = self.kind.is_by_rank();
        let is_contended = if by_rank { rank < self.highest } else { turn != Turn::All };
        if !is_contended {
            return Answer::Go;
        }
        if self.open_until_ns <= now_ns {
            let busy_until_ns = self.busy_until_ns[rank + 1..].iter().copied().max().unwrap_or(0);
            if by_rank && busy_until_ns > now_ns {
                return Answer::Wait { until_ns: busy_until_ns };
            }
            if turn != Turn::All && turn != Turn::Of(party) {
                return Answer::Wait { until_ns: u64::MAX };
            }
        }
        // In an opening too: what is queued then would still run when the gates have closed.
        if backlog_ns < self.model.backlog_ns { Answer::Go } else { Answer::Wait { until_ns: u64::MAX } }
    }

    /// A client waits, or no longer does.
    pub(super) fn set_waiting(&mut self, client: usize, waits: bool) {
        let waiting = &mut self.waiting[self.placed[client].group.index()];
        if waits {
            waiting.insert(client);
        } else {
            waiting.remove(&client);
        }
    }

    /// A client has launched.
    pub(super) fn launched(&mut self, client: usize, busy_until_ns: u64) {
        let busy = &mut self.busy_until_ns[self.placed[client].rank];
        *busy = busy_until_ns.max(*busy);
    }

    /// A client has fallen idle: those behind it may go on.
    pub(super) fn fell_idle(&mut self, client: usize, clients: &[Client<'_>], woken: &mut Vec<usize>) {
        let rank = self.placed[client].rank;
        let of_rank = self.by_rank[rank].iter().map(|other| clients[*other].page.busy_until_ns);
        self.busy_until_ns[rank] = of_rank.max().unwrap_or(0);
        if self.kind.is_by_rank() {
            (0..rank).for_each(|group| self.wake_group(group, woken));
        }
    }

    /// Those who wait for a turn that is not theirs sleep on.
    fn wake_group(&self, group: usize, woken: &mut Vec<usize>) {
        let waiting = &self.waiting[group];
        match self.turns[group] {
            Turn::All => woken.extend(waiting),
            Turn::Of(party) => woken.extend(waiting.iter().filter(|client| self.placed[**client].party == party)),
        }
    }
}
