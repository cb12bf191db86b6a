//! Streams, callbacks, stream memory operations.

use super::{not_null, only_flags, put, put_if_wanted};
use crate::sim::{HostCall, NON_BLOCKING, Process, Stream, StreamKind, Ticket, Work, memory_op};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUevent, CUstream, CUstreamCallback};
use std::ffi::{c_int, c_uint, c_void};

pub(super) const LEAST_PRIORITY: i32 = 0;
pub(super) const GREATEST_PRIORITY: i32 = -5;

unsafe fn create(process: &Process, out: *mut CUstream, flags: c_uint, priority: c_int) -> R {
    not_null(out)?;
    only_flags(flags, NON_BLOCKING)?;
    let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
    let mut sim = process.sim();
    let context = sim.current_handle()?;
    let id = sim.add_stream(Stream::new(context, StreamKind::Created { handle: 0 }, flags, priority));
    let handle = sim.stream_handles.insert(id);
    if let Some(stream) = sim.streams.get_mut(&id) {
        stream.kind = StreamKind::Created { handle };
    }
    // SAFETY: checked above, and writable by the API's contract.
    unsafe { put(out, handle as CUstream) }
}

/// A property of a stream.
fn property<T>(process: &Process, stream: CUstream, per_thread: bool, read: impl Fn(u64, &Stream) -> T) -> R<T> {
    let mut sim = process.sim();
    let id = sim.stream_id(stream as usize, per_thread)?;
    sim.streams.get(&id).map(|stream| read(id, stream)).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)
}

