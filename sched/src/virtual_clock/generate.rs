//! The traces in sched/traces/: synthetic, from a seed.
//!
//! Their kernels have the distributions that a profiler showed of real jobs, as a few points of each; the order is
//! shuffled. They are integers throughout, so that the same seed brings the same bytes on every machine.

use super::trace::{Arrivals, Request, Trace, Workload};
use crate::policy::{Priority, Weight};

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const SECOND: u64 = 1_000 * MS;

/// A trace that can be made.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// Of the file, too.
    pub name: &'static str,
    /// What is in it.
    pub what: &'static str,
    make: fn(&mut Dice) -> Trace,
}

impl Recipe {
    /// The trace of this seed.
    pub fn make(&self, seed: u64) -> Trace {
        let mut trace = (self.make)(&mut Dice(seed));
        let Self { name, what, .. } = self;
        trace.about = format!("SYNTHETIC: {what} (virtual_clock generate {name} {seed})");
        trace
    }
}

/// All of them.
pub fn recipes() -> &'static [Recipe] {
    &[
        Recipe {
            name: "bert-beside-infer",
            what: "one BERT graph of 1.44 ms at 150 requests a second, regular with 20 % jitter, beside three ResNet-50 inference loops",
            make: |dice| beside(dice, "infer", 378, INFER),
        },
        Recipe {
            name: "bert-beside-train",
            what: "the same beside three ResNet-50 training loops, with kernels to 1.45 ms",
            make: |dice| beside(dice, "train", 1_002, TRAIN),
        },
        Recipe {
            name: "crowd",
            what: "1,024 clients: 64 inference at 4 requests a second each, 192 normal that think, 768 batch loops",
            make: crowd,
        },
    ]
}

/// Of how many kernels in ten thousand the GPU time is below how many nanoseconds; straight lines between.
type Distribution = &'static [(u64, u64)];

/// 378 kernels, 6.6 ms, median 6 us, longest 210 us.
const INFER: Distribution = &[(0, 2 * US), (5_000, 6 * US), (8_000, 16 * US), (9_500, 60 * US), (10_000, 210 * US)];

/// 1,002 kernels, 27.7 ms, median 10 us, p99 413 us, longest 1.45 ms.
const TRAIN: Distribution = &[
    (0, 2 * US),
    (5_000, 10 * US),
    (8_000, 24 * US),
    (9_500, 60 * US),
    (9_810, 200 * US),
    (9_900, 413 * US),
    (9_960, 500 * US),
    (9_985, 1_000 * US),
    (10_000, 1_450 * US),
];

const LAUNCH_NS: u64 = 3_400;

fn beside(dice: &mut Dice, name: &str, kernels: u64, of: Distribution) -> Trace {
    let length_ns = 10 * SECOND;
    let requests = vec![graph("bert", 144, 10 * US), dice.request(name, kernels, of)];
    let first = client("bert", "inference", 80, 0, Arrivals::At(dice.arrivals(SECOND / 150, length_ns)));
    let others = (0..3).map(|index| client(&format!("{name}{index}"), "batch", 5, 1, endless(index * MS, 0)));
    Trace { about: String::new(), length_ns, requests, clients: std::iter::once(first).chain(others).collect() }
}

fn crowd(dice: &mut Dice) -> Trace {
    let length_ns = 5 * SECOND;
    let requests =
        vec![graph("small", 30, 10 * US), dice.request("normal", 60, INFER), dice.request("batch", 120, INFER)];
    let inference: Vec<_> = (0..64)
        .map(|index| {
            let arrivals = dice.arrivals(SECOND / 4, length_ns);
            client(&format!("inference{index}"), "inference", 80, 0, Arrivals::At(arrivals))
        })
        .collect();
    let normal: Vec<_> = (0..192)
        .map(|index| {
            let arrivals = endless(dice.below(SECOND), SECOND + dice.below(SECOND));
            client(&format!("normal{index}"), "normal", 20, 1, arrivals)
        })
        .collect();
    let batch = (0..768).map(|index| client(&format!("batch{index}"), "batch", 5, 2, endless(dice.below(10 * MS), 0)));
    let clients = inference.into_iter().chain(normal).chain(batch).collect();
    Trace { about: String::new(), length_ns, requests, clients }
}

fn graph(name: &str, kernels: usize, kernel_ns: u64) -> Request {
    Request { name: name.into(), launch_ns: LAUNCH_NS, launches: vec![vec![kernel_ns; kernels]] }
}

fn client(name: &str, class: &str, priority: u8, request: usize, arrivals: Arrivals) -> Workload {
    let priority = Priority::new(priority).unwrap_or(Priority::MAX);
    Workload { name: name.into(), class: class.into(), priority, weight: Weight::NORMAL, job: None, request, arrivals }
}

fn endless(from_ns: u64, think_ns: u64) -> Arrivals {
    Arrivals::Loop { from_ns, think_ns }
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// At this distance, each moved by up to 20 % of it. Whole microseconds.
    fn arrivals(&mut self, period_ns: u64, length_ns: u64) -> Vec<u64> {
        let start_ns = self.below(period_ns);
        let moved = |due_ns: u64| (due_ns + self.below(period_ns * 2 / 5)) / US * US;
        (0..(length_ns - start_ns) / period_ns).map(|index| start_ns + index * period_ns).map(moved).collect()
    }

    /// As many launches of one kernel each, at equal steps of the distribution from its shortest to its longest,
    /// shuffled.
    fn request(&mut self, name: &str, kernels: u64, of: Distribution) -> Request {
        let mut launches: Vec<_> =
            (0..kernels).map(|index| vec![quantile_ns(of, index * 10_000 / (kernels - 1))]).collect();
        for index in (1..launches.len()).rev() {
            launches.swap(index, self.below(index as u64 + 1) as usize);
        }
        Request { name: name.into(), launch_ns: LAUNCH_NS, launches }
    }
}

fn quantile_ns(of: Distribution, at: u64) -> u64 {
    let between = |pair: &&[(u64, u64)]| at <= pair[1].0;
    of.windows(2).find(between).map_or(0, |pair| {
        let ((from, from_ns), (to, to_ns)) = (pair[0], pair[1]);
        from_ns + (to_ns - from_ns) * (at - from) / (to - from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(percent: u64, is: u64, wanted: u64) -> bool {
        is.abs_diff(wanted) * 100 <= wanted * percent
    }

    #[test]
    fn kernels_are_distributed_as_the_profiler_showed() {
        let mut dice = Dice(1);
        for (of, kernels, sum_ns, longest_ns) in
            [(INFER, 378, 6_600 * US, 210 * US), (TRAIN, 1_002, 27_700 * US, 1_450 * US)]
        {
            let request = dice.request("", kernels, of);
            assert!(within(5, request.gpu_ns(), sum_ns), "{} ns", request.gpu_ns());
            assert!(within(5, request.launches.iter().flatten().copied().max().unwrap(), longest_ns));
        }
    }
}
