//! A thread's part of the sampling: when a launch is sampled, and what that may cost.
//!
//! Where launches keep an idle GPU waiting, what counts is the host: a sample costs it some 5 us, and one part in
//! [`HOST_SHARE`] of the time of the launches may go that way. Where the GPU is behind, the host has time, and what
//! counts is the bubble that a sample leaves on the GPU, [`BUBBLE_NS`]: one part in [`GPU_SHARE`].

use super::pair::{self, Pair, State};
use super::{Stratum, Subject};
use crate::clock;
use crate::cuda::{Status, sys};
use crate::driver;
use crate::handlers::capture::Section;
use crate::mode;
use crate::segment;
use aishim_abi::statistics::Statistic;

/// Pairs a thread may have on the GPU at once. A program may run a thousand launches ahead of it; were the pairs too
/// few, samples would gather where they come free, at certain places of the program.
const PAIRS: usize = 64;

/// One part in this many of a launching thread's time goes to sampling.
const HOST_SHARE: u64 = 500;

/// One part in this many of the GPU's time does, where the GPU is what the program waits for.
const GPU_SHARE: u64 = 100;

/// What two events add on a busy stream, measured on an H200.
const BUBBLE_NS: u64 = 3_100;

/// A launch call on an idle stream that takes longer loads code: nothing to learn from.
pub(super) const SLOW_NS: u64 = 100_000;

/// One sample in this many measures what an empty pair takes.
const EMPTY_EVERY: u64 = 32;

/// What a launch call takes the host at most by assumption: idle time of the program is no budget.
const HOST_LAUNCH_NS: u64 = 10_000;

/// The distance between samples is at most one in this many of the launches so far.
const YOUTH: u64 = 8;

/// Longest distance between samples, in launches.
const INTERVAL_MAX: u64 = 4096;

/// A thread's part of the sampling.
pub(crate) struct Sampler {
    pairs: [Pair; PAIRS],
    /// The pair around the launch that is being made, and the section that keeps captures away from it. Held here and
    /// not on the stack, so that nothing is left to be dropped should the thread be cancelled in the driver.
    open: Option<(usize, Section)>,
    random: u64,
    kernels: Pace,
    graphs: Pace,
    /// Samples so far; now and then one gets a third event.
    measured: u64,
    /// Launches so far, about: a young thread is sampled more often.
    launches: u64,
    /// Running mean of what a sample costs the host, in nanoseconds.
    cost_ns: u64,
    /// Sum over recent samples: how many launches lie between two synchronisations.
    launches_at_sync: u64,
    single_launches: bool,
}

/// How one stratum is sampled.
#[derive(Default)]
struct Pace {
    /// Launches that the next sample stands for.
    weight: u64,
    /// When the last sample was due, in ticks, and how many launches were to follow it.
    began: u64,
    drawn: u64,
    /// Running mean of the GPU time of a launch.
    gpu_ns: u64,
    /// Running mean of the time between launches, as far as it counts.
    launch_ns: u64,
    /// Running share of samples that found the stream busy, in parts of [`WHOLE`].
    busy: u64,
}

impl Sampler {
    pub(crate) fn new() -> Self {
        let seed = clock::monotonic_ns() ^ (std::ptr::from_ref(&SLOW_NS) as u64).rotate_left(32);
        let pace = || Pace { weight: 1, drawn: 1, ..Pace::default() };
        Self {
            pairs: std::array::from_fn(|_| Pair::new()),
            open: None,
            random: seed | 1,
            kernels: pace(),
            graphs: pace(),
            measured: 0,
            launches: 0,
            cost_ns: 5_000,
            launches_at_sync: 0,
            single_launches: false,
        }
    }

    fn pace(&mut self, stratum: Stratum) -> &mut Pace {
        match stratum {
            Stratum::Kernels => &mut self.kernels,
            Stratum::Graphs => &mut self.graphs,
        }
    }

    /// Puts the first event before a launch, where it can be done.
    pub(super) fn before(&mut self, stream: sys::CUstream, subject: Subject) {
        let began = clock::now();
        if !subject.measurable {
            return;
        }
        let Some(section) = Section::enter() else {
            return;
        };
        if self.pairs.iter().all(|p| p.state != State::Free) {
            self.collect_pending();
        }
        let Some(index) = self.pairs.iter().position(|p| p.state == State::Free) else {
            return;
        };
        let pair = &mut self.pairs[index];
        if !pair.begin(stream, driver::context()) {
            return;
        }
        pair.subject = subject;
        self.pairs[index].weight = std::mem::take(&mut self.pace(subject.stratum).weight);
        self.open = Some((index, section));
        self.spent(began);
    }

