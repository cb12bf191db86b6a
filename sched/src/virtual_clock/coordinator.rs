//! What looks at the clients' pages once in a while and runs the policy.

use std::time::Instant;

use super::{
    client::{Client, Stage},
    run::Model,
};
use crate::policy::{ClientId, Decision, Event, Gpu, Kind, Member, PartyId};

#[derive(Debug)]
pub(super) struct Coordinator {
    gpu: Gpu,
    model: Model,
    seen: Vec<Seen>,
    pub(super) decisions: Vec<Decision>,
    /// What each took on this machine: the only real time in here.
    pub(super) took_ns: Vec<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    wants: bool,
    used_ns: u64,
}

impl Coordinator {
    /// With all clients of a trace, idle.
    pub(super) fn new(kind: Kind, model: Model, clients: &[Client<'_>]) -> Self {
        let seen = vec![Seen::default(); clients.len()];
        let mut coordinator = Self { gpu: Gpu::new(kind), model, seen, decisions: Vec::new(), took_ns: Vec::new() };
        for (index, client) in clients.iter().enumerate() {
            let member =
                Member { priority: client.workload.priority, weight: client.workload.weight, job: client.workload.job };
            coordinator.decide(0, Event::Joined { client: id(index), member });
        }
        coordinator
    }

    /// By client.
    pub(super) fn parties(&self) -> Vec<PartyId> {
        (0..self.seen.len()).map(|index| self.gpu.party(id(index)).unwrap_or(PartyId::Client(id(index)))).collect()
    }

    /// When a turn or a period is over.
    pub(super) fn wake_ns(&self) -> u64 {
        self.gpu.wake_ns().unwrap_or(u64::MAX)
    }

    pub(super) fn time_passed(&mut self, now_ns: u64) {
        self.decide(now_ns, Event::TimePassed);
    }

    /// Looks at all pages.
    pub(super) fn look(&mut self, clients: &[Client<'_>], now_ns: u64) {
        for (index, client) in clients.iter().enumerate() {
            let before = self.seen[index];
            let gpu_ns = client.page.used_ns - before.used_ns;
            if gpu_ns > 0 {
                self.decide(now_ns, Event::Used { client: id(index), gpu_ns });
            }
            let wants = self.wants(client, now_ns);
            if wants != before.wants {
                let client = id(index);
                self.decide(now_ns, if wants { Event::Wanting { client } } else { Event::Idle { client } });
            }
            self.seen[index] = Seen { wants, used_ns: client.page.used_ns };
        }
    }

    fn wants(&self, client: &Client<'_>, now_ns: u64) -> bool {
        let lately = |at_ns: u64| now_ns - at_ns < self.model.lately_ns;
        client.stage == Stage::AtGate
            || client.page.busy_until_ns > now_ns
            || client.page.launched_at_ns.is_some_and(lately)
    }

    fn decide(&mut self, now_ns: u64, event: Event) {
        let start = Instant::now();
        self.gpu.decide(now_ns, event, &mut self.decisions);
        self.took_ns.push(start.elapsed().as_nanos() as u64);
    }
}

fn id(index: usize) -> ClientId {
    ClientId { slot: index as u32, generation: 1 }
}
