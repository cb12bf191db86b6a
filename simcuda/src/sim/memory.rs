//! Device memory: addresses from one range of the process's address space, and who has which of them.

use super::Sim;
use super::host_memory::HostBlock;
use super::table::Table;
use super::virtual_memory::Chunk;
use crate::status::{R, Status};
use std::collections::BTreeMap;

/// Device allocations are multiples of this, in bytes.
const ALIGNMENT: usize = 512;
/// From this size on allocations start at a large page.
const LARGE: usize = 1 << 20;
pub(crate) const LARGE_PAGE: usize = 2 << 20;
pub(super) const PAGE: usize = 4096;
/// Where the range of device addresses is asked for, and how large it may be, in bytes.
const ARENA_HINT: usize = 0x3000_0000_0000;
const ARENA_BYTES: usize = 1 << 40;

/// What a range of device addresses is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BlockKind {
    Plain,
    Managed,
    /// From cuMemAllocAsync; `leaving` once cuMemFreeAsync was called.
    Pooled {
        pool: usize,
        leaving: bool,
    },
    /// A mapping of a cuMemCreate allocation.
    Mapped {
        chunk: usize,
        accessible: bool,
    },
}

/// A range of device addresses in use.
#[derive(Clone, Debug)]
pub(crate) struct DeviceBlock {
    pub(crate) bytes: usize,
    pub(crate) context: usize,
    pub(crate) kind: BlockKind,
    pub(crate) buffer_id: u64,
    pub(crate) sync_memops: bool,
}

impl DeviceBlock {
    pub(crate) fn new(bytes: usize, context: usize, kind: BlockKind, buffer_id: u64) -> Self {
        Self { bytes, context, kind, buffer_id, sync_memops: false }
    }
}

/// What an address is to a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Device,
    Pinned,
    Pageable,
}