    /// Puts the second event behind it, before anything else: on an idle stream a short kernel is over by now.
    pub(super) fn after(&mut self, stream: sys::CUstream, status: Status, launched: u64) {
        let Some((index, section)) = self.open.take() else {
            return;
        };
        let third = self.measured.is_multiple_of(EMPTY_EVERY);
        let pair = &mut self.pairs[index];
        // A capture that lost patience with a launch that blocks has begun: it must not be disturbed.
        let is_quiet = mode::mode() & mode::CAPTURING == 0;
        let usable = status.is_ok() && is_quiet && pair.finish(stream, launched, SLOW_NS, third);
        drop(section);
        let (stratum, weight, busy) = (pair.subject.stratum, pair.weight, pair.was_busy());
        if usable {
            self.measured += 1;
            let pace = self.pace(stratum);
            pace.busy = (pace.busy * 63 + if busy { WHOLE } else { 0 }) / 64;
        } else {
            pair.state = State::Free;
            self.pace(stratum).weight += weight;
            segment::add(Statistic::GpuSamplesDiscarded, 1);
        }
        self.spent(launched);
    }

    /// Half of a sample's cost is seen at a time: before, and after.
    fn spent(&mut self, since: u64) {
        let half_ns = clock::ns(clock::now().wrapping_sub(since)).min(SLOW_NS);
        self.cost_ns = (self.cost_ns * 15 + half_ns * 2) / 16;
    }

    /// How many launches until the next sample: the budget's share, spread at random from 1 to twice that less one.
    pub(super) fn next_interval(&mut self, stratum: Stratum) -> u32 {
        let now = clock::now();
        let (cost_ns, youth, random) = (self.cost_ns, 1 + self.launches / YOUTH, self.next_random());
        let pace = self.pace(stratum);
        let began = std::mem::replace(&mut pace.began, now);
        let most_ns = HOST_LAUNCH_NS.max(pace.gpu_ns);
        let elapsed_ns = if began == 0 { most_ns } else { clock::ns(now.wrapping_sub(began)) };
        // Slowly, all of it: were the distance to follow the phases of a program, a sample at the end of a long distance
        // would stand for launches of another phase.
        pace.launch_ns = drift(pace.launch_ns, (elapsed_ns / pace.drawn).clamp(50, most_ns), 32);
        let by_host = cost_ns * HOST_SHARE * (WHOLE - pace.busy) / (pace.launch_ns * WHOLE);
        let by_gpu = BUBBLE_NS * GPU_SHARE * pace.busy / (pace.gpu_ns.max(1) * WHOLE);
        let by_budget = by_host.max(by_gpu);
        let mean = by_budget.min(youth).clamp(1, INTERVAL_MAX) as u32;
        let interval = 1 + random % (2 * mean - 1);
        pace.weight += u64::from(interval);
        pace.drawn = interval.into();
        self.launches += u64::from(interval);
        if stratum == Stratum::Kernels {
            segment::set(Statistic::SampleInterval, mean.into());
        }
        interval
    }

    /// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
    fn next_random(&mut self) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// The program has just waited: reads the pairs that are done. `to_sample` are the launches still to go until the
    /// next samples, which tells how many there were since the last time.
    pub(crate) fn synchronised(&mut self, to_sample: u32) {
        let launches = self.launches.wrapping_sub(u64::from(to_sample));
        let between = launches.wrapping_sub(self.launches_at_sync);
        self.launches_at_sync = launches;
        self.single_launches = between <= 2;
        let is_pending = self.pairs.iter().any(|p| p.state == State::Pending);
        if is_pending && let Some(_section) = Section::enter() {
            self.collect_pending();
        }
    }

    fn collect_pending(&mut self) {
        for index in 0..PAIRS {
            let single_launches = self.single_launches;
            let pair = &mut self.pairs[index];
            if pair.state != State::Pending {
                continue;
            }
            if pair.is_gone() {
                pair.forget();
                continue;
            }
            let Ok(outcome) = pair::read(pair, single_launches) else {
                continue;
            };
            pair.state = State::Free;
            let (stratum, weight) = (pair.subject.stratum, pair.weight);
            let pace = self.pace(stratum);
            match outcome {
                Some(gpu_ns) => pace.gpu_ns = drift(pace.gpu_ns, gpu_ns, 256),
                None => pace.weight += weight,
            }
        }
    }
}

/// The whole of a share.
const WHOLE: u64 = 1024;

/// A running mean over about `span` values; the first one is taken as it is.
fn drift(mean: u64, value: u64, span: u64) -> u64 {
    if mean == 0 { value } else { (mean * (span - 1) + value) / span }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        pair::leave(std::mem::replace(&mut self.pairs, std::array::from_fn(|_| Pair::new())).into_iter());
    }
}
