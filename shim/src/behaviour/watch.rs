//! From counters to a class. Pure: what is suggested depends on the samples alone.
//!
//! A sample is taken every [`INTERVAL_NS`]; what is judged is the last second or so of them. The first suggestion is made once two
//! judgements in a row agree, which is some 1.5 s after the first work; another one takes its place only when the contrary has held for
//! [`CHANGE_NS`] without a break. A second in which nothing was done says nothing.
//!
//! The GPU counts as in use while a request is open: from the first work after idle to the synchronisation that ends it. That is
//! what its owner waits for, and it costs nothing to know. What launches have waited at the gate is taken off, or a process that is held back
//! would look like one that works throughout.
//!
//! What it cannot tell: a server that is asked without a pause from a training job (both are `batch`, and a wait is a wait to either), and a
//! training job that waits for its data for a fifth of the time from a server of short requests. Hence a suggestion.

use aishim_abi::rank::{Class, ClassReason};
use std::collections::VecDeque;

/// How often a sample is taken, in nanoseconds.
pub(super) const INTERVAL_NS: u64 = 250_000_000;

/// What is judged is at least so long, in nanoseconds.
const WINDOW_NS: u64 = 950_000_000;

/// How long another class must have been suggested before it takes the place of the one before, in nanoseconds.
const CHANGE_NS: u64 = 2_000_000_000;

/// Samples that are kept: some more than the window takes where the thread wakes late.
const KEPT: usize = 6;

/// In use for so much of the time, in thousandths: continuous.
const BUSY_PER_MILLE: u64 = 900;

/// In use for no more than that: there are gaps.
const GAPS_PER_MILLE: u64 = 800;

/// A request that takes no longer on average is short, in nanoseconds.
const SHORT_NS: u64 = 100_000_000;

/// Requests that a process has made before it is judged by their length: the first ones warm up.
const REQUESTS: u32 = 3;

/// Launches a second below which a process whose device memory grows by a quarter is still loading.
const LOADING_LAUNCHES: u64 = 100;

/// Counters at one moment. All but the gauges (`is_open`, `device_bytes`, `is_gated`) only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// When, by `CLOCK_MONOTONIC`.
    pub(super) at_ns: u64,
    /// Kernels launched.
    pub(super) kernels: u64,
    /// Graphs launched.
    pub(super) graphs: u64,
    /// Calls that wait for work or ask about it.
    pub(super) waits: u64,
    /// Requests ended, modulo 2^32.
    pub(super) requests: u32,
    /// How long they took together.
    pub(super) request_ns: u64,
    /// Whether one is open.
    pub(super) is_open: bool,
    /// Bytes copied between host and device.
    pub(super) copied_bytes: u64,
    /// Device memory in use.
    pub(super) device_bytes: u64,
    /// How long launches have waited at the gate.
    pub(super) gated_ns: u64,
    /// Whether one waits there.
    pub(super) is_gated: bool,
}

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Watch {
    samples: VecDeque<Sample>,
    suggestion: (Class, ClassReason),
    /// Another class that was judged since, and from when on.
    rival: Option<(Class, u64)>,
    requests: u32,
}

impl Default for Watch {
    fn default() -> Self {
        let suggestion = (Class::Unclassified, ClassReason::Unseen);
        Self { samples: VecDeque::with_capacity(KEPT), suggestion, rival: None, requests: 0 }
    }
}

