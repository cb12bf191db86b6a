//! The floor: all that wait together behind more important ones have at least 2 % of the GPU time of any second.
//!
//! Time is cut into periods of 100 ms while anybody wants. Three quarters into one, those ranks are looked at that
//! wanted from its start and saw a more important one want. Beginning with the lowest, ranks are taken together as
//! long as what they have used in the period stays below the floor; if there are any, all gates open, until these
//! have used their floor or the period ends.
//!
//! *Taken together from below*, because a floor for all that wait behind the first is no promise to the last: where
//! rank 80 uses a fifth and rank 20 the rest, those below the first have had 80 %, and rank 5 nothing. And not a
//! floor for each rank: fifty of them would leave nothing of the order.
//!
//! *2.25 ms in each period*, because any second contains nine whole ones, and 9 x 2.25 > 20. The openings cost the
//! important ones what they are for and no more, but for the last report: used time is known as often as it is told.

use super::Group;

/// The GPU time that those who wait together have in each period.
pub const FLOOR_NS: u64 = 2_250_000;
/// What the time is cut into.
pub const PERIOD_NS: u64 = 100_000_000;
/// How far into a period the gates open where that is needed.
pub const OPENING_AT_NS: u64 = 75_000_000;

/// An opening is worth so much at least: what the lower ones of those that wait need, if the others have had nearly
/// all.
const LEAST_OPENING_NS: u64 = FLOOR_NS / 2;

/// A set of ranks, by bit; there are 101.
type Ranks = u128;

#[derive(Debug, Default)]
pub(super) struct Floor {
    wanting: Ranks,
    period: Option<Period>,
    open_until_ns: u64,
}

#[derive(Debug)]
struct Period {
    since_ns: u64,
    /// Those that have wanted all the time.
    waiting: Ranks,
    /// Those that have wanted at any time.
    seen: Ranks,
    used_ns: [u64; Group::COUNT],
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Before the opening.
    Counting,
    /// These have the gates open until they have used so much.
    Open { owed: Ranks, until_used_ns: u64 },
    /// Nobody was owed anything, or has had it.
    Done,
}

impl Floor {
    /// Whether anybody of that rank wants.
    pub(super) fn wants(&mut self, group: Group, any: bool, now_ns: u64) {
        self.wanting = if any { self.wanting | bit(group) } else { self.wanting & !bit(group) };
        match &mut self.period {
            None if self.wanting != 0 => self.period = Some(Period::from(now_ns, self.wanting)),
            Some(_) if self.wanting == 0 => self.period = None,
            Some(period) => {
                // Of one instant, as at a switch of policies, all have wanted from its start.
                period.waiting = if period.since_ns == now_ns { self.wanting } else { period.waiting & self.wanting };
                period.seen |= self.wanting;
            }
            None => (),
        }
    }

    /// What a client of that rank has used.
    pub(super) fn used(&mut self, group: Group, gpu_ns: u64) {
        if let Some(used_ns) = self.period.as_mut().and_then(|period| period.used_ns.get_mut(group.index())) {
            *used_ns = used_ns.saturating_add(gpu_ns);
        }
    }

    /// To be called after every change: until when the gates are open, if that is news.
    pub(super) fn settle(&mut self, now_ns: u64) -> Option<u64> {
        let is_over = |period: &Period| now_ns.saturating_sub(period.since_ns) >= PERIOD_NS;
        if self.period.as_ref().is_some_and(is_over) {
            self.period = Some(Period::from(now_ns, self.wanting));
        }
        let open_until_ns = self.period.as_mut().map_or(0, |period| period.settle(now_ns));
        // One that ends by itself needs no word.
        let was_open = self.open_until_ns > now_ns;
        let is_news = open_until_ns != self.open_until_ns && (was_open || open_until_ns > now_ns);
        self.open_until_ns = open_until_ns;
        is_news.then_some(open_until_ns)
    }

    pub(super) fn wake_ns(&self) -> Option<u64> {
        let period = self.period.as_ref()?;
        let next_ns = if matches!(period.stage, Stage::Counting) { OPENING_AT_NS } else { PERIOD_NS };
        Some(period.since_ns.saturating_add(next_ns))
    }
}

impl Period {
    fn from(since_ns: u64, wanting: Ranks) -> Self {
        Self { since_ns, waiting: wanting, seen: wanting, used_ns: [0; Group::COUNT], stage: Stage::Counting }
    }

