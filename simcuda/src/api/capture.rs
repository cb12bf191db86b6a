//! Stream capture.

use super::{not_null, put, put_if_wanted};
use crate::sim::{CaptureStatus, Process, thread};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUgraph, CUgraphNode, CUstream};
use std::ffi::{c_uint, c_void};
use std::ptr::null_mut;

fn begin(process: &Process, stream: CUstream, per_thread: bool, mode: c_uint) -> R {
    let mut sim = process.sim();
    let id = sim.stream_id(stream as usize, per_thread)?;
    sim.begin_capture(id, mode, None)
}

/// Where the answers of cuStreamGetCaptureInfo go.
struct Answers {
    status: *mut c_uint,
    number: *mut u64,
    graph: *mut CUgraph,
    nodes: *mut *const CUgraphNode,
    node_count: *mut usize,
}

impl Answers {
    fn brief(status: *mut c_uint, number: *mut u64) -> Self {
        Self { status, number, graph: null_mut(), nodes: null_mut(), node_count: null_mut() }
    }
}

unsafe fn info(process: &Process, stream: CUstream, per_thread: bool, to: &Answers) -> R {
    not_null(to.status)?;
    let mut sim = process.sim();
    let id = sim.stream_id(stream as usize, per_thread)?;
    sim.check_legacy_use(id)?;
    let Some((number, capture)) = sim.capture_info(id) else {
        // SAFETY: checked above, and writable by the API's contract.
        return unsafe { put(to.status, CaptureStatus::None as c_uint) };
    };
    let (status, graph) = (capture.status, capture.graph);
    let handles = match (sim.graphs.get(graph), sim.streams.get(&id)) {
        (Some(graph), Some(stream)) => stream.tail.iter().map(|index| graph.nodes[*index].handle).collect(),
        _ => Vec::new(),
    };
    let Some(capture) = sim.captures.get_mut(&number) else {
        return Err(Status::CUDA_ERROR_ILLEGAL_STATE);
    };
    capture.told = handles;
    // SAFETY: each is null or writable by the API's contract; the list lives until the next question or the capture's
    // end.
    unsafe {
        put(to.status, status as c_uint)?;
        if status == CaptureStatus::Active {
            put_if_wanted(to.number, number);
            put_if_wanted(to.graph, graph as CUgraph);
            put_if_wanted(to.nodes, capture.told.as_ptr().cast());
            put_if_wanted(to.node_count, capture.told.len());
        }
    }
    Ok(())
}

driver_api! {
    /// Begins a capture in mode GLOBAL.
    fn cuStreamBeginCapture, cuStreamBeginCapture_ptsz(stream: CUstream) |process, per_thread| {
        begin(process, stream, per_thread, 0)
    }

    /// Begins a capture.
    fn cuStreamBeginCapture_v2, cuStreamBeginCapture_v2_ptsz(stream: CUstream, mode: c_uint) |process, per_thread| {
        begin(process, stream, per_thread, mode)
    }

    /// Begins a capture into a graph that is there already.
    fn cuStreamBeginCaptureToGraph, cuStreamBeginCaptureToGraph_ptsz(
        stream: CUstream, graph: CUgraph, nodes: *const CUgraphNode, _edges: *const c_void, node_count: usize, mode: c_uint,
    ) |process, per_thread| {
        let mut sim = process.sim();
        let id = sim.stream_id(stream as usize, per_thread)?;
        let target = sim.graphs.get(graph as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        let mut tail = Vec::with_capacity(node_count);
        for index in 0..node_count {
            not_null(nodes)?;
            let handle = nodes.add(index).read() as usize;
            let known = target.nodes.iter().position(|node| node.handle == handle);
            tail.push(known.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?);
        }
        sim.begin_capture(id, mode, Some((graph as usize, tail)))
    }

    /// Ends a capture and gives its graph.
    fn cuStreamEndCapture, cuStreamEndCapture_ptsz(stream: CUstream, graph: *mut CUgraph) |process, per_thread| {
        not_null(graph)?;
        let mut sim = process.sim();
        let id = sim.stream_id(stream as usize, per_thread)?;
        let result = sim.end_capture(id);
        put(graph, *result.as_ref().unwrap_or(&0) as CUgraph)?;
        result.map(drop)
    }

    /// Whether a stream is capturing.
    fn cuStreamIsCapturing, cuStreamIsCapturing_ptsz(stream: CUstream, status: *mut c_uint) |process, per_thread| {
        info(process, stream, per_thread, &Answers::brief(status, null_mut()))
    }

    /// State and number of a stream's capture.
    fn cuStreamGetCaptureInfo, cuStreamGetCaptureInfo_ptsz(stream: CUstream, status: *mut c_uint, number: *mut u64) |process, per_thread| {
        info(process, stream, per_thread, &Answers::brief(status, number))
    }

    /// State, number, graph and last nodes of a stream's capture.
    fn cuStreamGetCaptureInfo_v2, cuStreamGetCaptureInfo_v2_ptsz(
        stream: CUstream, status: *mut c_uint, number: *mut u64, graph: *mut CUgraph, nodes: *mut *const CUgraphNode, node_count: *mut usize,
    ) |process, per_thread| {
        info(process, stream, per_thread, &Answers { status, number, graph, nodes, node_count })
    }

    /// State, number, graph and last nodes of a stream's capture; no edge here carries data.
    fn cuStreamGetCaptureInfo_v3, cuStreamGetCaptureInfo_v3_ptsz(
        stream: CUstream, status: *mut c_uint, number: *mut u64, graph: *mut CUgraph, nodes: *mut *const CUgraphNode,
        edges: *mut *const c_void, node_count: *mut usize,
    ) |process, per_thread| {
        put_if_wanted(edges, std::ptr::null());
        info(process, stream, per_thread, &Answers { status, number, graph, nodes, node_count })
    }

    /// Exchanges the calling thread's capture mode.
    fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) |_| {
        not_null(mode)?;
        let new = mode.read();
        if new > 2 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        put(mode, thread::exchange_capture_mode(new))
    }
}
