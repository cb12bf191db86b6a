//! Modules, libraries, functions.

use super::{not_null, put};
use crate::sim::Process;
use crate::status::{R, Status};
use cudarc::driver::sys::{CUdeviceptr, CUfunction, CUkernel, CUlibrary, CUmodule};
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

const MAX_THREADS_PER_BLOCK: u32 = 0;
const NUM_REGS: u32 = 4;
const PTX_VERSION: u32 = 5;
const BINARY_VERSION: u32 = 6;
const MAX_DYNAMIC_SHARED: u32 = 8;
const ATTRIBUTE_END: u32 = 16;

/// The text of an image in memory. Only text ends at its first zero byte; a fat binary is recognised by its magic.
unsafe fn image_text<'a>(image: *const c_void) -> R<&'a str> {
    not_null(image)?;
    // SAFETY: an image is at least four bytes long, by the API's contract.
    let magic = unsafe { image.cast::<[u8; 4]>().read_unaligned() };
    if &magic == b"\x7fELF" || magic == [0x50, 0xed, 0x55, 0xba] || magic == [0xb1, 0x43, 0x62, 0x46] {
        return Err(Status::CUDA_ERROR_NO_BINARY_FOR_GPU);
    }
    // SAFETY: text images end in a zero byte, by the API's contract.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    text.to_str().map_err(|_| Status::CUDA_ERROR_INVALID_IMAGE)
}

unsafe fn load(process: &Process, module: *mut CUmodule, image: &str) -> R {
    let mut sim = process.sim();
    let context = sim.current_handle()?;
    let handle = sim.load_module(image, context)?;
    // SAFETY: checked by the callers, and writable by the API's contract.
    unsafe { put(module, handle as CUmodule) }
}

unsafe fn function_of(process: &Process, out: *mut CUfunction, module: usize, name: *const c_char) -> R {
    not_null(out)?;
    not_null(name)?;
    // SAFETY: a C string by the API's contract.
    let name = unsafe { CStr::from_ptr(name) };
    let handle = process.sim().module_function(module, name)?;
    // SAFETY: checked above, and writable by the API's contract.
    unsafe { put(out, handle as CUfunction) }
}

driver_api! {
    /// Loads PTX text or an image of the simulator's own from memory.
    fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) |process| {
        not_null(module)?;
        load(process, module, image_text(image)?)
    }

    /// As cuModuleLoadData; options for a compiler are of no use here.
    fn cuModuleLoadDataEx(module: *mut CUmodule, image: *const c_void, _count: c_uint, _options: *mut c_uint, _values: *mut *mut c_void) |process| {
        not_null(module)?;
        load(process, module, image_text(image)?)
    }

    /// Loads a module from a file.
    fn cuModuleLoad(module: *mut CUmodule, path: *const c_char) |process| {
        not_null(module)?;
        not_null(path)?;
        let path = OsStr::from_bytes(CStr::from_ptr(path).to_bytes());
        let mut image = std::fs::read(path).map_err(|_| Status::CUDA_ERROR_FILE_NOT_FOUND)?;
        image.extend([0; 4]);
        load(process, module, image_text(image.as_ptr().cast())?)
    }

    /// Unloads a module, after the work of its context.
    fn cuModuleUnload(module: CUmodule) |process| {
        let mut sim = process.sim();
        let context = sim.current_handle()?;
        sim.check_unsafe_call()?;
        process.drain(&mut sim, Some(context));
        sim.unload_module(module as usize)
    }

    /// A function of a module.
    fn cuModuleGetFunction(out: *mut CUfunction, module: CUmodule, name: *const c_char) |process| {
        process.sim().current_handle()?;
        function_of(process, out, module as usize, name)
    }

    /// Modules here have no variables.
    fn cuModuleGetGlobal_v2(_address: *mut CUdeviceptr, _bytes: *mut usize, module: CUmodule, name: *const c_char) |process| {
        not_null(name)?;
        process.sim().modules.get(module as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        Err(Status::CUDA_ERROR_NOT_FOUND)
    }

    /// Loads a library: its kernels serve every context.
    fn cuLibraryLoadData(
        library: *mut CUlibrary, image: *const c_void, _jit: *mut c_uint, _jit_values: *mut *mut c_void, _jit_count: c_uint,
        _options: *mut c_uint, _values: *mut *mut c_void, _count: c_uint,
    ) |process| {
        not_null(library)?;
        let handle = process.sim().load_module(image_text(image)?, 0)?;
        put(library, handle as CUlibrary)
    }

    /// Unloads a library.
    fn cuLibraryUnload(library: CUlibrary) |process| {
        let mut sim = process.sim();
        sim.check_unsafe_call()?;
        process.drain(&mut sim, None);
        sim.unload_module(library as usize)
    }

    /// A kernel of a library. Kernels and functions are the same thing here.
    fn cuLibraryGetKernel(out: *mut CUkernel, library: CUlibrary, name: *const c_char) |process| {
        function_of(process, out.cast(), library as usize, name)
    }

    /// A kernel's function in the current context.
    fn cuKernelGetFunction(out: *mut CUfunction, kernel: CUkernel) |process| {
        not_null(out)?;
        let sim = process.sim();
        sim.current_handle()?;
        sim.functions.get(kernel as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        put(out, kernel as CUfunction)
    }

    /// An attribute of a function.
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: CUfunction) |process| {
        let sim = process.sim();
        let function = sim.functions.get(function as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        let answer = match attribute {
            MAX_THREADS_PER_BLOCK => 1024,
            NUM_REGS => 16,
            PTX_VERSION => 70,
            BINARY_VERSION => 90,
            MAX_DYNAMIC_SHARED => function.max_shared_bytes.load(Ordering::Relaxed),
            ATTRIBUTE_END.. => return Err(Status::CUDA_ERROR_INVALID_VALUE),
            _ => 0,
        };
        put(value, answer)
    }

    /// Sets an attribute of a function; only the dynamic shared memory it may have matters here.
    fn cuFuncSetAttribute(function: CUfunction, attribute: c_uint, value: c_int) |process| {
        let sim = process.sim();
        let function = sim.functions.get(function as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        match attribute {
            MAX_DYNAMIC_SHARED if (0..=super::device::SHARED_PER_BLOCK_OPTIN).contains(&value) => {
                function.max_shared_bytes.store(value, Ordering::Relaxed);
                Ok(())
            }
            9..ATTRIBUTE_END => Ok(()),
            _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// A function's name; valid until its module goes.
    fn cuFuncGetName(name: *mut *const c_char, function: CUfunction) |process| {
        let sim = process.sim();
        let function = sim.functions.get(function as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        put(name, function.name.as_ptr())
    }

    /// Blocks of a function that a multiprocessor holds at a time.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: CUfunction, threads: c_int, _shared: usize) |process| {
        process.sim().functions.get(function as usize).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        if !(1..=1024).contains(&threads) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        put(blocks, (2048 / threads).min(32))
    }
}
