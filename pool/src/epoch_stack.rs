//! Freed extents that wait, or are ready, to be handed out again: lock-free stacks of block indices.
//!
//! A stack is a word: the index on top and a count of pops, which makes a top that came back after others were
//! popped look different (ABA). The links lie in one array beside the memory, so nothing is ever reclaimed and a
//! stale read is harmless. With each link stands the epoch in which its extent was freed; an extent is popped only
//! when that epoch is safe, and because the link and the top are checked by one exchange, the answer is exact.
//!
//! Four stacks together, chosen by the epoch, keep what is safe from being buried under what was freed later: at most
//! three epochs are unsafe at a time, the open one and two whose marks are in flight.

use crate::{
    cells::Cells,
    sync::{AtomicU64, Ordering},
};

/// Bits of a block index; index 0 is no block and ends a stack.
const INDEX_BITS: u32 = 20;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const STACKS: usize = 4;

/// For each index, what lies below it in its stack and the epoch it was freed in.
#[derive(Debug)]
pub(crate) struct Links {
    cells: Cells,
}

/// The extents of one kind that are not live.
#[derive(Debug)]
pub(crate) struct EpochStacks {
    heads: [AtomicU64; STACKS],
}

impl Links {
    /// Links for `indices` indices.
    pub(crate) fn new(indices: u32) -> Self {
        Self { cells: Cells::new(indices) }
    }
}

