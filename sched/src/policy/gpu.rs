//! One GPU: who is there, what can be true of what they say, and the policy in force.

use std::collections::BTreeMap;

use super::{
    ClientId, Decision, Event, Kind, Member, PartyId, Priority, Weight,
    event::PartyEvent,
    party::{Party, Standing},
    registry::Policy,
};

/// The clients of one GPU under one policy.
///
/// Same events at the same times, same decisions: nothing in here looks at a clock, at memory addresses or at a
/// random number.
#[derive(Debug)]
pub struct Gpu {
    kind: Kind,
    policy: Box<dyn Policy>,
    clients: BTreeMap<u32, Client>,
    parties: BTreeMap<PartyId, Party>,
    now_ns: u64,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    party: PartyId,
    standing: Standing,
    wants: bool,
    joined_ns: u64,
    used_ns: u64,
}

impl Gpu {
    /// Without clients.
    pub fn new(kind: Kind) -> Self {
        Self { kind, policy: kind.start(), clients: BTreeMap::new(), parties: BTreeMap::new(), now_ns: 0 }
    }

    /// The policy in force.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many clients are there.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// When [`Event::TimePassed`] is due, unless another event comes before.
    pub fn wake_ns(&self) -> Option<u64> {
        self.policy.wake_ns()
    }

    /// The party whose turn this client waits for.
    pub fn party(&self, client: ClientId) -> Option<PartyId> {
        self.client(client).map(|found| found.party)
    }

    /// Appends to `decisions` what changes because of `event`.
    ///
    /// A time before the last one is taken for the last one. O(log n), but for a switch, which is O(n log n), and for
    /// a member that changes the rank of its job, which the caller has to tell all its members.
    pub fn decide(&mut self, now_ns: u64, event: Event, decisions: &mut Vec<Decision>) {
        self.now_ns = self.now_ns.max(now_ns);
        match event {
            Event::Joined { client, member } => self.join(client, member, decisions),
            Event::Changed { client, priority, weight } => self.alter(client, priority, weight, decisions),
            Event::Left { client } => self.leave(client, decisions),
            Event::Wanting { client } => self.set_wants(client, true, decisions),
            Event::Idle { client } => self.set_wants(client, false, decisions),
            Event::Used { client, gpu_ns } => self.use_gpu(client, gpu_ns, decisions),
            Event::TimePassed => self.tell(PartyEvent::TimePassed, decisions),
            Event::Switched { to } => self.switch(to, decisions),
        }
    }

    fn join(&mut self, id: ClientId, member: Member, decisions: &mut Vec<Decision>) {
        if let Some(before) = self.clients.get(&id.slot).map(|client| client.id) {
            self.leave(before, decisions);
        }
        let party = member.job.map_or(PartyId::Client(id), PartyId::Job);
        let standing = Standing { priority: member.priority, weight: member.weight };
        let client = Client { id, party, standing, wants: false, joined_ns: self.now_ns, used_ns: 0 };
        self.clients.insert(id.slot, client);
        self.reorder(party, decisions, |members| members.add(standing));
    }

    fn alter(&mut self, id: ClientId, priority: Priority, weight: Weight, decisions: &mut Vec<Decision>) {
        let Some(client) = self.client_mut(id) else { return };
        let standing = Standing { priority, weight };
        let before = std::mem::replace(&mut client.standing, standing);
        let party = client.party;
        self.reorder(party, decisions, |members| {
            members.remove(before);
            members.add(standing);
        });
    }

    fn leave(&mut self, id: ClientId, decisions: &mut Vec<Decision>) {
        self.set_wants(id, false, decisions);
        if self.client(id).is_none() {
            return;
        }
        if let Some(client) = self.clients.remove(&id.slot) {
            self.reorder(client.party, decisions, |members| members.remove(client.standing));
        }
    }

    fn set_wants(&mut self, id: ClientId, wants: bool, decisions: &mut Vec<Decision>) {
        let Some(client) = self.client_mut(id).filter(|client| client.wants != wants) else { return };
        client.wants = wants;
        let party = client.party;
        let Some(members) = self.parties.get_mut(&party) else { return };
        let wanted = members.wants();
        members.count_wanting(wants);
        if members.wants() != wanted {
            self.tell(if wants { PartyEvent::Wanting { party } } else { PartyEvent::Idle { party } }, decisions);
        }
    }

    /// A client cannot have used more than all of the GPU since it joined.
    fn use_gpu(&mut self, id: ClientId, gpu_ns: u64, decisions: &mut Vec<Decision>) {
        let now_ns = self.now_ns;
        let Some(client) = self.client_mut(id) else { return };
        let can_be_ns = (now_ns - client.joined_ns).saturating_sub(client.used_ns);
        let gpu_ns = gpu_ns.min(can_be_ns);
        client.used_ns += gpu_ns;
        let party = client.party;
        self.tell(PartyEvent::Used { party, gpu_ns }, decisions);
    }

    /// Changes a party's members. Where that changes what it is, it goes from its place and comes to another.
    fn reorder(&mut self, party: PartyId, decisions: &mut Vec<Decision>, change: impl FnOnce(&mut Party)) {
        let members = self.parties.entry(party).or_default();
        let before = members.standing();
        change(members);
        let (standing, wants) = (members.standing(), members.wants());
        if standing == before {
            return standing.into_iter().for_each(|standing| self.say_place(party, standing, decisions));
        }
        if standing.is_none() {
            self.parties.remove(&party);
        }
        if before.is_some() {
            self.tell(PartyEvent::Departed { party }, decisions);
        }
        if let Some(standing) = standing {
            self.place(party, standing, wants, decisions);
        }
    }

    fn switch(&mut self, to: Kind, decisions: &mut Vec<Decision>) {
        self.kind = to;
        self.policy = to.start();
        decisions.push(Decision::Policy { kind: to });
        let placed: Vec<_> = self
            .parties
            .iter()
            .filter_map(|(party, members)| Some((*party, members.standing()?, members.wants())))
            .collect();
        for (party, standing, wants) in placed {
            self.place(party, standing, wants, decisions);
        }
    }

    fn place(&mut self, party: PartyId, standing: Standing, wants: bool, decisions: &mut Vec<Decision>) {
        self.say_place(party, standing, decisions);
        let Standing { priority, weight } = standing;
        self.tell(PartyEvent::Entered { party, priority, weight }, decisions);
        if wants {
            self.tell(PartyEvent::Wanting { party }, decisions);
        }
    }

    fn say_place(&self, party: PartyId, standing: Standing, decisions: &mut Vec<Decision>) {
        let priority = standing.priority;
        decisions.push(Decision::Placed { party, group: self.policy.group(priority), priority });
    }

    fn tell(&mut self, event: PartyEvent, decisions: &mut Vec<Decision>) {
        self.policy.decide(self.now_ns, event, decisions);
    }

    fn client(&self, id: ClientId) -> Option<&Client> {
        self.clients.get(&id.slot).filter(|client| client.id == id)
    }

    fn client_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(&id.slot).filter(|client| client.id == id)
    }
}
