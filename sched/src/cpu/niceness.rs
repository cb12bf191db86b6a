//! Which nice value, by rank and by how busy the GPU is. Pure: no clock, no system call.

use aishim_abi::rank::Priority;

/// Above this the GPU is saturated, in percent; below [`UNSATURATED_PERCENT`] it is so no longer.
const SATURATED_PERCENT: u32 = 90;
const UNSATURATED_PERCENT: u32 = 80;

/// Below this it waits for launches, in percent; above [`NOT_WAITING_PERCENT`] it does so no longer.
const WAITING_PERCENT: u32 = 60;
const NOT_WAITING_PERCENT: u32 = 70;

/// How long another state must last until it counts: a second of data loading, or of one long kernel, is no state.
const SETTLED_NS: u64 = 1_000_000_000;

/// The lowest and the highest nice value (setpriority(2)).
const NICE: (i32, i32) = (-20, 19);

/// What the file of settings says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether nice values are changed at all.
    pub is_on: bool,
    /// What is added for the latency-critical while the GPU waits for launches: -20 to 0.
    pub latency_critical: i32,
    /// What is added for the best-effort while it is saturated: 0 to 19.
    pub best_effort: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { is_on: true, latency_critical: -5, best_effort: 5 }
    }
}

/// How busy a GPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// It waits for launches.
    Waiting,
    /// Neither, or it is not known.
    #[default]
    Between,
    /// It has more than it can do.
    Saturated,
}

/// The load of one GPU, slow to change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauge {
    load: Load,
    /// Another load that was seen, and since when.
    other: Option<(Load, u64)>,
}

impl Gauge {
    /// The load, given what the utilisation is now; none where that is not known.
    pub fn update(&mut self, percent: Option<u32>, now_ns: u64) -> Load {
        let seen = self.seen(percent);
        match self.other {
            _ if seen == self.load => self.other = None,
            Some((other, since_ns)) if other == seen => {
                if now_ns.saturating_sub(since_ns) >= SETTLED_NS {
                    (self.load, self.other) = (seen, None);
                }
            }
            _ => self.other = Some((seen, now_ns)),
        }
        self.load
    }

    fn seen(self, percent: Option<u32>) -> Load {
        match (percent, self.load) {
            (None, _) => Load::Between,
            (Some(percent), load) => {
                let stays = |which| load == which;
                if percent > SATURATED_PERCENT || stays(Load::Saturated) && percent >= UNSATURATED_PERCENT {
                    Load::Saturated
                } else if percent < WAITING_PERCENT || stays(Load::Waiting) && percent <= NOT_WAITING_PERCENT {
                    Load::Waiting
                } else {
                    Load::Between
                }
            }
        }
    }
}

/// What is added to the nice values of a client of that rank on GPUs of those loads.
///
/// The more important than normal are latency-critical, the less important best-effort. One of several GPUs that waits is reason
/// to hurry; only if all are saturated nothing is lost by being slow.
#[must_use]
pub fn offset(rank: Priority, loads: &[Load], settings: Settings) -> i32 {
    let all = |load| !loads.is_empty() && loads.iter().all(|l| *l == load);
    match rank.cmp(&Priority::NORMAL) {
        _ if !settings.is_on => 0,
        std::cmp::Ordering::Greater if loads.contains(&Load::Waiting) => settings.latency_critical,
        std::cmp::Ordering::Less if all(Load::Saturated) => settings.best_effort,
        _ => 0,
    }
}

/// The nice value of what had `before` without us.
#[must_use]
pub fn nice(before: i32, offset: i32) -> i32 {
    before.saturating_add(offset).clamp(NICE.0, NICE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn rank(number: u32) -> Priority {
        Priority::new(number).unwrap()
    }

    #[test]
    fn a_load_counts_once_it_has_lasted_a_second() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.update(Some(95), 0), Load::Between);
        assert_eq!(gauge.update(Some(95), 500 * MS), Load::Between);
        assert_eq!(gauge.update(Some(95), 1_000 * MS), Load::Saturated);
        assert_eq!(gauge.update(Some(10), 1_500 * MS), Load::Saturated);
        assert_eq!(gauge.update(Some(95), 2_000 * MS), Load::Saturated, "one gap is none");
        assert_eq!(gauge.update(Some(10), 2_500 * MS), Load::Saturated);
        assert_eq!(gauge.update(Some(10), 3_500 * MS), Load::Waiting);
        assert_eq!(gauge.update(None, 4_000 * MS), Load::Waiting);
        assert_eq!(gauge.update(None, 5_000 * MS), Load::Between, "not known any more");
    }

    #[test]
    fn what_sways_about_a_threshold_changes_nothing() {
        let mut gauge = Gauge::default();
        let changes = |gauge: &mut Gauge, from: u64, low: u32, high: u32| {
            let at = |n: u64| (from + n) * 500 * MS;
            let loads: Vec<_> =
                (0..100).map(|n| gauge.update(Some(if n / 4 % 2 == 0 { low } else { high }), at(n))).collect();
            loads.windows(2).filter(|pair| pair[0] != pair[1]).count()
        };
        assert_eq!(changes(&mut gauge, 0, 95, 82), 1);
        assert_eq!(changes(&mut gauge, 1_000, 55, 69), 1);
        assert_eq!(changes(&mut gauge, 2_000, 65, 89), 1, "between, and no more");
    }

    #[test]
    fn offsets_are_those_of_rank_and_load() {
        use Load::{Between, Saturated, Waiting};
        let settings = Settings { is_on: true, latency_critical: -7, best_effort: 3 };
        let of = |number, loads: &[Load]| offset(rank(number), loads, settings);
        assert_eq!((of(80, &[Waiting]), of(80, &[Between]), of(80, &[Saturated])), (-7, 0, 0));
        assert_eq!((of(5, &[Waiting]), of(5, &[Between]), of(5, &[Saturated])), (0, 0, 3));
        assert_eq!((of(20, &[Waiting]), of(20, &[Saturated]), of(5, &[]), of(80, &[])), (0, 0, 0, 0));
        assert_eq!((of(80, &[Saturated, Waiting]), of(5, &[Saturated, Between])), (-7, 0));
        assert_eq!(offset(rank(80), &[Waiting], Settings { is_on: false, ..settings }), 0);
        assert_eq!((nice(0, -7), nice(-18, -7), nice(18, 3), nice(i32::MAX, 1)), (-7, -20, 19, 19));
    }
}