    /// Until when the gates are open; 0 for closed.
    fn settle(&mut self, now_ns: u64) -> u64 {
        if matches!(self.stage, Stage::Counting) && now_ns.saturating_sub(self.since_ns) >= OPENING_AT_NS {
            self.stage = self.owed().map_or(Stage::Done, |(owed, until_used_ns)| Stage::Open { owed, until_used_ns });
        }
        if let Stage::Open { owed, until_used_ns } = self.stage
            && (self.used_by(owed) >= until_used_ns || self.waiting & owed == 0)
        {
            self.stage = Stage::Done;
        }
        let is_open = matches!(self.stage, Stage::Open { .. });
        if is_open { self.since_ns.saturating_add(PERIOD_NS) } else { 0 }
    }

    /// The ranks that have waited for too little, and how much they will have used when they have had enough.
    fn owed(&self) -> Option<(Ranks, u64)> {
        let first = self.seen.checked_ilog2()?;
        let behind = self.waiting & !(1 << first);
        let mut owed = 0;
        let mut used_ns = 0u64;
        for rank in ranks(behind) {
            let with_it_ns = used_ns.saturating_add(self.used_by(1 << rank));
            if with_it_ns >= FLOOR_NS {
                break;
            }
            owed |= 1 << rank;
            used_ns = with_it_ns;
        }
        (owed != 0).then(|| (owed, FLOOR_NS.max(used_ns + LEAST_OPENING_NS)))
    }

    fn used_by(&self, of: Ranks) -> u64 {
        ranks(of).filter_map(|rank| self.used_ns.get(rank)).fold(0, |sum, used_ns| sum.saturating_add(*used_ns))
    }
}

fn bit(group: Group) -> Ranks {
    1 << group.index()
}

/// The lowest first.
fn ranks(mut of: Ranks) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (of != 0).then(|| of.trailing_zeros() as usize)?;
        of &= of - 1;
        Some(lowest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Priority;

    const MS: u64 = 1_000_000;

    fn group(level: u8) -> Group {
        Group::of(Priority::new(level).unwrap())
    }

    fn floor_with(levels: &[u8]) -> Floor {
        let mut floor = Floor::default();
        for level in levels {
            floor.wants(group(*level), true, 0);
        }
        assert_eq!(floor.settle(0), None);
        floor
    }

    #[test]
    fn the_gates_open_for_whoever_got_nothing_and_close_when_they_had_their_share() {
        let mut floor = floor_with(&[80, 20]);
        floor.used(group(80), 70 * MS);
        assert_eq!(floor.settle(74 * MS), None);
        assert_eq!(floor.wake_ns(), Some(75 * MS));
        assert_eq!(floor.settle(75 * MS), Some(100 * MS));
        floor.used(group(20), 2 * MS);
        assert_eq!(floor.settle(80 * MS), None);
        floor.used(group(20), MS);
        assert_eq!(floor.settle(82 * MS), Some(0));
        assert_eq!(floor.wake_ns(), Some(100 * MS));
    }

    #[test]
    fn nothing_opens_for_those_that_had_enough_or_did_not_wait_throughout_or_are_first() {
        let mut enough = floor_with(&[80, 20]);
        enough.used(group(20), 3 * MS);
        assert_eq!(enough.settle(75 * MS), None);

        let mut came_later = floor_with(&[80]);
        came_later.wants(group(20), true, MS);
        assert_eq!(came_later.settle(75 * MS), None);

        let mut alone = floor_with(&[20]);
        assert_eq!(alone.settle(75 * MS), None);
        assert_eq!(alone.settle(175 * MS), None);
    }

    /// The ones in the middle have nearly all of the GPU, so that those below the first have had their share together,
    /// and the last would never have any.
    #[test]
    fn the_last_are_not_forgotten_behind_the_middle() {
        let mut floor = floor_with(&[80, 20, 5]);
        floor.used(group(80), 15 * MS);
        floor.used(group(20), 60 * MS);
        assert_eq!(floor.settle(75 * MS), Some(100 * MS));
        floor.used(group(20), 2 * MS);
        assert_eq!(floor.settle(78 * MS), None);
        floor.used(group(5), 3 * MS);
        assert_eq!(floor.settle(80 * MS), Some(0));
    }

    /// The more important one falls idle for a moment again and again: its waiting neighbours' count must go on.
    #[test]
    fn a_flapping_first_does_not_reset_the_count() {
        let mut floor = floor_with(&[80, 20]);
        for ms in 1..75 {
            floor.wants(group(80), ms % 2 == 0, ms * MS);
            assert_eq!(floor.settle(ms * MS), None);
        }
        assert_eq!(floor.settle(75 * MS), Some(100 * MS));
    }

    #[test]
    fn an_opening_ends_when_those_it_is_for_no_longer_want() {
        let mut floor = floor_with(&[80, 20]);
        assert_eq!(floor.settle(75 * MS), Some(100 * MS));
        floor.wants(group(20), false, 76 * MS);
        assert_eq!(floor.settle(76 * MS), Some(0));
    }
}
