//! The little of the CUDA driver API that the program needs, as values that clean up after themselves. All of the
//! program's `unsafe` is here.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::mem;
use std::ptr::NonNull;
use std::slice;

use cudarc::driver::{result, sys};

use crate::failure::{Failure, FromCall};

/// The kernel, as text that the driver compiles for the device it finds.
const MODULE: &str = concat!(include_str!("vector_add.ptx"), "\0");
const THREADS_PER_BLOCK: u32 = 256;

/// A device with its primary context and the loaded kernel.
pub(crate) struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    module: sys::CUmodule,
    vector_add: sys::CUfunction,
}

// SAFETY: driver handles name objects of the process, not of a thread; the driver API may be called from any thread with
// them (CUDA Programming Guide, "Driver API").
unsafe impl Send for Gpu {}
// SAFETY: as above; no method changes a Gpu, and the driver synchronises calls on the objects behind the handles.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Opens device `ordinal` and makes its primary context current in the calling thread.
    pub(crate) fn open(ordinal: c_int) -> Result<Self, Failure> {
        // SAFETY: loading the driver runs its initialisers, which is what every CUDA program does first.
        if !unsafe { sys::is_culib_present() } {
            return Err(Failure::NoDriver);
        }
        result::init().in_call("cuInit")?;
        let device = result::device::get(ordinal).in_call("cuDeviceGet")?;
        // SAFETY: `device` was just given by the driver.
        let context = unsafe { result::primary_ctx::retain(device) }.in_call("cuDevicePrimaryCtxRetain")?;
        // SAFETY: `context` is retained until this Gpu is dropped.
        unsafe { result::ctx::set_current(context) }.in_call("cuCtxSetCurrent")?;
        // SAFETY: a context is current, and the image is PTX text that ends in a NUL byte.
        let module = unsafe { result::module::load_data(MODULE.as_ptr().cast()) }.in_call("cuModuleLoadData")?;
        // SAFETY: `module` was just loaded.
        let vector_add =
            unsafe { result::module::get_function(module, c"vector_add".to_owned()) }.in_call("cuModuleGetFunction")?;
        Ok(Self { device, context, module, vector_add })
    }

    /// Makes the context current in the calling thread.
    pub(crate) fn bind_to_thread(&self) -> Result<(), Failure> {
        // SAFETY: the context is retained as long as this Gpu lives.
        unsafe { result::ctx::set_current(self.context) }.in_call("cuCtxSetCurrent")
    }

    /// The device's name as the driver gives it.
    pub(crate) fn name(&self) -> Result<String, Failure> {
        result::device::get_name(self.device).in_call("cuDeviceGetName")
    }

    /// The newest CUDA version the driver supports: 1000 * major + 10 * minor.
    pub(crate) fn driver_version(&self) -> Result<c_int, Failure> {
        let mut version = 0;
        // SAFETY: the pointer is to a live integer.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().in_call("cuDriverGetVersion")?;
        Ok(version)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: lanes and buffers borrow the Gpu, so nothing uses module or context any more. An error here (a driver
        // that is shutting down) leaves nothing to do.
        unsafe {
            let _ = result::module::unload(self.module);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Page-locked host memory for floats, straight from the driver and straight back to it.
pub(crate) struct PinnedBuffer<'gpu> {
    start: NonNull<f32>,
    elements: usize,
    gpu: PhantomData<&'gpu Gpu>,
}

impl<'gpu> PinnedBuffer<'gpu> {
    /// Allocates memory for `elements` floats; the calling thread must be bound to `_gpu`.
    pub(crate) fn allocate(_gpu: &'gpu Gpu, elements: usize) -> Result<Self, Failure> {
        // SAFETY: the call has no precondition beyond a current context, without which it returns an error.
        let start = unsafe { result::malloc_host(elements * size_of::<f32>(), 0) }.in_call("cuMemHostAlloc")?;
        let start = NonNull::new(start.cast()).ok_or(Failure::Driver {
            call: "cuMemHostAlloc",
            error: result::DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE),
        })?;
        Ok(Self { start, elements, gpu: PhantomData })
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: the driver returned `elements` floats of mapped memory, aligned to a page at least, and every bit
        // pattern is a float; no GPU work writes it while the slice lives, as Lane::add waits for its own.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.elements) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in as_slice, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.elements) }
    }

    /// Gives the memory back and says whether the driver took it.
    pub(crate) fn free(self) -> Result<(), Failure> {
        let start = self.start;
        mem::forget(self);
        // SAFETY: `start` came from cuMemHostAlloc and, self being forgotten, is freed here only.
        unsafe { result::free_host(start.as_ptr().cast()) }.in_call("cuMemFreeHost")
    }
}

impl Drop for PinnedBuffer<'_> {
    fn drop(&mut self) {
        // SAFETY: `start` came from cuMemHostAlloc, and `free` forgets what it has freed. This runs on the way out of a
        // failed request, whose failure is the one to report.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
    }
}

