//! Copies: linear, in two and three dimensions, in batches.

use super::layout::{Memcpy2D, Memcpy3D};
use super::{not_null, put_if_wanted};
use crate::sim::{Place, Process, Request, Returns};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUstream};
use std::ffi::c_void;
use std::ptr::null_mut;

const HOST: u32 = 1;
const DEVICE: u32 = 2;
const UNIFIED: u32 = 4;

/// Address and nature of one side of a structure's copy; arrays are not there.
fn side(kind: u32, host: usize, device: u64) -> R<(usize, Option<bool>)> {
    match kind {
        HOST => Ok((host, Some(false))),
        DEVICE => Ok((device as usize, Some(true))),
        UNIFIED => Ok((device as usize, None)),
        3 => Err(Status::CUDA_ERROR_NOT_SUPPORTED),
        _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
    }
}

/// What is copied: bytes of a row, rows, slices.
type Extent = [usize; 3];

/// Where one side starts and how far its rows and slices are apart; `height` is the rows of a slice, 0 for as many as are
/// copied. None where the copy does not fit into that.
fn place(base: usize, [x, y, z]: Extent, pitch: usize, height: usize, [w, h, d]: Extent) -> Option<Place> {
    let row_end = x.checked_add(w)?;
    let pitch = if pitch == 0 { row_end } else { pitch };
    let rows = y.checked_add(h)?;
    let height = if height == 0 { rows } else { height };
    let slice = pitch.checked_mul(height)?;
    let fits = (pitch >= row_end || (h <= 1 && d <= 1)) && (height >= rows || d <= 1);
    let offset = z.checked_mul(slice)?.checked_add(y.checked_mul(pitch)?)?.checked_add(x)?;
    fits.then_some(Place { address: base.checked_add(offset)?, pitch, slice })
}

unsafe fn request_3d(copy: *const Memcpy3D) -> R<Request> {
    // SAFETY: null or readable, by the API's contract.
    let copy = unsafe { copy.as_ref() }.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
    let (from, from_device) = side(copy.src_kind, copy.src_host, copy.src_device)?;
    let (to, to_device) = side(copy.dst_kind, copy.dst_host, copy.dst_device)?;
    let extent = [copy.width, copy.height, copy.depth];
    let (from_at, to_at) = ([copy.src_x, copy.src_y, copy.src_z], [copy.dst_x, copy.dst_y, copy.dst_z]);
    let from = place(from, from_at, copy.src_pitch, copy.src_height, extent);
    let to = place(to, to_at, copy.dst_pitch, copy.dst_height, extent);
    let (Some(from), Some(to), 0, 0) = (from, to, copy.src_lod, copy.dst_lod) else {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    };
    let [width, height, depth] = extent;
    Ok(Request { from, to, from_device, to_device, width, height, depth })
}

unsafe fn request_2d(copy: *const Memcpy2D) -> R<Request> {
    // SAFETY: null or readable, by the API's contract.
    let copy = unsafe { copy.as_ref() }.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
    let (from, from_device) = side(copy.src_kind, copy.src_host, copy.src_device)?;
    let (to, to_device) = side(copy.dst_kind, copy.dst_host, copy.dst_device)?;
    let extent = [copy.width, copy.height, 1];
    let from = place(from, [copy.src_x, copy.src_y, 0], copy.src_pitch, 0, extent);
    let to = place(to, [copy.dst_x, copy.dst_y, 0], copy.dst_pitch, 0, extent);
    let (Some(from), Some(to)) = (from, to) else {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    };
    let [width, height, depth] = extent;
    Ok(Request { from, to, from_device, to_device, width, height, depth })
}

fn linear(to: u64, from: u64, bytes: usize) -> Request {
    Request::linear(to as usize, from as usize, bytes)
}

/// A copy on the default stream.
fn now(process: &Process, per_thread: bool, request: &Request) -> R {
    process.copy(0, per_thread, request, Returns::Synchronous)
}

/// A copy on a stream.
fn later(process: &Process, stream: CUstream, per_thread: bool, request: &Request) -> R {
    process.copy(stream as usize, per_thread, request, Returns::Asynchronous)
}

/// Arrays of a batch, `count` long each.
struct Batch {
    to: *const CUdeviceptr,
    from: *const CUdeviceptr,
    bytes: *const usize,
    count: usize,
    attribute_count: usize,
}

