//! A trace from its beginning to its end, in virtual time.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    client::{Client, Stage},
    coordinator::Coordinator,
    device::{Device, Pace},
    gates::{Answer, Gates},
    report::ClassResult,
    trace::{Trace, Workload},
};
use crate::policy::Kind;

/// What the model assumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// How long a context has the GPU while others have work.
    pub slice_ns: u64,
    /// What it costs to go from one context to another.
    pub switch_ns: u64,
    /// From what lets a client go on to its launch.
    pub wake_ns: u64,
    /// How often the coordinator looks.
    pub look_every_ns: u64,
    /// How long after a launch a client counts as wanting.
    pub lately_ns: u64,
    /// The GPU time that a gated client may have launched and not seen done, before it launches the next.
    pub backlog_ns: u64,
    /// Whether a client that waits in a synchronising call counts as busy until that returns, whatever its estimate
    /// says.
    pub sync_is_busy: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            slice_ns: 2_000_000,
            switch_ns: 10_000,
            wake_ns: 30_000,
            look_every_ns: 1_000_000,
            lately_ns: 2_000_000,
            backlog_ns: 300_000,
            sync_is_busy: false,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// In the order of their first clients.
    pub classes: Vec<ClassResult>,
    /// What each decision of the policy took on this machine, ascending. All else is the same on every machine.
    pub took_ns: Vec<u64>,
}

/// Runs a trace under a policy.
pub fn run(trace: &Trace, kind: Kind, model: Model) -> Outcome {
    let mut world = World::new(trace, kind, model);
    while world.step(trace.length_ns) {}
    let classes = ClassResult::of_all(
        trace,
        world.clients.iter().map(|client| (client.workload, client.latencies_ns.as_slice(), client.page.used_ns)),
    );
    let mut took_ns = world.coordinator.took_ns;
    took_ns.sort_unstable();
    Outcome { classes, took_ns }
}

struct World<'a> {
    now_ns: u64,
    model: Model,
    device: Device,
    clients: Vec<Client<'a>>,
    gates: Gates,
    coordinator: Coordinator,
    next_look_ns: u64,
    /// When which client goes on; in the order in which it was planned, where that is at the same time.
    agenda: BinaryHeap<Reverse<(u64, u64, usize)>>,
    tickets: u64,
    woken: Vec<usize>,
}

impl<'a> World<'a> {
    fn new(trace: &'a Trace, kind: Kind, model: Model) -> Self {
        let request = |workload: &Workload| trace.requests.get(workload.request);
        let clients: Vec<_> =
            trace.clients.iter().filter_map(|workload| Some(Client::new(workload, request(workload)?))).collect();
        let coordinator = Coordinator::new(kind, model, &clients);
        let gates = Gates::new(kind, model, &coordinator.parties());
        let pace = Pace { slice_ns: model.slice_ns, switch_ns: model.switch_ns };
        let mut world = Self {
            now_ns: 0,
            model,
            device: Device::new(clients.len(), pace),
            clients,
            gates,
            coordinator,
            next_look_ns: 0,
            agenda: BinaryHeap::new(),
            tickets: 0,
            woken: Vec::new(),
        };
        world.publish();
        for client in 0..world.clients.len() {
            let first_ns = world.clients[client].first_ns();
            first_ns.into_iter().for_each(|at_ns| world.plan(client, at_ns));
        }
        world
    }

    /// The next thing that happens, unless that is after the end.
    fn step(&mut self, end_ns: u64) -> bool {
        let done_ns = self.device.running().map_or(u64::MAX, |done| done.at_ns);
        let go_ns = self.agenda.peek().map_or(u64::MAX, |Reverse((at_ns, ..))| *at_ns);
        let wake_ns = self.coordinator.wake_ns().max(self.now_ns);
        let next_ns = done_ns.min(go_ns).min(wake_ns).min(self.next_look_ns);
        if next_ns > end_ns {
            return false;
        }
        self.now_ns = next_ns;
        if next_ns == done_ns {
            self.kernel_done();
        } else if next_ns == go_ns {
            self.go_on();
        } else if next_ns == wake_ns {
            self.coordinator.time_passed(next_ns);
            self.publish();
        } else {
            self.coordinator.look(&self.clients, next_ns);
            self.next_look_ns += self.model.look_every_ns;
            self.publish();
        }
        true
    }

    fn kernel_done(&mut self) {
        let Some(done) = self.device.running() else { return };
        self.device.go_on();
        let client = &mut self.clients[done.context];
        if let Some(finished) = client.kernel_done(done.kernel_ns, self.now_ns) {
            finished.next_ns.into_iter().for_each(|at_ns| self.plan(done.context, at_ns));
            self.gates.fell_idle(done.context, &self.clients, &mut self.woken);
            self.wake();
        } else if client.stage == Stage::AtGate && client.page.backlog_ns < self.model.backlog_ns {
            self.woken.push(done.context);
            self.wake();
        }
    }

    /// The next one on the agenda does what is next for it.
    fn go_on(&mut self) {
        let Some(Reverse((_, ticket, client))) = self.agenda.pop() else { return };
        let of = &mut self.clients[client];
        if of.ticket != ticket {
            return;
        }
        of.scheduled_ns = u64::MAX;
        match of.stage {
            Stage::Syncing => return,
            Stage::Thinking => of.begin(),
            Stage::Launching | Stage::AtGate => (),
        }
        match self.gates.ask(client, of.page.backlog_ns, self.now_ns) {
            Answer::Go => self.launch(client),
            Answer::Wait { until_ns } => {
                of.stage = Stage::AtGate;
                self.gates.set_waiting(client, true);
                self.plan(client, until_ns);
            }
        }
    }

    fn launch(&mut self, client: usize) {
        self.gates.set_waiting(client, false);
        let of = &mut self.clients[client];
        let kernels = of.launch(self.now_ns, self.model.sync_is_busy);
        self.gates.launched(client, of.page.busy_until_ns);
        let goes_on = of.stage == Stage::Launching;
        let next_ns = self.now_ns + of.request.launch_ns;
        self.device.launch(client, kernels, self.now_ns);
        if goes_on {
            self.plan(client, next_ns);
        }
    }

    /// Hands what the policy has decided to the gates.
    fn publish(&mut self) {
        for decision in self.coordinator.decisions.drain(..) {
            self.gates.apply(decision, self.now_ns, &mut self.woken);
        }
        self.wake();
    }

    fn wake(&mut self) {
        let at_ns = self.now_ns + self.model.wake_ns;
        for client in std::mem::take(&mut self.woken) {
            if self.clients[client].stage == Stage::AtGate && at_ns < self.clients[client].scheduled_ns {
                self.plan(client, at_ns);
            }
        }
    }

    fn plan(&mut self, client: usize, at_ns: u64) {
        self.tickets += 1;
        self.clients[client].ticket = self.tickets;
        self.clients[client].scheduled_ns = at_ns;
        if at_ns != u64::MAX {
            self.agenda.push(Reverse((at_ns, self.tickets, client)));
        }
    }
}
