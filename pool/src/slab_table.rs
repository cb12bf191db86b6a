//! Which addresses are the pool's: the way between addresses and block indices.
//!
//! Indices run through all slabs, reserved or not, with one unused index before each slab: index 0 is never a block,
//! and blocks of two slabs are never neighbours, even where their addresses are.

use crate::{
    config::{BLOCK_BYTES, PoolConfig},
    sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

/// The slabs in their order; where each lies is set once, when the source has given it.
#[derive(Debug)]
pub(crate) struct SlabTable {
    slabs: Box<[Slab]>,
    installed: AtomicU32,
    reserved_blocks: AtomicU64,
    largest_blocks: u32,
    withdrawn: AtomicBool,
}

/// One slab: its place among the indices is fixed, its address comes later.
#[derive(Debug)]
pub(crate) struct Slab {
    /// 0 until it is reserved, and again once it is gone.
    base: AtomicUsize,
    first_index: u32,
    blocks: u32,
}

/// Where an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The block.
    pub(crate) index: u32,
    /// The distance from the block's first byte.
    pub(crate) offset_bytes: usize,
}

impl SlabTable {
    /// A table of slabs that are all still to come.
    pub(crate) fn new(config: &PoolConfig) -> Self {
        let mut next_index = 1;
        let slabs: Box<[Slab]> = config
            .slab_bytes()
            .iter()
            .map(|bytes| {
                let blocks = (bytes / BLOCK_BYTES) as u32;
                let slab = Slab { base: AtomicUsize::new(0), first_index: next_index, blocks };
                next_index += blocks + 1;
                slab
            })
            .collect();
        Self {
            installed: AtomicU32::new(0),
            reserved_blocks: AtomicU64::new(0),
            largest_blocks: slabs.iter().map(|slab| slab.blocks).max().unwrap_or(0),
            withdrawn: AtomicBool::new(false),
            slabs,
        }
    }

    /// Where `address` lies, or `None` when it is not the pool's.
    #[inline]
    pub(crate) fn place_of(&self, address: usize) -> Option<Place> {
        self.slabs.iter().find_map(|slab| {
            let base = slab.base.load(Ordering::Acquire);
            let offset = address.wrapping_sub(base);
            (base != 0 && offset < slab.bytes()).then(|| Place {
                index: slab.first_index + (offset / BLOCK_BYTES) as u32,
                offset_bytes: offset % BLOCK_BYTES,
            })
        })
    }

    /// The address of a block, or `None` when its slab is not there.
    #[inline]
    pub(crate) fn address_of(&self, index: u32) -> Option<usize> {
        let slab = self.slabs.iter().find(|slab| index.wrapping_sub(slab.first_index) < slab.blocks)?;
        let base = slab.base.load(Ordering::Acquire);
        (base != 0).then(|| base + (index - slab.first_index) as usize * BLOCK_BYTES)
    }

    /// The next slab to reserve, if one is left.
    pub(crate) fn next(&self) -> Option<&Slab> {
        self.slabs.get(self.installed() as usize)
    }

    /// Puts `slab` at `base`; false when another thread has put it elsewhere meanwhile.
    pub(crate) fn install(&self, slab: &Slab, base: usize) -> bool {
        let first = slab.base.compare_exchange(0, base, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if first {
            self.reserved_blocks.fetch_add(u64::from(slab.blocks), Ordering::Relaxed);
            self.installed.fetch_add(1, Ordering::Release);
        }
        first
    }

    /// How many slabs have been reserved, the first ones in order.
    pub(crate) fn installed(&self) -> u32 {
        self.installed.load(Ordering::Acquire)
    }

    /// The slabs that have been reserved, after the first `skip`.
    pub(crate) fn installed_after(&self, skip: u32) -> impl Iterator<Item = &Slab> {
        self.slabs.iter().take(self.installed() as usize).skip(skip as usize)
    }

    /// The slabs that are still to be reserved.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &Slab> {
        self.slabs.iter().skip(self.installed() as usize)
    }

    /// The largest slab there will ever be, in blocks.
    #[inline]
    pub(crate) fn largest_blocks(&self) -> u32 {
        self.largest_blocks
    }

    /// The slabs that are there, together, in blocks.
    #[inline]
    pub(crate) fn reserved_blocks(&self) -> u64 {
        self.reserved_blocks.load(Ordering::Relaxed)
    }

    /// All slabs together, in blocks.
    pub(crate) fn total_blocks(&self) -> u32 {
        self.slabs.iter().map(|slab| slab.blocks).sum()
    }

    /// One more than the largest index.
    pub(crate) fn index_count(&self) -> u32 {
        self.slabs.last().map_or(1, |slab| slab.first_index + slab.blocks)
    }

    /// Takes all slabs out of the table; from now on no address is the pool's. Returns address and size in bytes of each.
    pub(crate) fn withdraw(&self) -> impl Iterator<Item = (usize, usize)> {
        self.withdrawn.store(true, Ordering::Release);
        self.reserved_blocks.store(0, Ordering::Relaxed);
        self.slabs.iter().map(|slab| (slab.base.swap(0, Ordering::AcqRel), slab.bytes())).filter(|&(base, _)| base != 0)
    }

    /// Whether the slabs have been taken out.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }
}

impl Slab {
    /// Its first block.
    pub(crate) fn first_index(&self) -> u32 {
        self.first_index
    }

    /// Its size in blocks.
    pub(crate) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn table() -> SlabTable {
        SlabTable::new(&PoolConfig::with_slabs(&[2 * BLOCK_BYTES, 4 * BLOCK_BYTES]).unwrap())
    }

    #[test]
    fn addresses_and_indices_go_both_ways() {
        let table = table();
        assert_eq!(table.place_of(0), None);
        assert!(table.install(table.next().unwrap(), 0x10_0000));
        assert!(table.install(table.next().unwrap(), 0x10_0000 + 2 * BLOCK_BYTES));
        assert!(table.next().is_none());
        assert_eq!(table.index_count(), 8);
        for index in [1, 2, 4, 5, 6, 7] {
            let address = table.address_of(index).unwrap();
            assert_eq!(table.place_of(address + 7), Some(Place { index, offset_bytes: 7 }));
        }
        assert_eq!(table.address_of(0), None);
        assert_eq!(table.address_of(3), None, "adjacent slabs have a gap between their indices");
        assert_eq!(table.place_of(0x10_0000 - 1), None);
        assert_eq!(table.place_of(0x10_0000 + 6 * BLOCK_BYTES), None);
    }

    #[test]
    fn the_second_to_install_a_slab_is_told() {
        let table = table();
        let slab = table.next().unwrap();
        assert!(table.install(slab, 0x1000));
        assert!(!table.install(slab, 0x9000));
        assert_eq!(table.installed(), 1);
    }

    #[test]
    fn nothing_is_the_pools_once_withdrawn() {
        let table = table();
        assert!(table.install(table.next().unwrap(), 0x1000));
        assert_eq!(table.withdraw().collect::<Vec<_>>(), [(0x1000, 2 * BLOCK_BYTES)]);
        assert_eq!(table.place_of(0x1000), None);
        assert_eq!(table.address_of(1), None);
    }
}
