//! Page-locked host memory.

use super::{not_null, only_flags, put};
use crate::clock::now_ns;
use crate::sim::{ALLOC_FLAGS, Process, REGISTER_FLAGS};
use crate::status::{R, Status};
use cudarc::driver::sys::CUdeviceptr;
use std::ffi::{c_uint, c_void};

unsafe fn allocate(process: &Process, out: *mut *mut c_void, bytes: usize, flags: c_uint) -> R {
    not_null(out)?;
    only_flags(flags, ALLOC_FLAGS)?;
    let started_ns = now_ns();
    let mut sim = process.sim();
    let context = sim.current_handle()?;
    sim.check_unsafe_call()?;
    let address = if bytes == 0 { 0 } else { sim.memory.add_host(bytes, flags, context)? };
    drop(sim);
    let costs = &process.settings.costs;
    if bytes > 0 {
        process.page_lock_until(started_ns + costs.take(costs.host_alloc.at(bytes as u64)));
    }
    // SAFETY: checked above, and writable by the API's contract.
    unsafe { put(out, address as *mut c_void) }
}

driver_api! {
    /// Allocates page-locked memory; nothing and null for 0 bytes.
    fn cuMemHostAlloc(out: *mut *mut c_void, bytes: usize, flags: c_uint) |process| { allocate(process, out, bytes, flags) }

    /// Allocates page-locked memory.
    fn cuMemAllocHost_v2(out: *mut *mut c_void, bytes: usize) |process| { allocate(process, out, bytes, 0) }

    /// Frees page-locked memory, after all work of the context it is of; that of others may go on reading it.
    fn cuMemFreeHost(address: *mut c_void) |process| {
        let mut sim = process.sim();
        sim.check_no_dead_context()?;
        sim.check_unsafe_call()?;
        if address.is_null() {
            return Ok(());
        }
        let block = sim.memory.host.get(&(address as usize)).filter(|block| !block.registered);
        let (bytes, context) = block.map(|block| (block.bytes, block.context)).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        process.drain(&mut sim, Some(context));
        let started_ns = now_ns();
        sim.memory.remove_host(address as usize);
        drop(sim);
        let costs = &process.settings.costs;
        process.page_lock_until(started_ns + costs.take(costs.host_free.at(bytes as u64)));
        Ok(())
    }

    /// Page-locks memory of the program's.
    fn cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: c_uint) |process| {
        only_flags(flags, REGISTER_FLAGS)?;
        if address.is_null() || bytes == 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let started_ns = now_ns();
        let mut sim = process.sim();
        let context = sim.current_handle()?;
        sim.check_unsafe_call()?;
        sim.memory.register_host(address as usize, bytes, flags, context)?;
        drop(sim);
        let costs = &process.settings.costs;
        process.page_lock_until(started_ns + costs.take(costs.host_register.at(bytes as u64)));
        Ok(())
    }

    /// Lets go of memory of the program's, after all work of the GPU for this process.
    fn cuMemHostUnregister(address: *mut c_void) |process| {
        let mut sim = process.sim();
        sim.check_no_dead_context()?;
        sim.check_unsafe_call()?;
        let Some(bytes) = sim.memory.host.get(&(address as usize)).filter(|block| block.registered).map(|block| block.bytes)
        else {
            let known = sim.memory.host_block(address as usize).is_some();
            let unknown = Status::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
            return Err(if known { Status::CUDA_ERROR_INVALID_VALUE } else { unknown });
        };
        process.drain(&mut sim, None);
        let started_ns = now_ns();
        sim.memory.remove_host(address as usize);
        drop(sim);
        let costs = &process.settings.costs;
        process.page_lock_until(started_ns + costs.take(costs.host_unregister.at(bytes as u64)));
        Ok(())
    }

    /// The flags of memory that cuMemHostAlloc gave.
    fn cuMemHostGetFlags(flags: *mut c_uint, address: *mut c_void) |process| {
        not_null(flags)?;
        let sim = process.sim();
        sim.current_handle()?;
        let block = sim.memory.host_block(address as usize);
        put(flags, block.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?.1.flags)
    }

    /// The device's address of page-locked memory: the same.
    fn cuMemHostGetDevicePointer_v2(out: *mut CUdeviceptr, address: *mut c_void, flags: c_uint) |process| {
        not_null(out)?;
        only_flags(flags, 0)?;
        let sim = process.sim();
        sim.current_handle()?;
        sim.memory.host_block(address as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        put(out, address as CUdeviceptr)
    }
}
