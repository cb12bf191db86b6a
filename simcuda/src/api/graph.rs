//! Graphs: what captures make, and what becomes of it. Nodes cannot be added by hand.

use super::{not_null, only_flags, put};
use crate::sim::{Executable, Graph, Process};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUDA_GRAPH_INSTANTIATE_PARAMS, CUgraph, CUgraphExec, CUgraphNode, CUstream};
use std::ffi::{c_char, c_uint};
use std::sync::Arc;

/// Auto-free on launch, upload, device launch, node priority.
const INSTANTIATE_FLAGS: u64 = 0xf;
const DEVICE_LAUNCH: u64 = 4;

unsafe fn instantiate(process: &Process, out: *mut CUgraphExec, graph: CUgraph, flags: u64) -> R {
    not_null(out)?;
    if flags & !INSTANTIATE_FLAGS != 0 {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
    }
    let mut sim = process.sim();
    let graph = sim.graphs.get(graph as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
    let executable = Arc::new(Executable::new(graph));
    let handle = sim.executables.insert(executable);
    // SAFETY: checked above, and writable by the API's contract.
    unsafe { put(out, handle as CUgraphExec) }
}

driver_api! {
    /// Makes an empty graph.
    fn cuGraphCreate(graph: *mut CUgraph, flags: c_uint) |process| {
        not_null(graph)?;
        only_flags(flags, 0)?;
        let handle = process.sim().graphs.insert(Graph::default());
        put(graph, handle as CUgraph)
    }

    /// Destroys a graph; what was instantiated from it stays.
    fn cuGraphDestroy(graph: CUgraph) |process| {
        process.sim().graphs.remove(graph as usize).map(drop).ok_or(Status::CUDA_ERROR_INVALID_VALUE)
    }

    /// Instantiates a graph, as CUDA 11 asked for it.
    fn cuGraphInstantiate_v2(out: *mut CUgraphExec, graph: CUgraph, node: *mut CUgraphNode, _log: *mut c_char, _log_bytes: usize) |process| {
        super::put_if_wanted(node, std::ptr::null_mut());
        instantiate(process, out, graph, 0)
    }

    /// Instantiates a graph.
    fn cuGraphInstantiateWithFlags(out: *mut CUgraphExec, graph: CUgraph, flags: u64) |process| {
        instantiate(process, out, graph, flags)
    }

    /// Instantiates a graph as a structure says.
    fn cuGraphInstantiateWithParams, cuGraphInstantiateWithParams_ptsz(
        out: *mut CUgraphExec, graph: CUgraph, parameters: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
    ) |process, per_thread| {
        not_null(parameters)?;
        let flags = (&raw const (*parameters).flags).read();
        instantiate(process, out, graph, flags)?;
        (&raw mut (*parameters).hErrNode_out).write(std::ptr::null_mut());
        // CUDA_GRAPH_INSTANTIATE_SUCCESS.
        (&raw mut (*parameters).result_out).cast::<c_uint>().write(0);
        Ok(())
    }

    /// Destroys an instantiated graph; launches of it that are under way finish.
    fn cuGraphExecDestroy(graph: CUgraphExec) |process| {
        process.sim().executables.remove(graph as usize).map(drop).ok_or(Status::CUDA_ERROR_INVALID_VALUE)
    }

    /// A graph's nodes; with a null array, how many there are.
    fn cuGraphGetNodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize) |process| {
        not_null(count)?;
        let sim = process.sim();
        let graph = sim.graphs.get(graph as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        if nodes.is_null() {
            return put(count, graph.nodes.len());
        }
        let room = count.read();
        for index in 0..room {
            let node = graph.nodes.get(index).map_or(0, |node| node.handle);
            nodes.add(index).write(node as CUgraphNode);
        }
        put(count, room.min(graph.nodes.len()))
    }

    /// Prepares a launch: nothing to do here.
    fn cuGraphUpload, cuGraphUpload_ptsz(graph: CUgraphExec, stream: CUstream) |process, per_thread| {
        let mut sim = process.sim();
        sim.executables.get(graph as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        sim.stream_id(stream as usize, per_thread).map(drop)
    }
}
