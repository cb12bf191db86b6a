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
//! A countdown is looked at before the launch: one that has run out says that this launch is to be visited, and perhaps
//! sampled. (It was counted down after the call once, while its cache line came in behind the driver's work, and a bit that
//! strata shared said that the stratum's *next* launch was the one to sample. Of kernels launched in turn, another of the
//! same bit always came first.)
//!
//! A table belongs to one launching thread, and goes to another when that thread ends: a program that starts a thread
//! for each request would learn everything anew with each.

use super::learnt::Verdict;
use crate::segment::{self, segment};
use aishim_abi::layout::{COUNTDOWNS, Shard, Window};
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::sync::atomic::{
    AtomicU8, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// Strata, a power of two: as many as a shard has countdowns.
const STRATA: usize = COUNTDOWNS;
const STRATA_BITS: u32 = STRATA.trailing_zeros();

/// The most launches of a stratum from one look at it to the next, about. A countdown is a byte, so a stretch may take
/// several.
const STRETCH_MAX: u32 = 4096;

const _: () = assert!(STRATA.is_power_of_two());

/// So many samples of a stratum come at growing distances, from the second launch on; later ones as the budget allows.
const LEARNING_SAMPLES: u32 = 6;

/// A mean follows about the last so many samples.
const MEMORY_SAMPLES: u64 = 64;

/// For each stratum the launches still to come until it is looked at.
type Countdowns = [AtomicU8; STRATA];

/// The countdowns of a thread, which lie in its shard, and what stands behind each.
pub(crate) struct Table {
    shard: &'static Shard,
    /// The shard's histogram; none where the shard is no part of the segment, for want of one that was free.
    window: Option<&'static Window>,
    /// Mean GPU time of a launch by stratum, in nanoseconds; 0 while nothing is known. For the gate, which takes no lock.
    means_ns: Box<[AtomicU32; STRATA]>,
    /// A thread's own but when all are summed up; never held across a driver's call.
    strata: Mutex<Strata>,
}

/// Mean GPU time of all launches whose time is known, in nanoseconds; 0 while nothing is.
static OVERALL_NS: AtomicU32 = AtomicU32::new(0);

/// What a launch is taken to last while nothing is known of any.
const UNKNOWN_NS: u32 = 10_000;

struct Strata {
    /// For each countdown its place in `known` plus one; 0 before its first launch.
    places: Vec<u16>,
    known: Vec<Stratum>,
    launches: u64,
    /// Launches whose GPU time has been added, and the time.
    settled: u64,
    settled_ns: u64,
    /// GPU time that was added and should not have been: what comes next is less by so much.
    excess_ns: u64,
    has_owner: bool,
}

struct Stratum {
    at: u16,
    /// Where the countdown stood when launches were last added up.
    begun: u8,
    /// Launches whose GPU time has not been added yet, and those whose has, with the time.
    unsettled: u64,
    settled: u64,
    settled_ns: u64,
    /// Launches from one look to the next, about, and those of them that are not in the countdown yet.
    stretch: u32,
    rest: u32,
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
pub(crate) fn stratum_of(key: u64) -> usize {
    (key >> (u64::BITS - STRATA_BITS)) as usize
}

/// Counts a launch that is about to be made; false when the countdown has run out, and it is not counted but to be visited.
#[inline]
pub(crate) fn is_counted(shard: &Shard, stratum: usize) -> bool {
    let left = &shard.countdowns[stratum % STRATA];
    // Plain stores: the thread's own. Others read it when they sum up.
    let Some(less) = left.load(Relaxed).checked_sub(1) else {
        return false;
    };
    left.store(less, Relaxed);
    true
}

impl Table {
    /// A table for a thread that begins to launch, and how many there had been before it; none where memory is short.
    pub(super) fn adopt_or_make() -> Option<(&'static Self, usize)> {
        let mut tables = TABLES.lock();
        let orphan = tables.iter().position(|table| !std::mem::replace(&mut table.strata.lock().has_owner, true));
        let number = match orphan {
            Some(number) => number,
            None => {
                let number = tables.len();
                tables.push(Self::make(number)?);
                number
            }
        };
        let table = tables[number];
        // SAFETY: gettid(2) has no preconditions.
        let tid = unsafe { libc::gettid() }.cast_unsigned();
        // Acquire: the counts of the owner before us are seen before ours are added to them.
        let _ = table.shard.owner_tid.compare_exchange(0, tid, Acquire, Relaxed);
        Some((table, number))
    }

    /// The `number`th table: with one of the segment's shards while there are any, but for the first of them, which
    /// threads share.
    fn make(number: usize) -> Option<&'static Self> {
        let own = number + 1;
        let (shard, window) = match (segment().shards.get(own), segment().launches.get(own)) {
            (Some(shard), Some(window)) => (shard, Some(window)),
            _ => (unshared()?, None),
        };
        let strata = Strata {
            places: vec![0; STRATA],
            known: Vec::new(),
            launches: 0,
            settled: 0,
            settled_ns: 0,
            excess_ns: 0,
            has_owner: true,
        };
        let means_ns = Box::new([const { AtomicU32::new(0) }; STRATA]);
        Some(Box::leak(Box::new(Self { shard, window, means_ns, strata: Mutex::new(strata) })))
    }

    /// Where the thread counts, and counts down.
    pub(crate) fn shard(&self) -> &'static Shard {
        self.shard
    }

    /// Its histogram, if the thread has one to itself.
    pub(crate) fn window(&self) -> Option<&'static Window> {
        self.window
    }

    /// How long a launch of the stratum is expected to keep the GPU busy, in nanoseconds; never 0.
    #[inline]
    pub(crate) fn expected_ns(&self, stratum: usize) -> u64 {
        let known = self.means_ns[stratum % STRATA].load(Relaxed);
        u64::from(if known == 0 { usual_ns() } else { known })
    }

    fn left(&self) -> &'static Countdowns {
        &self.shard.countdowns
    }

    /// The thread ends.
    pub(super) fn leave(&self) {
        let mut strata = self.strata.lock();
        strata.settle(self.left(), false);
        // Release: pairs with the claim above.
        self.shard.owner_tid.store(0, Release);
        strata.has_owner = false;
    }

    /// No sample is wanted, ever.
    pub(super) fn silence(&self, stratum: usize) {
        self.left()[stratum].store(u8::MAX, Relaxed);
    }

    /// A launch is about to be made whose stratum's countdown has run out: whether, and how, it is to be sampled.
    /// `random` is any number.
    pub(super) fn visit(
        &self,
        stratum: usize,
        measurable: bool,
        random: u32,
        budget: impl Fn(u64, bool) -> Budget,
    ) -> Option<Turn> {
        let mut strata = self.strata.lock();
        let is_first = strata.places[stratum] == 0;
        let place = strata.place_of(stratum);
        let left = &self.left()[stratum];
        strata.count(place, left);
        // This one has not been counted down.
        strata.launches += 1;
        let launches = strata.launches;
        let known = &mut strata.known[place];
        known.unsettled += 1;
        known.unmeasurable |= !measurable;
        if known.rest > 0 {
            known.go_on(left);
            return None;
        }
        if is_first {
            // It loads code; the next one is to be visited.
            return None;
        }
        let budget = if measurable { budget(launches, known.samples == 0) } else { Budget::Spent };
        known.stretch = match budget {
            Budget::Plenty if known.samples >= LEARNING_SAMPLES => known.stretch / 2,
            Budget::Enough if known.samples >= LEARNING_SAMPLES => known.stretch,
            _ => (2 * known.stretch + 1).min(STRETCH_MAX),
        };
        known.begin(left, random);
        (budget != Budget::Spent).then_some(Turn { place, beyond_doubt: known.doubtful })
    }

    /// Another sample soon. (One of which nothing came is not worth that: what kept it may keep the next.)
    fn again(&self, place: usize) {
        let mut strata = self.strata.lock();
        let at = strata.known[place].at as usize;
        strata.count(place, &self.left()[at]);
        let stratum = &mut strata.known[place];
        stratum.stretch = (stratum.stretch / 2).max(1);
        stratum.rest = u32::from(stratum.begun).min(stratum.stretch);
        stratum.go_on(&self.left()[at]);
    }

    /// Takes a sample's time into account, as far as it is believed.
    pub(super) fn learn(&self, place: usize, time_ns: u64, verdict: Verdict) {
        if verdict == Verdict::Doubtful {
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
                strata.settled_ns = strata.settled_ns.saturating_sub(excess_ns);
            }
        }
        let stratum = &mut strata.known[place];
        stratum.samples = stratum.samples.saturating_add(1);
        stratum.mean_ns = drift(stratum.mean_ns, time_ns, u64::from(stratum.samples).min(MEMORY_SAMPLES));
        stratum.doubtful = false;
        let (at, mean_ns) = (usize::from(stratum.at), stratum.mean_ns);
        self.means_ns[at].store(u32::try_from(mean_ns).unwrap_or(u32::MAX), Relaxed);
    }
}

