//! A board to which decisions are applied, with all that must be true of it at any time.

use std::collections::BTreeMap;

use aischedd::policy::{ClientId, Decision, Event, Gpu, Group, Kind, Member, PartyId, Priority, Turn, Weight};

/// One GPU, its board, and who is there by what the events have said.
pub(crate) struct Board {
    pub(crate) gpu: Gpu,
    pub(crate) now_ns: u64,
    pub(crate) log: Vec<(u64, Decision)>,
    clients: BTreeMap<u32, Seen>,
    placed: BTreeMap<PartyId, (Group, Priority)>,
    turns: BTreeMap<Group, (Turn, u64)>,
    open_until_ns: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) id: ClientId,
    pub(crate) member: Member,
    pub(crate) wants: bool,
}

impl Seen {
    pub(crate) fn party(&self) -> PartyId {
        self.member.job.map_or(PartyId::Client(self.id), PartyId::Job)
    }
}

impl Board {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            gpu: Gpu::new(kind),
            now_ns: 0,
            log: Vec::new(),
            clients: BTreeMap::new(),
            placed: BTreeMap::new(),
            turns: BTreeMap::new(),
            open_until_ns: 0,
        }
    }

    /// Tells the GPU, writes down what it decides, and checks the board.
    pub(crate) fn tell(&mut self, event: Event) {
        self.remember(event);
        let mut decisions = Vec::new();
        self.gpu.decide(self.now_ns, event, &mut decisions);
        for decision in decisions {
            self.apply(decision);
            self.log.push((self.now_ns, decision));
        }
        self.check();
    }

    /// Goes on to that time, with each wake-up on the way when it is due.
    pub(crate) fn advance_to(&mut self, to_ns: u64) {
        while let Some(wake_ns) = self.gpu.wake_ns().filter(|wake_ns| *wake_ns <= to_ns) {
            assert!(wake_ns > self.now_ns, "woken for {wake_ns} at {}: it would be woken for ever", self.now_ns);
            self.now_ns = wake_ns;
            self.tell(Event::TimePassed);
        }
        self.now_ns = to_ns;
    }

    pub(crate) fn join(&mut self, slot: u32, priority: u8, weight: u32) -> ClientId {
        let client = ClientId { slot, generation: 1 };
        let member = Member { priority: level(priority), weight: Weight::new(weight).unwrap(), job: None };
        self.tell(Event::Joined { client, member });
        client
    }

    pub(crate) fn clients(&self) -> impl Iterator<Item = &Seen> {
        self.clients.values()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open_until_ns > self.now_ns
    }

    /// Whether a client's gate would let it go on, if nobody more important is on the GPU.
    pub(crate) fn has_turn(&self, of: PartyId) -> bool {
        let (group, _) = self.placed[&of];
        self.is_open() || matches!(self.turn(group), Turn::All) || self.turn(group) == Turn::Of(of)
    }

    pub(crate) fn turn(&self, group: Group) -> Turn {
        self.turns.get(&group).map_or(Turn::All, |(turn, _)| *turn)
    }

    pub(crate) fn group(&self, of: PartyId) -> Group {
        self.placed[&of].0
    }

    fn remember(&mut self, event: Event) {
        match event {
            Event::Joined { client, member } => {
                self.clients.insert(client.slot, Seen { id: client, member, wants: false });
            }
            Event::Left { client } => {
                if self.seen(client).is_some() {
                    self.clients.remove(&client.slot);
                }
            }
            Event::Changed { client, priority, weight } => {
                if let Some(seen) = self.seen(client) {
                    seen.member = Member { priority, weight, ..seen.member };
                }
            }
            Event::Wanting { client } => self.set_wants(client, true),
            Event::Idle { client } => self.set_wants(client, false),
            Event::Used { .. } | Event::TimePassed | Event::Switched { .. } => (),
        }
    }

    fn set_wants(&mut self, id: ClientId, wants: bool) {
        if let Some(seen) = self.seen(id) {
            seen.wants = wants;
        }
    }

    fn seen(&mut self, id: ClientId) -> Option<&mut Seen> {
        self.clients.get_mut(&id.slot).filter(|seen| seen.id == id)
    }

    fn apply(&mut self, decision: Decision) {
        match decision {
            Decision::Policy { .. } => {
                self.placed.clear();
                self.turns.clear();
                self.open_until_ns = 0;
            }
            Decision::Placed { party, group, priority } => {
                self.placed.insert(party, (group, priority));
            }
            Decision::Turn { group, turn, until_ns } => {
                assert!(until_ns > self.now_ns, "a turn that is over when it begins");
                self.turns.insert(group, (turn, until_ns));
            }
            Decision::Open { until_ns } => self.open_until_ns = until_ns,
        }
    }

    /// What holds under any policy after any event.
    fn check(&self) {
        assert_eq!(self.gpu.clients(), self.clients.len());
        let mut lowest: BTreeMap<PartyId, Priority> = BTreeMap::new();
        for seen in self.clients.values() {
            let rank = lowest.entry(seen.party()).or_insert(seen.member.priority);
            *rank = seen.member.priority.min(*rank);
            assert_eq!(self.gpu.party(seen.id), Some(seen.party()));
        }
        for (party, priority) in &lowest {
            assert_eq!(self.placed.get(party).map(|(_, rank)| rank), Some(priority), "{party:?} stands elsewhere");
        }
        for (group, (turn, until_ns)) in &self.turns {
            self.check_turn(*group, *turn, *until_ns);
        }
    }

    fn check_turn(&self, group: Group, turn: Turn, until_ns: u64) {
        let mut wanting: Vec<_> = self
            .clients
            .values()
            .filter(|seen| seen.wants && self.group(seen.party()) == group)
            .map(Seen::party)
            .collect();
        wanting.dedup();
        match turn {
            // No turn for a client that left, nor for one that does not want: somebody who wants has it.
            Turn::Of(party) => assert!(wanting.contains(&party), "{party:?} has a turn and does not want: {wanting:?}"),
            Turn::All => assert_eq!(until_ns, u64::MAX),
        }
    }
}

pub(crate) fn level(level: u8) -> Priority {
    Priority::new(level).unwrap()
}