/// A stream and the device memory for one request at a time. It belongs to the thread that made it.
pub(crate) struct Lane<'gpu> {
    gpu: &'gpu Gpu,
    stream: sys::CUstream,
    a: sys::CUdeviceptr,
    b: sys::CUdeviceptr,
    sum: sys::CUdeviceptr,
    elements: usize,
}

impl<'gpu> Lane<'gpu> {
    /// Makes a stream and memory for vectors of `elements` floats; the calling thread must be bound to `gpu`.
    pub(crate) fn new(gpu: &'gpu Gpu, elements: usize) -> Result<Self, Failure> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).in_call("cuStreamCreate")?;
        let mut lane = Self { gpu, stream, a: 0, b: 0, sum: 0, elements };
        for vector in [&mut lane.a, &mut lane.b, &mut lane.sum] {
            // SAFETY: the call has no precondition beyond a current context.
            *vector = unsafe { result::malloc_sync(elements * size_of::<f32>()) }.in_call("cuMemAlloc")?;
        }
        Ok(lane)
    }

    /// Adds `a` and `b` into `sum` on the device and waits for it.
    pub(crate) fn add(
        &mut self,
        a: &PinnedBuffer<'_>,
        b: &PinnedBuffer<'_>,
        sum: &mut PinnedBuffer<'_>,
    ) -> Result<(), Failure> {
        for buffer in [a, b, &*sum] {
            assert_eq!(buffer.elements, self.elements, "a buffer of another size");
        }
        // SAFETY: source and destination have `elements` floats each (checked above), and both outlive the copies: on
        // success this function waits for them, and freeing page-locked or device memory waits for work in flight.
        unsafe {
            result::memcpy_htod_async(self.a, a.as_slice(), self.stream).in_call("cuMemcpyHtoDAsync")?;
            result::memcpy_htod_async(self.b, b.as_slice(), self.stream).in_call("cuMemcpyHtoDAsync")?;
        }
        self.launch()?;
        // SAFETY: as for the copies in the other direction; `sum` is borrowed exclusively until the wait below.
        unsafe {
            result::memcpy_dtoh_async(sum.as_mut_slice(), self.sum, self.stream).in_call("cuMemcpyDtoHAsync")?;
            result::stream::synchronize(self.stream).in_call("cuStreamSynchronize")
        }
    }

    fn launch(&mut self) -> Result<(), Failure> {
        let (mut a, mut b, mut sum) = (self.a, self.b, self.sum);
        let mut elements = self.elements as u64;
        let mut parameters: [*mut c_void; 4] =
            [(&raw mut a).cast(), (&raw mut b).cast(), (&raw mut sum).cast(), (&raw mut elements).cast()];
        let blocks = (self.elements as u32).div_ceil(THREADS_PER_BLOCK);
        // SAFETY: the four parameters have the types vector_add.ptx declares, are copied before the call returns, and
        // name device memory of `elements` floats; the kernel checks its index against `elements`.
        unsafe {
            result::launch_kernel(
                self.gpu.vector_add,
                (blocks, 1, 1),
                (THREADS_PER_BLOCK, 1, 1),
                0,
                self.stream,
                &mut parameters,
            )
        }
        .in_call("cuLaunchKernel")
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        // SAFETY: stream and memory were made by `new` and are dropped once; freeing waits for work in flight, and
        // address 0, left where an allocation failed, is no allocation and skipped.
        unsafe {
            for vector in [self.a, self.b, self.sum] {
                if vector != 0 {
                    let _ = result::free_sync(vector);
                }
            }
            let _ = result::stream::destroy(self.stream);
        }
    }
}
