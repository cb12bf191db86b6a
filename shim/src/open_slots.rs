//! Which slots of a table may have something open, so that who closes all of them looks at few.
//!
//! A bit a slot. It is set after the slot was opened and cleared before the slot is looked at, so a set bit may be out of
//! date but an open slot is never without one for longer than its opener takes to set it.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed, Release},
};

/// Slots a word.
pub(crate) const BITS: usize = u64::BITS as usize;

/// Bits for `WORDS * BITS` slots.
pub(crate) struct OpenSlots<const WORDS: usize>([AtomicU64; WORDS]);

impl<const WORDS: usize> OpenSlots<WORDS> {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// Notes that a slot has been opened.
    pub(crate) fn note(&self, slot: usize) {
        if let Some(word) = self.0.get(slot / BITS) {
            // Release: pairs with the acquire in `take`, so that who takes the bit finds the slot open.
            word.fetch_or(1 << (slot % BITS), Release);
        }
    }

    /// The slots noted since they were last taken; whoever takes one closes it.
    pub(crate) fn take(&self) -> impl Iterator<Item = usize> {
        let taken = |word: &AtomicU64| match word.load(Relaxed) {
            0 => 0,
            // Acquire: pairs with the release in `note`.
            _ => word.swap(0, AcqRel),
        };
        let ones = |mut bits: u64| {
            std::iter::from_fn(move || {
                let lowest = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (lowest < u64::BITS).then_some(lowest as usize)
            })
        };
        self.0.iter().enumerate().flat_map(move |(index, word)| ones(taken(word)).map(move |bit| index * BITS + bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn each_slot_once_in_order() {
        let slots = OpenSlots::<3>::new();
        for slot in [0, 63, 64, 130, 191, 64] {
            slots.note(slot);
        }
        assert_eq!(slots.take().collect::<Vec<_>>(), [0, 63, 64, 130, 191]);
        assert_eq!(slots.take().count(), 0);
    }

    /// Threads open slots while others close all: in the end every one that was opened has been closed, once.
    #[test]
    fn nothing_that_is_opened_stays_open() {
        const ROUNDS: usize = 200_000;
        let slots = OpenSlots::<2>::new();
        let open: [AtomicBool; 2 * BITS] = [const { AtomicBool::new(false) }; 2 * BITS];
        let (opened, closed) = (AtomicU64::new(0), AtomicU64::new(0));
        let close_all = || {
            // As in `streams`: a slot is looked at with a plain load first.
            let is_closed = |slot: &usize| open[*slot].load(Relaxed) && open[*slot].swap(false, Relaxed);
            closed.fetch_add(slots.take().filter(is_closed).count() as u64, Relaxed);
        };
        std::thread::scope(|scope| {
            for first in [0, 40, 80] {
                let (slots, open, opened) = (&slots, &open, &opened);
                scope.spawn(move || {
                    for slot in (0..ROUNDS).map(|i| (first + i * 7) % open.len()) {
                        if open[slot].compare_exchange(false, true, Relaxed, Relaxed).is_ok() {
                            slots.note(slot);
                            opened.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| (0..ROUNDS / 4).for_each(|_| close_all()));
            }
        });
        close_all();
        assert_eq!((opened.load(Relaxed), open.iter().filter(|o| o.load(Relaxed)).count()), (closed.load(Relaxed), 0));
    }
}
