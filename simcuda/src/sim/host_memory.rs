//! Page-locked host memory: allocated by the driver, or the program's own and registered.

use super::memory::Memory;
use crate::status::{R, Status};

/// CU_MEMHOSTALLOC_PORTABLE, DEVICEMAP and WRITECOMBINED.
pub(crate) const ALLOC_FLAGS: u32 = 0x7;
/// CU_MEMHOSTREGISTER_PORTABLE, DEVICEMAP, IOMEMORY and READ_ONLY.
pub(crate) const REGISTER_FLAGS: u32 = 0xf;
const DEVICE_MAP: u32 = 2;
const WRITE_COMBINED: u32 = 4;

/// A page-locked range.
#[derive(Clone, Debug)]
pub(crate) struct HostBlock {
    pub(crate) bytes: usize,
    /// As cuMemHostGetFlags reads them.
    pub(crate) flags: u32,
    pub(crate) registered: bool,
    pub(crate) context: usize,
    pub(crate) buffer_id: u64,
    pub(crate) sync_memops: bool,
}

impl Memory {
    /// Allocates page-locked memory, zeroed.
    pub(crate) fn add_host(&mut self, bytes: usize, flags: u32, context: usize) -> R<usize> {
        // SAFETY: a new private mapping.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Status::CUDA_ERROR_OUT_OF_MEMORY);
        }
        self.insert_host(address as usize, bytes, flags, false, context);
        Ok(address as usize)
    }

    /// Registers memory of the program's.
    pub(crate) fn register_host(&mut self, address: usize, bytes: usize, flags: u32, context: usize) -> R {
        let end = address.checked_add(bytes).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        let before = self.host.range(..end).next_back();
        match before.filter(|(start, block)| *start + block.bytes > address) {
            Some((_, block)) if block.registered => {
                return Err(Status::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
            }
            Some(_) => return Err(Status::CUDA_ERROR_INVALID_VALUE),
            None => {}
        }
        self.insert_host(address, bytes, flags, true, context);
        Ok(())
    }

    fn insert_host(&mut self, address: usize, bytes: usize, flags: u32, registered: bool, context: usize) {
        let buffer_id = self.buffer_id();
        // The driver reports every block as mapped, and which are portable of large ones and of write-combined ones.
        const LARGE_BYTES: usize = 2 << 20;
        let tells = !registered && (flags & WRITE_COMBINED != 0 || bytes >= LARGE_BYTES);
        let flags = if tells { flags } else { flags & WRITE_COMBINED } | DEVICE_MAP;
        self.host.insert(address, HostBlock { bytes, flags, registered, context, buffer_id, sync_memops: false });
    }

    /// Removes a block that starts at `address`, and frees it if the driver allocated it.
    pub(crate) fn remove_host(&mut self, address: usize) -> Option<HostBlock> {
        let block = self.host.remove(&address)?;
        if !block.registered {
            // SAFETY: the mapping that add_host made, of the same length; its block is gone.
            unsafe { libc::munmap(address as *mut libc::c_void, block.bytes) };
        }
        Some(block)
    }
}