/// All memory the process has from the driver.
pub(crate) struct Memory {
    arena: Option<Arena>,
    pub(super) host_arena: Option<Arena>,
    pub(crate) device: BTreeMap<usize, DeviceBlock>,
    pub(crate) host: BTreeMap<usize, HostBlock>,
    pub(crate) reservations: BTreeMap<usize, usize>,
    pub(crate) chunks: Table<Chunk>,
    next_buffer_id: u64,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            arena: None,
            host_arena: None,
            device: BTreeMap::new(),
            host: BTreeMap::new(),
            reservations: BTreeMap::new(),
            chunks: Table::new(9),
            next_buffer_id: 0,
        }
    }

    pub(crate) fn buffer_id(&mut self) -> u64 {
        self.next_buffer_id += 1;
        self.next_buffer_id
    }

    /// A free range of device addresses.
    pub(crate) fn take_addresses(&mut self, bytes: usize, alignment: usize) -> R<usize> {
        if self.arena.is_none() {
            self.arena = Arena::reserve(ARENA_HINT, libc::PROT_READ | libc::PROT_WRITE);
        }
        let arena = self.arena.as_mut().ok_or(Status::CUDA_ERROR_OUT_OF_MEMORY)?;
        arena.take(bytes, alignment).ok_or(Status::CUDA_ERROR_OUT_OF_MEMORY)
    }

    /// Gives addresses back; what was there is gone.
    pub(crate) fn return_addresses(&mut self, address: usize, bytes: usize) {
        if let Some(arena) = &mut self.arena {
            arena.put_back(address, bytes);
        }
    }

    /// A new device block; the caller has taken its bytes from the GPU.
    pub(crate) fn add_device(&mut self, bytes: usize, context: usize, kind: BlockKind) -> R<usize> {
        let alignment = if bytes >= LARGE { LARGE_PAGE } else { ALIGNMENT };
        let address = self.take_addresses(rounded(bytes), alignment)?;
        let buffer_id = self.buffer_id();
        self.device.insert(address, DeviceBlock::new(bytes, context, kind, buffer_id));
        Ok(address)
    }

    /// Removes a device block that starts at `address`.
    pub(crate) fn remove_device(&mut self, address: usize) -> Option<DeviceBlock> {
        let block = self.device.remove(&address)?;
        self.return_addresses(address, rounded(block.bytes));
        Some(block)
    }

    /// Frees what belongs to a context; returns the device bytes it had.
    pub(crate) fn free_context(&mut self, context: usize) -> u64 {
        let owned = |block: &DeviceBlock| {
            block.context == context && matches!(block.kind, BlockKind::Plain | BlockKind::Managed)
        };
        let gone: Vec<_> = self.device.iter().filter(|(_, block)| owned(block)).map(|(address, _)| *address).collect();
        let freed = gone.iter().filter_map(|address| self.remove_device(*address)).map(|b| rounded(b.bytes) as u64);
        let freed = freed.sum();
        let host: Vec<_> =
            self.host.iter().filter(|(_, block)| block.context == context).map(|(address, _)| *address).collect();
        for address in host {
            self.remove_host(address);
        }
        freed
    }

    /// The device block that holds `address`.
    pub(crate) fn device_block(&self, address: usize) -> Option<(usize, &DeviceBlock)> {
        let (&start, block) = self.device.range(..=address).next_back()?;
        (address - start < block.bytes).then_some((start, block))
    }

    /// Whether these bytes begin in a registration and go on in the next: copies of them were seen to be refused.
    fn reaches_across_a_join(&self, address: usize, bytes: usize) -> bool {
        let registered = self.host_block(address).filter(|(_, block)| block.registered);
        let end = registered.map(|(start, block)| start + block.bytes);
        end.is_some_and(|end| end - address < bytes && self.host.get(&end).is_some_and(|next| next.registered))
    }

    /// The page-locked block that holds `address`.
    pub(crate) fn host_block(&self, address: usize) -> Option<(usize, &HostBlock)> {
        let (&start, block) = self.host.range(..=address).next_back()?;
        (address - start < block.bytes).then_some((start, block))
    }

    /// The SYNC_MEMOPS of the block that holds `address`, to be set.
    pub(crate) fn sync_memops(&mut self, address: usize) -> Option<&mut bool> {
        if let Some((start, _)) = self.device_block(address) {
            return self.device.get_mut(&start).map(|block| &mut block.sync_memops);
        }
        let (start, _) = self.host_block(address)?;
        self.host.get_mut(&start).map(|block| &mut block.sync_memops)
    }

    /// What `bytes` from `address` on are. Fails for device addresses that are not, or not all, allocated.
    pub(crate) fn side(&self, address: usize, bytes: usize) -> R<Side> {
        if let Some((start, block)) = self.device_block(address) {
            let accessible = !matches!(block.kind, BlockKind::Mapped { accessible: false, .. });
            let end = address.saturating_add(bytes);
            let whole = end <= start + block.bytes || self.is_mapped_on(start + block.bytes, end);
            return if whole && accessible { Ok(Side::Device) } else { Err(Status::CUDA_ERROR_INVALID_VALUE) };
        }
        if self.arena.as_ref().is_some_and(|arena| arena.contains(address)) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        if self.reaches_across_a_join(address, bytes) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let pinned = self.host_block(address).is_some_and(|(start, block)| bytes <= block.bytes - (address - start));
        Ok(if pinned { Side::Pinned } else { Side::Pageable })
    }

    /// True if the range lies in one that cuMemAddressReserve gave.
    pub(crate) fn is_reserved(&self, address: usize, bytes: usize) -> bool {
        let reserved = self.reservations.range(..=address).next_back();
        reserved.is_some_and(|(start, length)| address.saturating_add(bytes) <= start + length)
    }

    /// True if mappings follow each other without a gap from `from` to `end`.
    fn is_mapped_on(&self, mut from: usize, end: usize) -> bool {
        while from < end {
            match self.device.get(&from) {
                Some(block) if matches!(block.kind, BlockKind::Mapped { .. }) => {
                    from += block.bytes;
                }
                _ => return false,
            }
        }
        true
    }

    /// True if a kernel may touch the range.
    pub(crate) fn is_kernel_accessible(&self, address: usize, bytes: usize) -> bool {
        bytes == 0 || matches!(self.side(address, bytes), Ok(Side::Device | Side::Pinned))
    }
}