impl Watch {
    /// Whether a sample is to be taken.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        self.samples.back().is_none_or(|last| now_ns.saturating_sub(last.at_ns) >= INTERVAL_NS)
    }

    /// What is suggested, [`Class::Unclassified`] while nothing is, and why.
    pub(super) fn suggestion(&self) -> (Class, ClassReason) {
        self.suggestion
    }

    /// Share of the window in which launches waited at the gate, in thousandths.
    pub(super) fn gated_per_mille(&self) -> u64 {
        self.window().map_or(0, |window| per_mille(window.gated_ns, window.ns))
    }

    /// Takes one more sample into account.
    pub(super) fn feed(&mut self, sample: Sample) {
        if let Some(last) = self.samples.back() {
            self.requests = self.requests.saturating_add(sample.requests.wrapping_sub(last.requests));
        }
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        // What lies before the first work is no gap between requests.
        while self.suggestion.0 == Class::Unclassified && self.begins_before_any_work() {
            self.samples.pop_front();
        }
        let judged = self.window().and_then(|window| judge(&window, self.requests));
        if let Some((class, reason)) = judged {
            self.weigh(class, reason, sample.at_ns);
        }
    }

    fn begins_before_any_work(&self) -> bool {
        let mut samples = self.samples.iter();
        matches!((samples.next(), samples.next()), (Some(first), Some(second)) if !second.is_after_work_since(first))
    }

    /// Holds a judgement against the one in force.
    fn weigh(&mut self, class: Class, reason: ClassReason, at_ns: u64) {
        let in_force = self.suggestion.0;
        if class == in_force {
            self.rival = None;
            self.suggestion.1 = reason;
            return;
        }
        if class == Class::Unclassified {
            // Not judged yet: says why, and takes nothing back.
            if in_force == Class::Unclassified {
                self.suggestion.1 = reason;
            }
            return;
        }
        let since_ns = match self.rival {
            Some((rival, since_ns)) if rival == class => since_ns,
            _ => {
                self.rival = Some((class, at_ns));
                return;
            }
        };
        let is_first = in_force == Class::Unclassified;
        if is_first || at_ns.saturating_sub(since_ns) >= CHANGE_NS {
            self.suggestion = (class, reason);
            self.rival = None;
        }
    }

    /// What happened between the newest sample and the newest of those that are far enough before it.
    fn window(&self) -> Option<Window> {
        let last = self.samples.back()?;
        let is_far = |sample: &&Sample| last.at_ns.saturating_sub(sample.at_ns) >= WINDOW_NS;
        let first = self.samples.iter().rev().find(is_far)?;
        let seen = self.samples.iter().filter(|sample| sample.at_ns >= first.at_ns);
        let (mut samples, mut open, mut gated) = (0, 0, 0);
        for sample in seen {
            samples += 1;
            open += u64::from(sample.is_open);
            gated += u64::from(sample.is_gated);
        }
        let ns = last.at_ns - first.at_ns;
        // A wait is counted when it ends; of one that has not, samples tell.
        let gated_ns = last.gated_ns.wrapping_sub(first.gated_ns).max(if gated == samples { ns } else { 0 }).min(ns);
        let request_ns = last.request_ns.wrapping_sub(first.request_ns);
        Some(Window {
            ns,
            kernels: last.kernels.wrapping_sub(first.kernels),
            graphs: last.graphs.wrapping_sub(first.graphs),
            waits: last.waits.wrapping_sub(first.waits),
            requests: last.requests.wrapping_sub(first.requests),
            request_ns,
            is_open_throughout: open == samples,
            open_per_mille: per_mille(open, samples),
            copied_bytes: last.copied_bytes.wrapping_sub(first.copied_bytes),
            device_bytes: last.device_bytes,
            grown_bytes: last.device_bytes.saturating_sub(first.device_bytes),
            gated_ns,
        })
    }
}

impl Sample {
    fn is_after_work_since(&self, before: &Self) -> bool {
        self.is_open
            || self.requests != before.requests
            || (self.kernels, self.graphs, self.copied_bytes) != (before.kernels, before.graphs, before.copied_bytes)
    }
}

/// What happened in a second or so.
#[derive(Clone, Copy, Debug)]
struct Window {
    ns: u64,
    kernels: u64,
    graphs: u64,
    waits: u64,
    requests: u32,
    request_ns: u64,
    is_open_throughout: bool,
    /// Share of the samples that found a request open.
    open_per_mille: u64,
    copied_bytes: u64,
    device_bytes: u64,
    grown_bytes: u64,
    gated_ns: u64,
}

/// What it looks like; none where nothing was done.
fn judge(window: &Window, requests_ever: u32) -> Option<(Class, ClassReason)> {
    let launches = window.kernels + window.graphs;
    if launches == 0 && window.requests == 0 && !window.is_open_throughout {
        return None;
    }
    let launches_per_s = launches.saturating_mul(1_000_000_000) / window.ns.max(1);
    if window.grown_bytes > window.device_bytes / 4 && launches_per_s < LOADING_LAUNCHES {
        return Some((Class::Unclassified, ClassReason::Loading));
    }
    if launches == 0 && !window.is_open_throughout {
        return (window.copied_bytes > 0).then_some((Class::Normal, ClassReason::CopiesOnly));
    }
    if window.requests == 0 && window.is_open_throughout {
        // Held back at the gate for all of it: nothing was seen of what it would do.
        if window.gated_ns >= window.ns {
            return None;
        }
        let never_waits = window.waits == 0;
        return Some((Class::Batch, if never_waits { ClassReason::NeverWaits } else { ClassReason::Continuous }));
    }
    Some(judge_requests(window, requests_ever))
}

