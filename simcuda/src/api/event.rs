//! Events.

use super::{not_null, only_flags, put};
use crate::sim::{DISABLE_TIMING, Event, INTERPROCESS, Mark, Process, Sim};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUevent, CUstream};
use std::ffi::c_uint;
use std::sync::Arc;

const FLAGS: u32 = 0x7;
/// CU_EVENT_RECORD_EXTERNAL: a node of its own in a capture, which the simulator does not do.
const RECORD_EXTERNAL: u32 = 1;

fn event(sim: &Sim, handle: CUevent) -> R<Arc<Event>> {
    let event = sim.events.get(handle as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
    sim.healthy(event.context)?;
    Ok(event.clone())
}

fn record(process: &Process, handle: CUevent, stream: CUstream, per_thread: bool) -> R {
    let mut sim = process.sim();
    let id = sim.stream_id(stream as usize, per_thread)?;
    let event = event(&sim, handle)?;
    sim.record(&event, id)
}

/// An event that may be asked about: not one that was last recorded in a capture.
fn queryable(sim: &mut Sim, handle: CUevent) -> R<Arc<Event>> {
    let event = event(sim, handle)?;
    if let Mark::Capture(number, _) = *event.mark.lock() {
        return sim.invalidate(number, Status::CUDA_ERROR_CAPTURED_EVENT);
    }
    sim.check_unsafe_call()?;
    Ok(event)
}

unsafe fn elapsed(process: &Process, milliseconds: *mut f32, start: CUevent, end: CUevent) -> R {
    let sim = process.sim();
    let (start, end) = (event(&sim, start)?, event(&sim, end)?);
    for event in [&start, &end] {
        if !event.is_timed() || !event.was_recorded() {
            return Err(Status::CUDA_ERROR_INVALID_HANDLE);
        }
    }
    if !start.is_complete() || !end.is_complete() {
        return Err(Status::CUDA_ERROR_NOT_READY);
    }
    not_null(milliseconds).map_err(|_| Status::CUDA_ERROR_INVALID_HANDLE)?;
    let difference_ns = end.time_ns() as i64 - start.time_ns() as i64;
    // SAFETY: null or writable, by the API's contract.
    unsafe { put(milliseconds, (difference_ns as f64 / 1e6) as f32) }
}

driver_api! {
    /// Makes an event.
    fn cuEventCreate(out: *mut CUevent, flags: c_uint) |process| {
        not_null(out)?;
        only_flags(flags, FLAGS)?;
        if flags & INTERPROCESS != 0 && flags & DISABLE_TIMING == 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let mut sim = process.sim();
        let context = sim.current_handle()?;
        let handle = sim.events.insert(Arc::new(Event::new(flags, context)));
        put(out, handle as CUevent)
    }

    /// Destroys an event, whatever still waits for it.
    fn cuEventDestroy_v2(event: CUevent) |process| {
        process.sim().events.remove(event as usize).map(drop).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)
    }

    /// Records an event.
    fn cuEventRecord, cuEventRecord_ptsz(event: CUevent, stream: CUstream) |process, per_thread| {
        record(process, event, stream, per_thread)
    }

    /// Records an event; not as a node of its own in a capture.
    fn cuEventRecordWithFlags, cuEventRecordWithFlags_ptsz(event: CUevent, stream: CUstream, flags: c_uint) |process, per_thread| {
        only_flags(flags, RECORD_EXTERNAL)?;
        if flags & RECORD_EXTERNAL != 0 {
            return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
        }
        record(process, event, stream, per_thread)
    }

    /// Whether an event is passed.
    fn cuEventQuery(event: CUevent) |process| {
        let mut sim = process.sim();
        let event = queryable(&mut sim, event)?;
        if event.is_complete() { Ok(()) } else { Err(Status::CUDA_ERROR_NOT_READY) }
    }

    /// Waits for an event.
    fn cuEventSynchronize(event: CUevent) |process| {
        let mut sim = process.sim();
        let event = queryable(&mut sim, event)?;
        process.wait_until(&mut sim, |sim| event.is_complete() || sim.healthy(event.context).is_err());
        sim.healthy(event.context)
    }

    /// Time between two events, in milliseconds.
    fn cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent) |process| {
        elapsed(process, milliseconds, start, end)
    }

    /// Time between two events, in milliseconds.
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: CUevent, end: CUevent) |process| {
        elapsed(process, milliseconds, start, end)
    }
}