impl EpochStacks {
    /// Empty stacks.
    pub(crate) fn new() -> Self {
        Self { heads: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Adds the extent at `index`, the caller's alone until now, freed in `epoch`.
    #[inline]
    pub(crate) fn push(&self, links: &Links, index: u32, epoch: u64) {
        if let (Some(head), Some(cell)) = (self.heads.get(epoch as usize % STACKS), links.cells.get(index)) {
            push(head, cell, index, epoch);
        }
    }

    /// Takes an extent that was freed in epoch `safe` or before.
    #[inline]
    pub(crate) fn pop(&self, links: &Links, safe: u64) -> Option<u32> {
        self.pop_if(links, safe, |_| true)
    }

    /// The same, if it `fits`: those on top are asked about. What is known of an extent may be out of date when it is
    /// asked about, and is not when it is then popped.
    #[inline]
    pub(crate) fn pop_if(&self, links: &Links, safe: u64, fits: impl Fn(u32) -> bool) -> Option<u32> {
        newest_first(safe).find_map(|place| pop(self.heads.get(place)?, links, safe, &fits))
    }

    /// Takes an extent from `other`, and with it all that lies below it, which comes here: who has run out is likely to
    /// need more, and comes back the less often.
    pub(crate) fn steal(&self, other: &Self, links: &Links, safe: u64) -> Option<u32> {
        newest_first(safe).find_map(|place| {
            let (mine, theirs) = (self.heads.get(place)?, other.heads.get(place)?);
            let top = cut(theirs, links, safe)?;
            let below = links.cells.get(top)?.load(Ordering::Relaxed) & INDEX_MASK;
            append(mine, links, below as u32);
            Some(top)
        })
    }
}

/// The places of the stacks, beginning with that of epoch `safe`.
fn newest_first(safe: u64) -> impl Iterator<Item = usize> {
    (0..STACKS as u64).map(move |older| safe.wrapping_sub(older) as usize % STACKS)
}

#[inline]
fn push(head: &AtomicU64, cell: &AtomicU64, index: u32, epoch: u64) {
    let mut seen = head.load(Ordering::Relaxed);
    loop {
        cell.store(epoch << INDEX_BITS | (seen & INDEX_MASK), Ordering::Relaxed);
        let new = (seen & !INDEX_MASK) | u64::from(index);
        // Release, for the Acquire in `pop`: who pops the extent sees its link, and what its last owner did before.
        match head.compare_exchange_weak(seen, new, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

#[inline]
fn pop(head: &AtomicU64, links: &Links, safe: u64, fits: &impl Fn(u32) -> bool) -> Option<u32> {
    take(head, links, safe, fits, |below| below)
}

/// Takes the top, and all that lies below it as a chain.
fn cut(head: &AtomicU64, links: &Links, safe: u64) -> Option<u32> {
    take(head, links, safe, &|_| true, |_| 0)
}

/// Takes the top; `left` says what the stack has left, given what lies below.
#[inline]
fn take(
    head: &AtomicU64,
    links: &Links,
    safe: u64,
    fits: &impl Fn(u32) -> bool,
    left: impl Fn(u64) -> u64,
) -> Option<u32> {
    let mut seen = head.load(Ordering::Acquire);
    loop {
        let index = (seen & INDEX_MASK) as u32;
        if index == 0 {
            return None;
        }
        let link = links.cells.get(index)?.load(Ordering::Relaxed);
        if link >> INDEX_BITS > safe || !fits(index) {
            return None;
        }
        let pops = (seen >> INDEX_BITS).wrapping_add(1);
        let new = pops << INDEX_BITS | left(link & INDEX_MASK);
        match head.compare_exchange_weak(seen, new, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => return Some(index),
            Err(now) => seen = now,
        }
    }
}

/// Adds a chain, the caller's alone until now, whose first extent is `first`, or 0 for none.
fn append(head: &AtomicU64, links: &Links, first: u32) {
    if first == 0 {
        return;
    }
    let mut seen = head.load(Ordering::Relaxed);
    while seen & INDEX_MASK == 0 {
        // Release, for the Acquire in `take`, as in `push`: of the whole chain.
        match head.compare_exchange_weak(seen, seen | u64::from(first), Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
    // The stack is not empty, as it is as a rule for who has run out: one by one, then.
    let mut index = first;
    while let Some(cell) = links.cells.get(index).filter(|_| index != 0) {
        let link = cell.load(Ordering::Relaxed);
        push(head, cell, index, link >> INDEX_BITS);
        index = (link & INDEX_MASK) as u32;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_extent_waits_for_its_epoch() {
        let (links, stacks) = (Links::new(16), EpochStacks::new());
        stacks.push(&links, 5, 1);
        assert_eq!(stacks.pop(&links, 0), None);
        assert_eq!(stacks.pop(&links, 1), Some(5));
        assert_eq!(stacks.pop(&links, 1), None);
    }

    #[test]
    fn what_is_freed_later_does_not_bury_what_is_safe() {
        let (links, stacks) = (Links::new(16), EpochStacks::new());
        for (index, epoch) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
            stacks.push(&links, index, epoch);
        }
        assert_eq!(stacks.pop(&links, 1), Some(1));
        assert_eq!(stacks.pop(&links, 1), None);
        assert_eq!(stacks.pop(&links, 3), Some(3));
        assert_eq!(stacks.pop(&links, 3), Some(2));
        assert_eq!(stacks.pop(&links, 3), None);
    }

    #[test]
    fn only_what_fits_is_popped() {
        let (links, stacks) = (Links::new(16), EpochStacks::new());
        for index in [5, 6] {
            stacks.push(&links, index, 1);
        }
        assert_eq!(stacks.pop_if(&links, 1, |index| index == 5), None, "it is not on top");
        assert_eq!(stacks.pop_if(&links, 1, |index| index == 6), Some(6));
        assert_eq!(stacks.pop_if(&links, 1, |index| index == 5), Some(5));
    }

    #[test]
    fn a_thief_gets_all_of_a_stack_and_the_epochs_stay() {
        for has_own in [false, true] {
            let (links, mine, theirs) = (Links::new(16), EpochStacks::new(), EpochStacks::new());
            theirs.push(&links, 1, 5);
            theirs.push(&links, 2, 1);
            theirs.push(&links, 3, 1);
            theirs.push(&links, 4, 2);
            if has_own {
                mine.push(&links, 9, 5);
            }
            assert_eq!(mine.steal(&theirs, &links, 0), None);
            assert_eq!(mine.steal(&theirs, &links, 1), Some(3));
            assert_eq!(theirs.pop(&links, 5), Some(4), "of another epoch");
            assert_eq!(theirs.pop(&links, 5), None);
            let safe = mine.pop(&links, 1);
            let all = [safe, mine.pop(&links, 5), mine.pop(&links, 5), mine.pop(&links, 5)];
            let mut all: Vec<u32> = all.into_iter().flatten().collect();
            assert!(has_own || safe == Some(2));
            all.sort_unstable();
            assert_eq!(all, if has_own { vec![1, 2, 9] } else { vec![1, 2] });
        }
    }

    #[test]
    fn a_stale_epoch_in_a_newer_stack_is_found_in_time() {
        let (links, stacks) = (Links::new(16), EpochStacks::new());
        stacks.push(&links, 1, 1);
        stacks.push(&links, 2, 5);
        assert_eq!(stacks.pop(&links, 4), None, "on top lies one that is not safe");
        assert_eq!(stacks.pop(&links, 5), Some(2));
        assert_eq!(stacks.pop(&links, 5), Some(1));
    }
}
