//! A thread's part of the sampling: what it may cost, and the pairs that are on the GPU.
//!
//! A sample costs the host some 8 us. So much of the time of launches may go that way, [`BUDGET_PS`] for each of them,
//! and [`LEARNING_NS`] once, at the beginning, when every kernel is new. A kernel's first sample comes before all others:
//! without any its time is a guess.

use super::pair::{self, Pair, State};
use super::strata::{self, Budget, Table, Turn};
use crate::clock;
use crate::cuda::{Status, sys};
use crate::driver;
use crate::handlers::capture::Section;
use crate::mode;
use crate::segment;
use aishim_abi::statistics::Statistic;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Pairs a thread may have on the GPU at once. A program may run a thousand launches ahead of it; were the pairs too
/// few, samples would gather where they come free, at certain places of the program.
const PAIRS: usize = 64;

/// So many are read at the next sample, and not only when the thread waits.
const COLLECT_AT: usize = 16;

/// What sampling may cost for each launch, in picoseconds. A launch costs a program 2.5 us or more (FACTS: 3.4), so
/// this is a quarter of a percent of the time of launches, and less of the program's.
const BUDGET_PS: u64 = 6_250;

/// What it may cost besides, in a thread's first time; the second thread's is half of it, the third's half of that.
const LEARNING_NS: u64 = 5_000_000;

/// What first samples may cost besides that.
const FIRST_SAMPLES_NS: u64 = 10_000_000;

/// A launch call that takes longer on an idle stream loads code: nothing to learn from.
pub(super) const SLOW_NS: u64 = 100_000;

/// One sample in this many measures what an empty pair takes.
const EMPTY_EVERY: u64 = 32;

/// GPU time is summed up when a thread has waited, at most so often.
const SETTLE_NS: u64 = 10_000_000;

/// A thread's part of the sampling.
pub(crate) struct Sampler {
    table: &'static Table,
    pairs: [Pair; PAIRS],
    /// How many of them are on the GPU: each is two cache lines, too much to go through whenever the program waits.
    pending: usize,
    /// The pair around the launch that is being made, and the section that keeps captures away from it. Held here and
    /// not on the stack, so that nothing is left to be dropped should the thread be cancelled in the driver.
    open: Option<(usize, Section)>,
    random: u64,
    /// Samples so far; now and then one gets a third event.
    measured: u64,
    /// What they have cost the host.
    spent_ns: u64,
    /// What they may cost besides the budget.
    learning_ns: u64,
    /// Running mean of what a sample costs the host.
    cost_ns: u64,
}

impl Sampler {
    /// None where there is no memory for it.
    pub(crate) fn new() -> Option<Self> {
        let seed = clock::monotonic_ns() ^ (std::ptr::from_ref(&SLOW_NS) as u64).rotate_left(32);
        let (table, number) = Table::adopt_or_make()?;
        Some(Self {
            table,
            pairs: std::array::from_fn(|_| Pair::new()),
            pending: 0,
            open: None,
            random: seed | 1,
            measured: 0,
            spent_ns: 0,
            learning_ns: LEARNING_NS.checked_shr(number as u32).unwrap_or(0),
            cost_ns: 8_000,
        })
    }

    /// Where the thread's launches are counted.
    pub(crate) fn table(&self) -> &'static Table {
        self.table
    }

    /// A launch of `stratum` is about to be made whose countdown has run out: puts the first event before it, where it is
    /// to be sampled and that can be done.
    pub(super) fn before(&mut self, stream: sys::CUstream, key: u64, stratum: usize, measurable: bool) {
        let began = clock::now();
        let random = self.next_random();
        let budget = |launches, is_first| self.budget(launches, is_first);
        let Some(turn) = self.table.visit(stratum, measurable, random, budget) else {
            return;
        };
        self.begin(stream, key, turn);
        self.spent(began);
    }

    fn begin(&mut self, stream: sys::CUstream, key: u64, turn: Turn) {
        let Some(section) = Section::enter() else {
            return;
        };
        // A thread that launches and lets others wait (PyTorch's backward) has no better moment.
        if self.pending >= COLLECT_AT {
            self.collect_pending();
        }
        let free = self.pairs.iter_mut().enumerate().find(|(_, p)| p.state == State::Free);
        if let Some((index, pair)) = free
            && pair.begin(stream, driver::context(), turn.beyond_doubt)
        {
            (pair.key, pair.place) = (key, turn.place);
            self.open = Some((index, section));
        }
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
        if usable {
            self.measured += 1;
            self.pending += 1;
        } else {
            pair.state = State::Free;
            segment::add(Statistic::GpuSamplesDiscarded, 1);
        }
        self.spent(launched);
    }

    /// Half of a sample's cost is seen at a time: before, and after.
    fn spent(&mut self, since: u64) {
        let half_ns = clock::ns(clock::now().wrapping_sub(since)).min(SLOW_NS);
        self.spent_ns += half_ns;
        self.cost_ns = (self.cost_ns * 15 + half_ns * 2) / 16;
    }

    /// What a kernel's sample may cost after `launches`; `is_first` where it has had none.
    fn budget(&self, launches: u64, is_first: bool) -> Budget {
        let earned_ns = launches * BUDGET_PS / 1000;
        let ahead_ns = self.learning_ns + if is_first { FIRST_SAMPLES_NS } else { 0 };
        if self.spent_ns + 32 * self.cost_ns <= earned_ns {
            Budget::Plenty
        } else if self.spent_ns + self.cost_ns <= earned_ns + ahead_ns {
            Budget::Enough
        } else {
            Budget::Spent
        }
    }

    /// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
    fn next_random(&mut self) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// The program has just waited: reads the pairs that are done, and sums up.
    pub(crate) fn synchronised(&mut self) {
        let began = clock::now();
        if self.pending != 0
            && let Some(_section) = Section::enter()
        {
            self.collect_pending();
            self.spent_ns += clock::ns(clock::now().wrapping_sub(began)).min(SLOW_NS);
        }
        static SETTLED_NS: AtomicU64 = AtomicU64::new(0);
        let now_ns = clock::ns(began);
        if now_ns.wrapping_sub(SETTLED_NS.load(Relaxed)) > SETTLE_NS {
            SETTLED_NS.store(now_ns, Relaxed);
            strata::settle_all(false);
        }
    }

    fn collect_pending(&mut self) {
        for pair in &mut self.pairs {
            if pair.state != State::Pending {
                continue;
            }
            if pair.is_gone() {
                pair.forget();
                continue;
            }
            let Ok(outcome) = pair::read(pair) else {
                continue;
            };
            pair.state = State::Free;
            if let Some((time_ns, verdict)) = outcome {
                self.table.learn(pair.place, time_ns, verdict);
            }
        }
        self.pending = self.pairs.iter().filter(|p| p.state == State::Pending).count();
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.table.leave();
        pair::leave(std::mem::replace(&mut self.pairs, std::array::from_fn(|_| Pair::new())).into_iter());
    }
}