fn memory_operation(
    process: &Process,
    stream: CUstream,
    per_thread: bool,
    work: Work,
    address: u64,
    bytes: usize,
) -> R {
    let mut sim = process.sim();
    let id = sim.stream_id(stream as usize, per_thread)?;
    if !(address as usize).is_multiple_of(bytes) || !sim.memory.is_kernel_accessible(address as usize, bytes) {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    process.submit(&mut sim, id, work).map(drop)
}

fn write(address: u64, value: u64, wide: bool, flags: c_uint) -> R<Work> {
    only_flags(flags, 1)?;
    Ok(Work::Write { address: address as usize, value, wide })
}

fn wait(address: u64, value: u64, wide: bool, flags: c_uint) -> R<Work> {
    if !memory_op::is_condition(flags) {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    Ok(Work::Wait { address: address as usize, value, wide, flags })
}

driver_api! {
    /// Makes a stream.
    fn cuStreamCreate(out: *mut CUstream, flags: c_uint) |process| { create(process, out, flags, LEAST_PRIORITY) }

    /// Makes a stream of a priority, brought into the range there is.
    fn cuStreamCreateWithPriority(out: *mut CUstream, flags: c_uint, priority: c_int) |process| {
        create(process, out, flags, priority)
    }

    /// Destroys a stream; its work is still done.
    fn cuStreamDestroy_v2(stream: CUstream) |process| {
        let mut sim = process.sim();
        let id = *sim.stream_handles.get(stream as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        sim.abandon_capture_of(id);
        sim.stream_handles.remove(stream as usize);
        if let Some(stream) = sim.streams.get_mut(&id) {
            stream.destroyed = true;
        }
        sim.forget_if_destroyed(id);
        Ok(())
    }

    /// Waits for a stream's work.
    fn cuStreamSynchronize, cuStreamSynchronize_ptsz(stream: CUstream) |process, per_thread| {
        let mut sim = process.sim();
        let id = sim.stream_id(stream as usize, per_thread)?;
        sim.check_not_capturing(id)?;
        sim.check_legacy_use(id)?;
        sim.check_unsafe_call()?;
        let context = sim.streams.get(&id).map_or(0, |stream| stream.context);
        let is_legacy = sim.context(context)?.legacy == id;
        if is_legacy {
            // What the legacy stream would wait for, its synchronisation waits for.
            sim.push(id, Work::Marker, Vec::new());
        }
        let sequence = sim.streams.get(&id).map_or(0, |stream| stream.submitted);
        process.wait_for(&mut sim, Ticket { stream: id, sequence });
        sim.healthy(context)
    }

    /// Whether a stream's work is done.
    fn cuStreamQuery, cuStreamQuery_ptsz(stream: CUstream) |process, per_thread| {
        let mut sim = process.sim();
        let id = sim.stream_id(stream as usize, per_thread)?;
        sim.check_not_capturing(id)?;
        sim.check_legacy_use(id)?;
        sim.check_unsafe_call()?;
        let stream = sim.streams.get(&id).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        let context = sim.context(stream.context)?;
        let others = context.streams.iter().filter_map(|id| sim.streams.get(id));
        let ordered = stream.kind == StreamKind::Legacy && others.filter(|other| other.is_blocking()).any(Stream::is_pending);
        if stream.is_pending() || ordered { Err(Status::CUDA_ERROR_NOT_READY) } else { Ok(()) }
    }

    /// Makes a stream wait for an event.
    fn cuStreamWaitEvent, cuStreamWaitEvent_ptsz(stream: CUstream, event: CUevent, flags: c_uint) |process, per_thread| {
        only_flags(flags, 1)?;
        let mut sim = process.sim();
        let id = sim.stream_id(stream as usize, per_thread)?;
        let event = sim.events.get(event as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?.clone();
        sim.wait_event(id, &event)
    }

    /// A stream's flags.
    fn cuStreamGetFlags, cuStreamGetFlags_ptsz(stream: CUstream, flags: *mut c_uint) |process, per_thread| {
        put(flags, property(process, stream, per_thread, |_, stream| stream.flags)?)
    }

    /// A stream's priority.
    fn cuStreamGetPriority, cuStreamGetPriority_ptsz(stream: CUstream, priority: *mut c_int) |process, per_thread| {
        put(priority, property(process, stream, per_thread, |_, stream| stream.priority)?)
    }

    /// A stream's context.
    fn cuStreamGetCtx, cuStreamGetCtx_ptsz(stream: CUstream, context: *mut CUcontext) |process, per_thread| {
        put(context, property(process, stream, per_thread, |_, stream| stream.context)? as CUcontext)
    }

    /// A number no other stream of the process has.
    fn cuStreamGetId, cuStreamGetId_ptsz(stream: CUstream, id: *mut u64) |process, per_thread| {
        put(id, property(process, stream, per_thread, |id, _| id)?)
    }

    /// Calls a function of the program's in stream order, with the stream as argument.
    fn cuStreamAddCallback, cuStreamAddCallback_ptsz(stream: CUstream, function: CUstreamCallback, data: *mut c_void, flags: c_uint) |process, per_thread| {
        only_flags(flags, 0)?;
        if function.is_none() {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let mut sim = process.sim();
        let id = sim.stream_id(stream as usize, per_thread)?;
        sim.check_not_capturing(id)?;
        let call = HostCall::Callback { function, stream: stream as usize, data: data as usize };
        process.submit(&mut sim, id, Work::Host(call)).map(drop)
    }

    /// Writes 32 bits in stream order.
    fn cuStreamWriteValue32_v2, cuStreamWriteValue32_v2_ptsz(stream: CUstream, address: CUdeviceptr, value: u32, flags: c_uint) |process, per_thread| {
        memory_operation(process, stream, per_thread, write(address, value.into(), false, flags)?, address, 4)
    }

    /// Writes 64 bits in stream order.
    fn cuStreamWriteValue64_v2, cuStreamWriteValue64_v2_ptsz(stream: CUstream, address: CUdeviceptr, value: u64, flags: c_uint) |process, per_thread| {
        memory_operation(process, stream, per_thread, write(address, value, true, flags)?, address, 8)
    }

    /// Makes a stream wait for 32 bits of memory.
    fn cuStreamWaitValue32_v2, cuStreamWaitValue32_v2_ptsz(stream: CUstream, address: CUdeviceptr, value: u32, flags: c_uint) |process, per_thread| {
        memory_operation(process, stream, per_thread, wait(address, value.into(), false, flags)?, address, 4)
    }

    /// Makes a stream wait for 64 bits of memory.
    fn cuStreamWaitValue64_v2, cuStreamWaitValue64_v2_ptsz(stream: CUstream, address: CUdeviceptr, value: u64, flags: c_uint) |process, per_thread| {
        memory_operation(process, stream, per_thread, wait(address, value, true, flags)?, address, 8)
    }

    /// A stream's context; there are no green contexts.
    fn cuStreamGetCtx_v2, cuStreamGetCtx_v2_ptsz(stream: CUstream, context: *mut CUcontext, green: *mut *mut c_void) |process, per_thread| {
        put_if_wanted(green, std::ptr::null_mut());
        put(context, property(process, stream, per_thread, |_, stream| stream.context)? as CUcontext)
    }
}
