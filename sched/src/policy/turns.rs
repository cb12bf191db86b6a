//! Turns among parties by the GPU time they have used, in proportion to their weights.
//!
//! This is start-time fair queueing (P. Goyal, H. M. Vin, H. Cheng: *Start-Time Fair Queuing: A Scheduling Algorithm
//! for Integrated Services Packet Switching Networks*, SIGCOMM 1996): each party has a tag, the GPU time it has used
//! divided by its weight; the lowest tag is next; and a party that comes back starts at the group's virtual time, so
//! idleness earns nothing. Unlike stride scheduling (C. A. Waldspurger, W. E. Weihl, 1995), which comes to the same
//! order while all want, it needs no sum of weights, which changes with each party that falls idle, and it charges
//! what a turn has used after the fact: how long a kernel will run, nobody knows when its turn begins.
//!
//! The paper's bound: between two parties that want throughout, the GPU time used over weight differs by no more than
//! the longest turn of each over its weight. Here a turn is as long as its group's, [`TURN_NS`] or [`LONG_TURN_NS`], and what
//! its holder had not reported when it ended (the kernel that outlasts it, above all), and to it comes what was charged in
//! advance.

use std::collections::{BTreeMap, BTreeSet};

use super::{PartyId, Turn, Weight};

/// How long a turn is, in nanoseconds, unless its holder falls idle before.
pub const TURN_NS: u64 = 4_000_000;
/// The same among parties for which nobody waits. From one to the next the GPU takes 0.14 ms, and 0.14 more where somebody
/// important comes just then: three inference loops did 2 % more with it, and a request beside them took 1.27 times as long as
/// alone at p99 where it had taken 1.42 (an H200; docs/scheduling.md, log 8).
pub const LONG_TURN_NS: u64 = 4 * TURN_NS;
/// Where that would take a round of all that want beyond this, turns are shorter, down to [`TURN_NS`].
const LONG_ROUND_NS: u64 = 8 * LONG_TURN_NS;
/// A turn is charged at least this part of its length: one in so many.
pub const LEAST_CHARGE: u64 = 4;

/// What was charged for turns that others spoiled is paid back, but no more than for so many: an advance of seconds would
/// be a row of turns for nothing when somebody new has come.
const MOST_ADVANCE: u64 = 4;

/// What a nanosecond of GPU time adds to a tag at the largest weight is one: no weight divides it to nothing.
const SCALE: u128 = Weight::MAX.shares_u128();

/// The turns of one group.
#[derive(Debug)]
pub(super) struct Turns {
    longest_turn_ns: u64,
    accounts: BTreeMap<PartyId, Account>,
    /// Those that want, the least served first.
    queue: BTreeSet<Place>,
    /// The lowest tag of those that want; never goes back.
    virtual_time: u128,
    holding: Option<Holding>,
    arrivals: u64,
    /// How far a party may be charged beyond the others, in nanoseconds at weight 1; without it, forever.
    most_debt_ns: Option<u64>,
}

#[derive(Debug)]
struct Account {
    weight: Weight,
    tag: u128,
    /// When it began to want, in the order of arrivals: of equal tags, first come, first served.
    wanting_since: Option<u64>,
    /// What it was charged for turns in which it reported too little. A late report is paid from it.
    advance_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    tag: u128,
    arrival: u64,
    party: PartyId,
}

#[derive(Debug, Clone, Copy)]
struct Holding {
    party: PartyId,
    since_ns: u64,
    until_ns: u64,
    reported_ns: u64,
}

impl Turns {
    /// Of [`TURN_NS`] each.
    pub(super) fn new() -> Self {
        Self {
            longest_turn_ns: TURN_NS,
            accounts: BTreeMap::new(),
            queue: BTreeSet::new(),
            virtual_time: 0,
            holding: None,
            arrivals: 0,
            most_debt_ns: None,
        }
    }