/// Issues a batch in order; `failed` is told the first copy that could not be.
unsafe fn batch(process: &Process, batch: &Batch, failed: *mut usize, stream: CUstream, per_thread: bool) -> R {
    not_null(batch.to)?;
    not_null(batch.from)?;
    not_null(batch.bytes)?;
    // A batch may not go to the legacy default stream, and every copy needs attributes.
    if batch.count == 0 || batch.attribute_count == 0 || batch.attribute_count > batch.count {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    if matches!((stream as usize, per_thread), (0, false) | (1, _)) {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    for index in 0..batch.count {
        // SAFETY: `count` elements in each array, by the API's contract.
        let (to, from, bytes) =
            unsafe { (batch.to.add(index).read(), batch.from.add(index).read(), batch.bytes.add(index).read()) };
        let done = later(process, stream, per_thread, &linear(to, from, bytes));
        // SAFETY: null or writable, by the API's contract.
        done.inspect_err(|_| unsafe { put_if_wanted(failed, index) })?;
    }
    Ok(())
}

driver_api! {
    /// Copies between unified addresses.
    fn cuMemcpy, cuMemcpy_ptds(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) |process, per_thread| {
        now(process, per_thread, &linear(to, from, bytes))
    }

    /// Copies between unified addresses in stream order.
    fn cuMemcpyAsync, cuMemcpyAsync_ptsz(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream) |process, per_thread| {
        later(process, stream, per_thread, &linear(to, from, bytes))
    }

    /// Copies to the device.
    fn cuMemcpyHtoD_v2, cuMemcpyHtoD_v2_ptds(to: CUdeviceptr, from: *const c_void, bytes: usize) |process, per_thread| {
        now(process, per_thread, &linear(to, from as u64, bytes).between(false, true))
    }

    /// Copies from the device.
    fn cuMemcpyDtoH_v2, cuMemcpyDtoH_v2_ptds(to: *mut c_void, from: CUdeviceptr, bytes: usize) |process, per_thread| {
        now(process, per_thread, &linear(to as u64, from, bytes).between(true, false))
    }

    /// Copies within the device.
    fn cuMemcpyDtoD_v2, cuMemcpyDtoD_v2_ptds(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) |process, per_thread| {
        now(process, per_thread, &linear(to, from, bytes).between(true, true))
    }

    /// Copies to the device in stream order.
    fn cuMemcpyHtoDAsync_v2, cuMemcpyHtoDAsync_v2_ptsz(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream) |process, per_thread| {
        later(process, stream, per_thread, &linear(to, from as u64, bytes).between(false, true))
    }

    /// Copies from the device in stream order.
    fn cuMemcpyDtoHAsync_v2, cuMemcpyDtoHAsync_v2_ptsz(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream) |process, per_thread| {
        later(process, stream, per_thread, &linear(to as u64, from, bytes).between(true, false))
    }

    /// Copies within the device in stream order.
    fn cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync_v2_ptsz(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream) |process, per_thread| {
        later(process, stream, per_thread, &linear(to, from, bytes).between(true, true))
    }

    /// Copies between contexts.
    fn cuMemcpyPeer, cuMemcpyPeer_ptds(to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize) |process, per_thread| {
        check_contexts(process, [to_context, from_context])?;
        now(process, per_thread, &linear(to, from, bytes).between(true, true))
    }

    /// Copies between contexts in stream order.
    fn cuMemcpyPeerAsync, cuMemcpyPeerAsync_ptsz(
        to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize, stream: CUstream,
    ) |process, per_thread| {
        check_contexts(process, [to_context, from_context])?;
        later(process, stream, per_thread, &linear(to, from, bytes).between(true, true))
    }

    /// Copies a rectangle.
    fn cuMemcpy2D_v2, cuMemcpy2D_v2_ptds(copy: *const Memcpy2D) |process, per_thread| {
        now(process, per_thread, &request_2d(copy)?)
    }

    /// Copies a rectangle of any pitch.
    fn cuMemcpy2DUnaligned_v2, cuMemcpy2DUnaligned_v2_ptds(copy: *const Memcpy2D) |process, per_thread| {
        now(process, per_thread, &request_2d(copy)?)
    }

    /// Copies a rectangle in stream order.
    fn cuMemcpy2DAsync_v2, cuMemcpy2DAsync_v2_ptsz(copy: *const Memcpy2D, stream: CUstream) |process, per_thread| {
        later(process, stream, per_thread, &request_2d(copy)?)
    }

    /// Copies a box.
    fn cuMemcpy3D_v2, cuMemcpy3D_v2_ptds(copy: *const Memcpy3D) |process, per_thread| {
        now(process, per_thread, &request_3d(copy)?)
    }

    /// Copies a box in stream order.
    fn cuMemcpy3DAsync_v2, cuMemcpy3DAsync_v2_ptsz(copy: *const Memcpy3D, stream: CUstream) |process, per_thread| {
        later(process, stream, per_thread, &request_3d(copy)?)
    }

    /// Copies a batch in stream order, as CUDA 12.8 has it.
    fn cuMemcpyBatchAsync, cuMemcpyBatchAsync_ptsz(
        to: *mut CUdeviceptr, from: *mut CUdeviceptr, bytes: *mut usize, count: usize, _attributes: *mut c_void,
        _attribute_starts: *mut usize, attribute_count: usize, failed: *mut usize, stream: CUstream,
    ) |process, per_thread| {
        put_if_wanted(failed, usize::MAX);
        batch(process, &Batch { to, from, bytes, count, attribute_count }, failed, stream, per_thread)
    }

    /// Copies a batch in stream order, as CUDA 13.0 has it.
    fn cuMemcpyBatchAsync_v2, cuMemcpyBatchAsync_v2_ptsz(
        to: *const CUdeviceptr, from: *const CUdeviceptr, bytes: *const usize, count: usize, _attributes: *mut c_void,
        _attribute_starts: *mut usize, attribute_count: usize, stream: CUstream,
    ) |process, per_thread| {
        batch(process, &Batch { to, from, bytes, count, attribute_count }, null_mut(), stream, per_thread)
    }
}

fn check_contexts(process: &Process, contexts: [CUcontext; 2]) -> R {
    let sim = process.sim();
    contexts.iter().try_for_each(|context| {
        sim.context(*context as usize).map(drop).map_err(|_| Status::CUDA_ERROR_INVALID_CONTEXT)
    })
}
