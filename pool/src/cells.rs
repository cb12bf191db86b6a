//! A word for each block index, laid out so that threads whose blocks lie side by side do not write the same line.
//!
//! Slabs begin on a cache line of these words, and what a shard takes from the heap at once is whole lines of them.

use crate::sync::{AtomicU64, Ordering};

/// How many words lie on a cache line.
pub(crate) const LINE: u32 = 8;

/// One word for each index.
#[derive(Debug)]
pub(crate) struct Cells {
    lines: Box<[Line]>,
}

#[derive(Debug)]
#[repr(align(64))]
struct Line([AtomicU64; LINE as usize]);

impl Cells {
    /// Words for `indices` indices, all 0.
    pub(crate) fn new(indices: u32) -> Self {
        let line = || Line(std::array::from_fn(|_| AtomicU64::new(0)));
        Self { lines: (0..indices.div_ceil(LINE)).map(|_| line()).collect() }
    }

    /// The word of an index.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&AtomicU64> {
        self.lines.get((index / LINE) as usize)?.0.get((index % LINE) as usize)
    }

    /// What stands at an index; 0 for one that there is not.
    #[inline]
    pub(crate) fn load(&self, index: u32, ordering: Ordering) -> u64 {
        self.get(index).map_or(0, |cell| cell.load(ordering))
    }
}
