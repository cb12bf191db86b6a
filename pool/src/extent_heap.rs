//! The memory that nobody holds and the GPU is done with: extents of blocks, split and merged in constant time.
//!
//! Free extents are kept in bins by size, eight to a doubling, and two levels of bit maps find the smallest bin that
//! surely fits. The length of a free extent stands at its first and its last index, so a freed neighbour is found by
//! looking at the index before and the index after; between slabs an index that is never free keeps them apart. Only
//! when no larger bin has anything is the request's own bin searched, so a fit that exists is always found.

/// Free extents among a fixed number of indices.
#[derive(Debug)]
pub(crate) struct ExtentHeap {
    /// At the first and last index of each free extent its length, 0 everywhere else.
    lengths: Box<[u32]>,
    /// At the first index of each free extent its neighbours in the bin's list; 0 ends it.
    links: Box<[ListLink]>,
    /// The first extent of each bin's list, or 0.
    bins: [u32; BINS],
    /// For each doubling, which of its bins have extents.
    filled: [u8; DOUBLINGS],
    /// Which doublings have extents.
    filled_doublings: u32,
    free_blocks: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct ListLink {
    previous: u32,
    next: u32,
}

/// Bins 0 to 7 hold one length each (1 to 8), the others an eighth of a doubling.
const DOUBLINGS: usize = 18;
const BINS: usize = DOUBLINGS * 8;

impl ExtentHeap {
    /// A heap over `indices` indices, index 0 never used, with nothing free.
    pub(crate) fn new(indices: u32) -> Self {
        Self {
            lengths: vec![0; indices as usize].into_boxed_slice(),
            links: vec![ListLink::default(); indices as usize].into_boxed_slice(),
            bins: [0; BINS],
            filled: [0; DOUBLINGS],
            filled_doublings: 0,
            free_blocks: 0,
        }
    }

    /// Takes `blocks` in a row; returns the first.
    pub(crate) fn take(&mut self, blocks: u32) -> Option<u32> {
        if blocks == 0 {
            return None;
        }
        let start = self.find(blocks)?;
        let length = self.length_at(start);
        self.unlink(start, length);
        if length > blocks {
            self.link(start + blocks, length - blocks);
        }
        Some(start)
    }

    /// Takes exactly the extent of `blocks` that starts at `start`, if there is one.
    pub(crate) fn take_exactly(&mut self, start: u32, blocks: u32) -> bool {
        // An extent's length stands at its last index too, so both ends are asked.
        let is_whole = self.length_at(start) == blocks && self.length_at(start + blocks - 1) == blocks;
        if is_whole {
            self.unlink(start, blocks);
        }
        is_whole
    }

    /// Gives `blocks` from `start` on back, and merges them with what is free beside them.
    pub(crate) fn give(&mut self, start: u32, blocks: u32) {
        if blocks == 0 || start == 0 {
            return;
        }
        let (mut start, mut length) = (start, blocks);
        let before = self.length_at(start - 1);
        if before != 0 {
            start -= before;
            self.unlink(start, before);
            length += before;
        }
        let after = self.length_at(start + length);
        if after != 0 {
            self.unlink(start + length, after);
            length += after;
        }
        self.link(start, length);
    }

    /// All that is free, in blocks, whether in one piece or not.
    pub(crate) fn free_blocks(&self) -> u32 {
        self.free_blocks
    }

    /// No free extent is longer than this, in blocks; 0 when there is none.
    pub(crate) fn longest_at_most(&self) -> u32 {
        let Some(doubling) = self.filled_doublings.checked_ilog2() else {
            return 0;
        };
        let eighth = self.filled.get(doubling as usize).and_then(|filled| filled.checked_ilog2());
        longest_of((doubling * 8 + eighth.unwrap_or(7)) as usize)
    }

    fn find(&self, blocks: u32) -> Option<u32> {
        self.find_larger(blocks).or_else(|| self.search_own_bin(blocks))
    }

    /// The first extent of the smallest bin in which every extent is long enough.
    fn find_larger(&self, blocks: u32) -> Option<u32> {
        let bin = bin_that_fits(blocks);
        let (doubling, eighth) = (bin / 8, bin % 8);
        let here = u32::from(*self.filled.get(doubling)?) & (0xff << eighth);
        if here != 0 {
            return self.first_of(doubling * 8 + here.trailing_zeros() as usize);
        }
        let above = self.filled_doublings & (u32::MAX << (doubling + 1));
        if above == 0 {
            return None;
        }
        let doubling = above.trailing_zeros() as usize;
        let eighth = self.filled.get(doubling)?.trailing_zeros() as usize;
        self.first_of(doubling * 8 + eighth)
    }

    fn search_own_bin(&self, blocks: u32) -> Option<u32> {
        let mut start = self.first_of(bin_of(blocks))?;
        loop {
            if self.length_at(start) >= blocks {
                return Some(start);
            }
            start = self.link_at(start).next;
            if start == 0 {
                return None;
            }
        }
    }

    fn first_of(&self, bin: usize) -> Option<u32> {
        self.bins.get(bin).copied().filter(|&start| start != 0)
    }

    fn link(&mut self, start: u32, length: u32) {
        let bin = bin_of(length);
        let Some(first) = self.bins.get_mut(bin) else {
            return;
        };
        let next = std::mem::replace(first, start);
        self.set_link(start, ListLink { previous: 0, next });
        if next != 0 {
            let link = self.link_at(next);
            self.set_link(next, ListLink { previous: start, ..link });
        }
        self.set_length(start, length, length);
        self.set_filled(bin, true);
        self.free_blocks += length;
    }