/// What a launch of which nothing is known is expected to last.
#[cold]
pub(crate) fn usual_ns() -> u32 {
    match OVERALL_NS.load(Relaxed) {
        0 => UNKNOWN_NS,
        mean_ns => mean_ns,
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
            strata.settle(table.left(), last);
            launches += strata.launches;
        }
    }
    let samples = segment::value(Statistic::GpuSamples);
    segment::set(Statistic::SampleInterval, launches.checked_div(samples).unwrap_or(0));
}

/// A shard that is no part of the segment: of it only the countdowns are used.
fn unshared() -> Option<&'static Shard> {
    let layout = std::alloc::Layout::new::<Shard>();
    // SAFETY: the layout has a size; zeroes are a shard.
    unsafe { std::alloc::alloc_zeroed(layout).cast::<Shard>().as_ref() }
}

impl Strata {
    /// The place of a stratum, given now where it has none.
    fn place_of(&mut self, at: usize) -> usize {
        if self.places[at] == 0 {
            let stratum = Stratum {
                at: at as u16,
                begun: 0,
                unsettled: 0,
                settled: 0,
                settled_ns: 0,
                stretch: 0,
                rest: 0,
                samples: 0,
                mean_ns: 0,
                unmeasurable: false,
                doubtful: false,
            };
            self.known.push(stratum);
            self.places[at] = self.known.len() as u16;
        }
        usize::from(self.places[at]) - 1
    }

