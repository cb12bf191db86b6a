//! A process: it launches a request's kernels, waits for the GPU, and thinks.

use super::trace::{Arrivals, Request, Workload};

#[derive(Debug)]
pub(super) struct Client<'a> {
    pub(super) workload: &'a Workload,
    pub(super) request: &'a Request,
    pub(super) stage: Stage,
    /// When the request at hand was due.
    due_ns: u64,
    /// Of the request at hand: the next launch.
    next_launch: usize,
    /// Of an open loop: the next arrival.
    next_arrival: usize,
    kernels_out: usize,
    pub(super) page: Page,
    pub(super) latencies_ns: Vec<u64>,
    /// The turn of events that it waits for; an earlier one is void.
    pub(super) ticket: u64,
    /// When that comes; `u64::MAX` for none.
    pub(super) scheduled_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Until the next request is due.
    Thinking,
    /// A launch is next.
    Launching,
    /// A launch waits.
    AtGate,
    /// For the GPU, at the request's end.
    Syncing,
}

/// What it says of itself to the others.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) busy_until_ns: u64,
    pub(super) launched_at_ns: Option<u64>,
    pub(super) used_ns: u64,
    /// The GPU time of what was launched and is not done.
    pub(super) backlog_ns: u64,
}

impl<'a> Client<'a> {
    pub(super) fn new(workload: &'a Workload, request: &'a Request) -> Self {
        Self {
            workload,
            request,
            stage: Stage::Thinking,
            due_ns: 0,
            next_launch: 0,
            next_arrival: 0,
            kernels_out: 0,
            page: Page::default(),
            latencies_ns: Vec::new(),
            ticket: 0,
            scheduled_ns: u64::MAX,
        }
    }

    /// When its first request begins, if it has any.
    pub(super) fn first_ns(&mut self) -> Option<u64> {
        match &self.workload.arrivals {
            Arrivals::At(_) => self.next_due(0),
            Arrivals::Loop { from_ns, .. } => {
                self.due_ns = *from_ns;
                Some(*from_ns)
            }
        }
    }

    /// Begins the request that is due.
    pub(super) fn begin(&mut self) {
        self.next_launch = 0;
        self.stage = Stage::Launching;
    }

    /// Launches once, past the gate: what the GPU is given.
    pub(super) fn launch(&mut self, now_ns: u64, sync_is_busy: bool) -> &'a [u64] {
        let Some(kernels) = self.request.launches.get(self.next_launch) else { return &[] };
        let gpu_ns: u64 = kernels.iter().sum();
        self.next_launch += 1;
        self.kernels_out += kernels.len();
        self.page.backlog_ns += gpu_ns;
        self.page.busy_until_ns = self.page.busy_until_ns.max(now_ns) + gpu_ns;
        self.page.launched_at_ns = Some(now_ns);
        let is_last = self.next_launch == self.request.launches.len();
        self.stage = if is_last { Stage::Syncing } else { Stage::Launching };
        if is_last && sync_is_busy {
            self.page.busy_until_ns = u64::MAX;
        }
        kernels
    }

    /// A kernel of it is done. At a request's end: when the next one begins, if there is one.
    pub(super) fn kernel_done(&mut self, kernel_ns: u64, now_ns: u64) -> Option<Finished> {
        self.kernels_out -= 1;
        self.page.backlog_ns -= kernel_ns;
        self.page.used_ns += kernel_ns;
        if self.stage != Stage::Syncing || self.kernels_out > 0 {
            return None;
        }
        self.page.busy_until_ns = now_ns;
        self.latencies_ns.push(now_ns - self.due_ns);
        self.stage = Stage::Thinking;
        Some(Finished { next_ns: self.next_due(now_ns) })
    }

    fn next_due(&mut self, now_ns: u64) -> Option<u64> {
        match &self.workload.arrivals {
            Arrivals::At(times_ns) => {
                self.due_ns = *times_ns.get(self.next_arrival)?;
                self.next_arrival += 1;
            }
            Arrivals::Loop { think_ns, .. } => self.due_ns = now_ns + think_ns,
        }
        Some(self.due_ns.max(now_ns))
    }
}

/// A request's end.
#[derive(Debug)]
pub(super) struct Finished {
    /// When the next one begins.
    pub(super) next_ns: Option<u64>,
}
