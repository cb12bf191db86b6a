//! What a stream can be told to do, and what doing it means.

use super::event::Event;
use super::graph::Executable;
use crate::clock::{now_ns, sleep_until};
use crate::gpu::Engine;
use crate::kernels::Launch;
use crate::settings::Costs;
use cudarc::driver::sys::{CUhostFn, CUstream, CUstreamCallback};
use std::ffi::c_void;
use std::sync::Arc;

/// One entry of a stream's queue, or one node of a graph.
#[derive(Clone)]
pub(crate) enum Work {
    Kernel(Launch),
    Copy(Copy),
    Fill(Fill),
    Graph(Arc<Executable>),
    Host(HostCall),
    Record {
        event: Arc<Event>,
        serial: u64,
    },
    Write {
        address: usize,
        value: u64,
        wide: bool,
    },
    Wait {
        address: usize,
        value: u64,
        wide: bool,
        flags: u32,
    },
    /// Memory barriers, so many: the stream's front end takes its time for each.
    Barriers(u64),
    /// Memory that goes back to its pool in stream order.
    Release {
        address: usize,
    },
    /// Nothing but the order it stands for.
    Marker,
}

/// Which of a process's threads does a piece of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Worker {
    Compute = 0,
    CopyToDevice = 1,
    CopyFromDevice = 2,
    Host = 3,
}

impl Work {
    /// The thread that does it; none where whoever finds it ready does it on the spot.
    pub(crate) fn worker(&self) -> Option<Worker> {
        match self {
            Self::Kernel(_) | Self::Fill(_) | Self::Graph(_) => Some(Worker::Compute),
            Self::Copy(copy) => Some(match copy.direction {
                Direction::HostToDevice => Worker::CopyToDevice,
                Direction::DeviceToHost | Direction::HostToHost => Worker::CopyFromDevice,
                Direction::DeviceToDevice => Worker::Compute,
            }),
            Self::Host(_) => Some(Worker::Host),
            // Whose work ends by itself, unlike the program's functions; its engine is not used.
            Self::Barriers(_) => Some(Worker::CopyFromDevice),
            Self::Record { .. } | Self::Write { .. } | Self::Wait { .. } | Self::Release { .. } | Self::Marker => None,
        }
    }
}

/// Where a copy goes from and to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    HostToDevice,
    DeviceToHost,
    DeviceToDevice,
    HostToHost,
}

/// One side of a copy: the first byte, and the distances of rows and of slices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) address: usize,
    pub(crate) pitch: usize,
    pub(crate) slice: usize,
}

/// A copy of `depth` slices of `height` rows of `width` bytes.
#[derive(Clone)]
pub(crate) struct Copy {
    pub(crate) to: Place,
    pub(crate) from: Place,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
    pub(crate) direction: Direction,
    pub(crate) pageable: bool,
    /// What was read from a pageable source when the copy was called.
    pub(crate) staged: Option<Arc<[u8]>>,
}

impl Copy {
    pub(crate) fn bytes(&self) -> usize {
        self.width * self.height * self.depth
    }

    /// Takes the first part off, of at most `bytes`: bytes of a single row, else all or nothing.
    pub(crate) fn split_off(&mut self, bytes: usize) -> Self {
        let mut first = self.clone();
        let is_row = self.height == 1 && self.depth == 1;
        let taken = match self.bytes() {
            all if all <= bytes => self.width,
            _ if is_row => bytes,
            _ => 0,
        };
        first.width = taken;
        self.width -= taken;
        self.to.address += taken;
        self.from.address += taken;
        first
    }

    /// The copy with its source read now; it no longer depends on it.
    ///
    /// # Safety
    /// The source is readable.
    pub(crate) unsafe fn staged(mut self) -> Self {
        let mut bytes = Vec::with_capacity(self.bytes());
        for (_, from) in self.rows() {
            // SAFETY: the caller vouches for every row of the source.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(from as *const u8, self.width) });
        }
        self.staged = Some(bytes.into());
        self
    }

    fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        let at = |place: Place, z, y| place.address + z * place.slice + y * place.pitch;
        let (to, from) = (self.to, self.from);
        let height = self.height;
        (0..self.depth).flat_map(move |z| (0..height).map(move |y| (at(to, z, y), at(from, z, y))))
    }

    fn perform(&self) {
        if self.width == 0 {
            return;
        }
        for (row, (to, from)) in self.rows().enumerate() {
            let from = self.staged.as_ref().map_or(from as *const u8, |bytes| bytes[row * self.width..].as_ptr());
            // SAFETY: the device side was checked against the allocations when the copy was called; the host side is
            // the program's promise, as with any driver.
            unsafe { std::ptr::copy(from, to as *mut u8, self.width) };
        }
    }

    fn engine(&self) -> Engine {
        match self.direction {
            Direction::HostToDevice => Engine::CopyToDevice,
            Direction::DeviceToDevice => Engine::Compute,
            Direction::DeviceToHost | Direction::HostToHost => Engine::CopyFromDevice,
        }
    }

    fn cost_ns(&self, costs: &Costs) -> u64 {
        let bytes = self.bytes() as u64;
        let curve = match (self.direction, self.pageable) {
            (Direction::HostToDevice, false) => &costs.h2d_pinned,
            (Direction::HostToDevice, true) => &costs.h2d_pageable,
            (Direction::DeviceToHost | Direction::HostToHost, false) => &costs.d2h_pinned,
            (Direction::DeviceToHost | Direction::HostToHost, true) => &costs.d2h_pageable,
            (Direction::DeviceToDevice, _) => {
                return costs.kernel_ns + 2 * costs.device_memory.at(bytes);
            }
        };
        curve.at(bytes)
    }
}

/// `height` rows of `width` elements of 1, 2 or 4 bytes set to one value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) address: usize,
    pub(crate) pitch: usize,
    pub(crate) value: u32,
    pub(crate) element_bytes: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl Fill {
    /// From the first byte to the last, in bytes.
    pub(crate) fn extent(&self) -> usize {
        match (self.width, self.height) {
            (0, _) | (_, 0) => 0,
            (width, height) => {
                let row = width.saturating_mul(self.element_bytes);
                (height - 1).saturating_mul(self.pitch).saturating_add(row)
            }
        }
    }

    fn perform(&self) {
        let value = self.value.to_le_bytes();
        for row in 0..self.height {
            let start = (self.address + row * self.pitch) as *mut u8;
            // SAFETY: the range was checked against the allocations when the fill was called.
            let bytes = unsafe { std::slice::from_raw_parts_mut(start, self.width * self.element_bytes) };
            match self.element_bytes {
                1 => bytes.fill(value[0]),
                size => bytes.chunks_exact_mut(size).for_each(|element| element.copy_from_slice(&value[..size])),
            }
        }
    }
}

/// A function of the program's, called in stream order.
#[derive(Clone, Copy)]
pub(crate) enum HostCall {
    Function { function: CUhostFn, data: usize },
    Callback { function: CUstreamCallback, stream: usize, data: usize },
}

impl HostCall {
    fn perform(self) {
        let _inside = super::thread::enter_host_function();
        match self {
            Self::Function { function: Some(function), data } => {
                // SAFETY: the program handed over the pair to be called once.
                unsafe { function(data as *mut c_void) }
            }
            Self::Callback { function: Some(function), stream, data } => {
                let success = cudarc::driver::sys::CUresult::CUDA_SUCCESS;
                // SAFETY: as above.
                unsafe { function(stream as CUstream, success, data as *mut c_void) }
            }
            _ => {}
        }
    }
}

/// What a barrier of a batch takes: 16 took 13.6 us on an H100, 48 took 31.9 us.
const BARRIER_NS: u64 = 600;

/// Does `work` on the calling worker thread and returns when it ended; simulated time starts at `ready_ns`.
pub(crate) fn perform(work: &Work, ready_ns: u64, process: &super::Process) -> u64 {
    let costs = &process.settings.costs;
    let started_ns = now_ns();
    let (engine, cost_ns) = match work {
        Work::Kernel(launch) => {
            if !process.with_sim(|sim| sim.admit_kernel(launch)) {
                return started_ns;
            }
            launch.perform();
            (Engine::Compute, launch.cost_ns(costs))
        }
        Work::Fill(fill) => {
            fill.perform();
            let bytes = (fill.width * fill.height * fill.element_bytes) as u64;
            (Engine::Compute, costs.take(costs.kernel_ns + costs.device_memory.at(bytes)))
        }
        Work::Copy(copy) => {
            copy.perform();
            (copy.engine(), costs.take(copy.cost_ns(costs)))
        }
        Work::Graph(graph) => return graph.perform(ready_ns, process),
        Work::Host(call) => {
            call.perform();
            return now_ns().max(ready_ns);
        }
        Work::Barriers(count) => {
            let end_ns = ready_ns + costs.take(count * BARRIER_NS);
            sleep_until(end_ns);
            return end_ns;
        }
        inline => {
            process.with_sim(|sim| sim.perform_inline(inline, ready_ns));
            return ready_ns;
        }
    };
    // The host's own work may take longer than the stated cost; then that is what it took.
    let duration_ns = cost_ns.max(now_ns() - started_ns);
    process.gpu.run(engine, process.slot(), ready_ns, duration_ns, costs)
}