    /// Adds up the launches since the countdown was last looked at.
    fn count(&mut self, place: usize, left: &AtomicU8) {
        let stratum = &mut self.known[place];
        let now = left.load(Relaxed);
        let launches = u64::from(stratum.begun.wrapping_sub(now));
        stratum.begun = now;
        stratum.unsettled += launches;
        self.launches += launches;
    }

    fn settle(&mut self, left: &Countdowns, last: bool) {
        let mut time_ns = 0;
        let overall_ns = self.settled_ns.checked_div(self.settled).unwrap_or(0);
        for place in 0..self.known.len() {
            self.count(place, &left[self.known[place].at as usize]);
            let stratum = &mut self.known[place];
            let mean_ns = match stratum.mean_ns {
                // Never sampled, and never to be: as long as the others are.
                0 if stratum.unmeasurable || last => overall_ns,
                mean_ns => mean_ns,
            };
            if mean_ns != 0 {
                let launches = std::mem::take(&mut stratum.unsettled);
                stratum.settled += launches;
                stratum.settled_ns += launches.saturating_mul(mean_ns);
                self.settled += launches;
                time_ns += launches.saturating_mul(mean_ns);
            }
        }
        self.settled_ns += time_ns;
        if let Some(mean_ns) = self.settled_ns.checked_div(self.settled) {
            OVERALL_NS.store(u32::try_from(mean_ns).unwrap_or(u32::MAX), Relaxed);
        }
        let withheld_ns = self.excess_ns.min(time_ns);
        self.excess_ns -= withheld_ns;
        segment::add(Statistic::GpuTime, time_ns - withheld_ns);
    }
}

impl Stratum {
    /// Begins a stretch, of a length spread so that no period of the program is hit or missed.
    fn begin(&mut self, left: &AtomicU8, random: u32) {
        self.rest = self.stretch / 2 + random % (self.stretch + 1);
        self.go_on(left);
    }

    /// The next part of it.
    fn go_on(&mut self, left: &AtomicU8) {
        self.begun = self.rest.min(u8::MAX.into()) as u8;
        self.rest -= u32::from(self.begun);
        left.store(self.begun, Relaxed);
    }
}

