//! Initialisation, version, error texts, cuGetProcAddress.

use super::put;
use crate::proc_address;
use crate::sim::Process;
use crate::status::{self, Status};
use cudarc::driver::sys::CUuuid;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// Initialises the driver; `flags` must be 0.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) unsafe extern "C" fn cuInit(flags: c_uint) -> Status {
    if flags != 0 {
        return Status::CUDA_ERROR_INVALID_VALUE;
    }
    match Process::initialise() {
        // Entered for the faults that may be injected here.
        Ok(()) => crate::sim::enter("cuInit", |_| Ok(())),
        Err(status) => status,
    }
}

/// The version, 1000 * major + 10 * minor; works before cuInit.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Status {
    // SAFETY: null or writable, by the API's contract.
    match unsafe { put(version, proc_address::driver_version()) } {
        Ok(()) => Status::CUDA_SUCCESS,
        Err(status) => status,
    }
}

/// The name of a result code; works before cuInit.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) unsafe extern "C" fn cuGetErrorName(error: c_uint, text: *mut *const c_char) -> Status {
    // SAFETY: null or writable, by the API's contract.
    unsafe { put_text(status::name(error), text) }
}

/// The text of a result code; works before cuInit.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) unsafe extern "C" fn cuGetErrorString(error: c_uint, text: *mut *const c_char) -> Status {
    // SAFETY: null or writable, by the API's contract.
    unsafe { put_text(status::text(error), text) }
}

unsafe fn put_text(found: Option<&'static CStr>, text: *mut *const c_char) -> Status {
    // SAFETY: the caller's promise is ours.
    let written = unsafe { put(text, found.map_or(std::ptr::null(), CStr::as_ptr)) };
    if written.is_ok() && found.is_some() { Status::CUDA_SUCCESS } else { Status::CUDA_ERROR_INVALID_VALUE }
}

/// There are no private tables: not found, where the real driver calls an unknown one an invalid argument.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) unsafe extern "C" fn cuGetExportTable(table: *mut *const c_void, _id: *const CUuuid) -> Status {
    // SAFETY: null or writable, by the API's contract.
    match unsafe { put(table, std::ptr::null()) } {
        Ok(()) => Status::CUDA_ERROR_NOT_FOUND,
        Err(status) => status,
    }
}

/// The address of a driver function, as CUDA 11.3 asked for it.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> Status {
    let mut found = proc_address::SUCCESS;
    // SAFETY: the arguments are the same.
    let status = unsafe { cuGetProcAddress_v2(symbol, function, version, flags, &raw mut found) };
    if found == proc_address::SUCCESS { status } else { Status::CUDA_ERROR_NOT_FOUND }
}

/// The address of a driver function: the newest form that `version` knows. One that is not found is a null pointer and
/// no error; `found` says why.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
    found: *mut c_uint,
) -> Status {
    if symbol.is_null() || function.is_null() {
        return Status::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: not null, and a C string by the API's contract.
    let name = unsafe { CStr::from_ptr(symbol) };
    let answer = proc_address::find(name, version, flags);
    let (address, outcome) = match answer {
        Ok(address) => (address.cast_mut(), proc_address::SUCCESS),
        Err(proc_address::Miss::Arguments) => return Status::CUDA_ERROR_INVALID_VALUE,
        Err(proc_address::Miss::Unknown) => (std::ptr::null_mut(), proc_address::SYMBOL_NOT_FOUND),
        Err(proc_address::Miss::TooNew) => (std::ptr::null_mut(), proc_address::VERSION_NOT_SUFFICIENT),
    };
    // SAFETY: both are writable, and only the status may be null.
    unsafe {
        function.write(address);
        super::put_if_wanted(found, outcome);
    }
    Status::CUDA_SUCCESS
}
