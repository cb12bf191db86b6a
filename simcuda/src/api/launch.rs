//! Launches: kernels in three forms, graphs, host functions.

use super::not_null;
use crate::kernels::Launch;
use crate::sim::{Function, HostCall, Process, Work};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUfunction, CUgraphExec, CUhostFn, CUlaunchConfig, CUstream};
use std::ffi::{c_uint, c_void};
use std::sync::atomic::Ordering;

/// Markers in the `extra` array of cuLaunchKernel.
const EXTRA_END: usize = 0;
const EXTRA_BUFFER_POINTER: usize = 1;
const EXTRA_BUFFER_SIZE: usize = 2;
/// Launch attributes that carry an event, which the simulator does not do.
const EVENT_ATTRIBUTES: [u32; 2] = [7, 12];
/// Launch attribute: cooperative.
const COOPERATIVE: u32 = 2;

/// Shape of a launch.
struct Shape {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    cooperative: bool,
}

impl Shape {
    fn check(&self, function: &Function) -> R {
        let threads = self.block.iter().map(|side| u64::from(*side)).product::<u64>();
        let sides_fit = self.block[2] <= 64 && self.grid[1] <= 65_535 && self.grid[2] <= 65_535;
        if self.grid.contains(&0) || threads == 0 || threads > 1024 || !sides_fit {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        if i64::from(self.shared_bytes) > i64::from(function.max_shared_bytes.load(Ordering::Relaxed)) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let blocks = self.grid.iter().map(|side| u64::from(*side)).product::<u64>();
        let resident = (2048 / threads).min(32) * super::device::MULTIPROCESSORS as u64;
        if self.cooperative && blocks > resident {
            return Err(Status::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
        }
        Ok(())
    }
}

/// The value at `address`, zero-extended.
unsafe fn read(address: *const u8, bytes: usize) -> u64 {
    let mut value = [0; 8];
    // SAFETY: the caller has a parameter of `bytes` (4 or 8) there.
    unsafe { std::ptr::copy_nonoverlapping(address, value.as_mut_ptr(), bytes) };
    u64::from_le_bytes(value)
}

/// The packed parameter buffer that an `extra` array names: address and size.
unsafe fn packed(extra: *mut *mut c_void) -> R<(*const u8, usize)> {
    let (mut buffer, mut bytes) = (std::ptr::null(), 0);
    for pair in 0.. {
        // SAFETY: the array ends with the end marker, by the API's contract.
        let marker = unsafe { extra.add(2 * pair).read() } as usize;
        if marker == EXTRA_END {
            break;
        }
        // SAFETY: as above: every marker but the last has a value.
        let value = unsafe { extra.add(2 * pair + 1).read() };
        match marker {
            EXTRA_BUFFER_POINTER => buffer = value.cast_const().cast(),
            // SAFETY: this marker's value points to the buffer's size.
            EXTRA_BUFFER_SIZE => bytes = unsafe { value.cast::<usize>().read() },
            _ => return Err(Status::CUDA_ERROR_INVALID_VALUE),
        }
    }
    not_null(buffer)?;
    Ok((buffer, bytes))
}

unsafe fn arguments(function: &Function, parameters: *mut *mut c_void, extra: *mut *mut c_void) -> R<[u64; 4]> {
    if !parameters.is_null() && !extra.is_null() {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    if !extra.is_null() {
        // SAFETY: an `extra` array by the API's contract.
        let (buffer, length) = unsafe { packed(extra) }?;
        return function.arguments(|_, bytes, offset| {
            if offset + bytes > length {
                return Err(Status::CUDA_ERROR_INVALID_VALUE);
            }
            // SAFETY: inside the buffer.
            Ok(unsafe { read(buffer.add(offset), bytes) })
        });
    }
    not_null(parameters)?;
    function.arguments(|index, bytes, _| {
        // SAFETY: one pointer a parameter, by the API's contract.
        let parameter = unsafe { parameters.add(index).read() };
        not_null(parameter)?;
        // SAFETY: it points to a value of the parameter's size, by the API's contract.
        Ok(unsafe { read(parameter.cast_const().cast(), bytes) })
    })
}

unsafe fn launch(
    process: &Process,
    per_thread: bool,
    function: CUfunction,
    shape: &Shape,
    stream: CUstream,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> R {
    process.wait_for_page_locking();
    let mut sim = process.sim();
    let function = sim.functions.get(function as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?.clone();
    let id = sim.stream_id(stream as usize, per_thread)?;
    let context = sim.streams.get(&id).map_or(0, |stream| stream.context);
    if function.context != 0 && function.context != context {
        return Err(Status::CUDA_ERROR_INVALID_HANDLE);
    }
    shape.check(&function)?;
    // SAFETY: the caller's arrays are as cuLaunchKernel asks.
    let arguments = unsafe { arguments(&function, parameters, extra) }?;
    let threads = u64::from(shape.grid[0]) * u64::from(shape.block[0]);
    let launch = Launch { kernel: function.kernel, arguments, threads, context };
    process.submit(&mut sim, id, Work::Kernel(launch)).map(drop)
}

/// True if the launch is to be cooperative; attributes that need what is not here are refused.
unsafe fn read_attributes(config: &CUlaunchConfig) -> R<bool> {
    let mut cooperative = false;
    for index in 0..config.numAttrs as usize {
        not_null(config.attrs)?;
        // SAFETY: `numAttrs` attributes, by the API's contract; read as numbers, since any may come from C.
        let attribute = unsafe { config.attrs.add(index) };
        // SAFETY: as above; the attribute's number is its first field.
        let id = unsafe { attribute.cast::<u32>().read() };
        if EVENT_ATTRIBUTES.contains(&id) {
            return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
        }
        if id == COOPERATIVE {
            // SAFETY: as above; the value follows number and padding, 8 bytes in.
            cooperative = unsafe { attribute.cast::<u32>().add(2).read() } != 0;
        }
    }
    Ok(cooperative)
}

driver_api! {
    /// Launches a kernel.
    fn cuLaunchKernel, cuLaunchKernel_ptsz(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared_bytes: c_uint, stream: CUstream, parameters: *mut *mut c_void, extra: *mut *mut c_void,
    ) |process, per_thread| {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes, cooperative: false };
        launch(process, per_thread, function, &shape, stream, parameters, extra)
    }

    /// Launches a kernel as a structure says.
    fn cuLaunchKernelEx, cuLaunchKernelEx_ptsz(
        config: *const CUlaunchConfig, function: CUfunction, parameters: *mut *mut c_void, extra: *mut *mut c_void,
    ) |process, per_thread| {
        let config = config.as_ref().ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        let shape = Shape {
            grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
            block: [config.blockDimX, config.blockDimY, config.blockDimZ],
            shared_bytes: config.sharedMemBytes,
            cooperative: read_attributes(config)?,
        };
        launch(process, per_thread, function, &shape, config.hStream, parameters, extra)
    }

    /// Launches a kernel whose blocks must all be resident at once.
    fn cuLaunchCooperativeKernel, cuLaunchCooperativeKernel_ptsz(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared_bytes: c_uint, stream: CUstream, parameters: *mut *mut c_void,
    ) |process, per_thread| {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes, cooperative: true };
        launch(process, per_thread, function, &shape, stream, parameters, std::ptr::null_mut())
    }

    /// Launches an instantiated graph.
    fn cuGraphLaunch, cuGraphLaunch_ptsz(graph: CUgraphExec, stream: CUstream) |process, per_thread| {
        process.wait_for_page_locking();
        let mut sim = process.sim();
        let graph = sim.executables.get(graph as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?.clone();
        let id = sim.stream_id(stream as usize, per_thread)?;
        sim.check_not_capturing(id)?;
        process.submit(&mut sim, id, Work::Graph(graph)).map(drop)
    }

    /// Calls a function of the program's in stream order; what it calls of the driver is refused.
    fn cuLaunchHostFunc, cuLaunchHostFunc_ptsz(stream: CUstream, function: CUhostFn, data: *mut c_void) |process, per_thread| {
        if function.is_none() {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let mut sim = process.sim();
        let id = sim.stream_id(stream as usize, per_thread)?;
        process.submit(&mut sim, id, Work::Host(HostCall::Function { function, data: data as usize })).map(drop)
    }
}
