//! Virtual memory management: cuMemAddressReserve, cuMemCreate, cuMemMap and what goes with them.

use super::memory::{BlockKind, DeviceBlock, LARGE_PAGE};
use super::{Process, Sim};
use crate::status::{R, Status};

/// Sizes and addresses are multiples of this, in bytes.
pub(crate) const GRANULARITY: usize = LARGE_PAGE;

/// Physical memory from cuMemCreate: a shared mapping of its own, of which cuMemMap makes further ones.
#[derive(Debug)]
pub(crate) struct Chunk {
    address: usize,
    bytes: usize,
    /// Handles and mappings that refer to it.
    users: usize,
    released: bool,
}

impl Chunk {
    /// Maps the chunk a second time, at reserved addresses of the arena where no block lies.
    fn alias(&self, address: usize) -> R {
        let (own, there) = (self.address as *mut libc::c_void, address as *mut libc::c_void);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: mremap(2) with an old size of 0 makes a second mapping of a shared one; what it replaces is a part of
        // our own arena that the caller found reserved and free.
        let mapped = unsafe { libc::mremap(own, 0, self.bytes, flags, there) };
        if mapped == libc::MAP_FAILED { Err(Status::CUDA_ERROR_OUT_OF_MEMORY) } else { Ok(()) }
    }
}

impl Sim {
    /// cuMemAddressReserve.
    pub(crate) fn reserve_addresses(&mut self, bytes: usize, alignment: usize) -> R<usize> {
        if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) || !(alignment == 0 || alignment.is_power_of_two()) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let address = self.memory.take_addresses(bytes, alignment.max(GRANULARITY))?;
        self.memory.reservations.insert(address, bytes);
        Ok(address)
    }

    /// cuMemAddressFree; nothing may be mapped there.
    pub(crate) fn free_addresses(&mut self, address: usize, bytes: usize) -> R {
        let known = self.memory.reservations.get(&address) == Some(&bytes);
        let mut mapped = self.memory.device.range(address..address.saturating_add(bytes));
        if !known || mapped.next().is_some() {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        self.memory.reservations.remove(&address);
        self.memory.return_addresses(address, bytes);
        Ok(())
    }

    /// cuMemCreate.
    pub(crate) fn create_chunk(&mut self, process: &'static Process, bytes: usize) -> R<usize> {
        if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        process.join_gpu()?;
        if !process.gpu.take_memory(process.slot(), bytes as u64) {
            return Err(Status::CUDA_ERROR_OUT_OF_MEMORY);
        }
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            process.gpu.return_memory(process.slot(), bytes as u64);
            return Err(Status::CUDA_ERROR_OUT_OF_MEMORY);
        }
        Ok(self.memory.chunks.insert(Chunk { address: address as usize, bytes, users: 1, released: false }))
    }

    /// cuMemRelease: the memory lives on while it is mapped.
    pub(crate) fn release_chunk(&mut self, process: &Process, handle: usize) -> R {
        let chunk = self.memory.chunks.get_mut(handle).filter(|chunk| !chunk.released);
        let chunk = chunk.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        let mappings = self.memory.device.values().filter(|block| block.maps(handle)).count();
        chunk.released = chunk.users - mappings == 1;
        self.drop_chunk_user(process, handle);
        Ok(())
    }

    fn drop_chunk_user(&mut self, process: &Process, handle: usize) {
        let Some(chunk) = self.memory.chunks.get_mut(handle) else {
            return;
        };
        chunk.users -= 1;
        if chunk.users == 0 {
            // SAFETY: the chunk's own mapping; cuMemUnmap removed all others.
            unsafe { libc::munmap(chunk.address as *mut libc::c_void, chunk.bytes) };
            process.gpu.return_memory(process.slot(), chunk.bytes as u64);
            self.memory.chunks.remove(handle);
        }
    }

    /// cuMemMap. As the driver's, a mapping covers a whole allocation.
    pub(crate) fn map_chunk(&mut self, address: usize, bytes: usize, offset: usize, handle: usize) -> R {
        let blocks = &self.memory.device;
        let before = blocks.range(..address.saturating_add(bytes)).next_back();
        let free = before.is_none_or(|(start, block)| start + block.bytes <= address);
        let inside = self.memory.is_reserved(address, bytes) && address.is_multiple_of(GRANULARITY);
        let chunk = self.memory.chunks.get_mut(handle);
        let chunk = chunk.filter(|chunk| inside && free && offset == 0 && bytes == chunk.bytes);
        let chunk = chunk.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        chunk.alias(address)?;
        chunk.users += 1;
        let kind = BlockKind::Mapped { chunk: handle, accessible: false };
        let block = DeviceBlock::new(bytes, 0, kind, self.memory.buffer_id());
        self.memory.device.insert(address, block);
        Ok(())
    }

    /// cuMemUnmap: the mappings that lie in the range.
    pub(crate) fn unmap_range(&mut self, process: &Process, address: usize, bytes: usize) -> R {
        if bytes == 0 || !self.memory.is_reserved(address, bytes) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let mapped = self.memory.device.range(address..address + bytes);
        let starts: Vec<_> = mapped.map(|(start, _)| *start).collect();
        for start in starts {
            let Some(block) = self.memory.device.remove(&start) else {
                continue;
            };
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
            // SAFETY: turns the mapping back into a part of the arena as it was before.
            unsafe {
                libc::mmap(start as *mut libc::c_void, block.bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
            };
            if let BlockKind::Mapped { chunk, .. } = block.kind {
                self.drop_chunk_user(process, chunk);
            }
        }
        Ok(())
    }

    /// cuMemSetAccess.
    pub(crate) fn set_access(&mut self, address: usize, bytes: usize, access: bool) -> R {
        for start in self.mappings_in(address, bytes)? {
            if let Some(BlockKind::Mapped { accessible, .. }) =
                self.memory.device.get_mut(&start).map(|block| &mut block.kind)
            {
                *accessible = access;
            }
        }
        Ok(())
    }

    /// cuMemRetainAllocationHandle: the allocation mapped at `address`.
    pub(crate) fn retain_chunk(&mut self, address: usize) -> R<usize> {
        let kind = self.memory.device_block(address).map(|(_, block)| block.kind);
        let Some(BlockKind::Mapped { chunk: handle, .. }) = kind else {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        };
        let chunk = self.memory.chunks.get_mut(handle).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        chunk.users += 1;
        chunk.released = false;
        Ok(handle)
    }

    fn mappings_in(&self, address: usize, bytes: usize) -> R<Vec<usize>> {
        let end = address.checked_add(bytes).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        let starts: Vec<_> = self.memory.device.range(address..end).map(|(start, _)| *start).collect();
        let whole = starts.iter().map(|start| &self.memory.device[start]);
        let covered: usize =
            whole.filter(|block| matches!(block.kind, BlockKind::Mapped { .. })).map(|b| b.bytes).sum();
        if bytes == 0 || covered != bytes { Err(Status::CUDA_ERROR_INVALID_VALUE) } else { Ok(starts) }
    }
}

impl DeviceBlock {
    fn maps(&self, handle: usize) -> bool {
        matches!(self.kind, BlockKind::Mapped { chunk, .. } if chunk == handle)
    }
}
