//! Streams, callbacks, stream memory operations.

use super::layout::BatchMemOp;
use super::{not_null, only_flags, put, put_if_wanted};
use crate::sim::{HostCall, NON_BLOCKING, Process, Sim, Stream, StreamKind, Ticket, Work, memory_op};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUevent, CUstream, CUstreamCallback};
use std::ffi::{c_int, c_uint, c_void};

pub(super) const LEAST_PRIORITY: i32 = 0;
pub(super) const GREATEST_PRIORITY: i32 = -5;
/// Operations in one batch; the driver documents fewer than 256.
const BATCH_MAX: c_uint = 255;

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

fn memory_operation(process: &Process, stream: CUstream, per_thread: bool, operation: R<Work>) -> R {
    submit_all(process, stream, per_thread, &[operation?])
}

fn submit_all(process: &Process, stream: CUstream, per_thread: bool, operations: &[Work]) -> R {
    let mut sim = process.sim();
    let id = sim.stream_id(stream as usize, per_thread)?;
    if !operations.iter().all(|work| is_reachable(&sim, work)) {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    operations.iter().try_for_each(|work| process.submit(&mut sim, id, work.clone()).map(drop))
}

fn is_reachable(sim: &Sim, work: &Work) -> bool {
    let (Work::Write { address, wide, .. } | Work::Wait { address, wide, .. }) = *work else {
        return true;
    };
    let bytes = if wide { 8 } else { 4 };
    address.is_multiple_of(bytes) && sim.memory.is_kernel_accessible(address, bytes)
}

fn write(address: u64, value: u64, wide: bool, flags: c_uint) -> R<Work> {
    only_flags(flags, 0)?;
    Ok(Work::Write { address: address as usize, value, wide })
}

fn wait(address: u64, value: u64, wide: bool, flags: c_uint) -> R<Work> {
    if !memory_op::is_condition(flags) {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    Ok(Work::Wait { address: address as usize, value, wide, flags })
}

/// One of a batch, by CUstreamBatchMemOpType.
fn batched(operation: &BatchMemOp) -> R<Work> {
    let BatchMemOp { kind, barrier_flags, address, value, flags, .. } = *operation;
    let narrow = value & u64::from(u32::MAX);
    match kind {
        1 => wait(address, narrow, false, flags),
        2 => write(address, narrow, false, flags),
        // CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES.
        3 => Err(Status::CUDA_ERROR_NOT_SUPPORTED),
        4 => wait(address, value, true, flags),
        5 => write(address, value, true, flags),
        // Of the system, or of the GPU alone.
        6 => only_flags(barrier_flags, 1).map(|()| Work::Barriers(1)),
        _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
    }
}

/// A batch; barriers that follow each other are done in one go.
fn batch(operations: &[BatchMemOp]) -> R<Vec<Work>> {
    let mut batch: Vec<Work> = Vec::with_capacity(operations.len());
    for operation in operations {
        match (batched(operation)?, batch.last_mut()) {
            (Work::Barriers(more), Some(Work::Barriers(count))) => *count += more,
            (work, _) => batch.push(work),
        }
    }
    Ok(batch)
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
        memory_operation(process, stream, per_thread, write(address, value.into(), false, flags))
    }

    /// Writes 64 bits in stream order.
    fn cuStreamWriteValue64_v2, cuStreamWriteValue64_v2_ptsz(stream: CUstream, address: CUdeviceptr, value: u64, flags: c_uint) |process, per_thread| {
        memory_operation(process, stream, per_thread, write(address, value, true, flags))
    }

    /// Makes a stream wait for 32 bits of memory.
    fn cuStreamWaitValue32_v2, cuStreamWaitValue32_v2_ptsz(stream: CUstream, address: CUdeviceptr, value: u32, flags: c_uint) |process, per_thread| {
        memory_operation(process, stream, per_thread, wait(address, value.into(), false, flags))
    }

    /// Makes a stream wait for 64 bits of memory.
    fn cuStreamWaitValue64_v2, cuStreamWaitValue64_v2_ptsz(stream: CUstream, address: CUdeviceptr, value: u64, flags: c_uint) |process, per_thread| {
        memory_operation(process, stream, per_thread, wait(address, value, true, flags))
    }

    /// Memory operations one after the other: all of them, or none where one is refused.
    fn cuStreamBatchMemOp_v2, cuStreamBatchMemOp_v2_ptsz(stream: CUstream, count: c_uint, operations: *const BatchMemOp, flags: c_uint) |process, per_thread| {
        only_flags(flags, 0)?;
        not_null(operations)?;
        if count > BATCH_MAX {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let operations = std::slice::from_raw_parts(operations, count as usize);
        submit_all(process, stream, per_thread, &batch(operations)?)
    }

    /// A stream's context; there are no green contexts.
    fn cuStreamGetCtx_v2, cuStreamGetCtx_v2_ptsz(stream: CUstream, context: *mut CUcontext, green: *mut *mut c_void) |process, per_thread| {
        put_if_wanted(green, std::ptr::null_mut());
        put(context, property(process, stream, per_thread, |_, stream| stream.context)? as CUcontext)
    }
}
