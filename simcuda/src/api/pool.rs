//! Memory in stream order, and the pools it comes from.

use super::layout::PoolProps;
use super::{not_null, put};
use crate::sim::{Process, Work};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUdevice, CUdeviceptr, CUmemoryPool, CUstream};
use std::ffi::{c_int, c_uint, c_void};

const RELEASE_THRESHOLD: u32 = 4;
const LOCATION_DEVICE: u32 = 1;
const PINNED: u32 = 1;

unsafe fn allocate(
    process: &Process,
    out: *mut CUdeviceptr,
    bytes: usize,
    pool: Option<usize>,
    stream: CUstream,
    per_thread: bool,
) -> R {
    not_null(out)?;
    let mut sim = process.sim();
    let id = sim.stream_id(stream as usize, per_thread)?;
    sim.check_legacy_use(id)?;
    if sim.streams.get(&id).is_some_and(|stream| stream.capture.is_some()) {
        return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
    }
    let address = match bytes {
        0 => 0,
        _ => {
            let pool = pool.unwrap_or_else(|| sim.pool_in_use());
            sim.allocate_pooled(process, bytes, pool)?
        }
    };
    // SAFETY: checked above, and writable by the API's contract.
    unsafe { put(out, address as CUdeviceptr) }
}

/// Where a pool's attribute lies: 1 to 3 are switches of 32 bits, the others sizes of 64.
fn size_attribute(pool: &mut crate::sim::Pool, attribute: c_uint) -> R<&mut u64> {
    Ok(match attribute {
        RELEASE_THRESHOLD => &mut pool.threshold_bytes,
        5 => &mut pool.reserved_bytes,
        6 => &mut pool.reserved_high_bytes,
        7 => &mut pool.used_bytes,
        8 => &mut pool.used_high_bytes,
        _ => return Err(Status::CUDA_ERROR_INVALID_VALUE),
    })
}

driver_api! {
    /// Allocates device memory in stream order, from the device's pool.
    fn cuMemAllocAsync, cuMemAllocAsync_ptsz(out: *mut CUdeviceptr, bytes: usize, stream: CUstream) |process, per_thread| {
        allocate(process, out, bytes, None, stream, per_thread)
    }

    /// Allocates device memory in stream order, from a pool.
    fn cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync_ptsz(
        out: *mut CUdeviceptr, bytes: usize, pool: CUmemoryPool, stream: CUstream,
    ) |process, per_thread| {
        allocate(process, out, bytes, Some(pool as usize), stream, per_thread)
    }

    /// Frees device memory in stream order.
    fn cuMemFreeAsync, cuMemFreeAsync_ptsz(address: CUdeviceptr, stream: CUstream) |process, per_thread| {
        let mut sim = process.sim();
        let id = sim.stream_id(stream as usize, per_thread)?;
        if address == 0 {
            return Ok(());
        }
        sim.check_legacy_use(id)?;
        if sim.streams.get(&id).is_some_and(|stream| stream.capture.is_some()) {
            return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
        }
        sim.leave_pool(address as usize)?;
        process.submit(&mut sim, id, Work::Release { address: address as usize }).map(drop)
    }

    /// The device's own pool.
    fn cuDeviceGetDefaultMemPool(pool: *mut CUmemoryPool, device: CUdevice) |process| {
        super::device::check_device(device)?;
        put(pool, process.sim().default_pool() as CUmemoryPool)
    }

    /// The pool that allocations without one come from.
    fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, device: CUdevice) |process| {
        super::device::check_device(device)?;
        put(pool, process.sim().pool_in_use() as CUmemoryPool)
    }

    /// Sets the pool that allocations without one come from.
    fn cuDeviceSetMemPool(device: CUdevice, pool: CUmemoryPool) |process| {
        super::device::check_device(device)?;
        let mut sim = process.sim();
        sim.pools.get(pool as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        sim.current_pool = pool as usize;
        Ok(())
    }

    /// Makes a pool on the device; memory for other processes is not there.
    fn cuMemPoolCreate(pool: *mut CUmemoryPool, properties: *const PoolProps) |process| {
        not_null(pool)?;
        let properties = properties.as_ref().ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        if properties.kind != PINNED || properties.location.kind != LOCATION_DEVICE || properties.location.id != 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        if properties.handle_types != 0 {
            return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
        }
        let handle = process.sim().pools.insert(crate::sim::Pool::default());
        put(pool, handle as CUmemoryPool)
    }

    /// Destroys a pool once nothing of it is in use.
    fn cuMemPoolDestroy(pool: CUmemoryPool) |process| { process.sim().destroy_pool(process, pool as usize) }

    /// Gives reserved memory of a pool back, down to a size.
    fn cuMemPoolTrimTo(pool: CUmemoryPool, keep_bytes: usize) |process| {
        let mut sim = process.sim();
        sim.pools.get(pool as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        sim.trim_pool(process, pool as usize, keep_bytes as u64);
        Ok(())
    }

    /// An attribute of a pool.
    fn cuMemPoolGetAttribute(pool: CUmemoryPool, attribute: c_uint, value: *mut c_void) |process| {
        not_null(value)?;
        let mut sim = process.sim();
        let pool = sim.pools.get_mut(pool as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        match attribute {
            1..=3 => put(value.cast(), c_int::from(!pool.reuse_disabled[attribute as usize - 1])),
            _ => put(value.cast(), *size_attribute(pool, attribute)?),
        }
    }

    /// Sets an attribute of a pool; high-water marks can only be set to 0.
    fn cuMemPoolSetAttribute(pool: CUmemoryPool, attribute: c_uint, value: *mut c_void) |process| {
        not_null(value)?;
        let mut sim = process.sim();
        let pool = sim.pools.get_mut(pool as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        match attribute {
            1..=3 => pool.reuse_disabled[attribute as usize - 1] = value.cast::<c_int>().read() == 0,
            RELEASE_THRESHOLD => pool.threshold_bytes = value.cast::<u64>().read(),
            6 | 8 if value.cast::<u64>().read() == 0 => {
                let current = *size_attribute(pool, attribute - 1)?;
                *size_attribute(pool, attribute)? = current;
            }
            _ => return Err(Status::CUDA_ERROR_INVALID_VALUE),
        }
        Ok(())
    }
}
