//! How many blocks a request takes, and which cache holds blocks of that size.
//!
//! Up to 16 blocks every count is a class of its own; above, each doubling has eight classes, so that no more than
//! an eighth is lost, and powers of two, which caching allocators ask for, lose nothing. Beyond [`SMALL_BLOCKS`]
//! counts are exact, and each doubling has one cache, for extents of any size in it.

use crate::config::BLOCK_BYTES;

/// The largest size with a class, in blocks: 1 MiB.
pub(crate) const SMALL_BLOCKS: u32 = 256;

/// How many classes there are.
pub(crate) const CLASSES: usize = 48;

/// How many doublings there are above, up to the largest slab.
pub(crate) const LARGE_DOUBLINGS: usize = 9;

/// Counts up to here are classes of their own.
const EXACT_BLOCKS: u32 = 16;

/// Blocks that a request for `bytes` takes; `None` when that is beyond what a `u32` counts.
pub(crate) fn blocks_for(bytes: usize) -> Option<u32> {
    let blocks = u32::try_from(bytes.div_ceil(BLOCK_BYTES)).ok()?;
    match class_of(blocks) {
        Some(class) => Some(class_blocks(class)),
        None => Some(blocks),
    }
}

/// Whether there is a class for so many.
pub(crate) fn is_small(blocks: u32) -> bool {
    blocks <= SMALL_BLOCKS
}

/// The smallest class that holds `blocks`, or `None` when there is none.
pub(crate) fn class_of(blocks: u32) -> Option<usize> {
    if blocks == 0 || !is_small(blocks) {
        return None;
    }
    let last = blocks - 1;
    if blocks <= EXACT_BLOCKS {
        return Some(last as usize);
    }
    let shift = last.ilog2() - 3;
    let step = (last >> shift) - 8;
    Some((EXACT_BLOCKS + (shift - 1) * 8 + step) as usize)
}

/// The size of a class, in blocks.
pub(crate) fn class_blocks(class: usize) -> u32 {
    let class = class as u32;
    if class < EXACT_BLOCKS {
        return class + 1;
    }
    let above = class - EXACT_BLOCKS;
    (above % 8 + 9) << (above / 8 + 1)
}

/// The doubling of a count above [`SMALL_BLOCKS`], from 0; `None` for others.
pub(crate) fn large_doubling_of(blocks: u32) -> Option<usize> {
    let doubling = blocks.checked_sub(1)?.checked_ilog2()?.checked_sub(SMALL_BLOCKS.ilog2())? as usize;
    (doubling < LARGE_DOUBLINGS).then_some(doubling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_SLAB_BYTES;

    #[test]
    fn every_count_fits_its_class_and_not_the_one_below() {
        for blocks in 1..=SMALL_BLOCKS {
            let class = class_of(blocks).unwrap();
            assert!(class < CLASSES);
            assert!(class_blocks(class) >= blocks);
            assert!(class == 0 || class_blocks(class - 1) < blocks);
            assert!(class_blocks(class) - blocks <= blocks / 8, "{blocks}");
        }
        assert_eq!(class_of(0), None);
        assert_eq!(class_of(SMALL_BLOCKS + 1), None);
        assert_eq!(class_of(SMALL_BLOCKS), Some(CLASSES - 1));
    }

    #[test]
    fn a_count_has_a_class_or_a_doubling() {
        for blocks in 1..=(MAX_SLAB_BYTES / BLOCK_BYTES) as u32 {
            assert!(class_of(blocks).is_some() != large_doubling_of(blocks).is_some(), "{blocks}");
        }
        let doublings = [257, 512, 513, 1024, 131_072].map(large_doubling_of);
        assert_eq!(doublings, [Some(0), Some(0), Some(1), Some(1), Some(LARGE_DOUBLINGS - 1)]);
        assert_eq!((large_doubling_of(0), large_doubling_of(131_073)), (None, None));
    }

    #[test]
    fn powers_of_two_lose_nothing() {
        for shift in 0..=20 {
            assert_eq!(blocks_for(1 << shift), Some(((1usize << shift).div_ceil(BLOCK_BYTES)) as u32));
        }
    }

    #[test]
    fn large_counts_are_exact() {
        assert_eq!(blocks_for(257 * BLOCK_BYTES), Some(257));
        assert_eq!(blocks_for(1001 * BLOCK_BYTES - 1), Some(1001));
        assert_eq!(blocks_for(usize::MAX), None);
    }
}
