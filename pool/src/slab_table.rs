//! Which addresses are the pool's: the way between addresses and block indices.
//!
//! Indices run through all slabs, reserved or not, with unused indices before each slab: index 0 is never a block, and
//! blocks of two slabs are never neighbours, even where their addresses are.

use crate::{
    config::{BLOCK_BYTES, PoolConfig},
    sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

/// The slabs in their order; where each lies is set when the source has given it, until it is given back.
#[derive(Debug)]
pub(crate) struct SlabTable {
    slabs: Box<[Slab]>,
    installed: AtomicU32,
    reserved_blocks: AtomicU64,
    largest_blocks: u32,
    index_count: u32,
    withdrawn: AtomicBool,
}

/// One slab: its place among the indices is fixed, its address comes later.
#[derive(Debug)]
pub(crate) struct Slab {
    /// 0 until it is reserved, and again once it is gone.
    base: AtomicUsize,
    number: u32,
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
        let slabs: Box<[Slab]> = config
            .slab_indices()
            .zip(0..)
            .map(|((first_index, blocks), number)| Slab { base: AtomicUsize::new(0), number, first_index, blocks })
            .collect();
        Self {
            installed: AtomicU32::new(0),
            reserved_blocks: AtomicU64::new(0),
            largest_blocks: slabs.iter().map(|slab| slab.blocks).max().unwrap_or(0),
            index_count: config.index_count(),
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

    /// Puts `slab`, which was the [`next`](Self::next), at `base`; false when another thread has put it elsewhere
    /// meanwhile, or it is no longer the next.
    pub(crate) fn install(&self, slab: &Slab, base: usize) -> bool {
        if slab.base.compare_exchange(0, base, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        let number = slab.number;
        let is_next = self.installed.compare_exchange(number, number + 1, Ordering::Release, Ordering::Relaxed).is_ok();
        if is_next {
            self.reserved_blocks.fetch_add(u64::from(slab.blocks), Ordering::Relaxed);
        } else {
            slab.base.store(0, Ordering::Release);
        }
        is_next
    }

    /// Takes out the slab that was installed last, in which nothing may be allocated: from now on no address in it is
    /// the pool's, and it is the next to reserve. Its address, or `None` when it is not the last or has gone already.
    pub(crate) fn uninstall(&self, slab: &Slab) -> Option<usize> {
        let number = slab.number;
        self.installed.compare_exchange(number + 1, number, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // Release: who gets this memory from the source afterwards, and asks whose it is, sees that it is not ours.
        // Pairs with the Acquire in `place_of`, through the source.
        let base = slab.base.swap(0, Ordering::AcqRel);
        if base == 0 {
            return None;
        }
        // Saturating: who withdraws all slabs meanwhile has set it to 0.
        let less = |reserved: u64| Some(reserved.saturating_sub(u64::from(slab.blocks)));
        let _ = self.reserved_blocks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Some(base)
    }

    /// The slab that was installed last.
    pub(crate) fn last(&self) -> Option<&Slab> {
        self.slabs.get((self.installed() as usize).checked_sub(1)?)
    }

    /// The slab of that number.
    pub(crate) fn numbered(&self, number: u32) -> Option<&Slab> {
        self.slabs.get(number as usize)
    }

    /// Where each slab lies, by number; those that are not there are left out.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&Slab, usize)> {
        let with_base = self.slabs.iter().map(|slab| (slab, slab.base.load(Ordering::Acquire)));
        with_base.filter(|&(_, base)| base != 0)
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
        self.index_count
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
    /// Its place in the order in which slabs are reserved, from 0.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

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
        assert_eq!(table.index_count(), 24);
        for index in [8, 9, 16, 17, 18, 19] {
            let address = table.address_of(index).unwrap();
            assert_eq!(table.place_of(address + 7), Some(Place { index, offset_bytes: 7 }));
        }
        assert_eq!(table.address_of(0), None);
        assert_eq!(table.address_of(10), None, "adjacent slabs have a gap between their indices");
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
    fn slabs_go_in_the_reverse_of_the_order_in_which_they_came() {
        let table = table();
        let (first, second) = (&table.slabs[0], &table.slabs[1]);
        assert_eq!(table.uninstall(first), None);
        assert!(table.install(first, 0x1000) && table.install(second, 0x9000));
        assert_eq!(table.uninstall(first), None);
        assert_eq!(table.uninstall(second), Some(0x9000));
        assert_eq!((table.place_of(0x9000), table.installed(), table.reserved_blocks()), (None, 1, 2));
        assert!(std::ptr::eq(table.next().unwrap(), second), "it may be reserved anew");
        assert!(table.install(second, 0x5000));
        assert_eq!(table.place_of(0x5000), Some(Place { index: 16, offset_bytes: 0 }));
    }

    #[test]
    fn a_slab_that_is_not_the_next_any_more_is_not_installed() {
        let table = table();
        let (first, second) = (&table.slabs[0], &table.slabs[1]);
        assert!(table.install(first, 0x1000));
        assert_eq!(table.uninstall(first), Some(0x1000));
        assert!(!table.install(second, 0x9000), "the first has gone meanwhile");
        assert_eq!((table.installed(), table.place_of(0x9000)), (0, None));
    }

    #[test]
    fn nothing_is_the_pools_once_withdrawn() {
        let table = table();
        assert!(table.install(table.next().unwrap(), 0x1000));
        assert_eq!(table.withdraw().collect::<Vec<_>>(), [(0x1000, 2 * BLOCK_BYTES)]);
        assert_eq!(table.place_of(0x1000), None);
        assert_eq!(table.address_of(8), None);
    }
}
