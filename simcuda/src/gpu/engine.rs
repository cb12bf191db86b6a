//! The engines, shared by time.
//!
//! A copy engine serves first come, first served. The compute engine belongs to one process at a time: while others
//! want it, for a slice (2 ms) after which it goes to the next of them at a switching cost; while nobody else does, for
//! as long as it has work. Time is simulated: work starts when it is ready and the engine is free, however late the host
//! thread that stands for the engine wakes up, so wake-up latency does not add up.

use super::{SLOTS, SharedGpu, SlotIndex};
use crate::clock::{now_ns, sleep_until};
use crate::settings::Costs;
use std::sync::atomic::Ordering;

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Engine {
    Compute,
    CopyToDevice,
    CopyFromDevice,
}

const NOBODY: u64 = 0xff;
const TIME_BITS: u32 = 56;
pub(super) const IDLE: u64 = NOBODY << TIME_BITS;

/// An owner that has reserved nothing for so long has no work, was killed or was stopped.
const GRACE_NS: u64 = 300_000;
/// How long a wish for the engine counts that is not renewed.
const WISH_NS: u64 = 5_000_000;
/// A reservation further ahead than this was not made by any of us.
const HORIZON_NS: u64 = 10_000_000_000;

/// The compute engine's word: the owner's slot above, the end of what is reserved below.
#[derive(Clone, Copy)]
struct Word {
    owner: u64,
    free_ns: u64,
}

impl Word {
    fn unpack(word: u64, now_ns: u64) -> Self {
        let free_ns = word & ((1 << TIME_BITS) - 1);
        Self { owner: word >> TIME_BITS, free_ns: if free_ns > now_ns + HORIZON_NS { now_ns } else { free_ns } }
    }

    fn pack(owner: u64, free_ns: u64) -> u64 {
        owner << TIME_BITS | free_ns & ((1 << TIME_BITS) - 1)
    }
}

impl SharedGpu {
    /// Takes `duration_ns` of `engine` for work that is ready at `ready_ns`, and returns when it is over: the time at
    /// which it ended.
    pub(crate) fn run(&self, engine: Engine, slot: SlotIndex, ready_ns: u64, duration_ns: u64, costs: &Costs) -> u64 {
        let (mut at_ns, mut left_ns) = (ready_ns, duration_ns);
        loop {
            let chunk_ns = left_ns.min(costs.slice_ns);
            at_ns = match engine {
                Engine::Compute => self.reserve_compute(slot, at_ns, chunk_ns, costs),
                Engine::CopyToDevice => self.reserve_copy(0, at_ns, chunk_ns),
                Engine::CopyFromDevice => self.reserve_copy(1, at_ns, chunk_ns),
            };
            left_ns -= chunk_ns;
            sleep_until(at_ns);
            if engine == Engine::Compute {
                self.layout.slots[slot.0].add_busy(at_ns, chunk_ns);
            }
            if left_ns == 0 {
                return at_ns;
            }
        }
    }

    /// Says that this process has no compute work now, so that nobody waits out its grace.
    pub(crate) fn yield_compute(&self, slot: SlotIndex) {
        let seen = self.layout.compute.load(Ordering::Acquire);
        let word = Word::unpack(seen, now_ns());
        if word.owner == slot.0 as u64 {
            let _ = self.swap(seen, Word::pack(NOBODY, word.free_ns));
        }
    }

    fn reserve_copy(&self, direction: usize, ready_ns: u64, duration_ns: u64) -> u64 {
        let free = &self.layout.copy_free_ns[direction];
        loop {
            let seen = free.load(Ordering::Relaxed);
            let free_ns = if seen > now_ns() + HORIZON_NS { 0 } else { seen };
            let end_ns = free_ns.max(ready_ns) + duration_ns;
            if free.compare_exchange(seen, end_ns, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return end_ns;
            }
        }
    }

    fn reserve_compute(&self, slot: SlotIndex, ready_ns: u64, duration_ns: u64, costs: &Costs) -> u64 {
        let me = slot.0 as u64;
        loop {
            let seen = self.layout.compute.load(Ordering::Acquire);
            let now = now_ns();
            let word = Word::unpack(seen, now);
            if word.owner == me {
                if self.hand_over(seen, word, me, now, costs) {
                    continue;
                }
                let end_ns = word.free_ns.max(ready_ns) + duration_ns;
                if self.swap(seen, Word::pack(me, end_ns)) {
                    return end_ns;
                }
            } else if word.owner == NOBODY || now > word.free_ns + GRACE_NS {
                let switch_ns =
                    if self.layout.last_owner.load(Ordering::Relaxed) == me { 0 } else { costs.take(costs.switch_ns) };
                let start_ns = word.free_ns.max(ready_ns) + switch_ns;
                if self.swap(seen, Word::pack(me, start_ns + duration_ns)) {
                    self.begin_slice(me, start_ns);
                    return start_ns + duration_ns;
                }
            } else {
                self.layout.slots[slot.0].wants_until_ns.store(now + WISH_NS, Ordering::Relaxed);
                sleep_until((now + 500_000).min(word.free_ns.max(now) + 20_000));
            }
        }
    }

    /// At the end of its slice the owner gives the engine to the next process that wants it. True if it did.
    fn hand_over(&self, seen: u64, word: Word, me: u64, now_ns: u64, costs: &Costs) -> bool {
        if word.free_ns.saturating_sub(self.layout.slice_start_ns.load(Ordering::Relaxed)) < costs.slice_ns {
            return false;
        }
        let Some(next) = self.next_wanting(me, now_ns) else {
            self.layout.slice_start_ns.store(word.free_ns.max(now_ns), Ordering::Relaxed);
            return false;
        };
        let start_ns = word.free_ns.max(now_ns) + costs.take(costs.switch_ns);
        if self.swap(seen, Word::pack(next, start_ns)) {
            self.begin_slice(next, start_ns);
        }
        true
    }

    fn next_wanting(&self, me: u64, now_ns: u64) -> Option<u64> {
        let candidates = (1..SLOTS).map(|step| (me as usize + step) % SLOTS);
        let wants =
            |index: &usize| self.slot(*index).is_some_and(|slot| slot.wants_until_ns.load(Ordering::Relaxed) > now_ns);
        candidates.into_iter().find(wants).map(|index| index as u64)
    }

    fn begin_slice(&self, owner: u64, start_ns: u64) {
        self.layout.slice_start_ns.store(start_ns, Ordering::Relaxed);
        self.layout.last_owner.store(owner, Ordering::Relaxed);
        if let Some(slot) = self.slot(owner as usize) {
            slot.wants_until_ns.store(0, Ordering::Relaxed);
        }
    }

    fn swap(&self, seen: u64, new: u64) -> bool {
        self.layout.compute.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