impl Sim {
    /// Allocates device memory of a context and takes it from the GPU.
    pub(crate) fn allocate(&mut self, process: &super::Process, bytes: usize, kind: BlockKind) -> R<usize> {
        let context = self.current_handle()?;
        self.check_unsafe_call()?;
        if bytes == 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let taken = rounded(bytes) as u64;
        if !process.gpu.take_memory(process.slot(), taken) {
            return Err(Status::CUDA_ERROR_OUT_OF_MEMORY);
        }
        self.memory.add_device(bytes, context, kind).inspect_err(|_| process.gpu.return_memory(process.slot(), taken))
    }

    /// Frees a block that `allocate` made or a pool gave; the GPU has finished with it.
    pub(crate) fn free(&mut self, process: &super::Process, address: usize) -> R {
        match self.memory.device.get(&address).map(|block| block.kind) {
            Some(BlockKind::Pooled { .. }) => self.release_pooled(address),
            Some(BlockKind::Plain | BlockKind::Managed) => {
                if let Some(block) = self.memory.remove_device(address) {
                    process.gpu.return_memory(process.slot(), rounded(block.bytes) as u64);
                }
            }
            Some(BlockKind::Mapped { .. }) | None => return Err(Status::CUDA_ERROR_INVALID_VALUE),
        }
        Ok(())
    }
}

/// The bytes an allocation really takes.
pub(crate) fn rounded(bytes: usize) -> usize {
    bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)
}

/// A range of address space, backed by ordinary memory once touched, where it may be.
pub(super) struct Arena {
    start: usize,
    bytes: usize,
    free: BTreeMap<usize, usize>,
}

impl Arena {
    pub(super) fn reserve(hint: usize, protection: libc::c_int) -> Option<Self> {
        let mut bytes = ARENA_BYTES;
        while bytes >= LARGE_PAGE {
            // SAFETY: a new private mapping; the hint is no demand, so nothing that exists is replaced.
            let start = unsafe {
                libc::mmap(
                    hint as *mut libc::c_void,
                    bytes,
                    protection,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if start != libc::MAP_FAILED {
                let start = start as usize;
                return Some(Self { start, bytes, free: BTreeMap::from([(start, bytes)]) });
            }
            bytes /= 2;
        }
        None
    }

    fn contains(&self, address: usize) -> bool {
        (self.start..self.start + self.bytes).contains(&address)
    }

    pub(super) fn take(&mut self, bytes: usize, alignment: usize) -> Option<usize> {
        let fits = |(&start, &length): (&usize, &usize)| {
            let address = start.next_multiple_of(alignment);
            (address.checked_add(bytes)? <= start + length).then_some((start, length, address))
        };
        let (start, length, address) = self.free.iter().find_map(fits)?;
        self.free.remove(&start);
        if address > start {
            self.free.insert(start, address - start);
        }
        let (end, taken_end) = (start + length, address + bytes);
        if end > taken_end {
            self.free.insert(taken_end, end - taken_end);
        }
        Some(address)
    }

    pub(super) fn put_back(&mut self, address: usize, bytes: usize) {
        let (first, last) = (address.next_multiple_of(PAGE), (address + bytes) / PAGE * PAGE);
        if last > first {
            // SAFETY: whole pages of the arena that no block lies in any more.
            unsafe { libc::madvise(first as *mut libc::c_void, last - first, libc::MADV_DONTNEED) };
        }
        let (mut start, mut end) = (address, address + bytes);
        if let Some((&before, &length)) = self.free.range(..start).next_back().filter(|(s, l)| *s + *l == start) {
            self.free.remove(&before);
            start = before;
            debug_assert_eq!(before + length, address);
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_ranges_grow_together_again() {
        let mut arena = Arena { start: 0, bytes: 0, free: BTreeMap::from([(LARGE_PAGE, 8 * LARGE_PAGE)]) };
        let taken: Vec<_> = (0..4).map(|_| arena.take(700, 512).expect("there is room")).collect();
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] == 1024), "{taken:?}");
        let aligned = arena.take(LARGE_PAGE, LARGE_PAGE).expect("there is room");
        assert_eq!(aligned % LARGE_PAGE, 0);
        assert_eq!(arena.take(64 * LARGE_PAGE, 512), None);
    }
}
