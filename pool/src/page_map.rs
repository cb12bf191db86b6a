//! What lies where: for every block index, whether a live block starts there, what was asked for, and its tag.
//!
//! It is the only truth about double and foreign frees, and lies outside the pinned memory, which the GPU may own.
//!
//! A live block is one word at its first index. To find the block around an interior address, the words are scanned
//! back to the beginning of a group of 64 indices; where a block reaches across that beginning, `cover` names it. So
//! an allocation writes one word and one entry for each 256 KiB, and a free writes one word: entries of `cover` are
//! never cleared, but believed only when the block they name is live and long enough.

use crate::{
    cells::Cells,
    size_class::blocks_for,
    sync::{AtomicU32, Ordering},
};

/// One word for each index, and one entry for each group of 64 indices.
#[derive(Debug)]
pub(crate) struct PageMap {
    words: Cells,
    cover: Box<[AtomicU32]>,
}

/// What is known about a block: the tag in the upper 32 bits, the bytes asked for in 30, and the state in 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

const STATE_MASK: u64 = 0b11;
const LIVE: u64 = 0b01;
const FREED: u64 = 0b10;
const REQUESTED_SHIFT: u32 = 2;
const REQUESTED_MASK: u64 = (1 << 30) - 1;
const TAG_SHIFT: u32 = 32;
const GROUP: u32 = 64;

impl PageMap {
    /// A map of `indices` indices, none of them live.
    pub(crate) fn new(indices: u32) -> Self {
        Self { words: Cells::new(indices), cover: (0..indices.div_ceil(GROUP)).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Makes the `blocks` from `start` on, which are the caller's alone, a live block.
    #[inline]
    pub(crate) fn publish(&self, start: u32, blocks: u32, word: Word) {
        let last = start + blocks.saturating_sub(1);
        let reached = (start / GROUP + 1) as usize..(last / GROUP + 1) as usize;
        for entry in self.cover.get(reached).unwrap_or_default() {
            // A block of 1 MiB that comes and goes names itself again and again, on a line with those of three others.
            if entry.load(Ordering::Relaxed) != start {
                entry.store(start, Ordering::Relaxed);
            }
        }
        if let Some(cell) = self.words.get(start) {
            cell.store(word.0, Ordering::Release);
        }
    }

    /// Ends the life of the block that starts at `start`. Of several threads that try, one gets the word.
    #[inline]
    pub(crate) fn retire(&self, start: u32) -> Option<Word> {
        let cell = self.words.get(start)?;
        let word = Word(cell.load(Ordering::Acquire));
        if !word.is_live() {
            return None;
        }
        let freed = (word.0 & !STATE_MASK) | FREED;
        cell.compare_exchange(word.0, freed, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        Some(word)
    }

    /// How many blocks the extent at `start`, live or freed, takes; 0 when none was ever there.
    pub(crate) fn extent_blocks(&self, start: u32) -> u32 {
        self.word(start).blocks()
    }

    /// The live block around `index`: where it starts, and its word.
    #[inline]
    pub(crate) fn live_around(&self, index: u32) -> Option<(u32, Word)> {
        let group_start = index - index % GROUP;
        let near = (group_start..=index).rev().map(|start| (start, self.word(start)));
        let (start, word) =
            near.into_iter().find(|(_, word)| word.is_live()).or_else(|| self.reaching_into(group_start))?;
        (index - start < word.blocks()).then_some((start, word))
    }

    fn reaching_into(&self, group_start: u32) -> Option<(u32, Word)> {
        let start = self.cover.get((group_start / GROUP) as usize)?.load(Ordering::Relaxed);
        let word = self.word(start);
        (start < group_start && word.is_live()).then_some((start, word))
    }

    fn word(&self, index: u32) -> Word {
        Word(self.words.load(index, Ordering::Acquire))
    }
}

impl Word {
    /// The word of a live block; `requested_bytes` is below 1 GiB.
    pub(crate) fn live(requested_bytes: usize, tag: u32) -> Self {
        let requested = requested_bytes as u64 & REQUESTED_MASK;
        Self(u64::from(tag) << TAG_SHIFT | requested << REQUESTED_SHIFT | LIVE)
    }

    /// What was asked for.
    pub(crate) fn requested_bytes(self) -> usize {
        (self.0 >> REQUESTED_SHIFT & REQUESTED_MASK) as usize
    }

    /// What the caller keeps with the block.
    pub(crate) fn tag(self) -> u32 {
        (self.0 >> TAG_SHIFT) as u32
    }

    /// How many blocks it takes.
    #[inline]
    pub(crate) fn blocks(self) -> u32 {
        blocks_for(self.requested_bytes()).unwrap_or(0)
    }

    fn is_live(self) -> bool {
        self.0 & STATE_MASK == LIVE
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::config::BLOCK_BYTES;

    #[test]
    fn a_word_keeps_what_it_was_given() {
        let word = Word::live((1 << 30) - 1, u32::MAX);
        assert_eq!((word.requested_bytes(), word.tag()), ((1 << 30) - 1, u32::MAX));
    }

    #[test]
    fn interior_indices_lead_to_the_start() {
        let map = PageMap::new(2000);
        let word = Word::live(1001 * BLOCK_BYTES, 7);
        map.publish(70, 1001, word);
        for index in 70..70 + 1001 {
            assert_eq!(map.live_around(index), Some((70, word)), "{index}");
        }
        assert_eq!(map.live_around(69), None);
        assert_eq!(map.live_around(70 + 1001), None);
    }

    #[test]
    fn what_an_earlier_block_left_behind_is_not_believed() {
        let map = PageMap::new(2000);
        map.publish(10, 1000, Word::live(1000 * BLOCK_BYTES, 0));
        assert!(map.retire(10).is_some());
        assert_eq!(map.live_around(500), None);
        let short = Word::live(100 * BLOCK_BYTES, 0);
        map.publish(10, short.blocks(), short);
        assert_eq!(map.live_around(500), None);
        assert_eq!(map.live_around(70), Some((10, short)));
        let other = Word::live(BLOCK_BYTES, 1);
        map.publish(500, 1, other);
        assert_eq!(map.live_around(500), Some((500, other)));
        assert_eq!(map.live_around(501), None);
    }

    #[test]
    fn a_block_is_retired_once() {
        let map = PageMap::new(8);
        map.publish(3, 1, Word::live(1, 0));
        assert!(map.retire(3).is_some());
        assert_eq!(map.retire(3), None);
        assert_eq!(map.retire(4), None);
        assert_eq!(map.retire(4000), None);
    }
}