/// A running mean over about `span` values; the first one is taken as it is.
fn drift(mean: u64, value: u64, span: u64) -> u64 {
    if mean == 0 { value } else { (mean * (span - 1) + value) / span }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: usize = 77;

    /// A table that no other test is given: none of them lets go of its own.
    fn table() -> &'static Table {
        Table::adopt_or_make().expect("there is memory").0
    }

    fn always(budget: Budget) -> impl Fn(u64, bool) -> Budget {
        move |_, _| budget
    }

    /// A launch, as the handlers count it; true when it was sampled, or would have been.
    fn launch(table: &Table, stratum: usize, budget: Budget, random: u32) -> bool {
        !is_counted(table.shard, stratum) && table.visit(stratum, true, random, always(budget)).is_some()
    }

    fn unsampled(table: &Table, stratum: usize, launches: usize) {
        for _ in 0..launches {
            launch(table, stratum, Budget::Spent, 0);
        }
    }

    fn settle(table: &Table, last: bool) -> (u64, u64) {
        let mut strata = table.strata.lock();
        strata.settle(table.left(), last);
        (strata.settled, strata.settled_ns)
    }

    /// `launches` of `stratum`, after the first of which a sample of `time_ns` is taken into account.
    fn launched(table: &Table, stratum: usize, launches: usize, time_ns: u64) -> usize {
        assert!(table.visit(stratum, true, 0, always(Budget::Enough)).is_none(), "the first launch loads code");
        let turn = table.visit(stratum, true, 0, always(Budget::Enough)).expect("the second launch is to be sampled");
        table.learn(turn.place, time_ns, Verdict::Believed);
        unsampled(table, stratum, launches - 2);
        turn.place
    }

    #[test]
    fn every_launch_is_counted_whatever_is_sampled() {
        for budget in [Budget::Spent, Budget::Enough, Budget::Plenty] {
            let table = table();
            for i in 0..10_000_u32 {
                launch(table, AT, budget, i.wrapping_mul(2_654_435_761));
                launch(table, AT + 64, budget, i);
            }
            settle(table, false);
            assert_eq!(table.strata.lock().launches, 20_000);
        }
    }

    #[test]
    fn samples_come_soon_at_first_then_far_apart_and_never_without_budget() {
        let samples = |budget, launches: u32| {
            let table = table();
            let sampled = (0..launches).filter(|i| launch(table, AT, budget, i.wrapping_mul(2_654_435_761)));
            sampled.collect::<Vec<_>>()
        };
        let enough = samples(Budget::Enough, 60_000);
        assert!(enough[0] == 1 && enough[1] < 10 && (12..40).contains(&enough.len()), "{enough:?}");
        assert!(samples(Budget::Spent, 20_000).is_empty());
    }

    #[test]
    fn none_is_sampled_where_events_would_disturb() {
        let table = table();
        for _ in 0..100 {
            assert!(table.visit(AT, false, 0, always(Budget::Plenty)).is_none());
        }
    }

    #[test]
    fn time_is_launches_times_mean() {
        let table = table();
        launched(table, AT, 100, 2_000);
        launched(table, AT + 1, 50, 8_000);
        assert_eq!(settle(table, false), (150, 100 * 2_000 + 50 * 8_000));
        // One that was never sampled is worth the mean of the others, once no sample is to come.
        unsampled(table, AT + 2, 30);
        assert_eq!(settle(table, false), (150, 600_000));
        assert_eq!(settle(table, true), (180, 600_000 + 30 * 4_000));
    }

    #[test]
    fn one_that_cannot_be_sampled_is_worth_the_others_at_once() {
        let table = table();
        launched(table, AT, 10, 3_000);
        settle(table, false);
        table.visit(AT + 1, false, 0, always(Budget::Plenty));
        assert_eq!(settle(table, false), (11, 11 * 3_000));
    }

    #[test]
    fn a_correction_undoes_what_was_added_too_much() {
        let table = table();
        let place = launched(table, AT, 10, 2_000_000);
        assert_eq!(settle(table, false), (10, 20_000_000));
        table.learn(place, 10_000, Verdict::Corrects);
        let strata = table.strata.lock();
        assert_eq!((strata.settled_ns, strata.excess_ns, strata.known[place].mean_ns), (100_000, 19_900_000, 10_000));
        drop(strata);
        // What is told next is less by so much.
        unsampled(table, AT, 100);
        assert_eq!((settle(table, false).1, table.strata.lock().excess_ns), (1_100_000, 18_900_000));
    }

    #[test]
    fn what_is_not_believed_changes_no_mean_and_is_asked_again() {
        let table = table();
        let place = launched(table, AT, 10, 5_000);
        table.learn(place, 2_000_000, Verdict::Contended);
        table.learn(place, 2_000_000, Verdict::Doubtful);
        assert_eq!(table.strata.lock().known[place].mean_ns, 5_000);
        let turn = (0..10_000).find_map(|_| table.visit(AT, true, 0, always(Budget::Enough)));
        assert!(turn.is_some_and(|turn| turn.beyond_doubt));
        table.learn(place, 5_000, Verdict::Believed);
        assert!(!table.strata.lock().known[place].doubtful);
    }

    #[test]
    fn a_mean_begins_with_its_first_value_and_follows_the_later_ones() {
        assert_eq!((drift(0, 700, 1), drift(700, 900, 2), drift(800, 800, 64)), (700, 800, 800));
    }
}
