//! The GPU: one kernel at a time, contexts in slices.

use std::collections::VecDeque;

/// How it shares itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) slice_ns: u64,
    pub(super) switch_ns: u64,
}

#[derive(Debug)]
pub(super) struct Device {
    pace: Pace,
    /// The kernels that each context has launched.
    queues: Vec<VecDeque<u64>>,
    /// The contexts that have work, in the order of their slices; the first one has the GPU.
    ring: VecDeque<usize>,
    /// The context that had it last.
    last: Option<usize>,
    slice_ends_ns: u64,
    running: Option<Done>,
}

/// A kernel and when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) context: usize,
    pub(super) kernel_ns: u64,
    pub(super) at_ns: u64,
}

impl Device {
    pub(super) fn new(contexts: usize, pace: Pace) -> Self {
        let queues = vec![VecDeque::new(); contexts];
        Self { pace, queues, ring: VecDeque::new(), last: None, slice_ends_ns: 0, running: None }
    }

    pub(super) fn launch(&mut self, context: usize, kernels: &[u64], now_ns: u64) {
        if self.queues[context].is_empty() && self.running.is_none_or(|running| running.context != context) {
            self.ring.push_back(context);
        }
        self.queues[context].extend(kernels);
        if self.running.is_none() {
            self.start(now_ns);
        }
    }

    /// The kernel that is running.
    pub(super) fn running(&self) -> Option<Done> {
        self.running
    }

    /// To be called when it is done.
    pub(super) fn go_on(&mut self) {
        let Some(done) = self.running.take() else { return };
        let has_more = !self.queues[done.context].is_empty();
        if !has_more {
            self.ring.pop_front();
        } else if done.at_ns >= self.slice_ends_ns {
            self.ring.rotate_left(1);
            // Alone, it has another slice.
            self.slice_ends_ns = done.at_ns + self.pace.slice_ns;
        }
        self.start(done.at_ns);
    }

    fn start(&mut self, now_ns: u64) {
        let Some(context) = self.ring.front().copied() else { return };
        let mut begin_ns = now_ns;
        if self.last != Some(context) {
            begin_ns += if self.last.is_some() { self.pace.switch_ns } else { 0 };
            self.slice_ends_ns = begin_ns + self.pace.slice_ns;
            self.last = Some(context);
        }
        if let Some(kernel_ns) = self.queues[context].pop_front() {
            self.running = Some(Done { context, kernel_ns, at_ns: begin_ns + kernel_ns });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { slice_ns: 2_000, switch_ns: 10 };

    fn ends(device: &mut Device) -> Vec<(usize, u64)> {
        std::iter::from_fn(|| {
            let done = device.running()?;
            device.go_on();
            Some((done.context, done.at_ns))
        })
        .collect()
    }

    #[test]
    fn contexts_share_it_in_slices_and_kernels_run_to_their_ends() {
        let mut device = Device::new(2, PACE);
        device.launch(0, &[1_500, 1_500, 100], 0);
        device.launch(1, &[1_000], 50);
        assert_eq!(ends(&mut device), [(0, 1_500), (0, 3_000), (1, 4_010), (0, 4_120)]);
    }

    #[test]
    fn a_context_without_work_hands_over_at_once_and_a_lone_one_goes_on() {
        let mut device = Device::new(2, PACE);
        device.launch(0, &[100], 0);
        device.launch(1, &[5_000, 1], 0);
        assert_eq!(ends(&mut device), [(0, 100), (1, 5_110), (1, 5_111)]);
        device.launch(1, &[7], 6_000);
        assert_eq!(ends(&mut device), [(1, 6_007)]);
    }
}
