//! Freed extents that wait, or are ready, to be handed out again: lock-free stacks of block indices.
//!
//! A stack is a word: the index on top and a count of pops, which makes a top that came back after others were
//! popped look different (ABA). The links lie in one array beside the memory, so nothing is ever reclaimed and a
//! stale read is harmless. With each link stands the epoch in which its extent was freed; an extent is popped only
//! when that epoch is safe, and because the link and the top are checked by one exchange, the answer is exact.
//!
//! Four stacks together, chosen by the epoch, keep what is safe from being buried under what was freed later: at most
//! three epochs are unsafe at a time, the open one and two whose marks are in flight.

use crate::sync::{AtomicU64, Ordering};

/// Bits of a block index; index 0 is no block and ends a stack.
const INDEX_BITS: u32 = 20;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const STACKS: usize = 4;

/// For each index, what lies below it in its stack and the epoch it was freed in.
#[derive(Debug)]
pub(crate) struct Links {
    cells: Box<[AtomicU64]>,
}

/// The extents of one kind that are not live.
#[derive(Debug)]
pub(crate) struct EpochStacks {
    heads: [AtomicU64; STACKS],
}

impl Links {
    /// Links for `indices` indices.
    pub(crate) fn new(indices: u32) -> Self {
        Self { cells: (0..indices).map(|_| AtomicU64::new(0)).collect() }
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
        if let (Some(head), Some(cell)) = (self.heads.get(epoch as usize % STACKS), links.cells.get(index as usize)) {
            push(head, cell, index, epoch);
        }
    }

    /// Takes an extent that was freed in epoch `safe` or before.
    #[inline]
    pub(crate) fn pop(&self, links: &Links, safe: u64) -> Option<u32> {
        (0..STACKS as u64).find_map(|older| {
            let head = self.heads.get(safe.wrapping_sub(older) as usize % STACKS)?;
            pop(head, links, safe)
        })
    }
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
fn pop(head: &AtomicU64, links: &Links, safe: u64) -> Option<u32> {
    let mut seen = head.load(Ordering::Acquire);
    loop {
        let index = (seen & INDEX_MASK) as u32;
        if index == 0 {
            return None;
        }
        let link = links.cells.get(index as usize)?.load(Ordering::Relaxed);
        if link >> INDEX_BITS > safe {
            return None;
        }
        let pops = (seen >> INDEX_BITS).wrapping_add(1);
        let new = pops << INDEX_BITS | (link & INDEX_MASK);
        match head.compare_exchange_weak(seen, new, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => return Some(index),
            Err(now) => seen = now,
        }
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
    fn a_stale_epoch_in_a_newer_stack_is_found_in_time() {
        let (links, stacks) = (Links::new(16), EpochStacks::new());
        stacks.push(&links, 1, 1);
        stacks.push(&links, 2, 5);
        assert_eq!(stacks.pop(&links, 4), None, "on top lies one that is not safe");
        assert_eq!(stacks.pop(&links, 5), Some(2));
        assert_eq!(stacks.pop(&links, 5), Some(1));
    }
}
