//! Virtual memory management.

use super::layout::{AccessDesc, AllocationProp};
use super::{not_null, put};
use crate::sim::GRANULARITY;
use crate::status::{R, Status};
use cudarc::driver::sys::CUdeviceptr;
use std::ffi::{c_uint, c_void};

const PINNED: u32 = 1;
const LOCATION_DEVICE: u32 = 1;
/// CU_MEM_ACCESS_FLAGS_PROT_NONE, READ and READWRITE.
const ACCESS: [u32; 3] = [0, 1, 3];

unsafe fn check_properties(properties: *const AllocationProp) -> R {
    // SAFETY: null or readable, by the API's contract.
    let properties = unsafe { properties.as_ref() }.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
    if properties.kind != PINNED {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    if properties.location.kind != LOCATION_DEVICE || properties.handle_types != 0 {
        return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
    }
    if properties.location.id == 0 { Ok(()) } else { Err(Status::CUDA_ERROR_INVALID_DEVICE) }
}

driver_api! {
    /// What sizes must be multiples of, in bytes.
    fn cuMemGetAllocationGranularity(bytes: *mut usize, properties: *const AllocationProp, option: c_uint) |_| {
        not_null(bytes)?;
        check_properties(properties)?;
        if option > 1 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        put(bytes, GRANULARITY)
    }

    /// Reserves device addresses. A wish for certain addresses is not met.
    fn cuMemAddressReserve(out: *mut CUdeviceptr, bytes: usize, alignment: usize, _wish: CUdeviceptr, flags: u64) |process| {
        not_null(out)?;
        if flags != 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let address = process.sim().reserve_addresses(bytes, alignment)?;
        put(out, address as CUdeviceptr)
    }

    /// Gives reserved addresses back.
    fn cuMemAddressFree(address: CUdeviceptr, bytes: usize) |process| {
        process.sim().free_addresses(address as usize, bytes)
    }

    /// Takes device memory that has no address yet.
    fn cuMemCreate(handle: *mut u64, bytes: usize, properties: *const AllocationProp, flags: u64) |process| {
        not_null(handle)?;
        check_properties(properties)?;
        if flags != 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let chunk = process.sim().create_chunk(process, bytes)?;
        put(handle, chunk as u64)
    }

    /// Gives a handle back; the memory goes once nothing maps it.
    fn cuMemRelease(handle: u64) |process| { process.sim().release_chunk(process, handle as usize) }

    /// Maps memory at reserved addresses.
    fn cuMemMap(address: CUdeviceptr, bytes: usize, offset: usize, handle: u64, flags: u64) |process| {
        if flags != 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        process.sim().map_chunk(address as usize, bytes, offset, handle as usize)
    }

    /// Removes mappings, after the GPU's work.
    fn cuMemUnmap(address: CUdeviceptr, bytes: usize) |process| {
        let mut sim = process.sim();
        sim.check_unsafe_call()?;
        process.drain(&mut sim, None);
        sim.unmap_range(process, address as usize, bytes)
    }

    /// Makes mapped memory accessible; read-only is not told apart.
    fn cuMemSetAccess(address: CUdeviceptr, bytes: usize, access: *const AccessDesc, count: usize) |process| {
        not_null(access)?;
        let mut sim = process.sim();
        for index in 0..count {
            let access = access.add(index).read();
            if access.location.kind != LOCATION_DEVICE || access.location.id != 0 || !ACCESS.contains(&access.flags) {
                return Err(Status::CUDA_ERROR_INVALID_VALUE);
            }
            sim.set_access(address as usize, bytes, access.flags != 0)?;
        }
        Ok(())
    }

    /// A further handle of the memory mapped at an address.
    fn cuMemRetainAllocationHandle(handle: *mut u64, address: *mut c_void) |process| {
        not_null(handle)?;
        let chunk = process.sim().retain_chunk(address as usize)?;
        put(handle, chunk as u64)
    }
}
