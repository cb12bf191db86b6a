//! How often each kernel is launched, and how long it takes: what the process's GPU time is summed up from.
//!
//! Launches are told apart by function, grid and block, hashed into [`STRATA`] strata. Each counts down to its next sample, so
//! it also counts its launches, all of them; each has the mean GPU time of its samples. The GPU time used is the sum
//! over the strata of launches times mean (stratified sampling with known sizes: Cochran, "Sampling Techniques", 5.2).
//! Candidates weighed:
//!
//! * *One countdown for all launches*, each sample standing for those since the last. A training step's kernels range
//!   from 2 us to 1.5 ms, so the total varies by three times itself over the root of the number of samples: 10 % takes
//!   1,000 of them, 2 % takes 25,000.
//! * *A map from function to count.* Exact, but a lookup on every launch costs more than all that a launch may.
//! * *Strata by hash*, as here: a launch that would have counted down one number counts down another. Two kernels that
//!   meet in a stratum add variance and no bias. With a few hundred kernels a few samples of each suffice.
//!
//! A table belongs to one launching thread, and goes to another when that thread ends: a program that starts a thread
//! for each request would learn everything anew with each.

use super::learnt::Verdict;
use crate::segment;
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Strata, a power of two.
const STRATA: usize = 1 << STRATA_BITS;
const STRATA_BITS: u32 = 12;

/// The most launches of a stratum from one visit to the next.
const STRETCH_MAX: u32 = 4096;

/// So many samples of a stratum come at growing distances, from the second launch on; later ones as the budget allows.
const LEARNING_SAMPLES: u32 = 6;

/// A mean follows about the last so many samples.
const MEMORY_SAMPLES: u64 = 64;

/// For each stratum the launches still to come until it is looked at.
pub(crate) type Countdowns = [AtomicU32; STRATA];

/// The countdowns of a thread, and what stands behind each.
pub(crate) struct Table {
    left: &'static Countdowns,
    /// A thread's own but when all are summed up; never held across a driver's call.
    strata: Mutex<Strata>,
}

struct Strata {
    /// For each countdown its place in `known` plus one; 0 before its first launch.
    places: Vec<u16>,
    known: Vec<Stratum>,
    launches: u64,
    /// Of all samples.
    mean_ns: u64,
    /// GPU time that was added and should not have been: what comes next is less by so much.
    excess_ns: u64,
    has_owner: bool,
}

struct Stratum {
    at: u16,
    /// Where the countdown stood when launches were last added up.
    begun: u32,
    /// Launches whose GPU time has not been added yet, and those whose has, with the time.
    unsettled: u64,
    settled: u64,
    settled_ns: u64,
    /// Launches from one visit to the next, about.
    stretch: u32,
    samples: u32,
    mean_ns: u64,
    /// No sample is to be expected: events must not be put around it.
    unmeasurable: bool,
    /// The next sample has to be beyond doubt.
    doubtful: bool,
}

/// A launch that is to be sampled.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    /// The place of its stratum.
    pub(super) place: usize,
    /// Another's time slice must not come between.
    pub(super) beyond_doubt: bool,
}

/// What may be done at a visit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Budget {
    /// No sample now.
    Spent,
    /// A sample.
    Enough,
    /// More samples than there are.
    Plenty,
}

/// All tables there ever were; as many as threads that launch at the same time.
static TABLES: Mutex<Vec<&'static Table>> = Mutex::new(Vec::new());

/// The stratum that a key falls into; keys are products of multiplicative hashing, whose high bits are the good ones.
#[inline]
fn stratum_of(key: u64) -> usize {
    (key >> (u64::BITS - STRATA_BITS)) as usize
}

/// Counts a launch; true when it is the stratum's turn to be looked at.
#[inline]
pub(crate) fn is_due(left: &Countdowns, key: u64) -> bool {
    let left = &left[stratum_of(key)];
    // Plain stores: the thread's own. Others read it when they sum up.
    let before = left.load(Relaxed);
    left.store(before.wrapping_sub(1), Relaxed);
    before == 0
}

impl Table {
    /// A table for a thread that begins to launch, and how many there had been before it; none where memory is short.
    pub(super) fn adopt_or_make() -> Option<(&'static Self, usize)> {
        let mut tables = TABLES.lock();
        let orphan = tables.iter().position(|table| !std::mem::replace(&mut table.strata.lock().has_owner, true));
        if let Some(number) = orphan {
            return Some((tables[number], number));
        }
        // On the heap from the start: the thread's stack may be small.
        let left: Box<[AtomicU32]> = (0..STRATA).map(|_| AtomicU32::new(0)).collect();
        let left: &'static Countdowns = Box::leak(left.try_into().ok()?);
        let strata = Strata {
            places: vec![0; STRATA],
            known: Vec::new(),
            launches: 0,
            mean_ns: 0,
            excess_ns: 0,
            has_owner: true,
        };
        let table: &'static Self = Box::leak(Box::new(Self { left, strata: Mutex::new(strata) }));
        tables.push(table);
        Some((table, tables.len() - 1))
    }

