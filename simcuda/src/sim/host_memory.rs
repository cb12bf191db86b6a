//! Page-locked host memory: allocated by the driver, or the program's own and registered.

use super::memory::{Arena, LARGE_PAGE, Memory, PAGE};
use crate::status::{R, Status};

/// CU_MEMHOSTALLOC_PORTABLE, DEVICEMAP and WRITECOMBINED.
pub(crate) const ALLOC_FLAGS: u32 = 0x7;
/// CU_MEMHOSTREGISTER_PORTABLE, DEVICEMAP, IOMEMORY and READ_ONLY.
pub(crate) const REGISTER_FLAGS: u32 = 0xf;
const PORTABLE: u32 = 1;
const DEVICE_MAP: u32 = 2;
const WRITE_COMBINED: u32 = 4;
/// Where page-locked memory is asked for: apart from device addresses.
const ARENA_HINT: usize = 0x2000_0000_0000;

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
        if self.host_arena.is_none() {
            self.host_arena = Arena::reserve(ARENA_HINT, libc::PROT_NONE);
        }
        let arena = self.host_arena.as_mut().ok_or(Status::CUDA_ERROR_OUT_OF_MEMORY)?;
        let (taken, alignment) = room_for(bytes);
        let address = arena.take(taken, alignment).ok_or(Status::CUDA_ERROR_OUT_OF_MEMORY)?;
        if !remap(address, taken, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_POPULATE) {
            arena.put_back(address, taken);
            return Err(Status::CUDA_ERROR_OUT_OF_MEMORY);
        }
        self.insert_host(address, bytes, flags, false, context);
        Ok(address)
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
        // The driver reports every block as mapped. Blocks that share a large page are not told to be portable.
        let is_apart = bytes >= LARGE_PAGE || !registered && flags & WRITE_COMBINED != 0;
        let portable = if is_apart { PORTABLE } else { 0 };
        let write_combined = if registered { 0 } else { WRITE_COMBINED };
        let flags = flags & (write_combined | portable) | DEVICE_MAP;
        self.host.insert(address, HostBlock { bytes, flags, registered, context, buffer_id, sync_memops: false });
    }

    /// Removes a block that starts at `address`, and frees it if the driver allocated it.
    pub(crate) fn remove_host(&mut self, address: usize) -> Option<HostBlock> {
        let block = self.host.remove(&address)?;
        if !block.registered {
            let (taken, _) = room_for(block.bytes);
            remap(address, taken, libc::PROT_NONE, libc::MAP_NORESERVE);
            if let Some(arena) = &mut self.host_arena {
                arena.put_back(address, taken);
            }
        }
        Some(block)
    }
}

/// What a block takes, in bytes, and its alignment: small ones share large pages, and lie across none.
fn room_for(bytes: usize) -> (usize, usize) {
    if bytes > LARGE_PAGE / 2 {
        (bytes.checked_next_multiple_of(LARGE_PAGE).unwrap_or(usize::MAX), LARGE_PAGE)
    } else {
        let taken = bytes.next_power_of_two().max(PAGE);
        (taken, taken)
    }
}

/// Puts fresh pages of our own there; false where there is no memory for them.
fn remap(address: usize, bytes: usize, protection: libc::c_int, flags: libc::c_int) -> bool {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: whole pages of the arena, in which no block lies.
    let mapped = unsafe { libc::mmap(address as *mut libc::c_void, bytes, protection, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}
