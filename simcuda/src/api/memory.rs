//! Device and managed memory.

use super::{not_null, put, put_if_wanted};
use crate::clock::sleep_for;
use crate::sim::{BlockKind, Process};
use crate::status::{R, Status};
use cudarc::driver::sys::CUdeviceptr;
use std::ffi::c_uint;

const PITCH_ALIGNMENT: usize = 512;
/// CU_MEM_ATTACH_GLOBAL, HOST and SINGLE.
const ATTACH: std::ops::RangeInclusive<u32> = 1..=2;

unsafe fn allocate(process: &Process, out: *mut CUdeviceptr, bytes: usize, kind: BlockKind) -> R {
    not_null(out)?;
    let address = process.sim().allocate(process, bytes, kind)?;
    let costs = &process.settings.costs;
    sleep_for(costs.take(costs.device_alloc_ns));
    // SAFETY: checked above, and writable by the API's contract.
    unsafe { put(out, address as CUdeviceptr) }
}

driver_api! {
    /// Allocates device memory.
    fn cuMemAlloc_v2(out: *mut CUdeviceptr, bytes: usize) |process| { allocate(process, out, bytes, BlockKind::Plain) }

    /// Allocates rows of device memory, each starting at a multiple of 512 bytes.
    fn cuMemAllocPitch_v2(out: *mut CUdeviceptr, pitch: *mut usize, width: usize, height: usize, element_bytes: c_uint) |process| {
        not_null(pitch)?;
        if !matches!(element_bytes, 4 | 8 | 16) || width == 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH_ALIGNMENT).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        allocate(process, out, bytes, BlockKind::Plain)?;
        put(pitch, row)
    }

    /// Allocates managed memory.
    fn cuMemAllocManaged(out: *mut CUdeviceptr, bytes: usize, flags: c_uint) |process| {
        if !ATTACH.contains(&flags) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        allocate(process, out, bytes, BlockKind::Managed)
    }

    /// Frees device memory, after the GPU has finished with it.
    fn cuMemFree_v2(address: CUdeviceptr) |process| {
        let mut sim = process.sim();
        let context = sim.current_handle()?;
        if address == 0 {
            return Ok(());
        }
        sim.check_unsafe_call()?;
        process.drain(&mut sim, Some(context));
        sim.free(process, address as usize)?;
        drop(sim);
        let costs = &process.settings.costs;
        sleep_for(costs.take(costs.device_alloc_ns));
        Ok(())
    }

    /// Device memory that is free, and all there is, in bytes: for all processes.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) |process| {
        process.sim().current_handle()?;
        let all = process.gpu.memory_bytes();
        put_if_wanted(free, all.saturating_sub(process.gpu.used_bytes()) as usize);
        put_if_wanted(total, all as usize);
        Ok(())
    }

    /// Start and size of the allocation that an address lies in.
    fn cuMemGetAddressRange_v2(base: *mut CUdeviceptr, bytes: *mut usize, address: CUdeviceptr) |process| {
        let sim = process.sim();
        sim.current_handle()?;
        let device = sim.memory.device_block(address as usize).map(|(start, block)| (start, block.bytes));
        let host = || sim.memory.host_block(address as usize).map(|(start, block)| (start, block.bytes));
        let (start, length) = device.or_else(host).ok_or(Status::CUDA_ERROR_NOT_FOUND)?;
        put_if_wanted(base, start as CUdeviceptr);
        put_if_wanted(bytes, length);
        Ok(())
    }
}