    /// What the thread counts down.
    pub(crate) fn countdowns(&self) -> &'static Countdowns {
        self.left
    }

    /// The thread ends.
    pub(super) fn leave(&self) {
        let mut strata = self.strata.lock();
        strata.settle(self.left, false);
        strata.has_owner = false;
    }

    /// No sample is wanted, ever: the countdown runs once round 2^32 launches.
    pub(super) fn silence(&self, key: u64) {
        self.left[stratum_of(key)].store(u32::MAX, Relaxed);
    }

    /// The stratum of `key` is due: whether, and how, this launch is to be sampled. `random` is any number.
    pub(super) fn visit(
        &self,
        key: u64,
        measurable: bool,
        random: u32,
        budget: impl Fn(u64) -> Budget,
    ) -> Option<Turn> {
        let mut strata = self.strata.lock();
        let (place, is_new) = strata.place_of(stratum_of(key));
        let left = &self.left[stratum_of(key)];
        strata.count(place, left);
        let budget = budget(strata.launches);
        let stratum = &mut strata.known[place];
        stratum.unmeasurable |= !measurable;
        // The first launch of a function loads its code.
        let sampled = !is_new && measurable && budget != Budget::Spent;
        if !is_new {
            stratum.stretch = match budget {
                Budget::Plenty if stratum.samples >= LEARNING_SAMPLES && sampled => stratum.stretch / 2,
                Budget::Enough if stratum.samples >= LEARNING_SAMPLES && sampled => stratum.stretch,
                _ => (2 * stratum.stretch + 1).min(STRETCH_MAX),
            };
        }
        // Spread, so that no period of the program is hit or missed.
        stratum.begun = stratum.stretch / 2 + random % (stratum.stretch + 1);
        left.store(stratum.begun, Relaxed);
        sampled.then_some(Turn { place, beyond_doubt: stratum.doubtful })
    }

    /// No sample came of it after all: another one soon.
    pub(super) fn again(&self, place: usize) {
        let mut strata = self.strata.lock();
        let at = strata.known[place].at as usize;
        strata.count(place, &self.left[at]);
        let stratum = &mut strata.known[place];
        stratum.stretch = (stratum.stretch / 2).max(1);
        stratum.begun = stratum.begun.min(stratum.stretch);
        self.left[at].store(stratum.begun, Relaxed);
    }

    /// Takes a sample's time into account, as far as it is believed.
    pub(super) fn learn(&self, place: usize, time_ns: u64, verdict: Verdict) {
        if matches!(verdict, Verdict::Contended | Verdict::Doubtful) {
            self.again(place);
        }
        let mut strata = self.strata.lock();
        let stratum = &mut strata.known[place];
        match verdict {
            Verdict::Contended => return,
            Verdict::Doubtful => return stratum.doubtful = true,
            Verdict::Believed => {}
            Verdict::Corrects => {
                let right_ns = stratum.settled.saturating_mul(time_ns);
                let excess_ns = stratum.settled_ns.saturating_sub(right_ns);
                (stratum.settled_ns, stratum.samples, stratum.mean_ns) = (right_ns, 0, 0);
                strata.excess_ns += excess_ns;
            }
        }
        let stratum = &mut strata.known[place];
        stratum.samples = stratum.samples.saturating_add(1);
        stratum.mean_ns = drift(stratum.mean_ns, time_ns, u64::from(stratum.samples).min(MEMORY_SAMPLES));
        stratum.doubtful = false;
        strata.mean_ns = drift(strata.mean_ns, time_ns, 256);
    }
}

/// Adds the GPU time of all launches so far; `last` when no more are to come.
pub(crate) fn settle_all(last: bool) {
    let Some(tables) = TABLES.try_lock() else {
        return;
    };
    let mut launches = 0;
    for table in tables.iter() {
        if let Some(mut strata) = table.strata.try_lock() {
            strata.settle(table.left, last);
            launches += strata.launches;
        }
    }
    let samples = segment::value(Statistic::GpuSamples);
    segment::set(Statistic::SampleInterval, launches.checked_div(samples).unwrap_or(0));
}

impl Strata {
    /// The place of a stratum, and whether it is new.
    fn place_of(&mut self, at: usize) -> (usize, bool) {
        let is_new = self.places[at] == 0;
        if is_new {
            let stratum = Stratum {
                at: at as u16,
                begun: 0,
                unsettled: 0,
                settled: 0,
                settled_ns: 0,
                stretch: 0,
                samples: 0,
                mean_ns: 0,
                unmeasurable: false,
                doubtful: false,
            };
            self.known.push(stratum);
            self.places[at] = self.known.len() as u16;
        }
        (self.places[at] as usize - 1, is_new)
    }

    /// Adds up the launches since the countdown was last looked at.
    fn count(&mut self, place: usize, left: &AtomicU32) {
        let stratum = &mut self.known[place];
        // Past zero when the thread is on its way to `visit`: that launch counts too.
        let now = left.load(Relaxed);
        let launches = u64::from(stratum.begun.wrapping_sub(now));
        stratum.begun = now;
        stratum.unsettled += launches;
        self.launches += launches;
    }

    fn settle(&mut self, left: &Countdowns, last: bool) {
        let mut time_ns = 0;
        for place in 0..self.known.len() {
            self.count(place, &left[self.known[place].at as usize]);
            let stratum = &mut self.known[place];
            let mean_ns = match stratum.mean_ns {
                // Never sampled, and never to be: as long as the others are.
                0 if stratum.unmeasurable || last => self.mean_ns,
                mean_ns => mean_ns,
            };
            if mean_ns != 0 {
                let launches = std::mem::take(&mut stratum.unsettled);
                stratum.settled += launches;
                stratum.settled_ns += launches.saturating_mul(mean_ns);
                time_ns += launches.saturating_mul(mean_ns);
            }
        }
        let withheld_ns = self.excess_ns.min(time_ns);
        self.excess_ns -= withheld_ns;
        segment::add(Statistic::GpuTime, time_ns - withheld_ns);
    }
}

/// A running mean over about `span` values; the first one is taken as it is.
fn drift(mean: u64, value: u64, span: u64) -> u64 {
    if mean == 0 { value } else { (mean * (span - 1) + value) / span }
}
