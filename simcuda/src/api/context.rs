//! Contexts of the program's own, and the stack of them that each thread has.

use super::device::check_device;
use super::{not_null, only_flags, put};
use crate::sim::{Process, thread};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUcontext, CUdevice, CUexecAffinityParam};
use std::ffi::{c_int, c_uint};

/// All context flags: scheduling, map host, local memory, coredumps, synchronous memory operations.
pub(super) const FLAGS: u32 = 0xff;
const API_VERSION: u32 = 3020;

unsafe fn create(process: &'static Process, out: *mut CUcontext, flags: c_uint, device: CUdevice, version: u32) -> R {
    not_null(out)?;
    check_device(device)?;
    only_flags(flags, FLAGS)?;
    let handle = process.sim().create_context(process, flags, version)?;
    if !thread::push(handle) {
        process.sim().destroy_context(process, handle);
        return Err(Status::CUDA_ERROR_OUT_OF_MEMORY);
    }
    // SAFETY: checked above, and writable by the API's contract.
    unsafe { put(out, handle as CUcontext) }
}

/// The context of a handle, or the calling thread's for null.
fn named(process: &Process, context: CUcontext) -> R<usize> {
    let sim = process.sim();
    if context.is_null() { sim.current_handle() } else { sim.healthy(context as usize).map(|()| context as usize) }
}

fn synchronize(process: &Process, context: usize) -> R {
    let mut sim = process.sim();
    sim.check_context_sync(context)?;
    process.drain(&mut sim, Some(context));
    sim.healthy(context)
}

driver_api! {
    /// Makes a context and pushes it.
    fn cuCtxCreate_v2(out: *mut CUcontext, flags: c_uint, device: CUdevice) |process| {
        create(process, out, flags, device, API_VERSION)
    }

    /// Makes a context and pushes it; execution affinity is not there.
    fn cuCtxCreate_v3(out: *mut CUcontext, affinity: *mut CUexecAffinityParam, count: c_int, flags: c_uint, device: CUdevice) |process| {
        if !affinity.is_null() || count != 0 {
            return Err(Status::CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY);
        }
        create(process, out, flags, device, API_VERSION)
    }

    /// Makes a context and pushes it; neither execution affinity nor graphics are there.
    fn cuCtxCreate_v4(out: *mut CUcontext, parameters: *const super::layout::CtxCreateParams, flags: c_uint, device: CUdevice) |process| {
        if let Some(parameters) = parameters.as_ref() {
            if parameters.affinity_count != 0 {
                return Err(Status::CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY);
            }
            if !parameters.graphics.is_null() {
                return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
            }
        }
        create(process, out, flags, device, API_VERSION)
    }

    /// Takes a context down, after its work.
    fn cuCtxDestroy_v2(context: CUcontext) |process| {
        let handle = context as usize;
        let mut sim = process.sim();
        sim.context(handle).map_err(|_| Status::CUDA_ERROR_INVALID_CONTEXT)?;
        if sim.primary.handle == Some(handle) {
            return Err(Status::CUDA_ERROR_INVALID_CONTEXT);
        }
        process.drain(&mut sim, Some(handle));
        sim.destroy_context(process, handle);
        if thread::top() == handle {
            thread::pop();
        }
        Ok(())
    }

    /// The calling thread's context, or null.
    fn cuCtxGetCurrent(out: *mut CUcontext) |_| { put(out, thread::top() as CUcontext) }

    /// Replaces the calling thread's context; null leaves what is below it.
    fn cuCtxSetCurrent(context: CUcontext) |process| {
        if !context.is_null() {
            process.sim().context(context as usize).map_err(|_| Status::CUDA_ERROR_INVALID_CONTEXT)?;
        }
        thread::replace(context as usize);
        Ok(())
    }

    /// Pushes a context.
    fn cuCtxPushCurrent_v2(context: CUcontext) |process| {
        not_null(context)?;
        process.sim().context(context as usize).map_err(|_| Status::CUDA_ERROR_INVALID_CONTEXT)?;
        if thread::push(context as usize) { Ok(()) } else { Err(Status::CUDA_ERROR_INVALID_CONTEXT) }
    }

    /// Pops the calling thread's context.
    fn cuCtxPopCurrent_v2(out: *mut CUcontext) |_| {
        match thread::pop() {
            0 => Err(Status::CUDA_ERROR_INVALID_CONTEXT),
            handle => {
                super::put_if_wanted(out, handle as CUcontext);
                Ok(())
            }
        }
    }

    /// The current context's device.
    fn cuCtxGetDevice(device: *mut CUdevice) |process| {
        process.sim().current_handle()?;
        put(device, 0)
    }

    /// A context's device.
    fn cuCtxGetDevice_v2(device: *mut CUdevice, context: CUcontext) |process| {
        named(process, context)?;
        put(device, 0)
    }

    /// The API version a context was made with.
    fn cuCtxGetApiVersion(context: CUcontext, version: *mut c_uint) |process| {
        let handle = named(process, context)?;
        put(version, process.sim().context(handle)?.api_version)
    }

    /// The current context's flags.
    fn cuCtxGetFlags(flags: *mut c_uint) |process| { put(flags, process.sim().current()?.flags) }

    /// A number no other context of the process has.
    fn cuCtxGetId(context: CUcontext, id: *mut u64) |process| {
        let handle = named(process, context)?;
        put(id, process.sim().context(handle)?.id)
    }

    /// Waits for the current context's work.
    fn cuCtxSynchronize() |process| {
        let handle = process.sim().current_handle()?;
        synchronize(process, handle)
    }

    /// Waits for a context's work.
    fn cuCtxSynchronize_v2(context: CUcontext) |process| {
        let handle = named(process, context)?;
        synchronize(process, handle)
    }

    /// Numerical range of stream priorities.
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) |process| {
        process.sim().current_handle()?;
        super::put_if_wanted(least, super::stream::LEAST_PRIORITY);
        super::put_if_wanted(greatest, super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    /// A limit of the current context.
    fn cuCtxGetLimit(value: *mut usize, limit: c_uint) |process| {
        let sim = process.sim();
        let limits = sim.current()?.limits;
        put(value, *limits.get(limit as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?)
    }

    /// Sets a limit of the current context.
    fn cuCtxSetLimit(limit: c_uint, value: usize) |process| {
        let mut sim = process.sim();
        let handle = sim.current_handle()?;
        let context = sim.contexts.get_mut(handle).ok_or(Status::CUDA_ERROR_INVALID_CONTEXT)?;
        *context.limits.get_mut(limit as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)? = value;
        Ok(())
    }
}