fn judge_requests(window: &Window, requests_ever: u32) -> (Class, ClassReason) {
    let working_ns = window.request_ns.saturating_sub(window.gated_ns);
    // Of the time in which it was not held back.
    let request_ns = working_ns / u64::from(window.requests.max(1));
    let in_use = match request_ns < INTERVAL_NS {
        true => per_mille(working_ns, window.ns.saturating_sub(window.gated_ns)),
        // Long ones are counted when they end, in one window or the next.
        false => window.open_per_mille,
    };
    let is_short = request_ns <= SHORT_NS;
    if in_use >= BUSY_PER_MILLE {
        let is_mostly_graphs = window.graphs > window.kernels;
        return match is_short && is_mostly_graphs {
            true => (Class::Normal, ClassReason::GraphsWithoutGaps),
            false => (Class::Batch, ClassReason::Continuous),
        };
    }
    if requests_ever < REQUESTS {
        return (Class::Unclassified, ClassReason::Unseen);
    }
    match in_use <= GAPS_PER_MILLE {
        true if is_short => (Class::Inference, ClassReason::ShortBursts),
        true => (Class::Normal, ClassReason::LongRequests),
        false => (Class::Normal, ClassReason::LittleIdle),
    }
}

/// A share in thousandths, 1,000 at most.
fn per_mille(part_ns: u64, ns: u64) -> u64 {
    (part_ns.saturating_mul(1_000) / ns.max(1)).min(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// What a program does, as its counters show it: so many milliseconds of work and then of idle time, again and again.
    struct Program {
        work_ms: u64,
        idle_ms: u64,
        launches: u64,
        graphs: bool,
        waits: bool,
    }

    /// A program, its clock and its counters.
    struct Trace {
        watch: Watch,
        sample: Sample,
        /// How far it is in its round, in milliseconds.
        place_ms: u64,
    }

    impl Trace {
        fn new() -> Self {
            Self { watch: Watch::default(), sample: Sample { at_ns: 5_000 * MS, ..Sample::default() }, place_ms: 0 }
        }

        /// Lets it run for so long; what was suggested at the end, and after how many milliseconds that was first so.
        fn run(&mut self, program: &Program, ms: u64) -> (Class, ClassReason, u64) {
            let mut since_ms = 0;
            for now_ms in 0..ms {
                self.step(program);
                if self.watch.is_due(self.sample.at_ns) {
                    let before = self.watch.suggestion().0;
                    self.watch.feed(self.sample);
                    if self.watch.suggestion().0 != before {
                        since_ms = now_ms;
                    }
                }
            }
            let (class, reason) = self.watch.suggestion();
            (class, reason, since_ms)
        }

        fn step(&mut self, program: &Program) {
            let Program { work_ms, idle_ms, launches, graphs, waits } = *program;
            self.sample.at_ns += MS;
            if work_ms == 0 {
                return;
            }
            if self.place_ms == 0 {
                *(if graphs { &mut self.sample.graphs } else { &mut self.sample.kernels }) += launches;
                self.sample.is_open = true;
            }
            self.place_ms += 1;
            if self.place_ms == work_ms && waits {
                self.sample.waits += 1;
                self.sample.requests = self.sample.requests.wrapping_add(1);
                self.sample.request_ns += work_ms * MS;
                self.sample.is_open = false;
            }
            if self.place_ms >= work_ms + idle_ms {
                self.place_ms = 0;
            }
        }
    }

    fn program(work_ms: u64, idle_ms: u64) -> Program {
        Program { work_ms, idle_ms, launches: 100, graphs: false, waits: true }
    }

    #[test]
    fn programs_are_told_apart_within_two_seconds_of_their_first_work() {
        use ClassReason::{Continuous, GraphsWithoutGaps, LittleIdle, LongRequests, NeverWaits, ShortBursts};
        let endless = Program { waits: false, ..program(10, 0) };
        let tokens = Program { graphs: true, launches: 2, ..program(20, 0) };
        let cases = [
            ("30 requests a second", program(5, 28), Class::Inference, ShortBursts),
            ("three requests a second", program(40, 290), Class::Inference, ShortBursts),
            ("training that looks at its loss", program(30, 1), Class::Batch, Continuous),
            ("steps of 700 ms", program(700, 2), Class::Batch, Continuous),
            ("kernels of 3 s", program(3_000, 1), Class::Batch, NeverWaits),
            ("never waits", endless, Class::Batch, NeverWaits),
            ("tokens without a gap", tokens, Class::Normal, GraphsWithoutGaps),
            ("long requests with gaps", program(150, 150), Class::Normal, LongRequests),
            ("a little idle", program(17, 3), Class::Normal, LittleIdle),
        ];
        for (name, program, class, reason) in cases {
            let mut trace = Trace::new();
            trace.run(&Program { work_ms: 0, ..program }, 3_000);
            let (suggested, why, since_ms) = trace.run(&program, 6_000);
            assert_eq!((suggested, why), (class, reason), "{name}");
            assert!(since_ms <= 2_000, "{name}: after {since_ms} ms");
        }
    }

    #[test]
    fn another_class_has_to_hold_for_two_seconds() {
        let mut trace = Trace::new();
        let (serves, trains) = (program(5, 28), program(30, 1));
        assert_eq!(trace.run(&serves, 3_000).0, Class::Inference);
        assert_eq!(trace.run(&trains, 1_500).0, Class::Inference, "a burst");
        assert_eq!(trace.run(&serves, 3_000).0, Class::Inference);
        let (class, _, since_ms) = trace.run(&trains, 6_000);
        assert_eq!(class, Class::Batch);
        assert!((2_000..4_000).contains(&since_ms), "after {since_ms} ms");
        let idle = Program { work_ms: 0, ..program(1, 0) };
        assert_eq!(trace.run(&idle, 20_000).0, Class::Batch, "idle time says nothing");
    }

    #[test]
    fn what_waits_at_the_gate_is_not_taken_for_work() {
        let mut watch = Watch::default();
        // Requests of 100 ms, 80 of which are spent at the gate, and no idle time: a server that is held back and has fallen behind.
        for step in 0..12_u64 {
            let (at_ns, requests) = ((5_000 + 250 * step) * MS, (step * 5 / 2) as u32);
            let request_ns = u64::from(requests) * 100 * MS;
            let gated_ns = u64::from(requests) * 80 * MS;
            watch.feed(Sample { at_ns, kernels: 50 * step, requests, request_ns, gated_ns, ..Sample::default() });
        }
        assert!((700..=900).contains(&watch.gated_per_mille()), "{}", watch.gated_per_mille());
        // One that was held back all the time has shown nothing.
        let mut watch = Watch::default();
        for step in 0..12_u64 {
            let at_ns = (5_000 + 250 * step) * MS;
            watch.feed(Sample { at_ns, kernels: 1, is_open: true, is_gated: true, ..Sample::default() });
        }
        assert_eq!(watch.suggestion(), (Class::Unclassified, ClassReason::Unseen));
        assert_eq!(watch.gated_per_mille(), 1_000);
    }

    #[test]
    fn a_process_that_loads_or_only_copies_is_not_judged_by_its_requests() {
        let (mut loads, mut copies) = (Watch::default(), Watch::default());
        for step in 0..12_u64 {
            let at_ns = (5_000 + 250 * step) * MS;
            let (requests, request_ns, copied_bytes) = (3 * step as u32, step * 200 * MS, step << 24);
            let usual =
                Sample { at_ns, requests, request_ns, copied_bytes, device_bytes: 1 << 30, ..Sample::default() };
            loads.feed(Sample { device_bytes: 1 << (16 + step), ..usual });
            copies.feed(usual);
        }
        assert_eq!(loads.suggestion(), (Class::Unclassified, ClassReason::Loading));
        assert_eq!(copies.suggestion(), (Class::Normal, ClassReason::CopiesOnly));
    }
}