    /// Of up to `longest_turn_ns` each, with parties of equal weight in mind, whose debts are forgiven beyond `most_debt_ns`.
    pub(super) fn among_equals(longest_turn_ns: u64, most_debt_ns: u64) -> Self {
        Self { longest_turn_ns, most_debt_ns: Some(most_debt_ns), ..Self::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// How many want.
    pub(super) fn wanting(&self) -> usize {
        self.queue.len()
    }

    /// Whose turn it is, and until when.
    pub(super) fn turn(&self) -> (Turn, u64) {
        self.holding.map_or((Turn::All, u64::MAX), |holding| (Turn::Of(holding.party), holding.until_ns))
    }

    pub(super) fn enter(&mut self, party: PartyId, weight: Weight) {
        let account = Account { weight, tag: self.virtual_time, wanting_since: None, advance_ns: 0 };
        self.accounts.insert(party, account);
    }

    pub(super) fn depart(&mut self, party: PartyId) {
        self.rest(party);
        self.accounts.remove(&party);
    }

    pub(super) fn want(&mut self, party: PartyId) {
        let Some(account) = self.accounts.get_mut(&party).filter(|account| account.wanting_since.is_none()) else {
            return;
        };
        account.tag = account.tag.max(self.virtual_time);
        account.wanting_since = Some(self.arrivals);
        self.arrivals += 1;
        self.queue.extend(account.place(party));
    }

    pub(super) fn rest(&mut self, party: PartyId) {
        let Some(account) = self.accounts.get_mut(&party) else { return };
        if let Some(place) = account.place(party) {
            self.queue.remove(&place);
        }
        account.wanting_since = None;
    }

    pub(super) fn charge(&mut self, party: PartyId, gpu_ns: u64) {
        if let Some(holding) = self.holding.as_mut().filter(|holding| holding.party == party) {
            holding.reported_ns = holding.reported_ns.saturating_add(gpu_ns);
        }
        let Some(account) = self.accounts.get_mut(&party) else { return };
        let owed_ns = gpu_ns.saturating_sub(account.advance_ns);
        account.advance_ns = account.advance_ns.saturating_sub(gpu_ns);
        self.add(party, owed_ns);
    }

    /// Ends a turn that is over and begins the next; to be called after every change.
    pub(super) fn settle(&mut self, now_ns: u64) {
        let goes_on = |holding: &Holding| {
            self.queue.len() > 1
                && holding.until_ns > now_ns
                && self.accounts.get(&holding.party).is_some_and(|account| account.wanting_since.is_some())
        };
        if self.holding.as_ref().is_some_and(goes_on) {
            return;
        }
        if let Some(ended) = self.holding.take() {
            self.charge_least(ended, now_ns);
        }
        if self.queue.len() > 1
            && let Some(next) = self.queue.first()
        {
            let until_ns = now_ns.saturating_add(self.turn_ns());
            self.holding = Some(Holding { party: next.party, since_ns: now_ns, until_ns, reported_ns: 0 });
        }
    }

    fn turn_ns(&self) -> u64 {
        let share_ns = LONG_ROUND_NS / (self.queue.len() as u64).max(1);
        share_ns.clamp(TURN_NS, self.longest_turn_ns)
    }

    fn charge_least(&mut self, ended: Holding, now_ns: u64) {
        let held_ns = now_ns.min(ended.until_ns).saturating_sub(ended.since_ns);
        let missing_ns = (held_ns / LEAST_CHARGE).saturating_sub(ended.reported_ns);
        if let Some(account) = self.accounts.get_mut(&ended.party) {
            account.advance_ns = (account.advance_ns + missing_ns).min(MOST_ADVANCE * self.longest_turn_ns);
        }
        self.add(ended.party, missing_ns);
    }

    fn add(&mut self, party: PartyId, gpu_ns: u64) {
        let Some(account) = self.accounts.get_mut(&party) else { return };
        if let Some(place) = account.place(party) {
            self.queue.remove(&place);
        }
        account.tag += account.cost(gpu_ns);
        if let Some(most_ns) = self.most_debt_ns {
            account.tag = account.tag.min(self.virtual_time + account.cost(most_ns));
        }
        self.queue.extend(account.place(party));
        if let Some(first) = self.queue.first() {
            self.virtual_time = self.virtual_time.max(first.tag);
        }
    }
}

impl Account {
    fn place(&self, party: PartyId) -> Option<Place> {
        self.wanting_since.map(|arrival| Place { tag: self.tag, arrival, party })
    }

    fn cost(&self, gpu_ns: u64) -> u128 {
        u128::from(gpu_ns) * SCALE / self.weight.shares_u128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ClientId;

    const MS: u64 = 1_000_000;

    fn party(slot: u32) -> PartyId {
        PartyId::Client(ClientId { slot, generation: 1 })
    }

    /// Parties with these weights, all of which want.
    fn turns_of(weights: &[u32]) -> Turns {
        let mut turns = Turns::new();
        for (slot, weight) in weights.iter().enumerate() {
            turns.enter(party(slot as u32), Weight::new(*weight).unwrap());
            turns.want(party(slot as u32));
        }
        turns.settle(0);
        turns
    }

    /// Plays `count` turns in which the holder uses what `used_ns` says, and tells who had them.
    fn play(turns: &mut Turns, now_ns: &mut u64, count: usize, used_ns: impl Fn(PartyId) -> u64) -> Vec<PartyId> {
        (0..count)
            .map(|_| {
                let (Turn::Of(holder), until_ns) = turns.turn() else { panic!("nobody has the turn") };
                turns.charge(holder, used_ns(holder));
                *now_ns = until_ns;
                turns.settle(*now_ns);
                holder
            })
            .collect()
    }

    #[test]
    fn equals_that_use_the_same_take_turns_in_a_ring() {
        let mut turns = turns_of(&[100, 100, 100]);
        let had = play(&mut turns, &mut 0, 6, |_| TURN_NS);
        assert_eq!(had, [0, 1, 2, 0, 1, 2].map(party));
    }

    #[test]
    fn of_many_each_has_shorter_turns() {
        let turn_of = |parties: usize| {
            let mut turns = Turns::among_equals(LONG_TURN_NS, u64::MAX);
            for index in 0..parties {
                turns.enter(party(index as u32), Weight::NORMAL);
                turns.want(party(index as u32));
            }
            turns.settle(0);
            turns.turn().1
        };
        assert_eq!([2, 8, 16, 32, 1_000].map(turn_of), [16, 16, 8, 4, 4].map(|ms| ms * MS));
    }

    #[test]
    fn turns_follow_the_weights() {
        let mut turns = turns_of(&[100, 300]);
        let had = play(&mut turns, &mut 0, 400, |_| TURN_NS);
        let first = had.iter().filter(|holder| **holder == party(0)).count();
        assert!((99..=101).contains(&first), "{first} of 400 turns at a quarter of the weight");
    }

    /// A request that came at each second turn blocked always the same one of two parties, which got nothing while the
    /// ring went round.
    #[test]
    fn a_party_whose_turns_were_spoiled_is_next_more_often() {
        let mut turns = turns_of(&[100, 100]);
        let mut used_ns = [0u64; 2];
        for turn in 0..400u64 {
            let (Turn::Of(holder), until_ns) = turns.turn() else { panic!("nobody has the turn") };
            let got_ns = if turn % 2 == 0 { 0 } else { TURN_NS };
            used_ns[usize::from(holder == party(1))] += got_ns;
            turns.charge(holder, got_ns);
            turns.settle(until_ns);
        }
        assert!(used_ns[0].abs_diff(used_ns[1]) <= 2 * TURN_NS, "{used_ns:?}");
    }

    #[test]
    fn saying_nothing_of_what_was_used_gains_a_factor_of_four_at_most() {
        let mut turns = turns_of(&[100, 100]);
        let had = play(&mut turns, &mut 0, 500, |holder| if holder == party(0) { 0 } else { TURN_NS });
        let liar = had.iter().filter(|holder| **holder == party(0)).count();
        assert!((390..=402).contains(&liar), "{liar} of 500 turns");
    }

    #[test]
    fn idleness_earns_nothing() {
        let mut turns = turns_of(&[100, 100, 100]);
        turns.rest(party(2));
        let mut now_ns = 0;
        play(&mut turns, &mut now_ns, 100, |_| TURN_NS);
        turns.want(party(2));
        let had = play(&mut turns, &mut now_ns, 6, |_| TURN_NS);
        assert_eq!(had.iter().filter(|holder| **holder == party(2)).count(), 2, "{had:?}");
    }

    #[test]
    fn a_party_that_ran_alone_owes_the_next_one_nothing() {
        let mut turns = turns_of(&[100, 100]);
        turns.rest(party(1));
        turns.settle(MS);
        assert_eq!(turns.turn(), (Turn::All, u64::MAX));
        turns.charge(party(0), 3_600_000 * MS);
        turns.want(party(1));
        let mut now_ns = 3_600_000 * MS;
        turns.settle(now_ns);
        let had = play(&mut turns, &mut now_ns, 4, |_| TURN_NS);
        assert_eq!(had.iter().filter(|holder| **holder == party(0)).count(), 2, "{had:?}");
    }

    #[test]
    fn a_holder_that_falls_idle_or_leaves_hands_over_at_once() {
        let mut turns = turns_of(&[100, 100, 100, 100]);
        assert_eq!(turns.turn().0, Turn::Of(party(0)));
        turns.rest(party(0));
        turns.settle(MS);
        assert_eq!(turns.turn(), (Turn::Of(party(1)), MS + TURN_NS));
        turns.depart(party(1));
        turns.settle(2 * MS);
        assert_eq!(turns.turn(), (Turn::Of(party(2)), 2 * MS + TURN_NS));
    }

    #[test]
    fn a_late_report_is_paid_from_what_was_charged_before() {
        let mut turns = turns_of(&[100, 100]);
        turns.settle(TURN_NS);
        let before = turns.accounts[&party(0)].tag;
        turns.charge(party(0), MS);
        assert_eq!(turns.accounts[&party(0)].tag, before);
        turns.charge(party(0), MS);
        assert!(turns.accounts[&party(0)].tag > before);
    }
}