    fn unlink(&mut self, start: u32, length: u32) {
        let bin = bin_of(length);
        let ListLink { previous, next } = self.link_at(start);
        if next != 0 {
            let link = self.link_at(next);
            self.set_link(next, ListLink { previous, ..link });
        }
        if previous != 0 {
            let link = self.link_at(previous);
            self.set_link(previous, ListLink { next, ..link });
        } else if let Some(first) = self.bins.get_mut(bin) {
            *first = next;
            self.set_filled(bin, next != 0);
        }
        self.set_length(start, length, 0);
        self.free_blocks -= length;
    }

    fn set_filled(&mut self, bin: usize, filled: bool) {
        let (doubling, bit) = (bin / 8, 1 << (bin % 8));
        let Some(bins) = self.filled.get_mut(doubling) else {
            return;
        };
        *bins = if filled { *bins | bit } else { *bins & !bit };
        if *bins == 0 {
            self.filled_doublings &= !(1 << doubling);
        } else {
            self.filled_doublings |= 1 << doubling;
        }
    }

    fn length_at(&self, index: u32) -> u32 {
        self.lengths.get(index as usize).copied().unwrap_or(0)
    }

    fn set_length(&mut self, start: u32, length: u32, value: u32) {
        for index in [start, start + length - 1] {
            if let Some(cell) = self.lengths.get_mut(index as usize) {
                *cell = value;
            }
        }
    }

    fn link_at(&self, start: u32) -> ListLink {
        self.links.get(start as usize).copied().unwrap_or_default()
    }

    fn set_link(&mut self, start: u32, link: ListLink) {
        if let Some(cell) = self.links.get_mut(start as usize) {
            *cell = link;
        }
    }
}

/// The bin an extent of `length` lies in.
fn bin_of(length: u32) -> usize {
    if length <= 8 {
        return length.saturating_sub(1) as usize;
    }
    let doubling = length.ilog2() - 2;
    let eighth = (length >> (doubling - 1)) & 7;
    (doubling * 8 + eighth) as usize
}

/// The smallest bin whose every extent holds `blocks`.
fn bin_that_fits(blocks: u32) -> usize {
    let bin = bin_of(blocks);
    if shortest_of(bin) == blocks { bin } else { bin + 1 }
}

fn shortest_of(bin: usize) -> u32 {
    let (doubling, eighth) = ((bin / 8) as u32, (bin % 8) as u32);
    if doubling == 0 { eighth + 1 } else { (8 + eighth) << (doubling - 1) }
}

fn longest_of(bin: usize) -> u32 {
    if bin < 8 { shortest_of(bin) } else { shortest_of(bin + 1) - 1 }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bins_are_in_order_and_hold_their_lengths() {
        for length in 1..=200_000u32 {
            let bin = bin_of(length);
            assert!(bin < BINS);
            assert!((shortest_of(bin)..=longest_of(bin)).contains(&length));
            assert!(length < shortest_of(bin + 1) || length == 8, "{length}");
            assert!(shortest_of(bin_that_fits(length)) >= length);
        }
    }

    #[test]
    fn what_is_given_back_is_one_piece_again() {
        let mut heap = ExtentHeap::new(102);
        heap.give(1, 100);
        let parts: Vec<u32> = (0..10).map(|_| heap.take(10).unwrap()).collect();
        assert_eq!(heap.take(1), None);
        for &start in parts.iter().step_by(2).chain(parts.iter().skip(1).step_by(2)) {
            heap.give(start, 10);
        }
        assert_eq!(heap.take(100), Some(1));
    }

    #[test]
    fn an_extent_is_taken_whole_or_not_at_all() {
        let mut heap = ExtentHeap::new(102);
        heap.give(1, 100);
        let start = heap.take(10).unwrap();
        assert!(!heap.take_exactly(1, 100));
        assert!(!heap.take_exactly(11, 10), "it is longer");
        heap.give(start, 10);
        assert!(heap.take_exactly(1, 100));
        assert_eq!((heap.free_blocks(), heap.take(1)), (0, None));
        heap.give(1, 100);
        assert_eq!(heap.take(100), Some(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Against a bit per block: no overlap, and a fit is found exactly when there is one.
        #[test]
        fn a_fit_is_found_exactly_when_there_is_one(
            steps in prop::collection::vec((any::<bool>(), 1u32..60, any::<prop::sample::Index>()), 1..200)
        ) {
            const SLABS: [(u32, u32); 2] = [(1, 90), (92, 50)];
            let mut heap = ExtentHeap::new(142);
            let mut free = [false; 144];
            for (start, blocks) in SLABS {
                heap.give(start, blocks);
                free[start as usize..(start + blocks) as usize].fill(true);
            }
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (take, blocks, pick) in steps {
                if take || held.is_empty() {
                    let fits = free.windows(blocks as usize).any(|run| run.iter().all(|&f| f));
                    let taken = heap.take(blocks);
                    prop_assert_eq!(taken.is_some(), fits);
                    if let Some(start) = taken {
                        let run = &mut free[start as usize..(start + blocks) as usize];
                        prop_assert!(run.iter().all(|&f| f));
                        run.fill(false);
                        held.push((start, blocks));
                    }
                } else {
                    let (start, blocks) = held.swap_remove(pick.index(held.len()));
                    heap.give(start, blocks);
                    free[start as usize..(start + blocks) as usize].fill(true);
                }
                prop_assert_eq!(heap.free_blocks() as usize, free.iter().filter(|&&f| f).count());
                let longest = free.split(|&f| !f).map(<[bool]>::len).max().unwrap_or(0) as u32;
                let bound = heap.longest_at_most();
                prop_assert!(longest <= bound && bound <= longest + longest / 8, "{} of {}", bound, longest);
            }
        }
    }
}
