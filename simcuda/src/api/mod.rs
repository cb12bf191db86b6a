//! The exported functions, by group. Each checks its arguments, asks the simulator, and writes the answer.
//!
//! Arguments that are enumerations in the driver's header are plain integers here: any number can come from C.

/// Defines exported driver functions.
///
/// `fn name(args) |process| body` is one export. `fn name, twin(args) |process, per_thread| body` is two: the plain form
/// and the one whose default stream is the calling thread's (`_ptsz`, `_ptds`).
macro_rules! driver_api {
    () => {};
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) |$process:pat_param| $body:block $($rest:tt)*) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub(crate) unsafe extern "C" fn $name($($arg: $ty),*) -> $crate::status::Status {
            $crate::sim::enter(stringify!($name), |$process| {
                // SAFETY: pointers are as the driver API's page on this function asks of its caller.
                #[allow(unused_unsafe)]
                unsafe { $body }
            })
        }
        driver_api! { $($rest)* }
    };
    ($(#[$doc:meta])* fn $name:ident, $twin:ident($($arg:ident: $ty:ty),* $(,)?) |$process:pat_param, $per_thread:ident| $body:block $($rest:tt)*) => {
        driver_api! {
            $(#[$doc])*
            fn $name($($arg: $ty),*) |$process| { #[allow(unused_variables)] let $per_thread = false; $body }
            /// As its namesake, with the calling thread's own default stream.
            fn $twin($($arg: $ty),*) |$process| { #[allow(unused_variables)] let $per_thread = true; $body }
        }
        driver_api! { $($rest)* }
    };
}

pub(crate) mod capture;
pub(crate) mod context;
pub(crate) mod copy;
pub(crate) mod device;
pub(crate) mod event;
pub(crate) mod graph;
pub(crate) mod host;
pub(crate) mod init;
pub(crate) mod launch;
pub(crate) mod layout;
pub(crate) mod memory;
pub(crate) mod memset;
pub(crate) mod module;
pub(crate) mod pointer;
pub(crate) mod pool;
pub(crate) mod stream;
pub(crate) mod virtual_memory;

use crate::status::{R, Status};

/// Writes an answer through a pointer that must not be null.
///
/// # Safety
/// `to` is null or writable.
unsafe fn put<T>(to: *mut T, value: T) -> R {
    if to.is_null() {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller vouches for a pointer that is not null.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Writes an answer that the caller may not want.
///
/// # Safety
/// `to` is null or writable.
unsafe fn put_if_wanted<T>(to: *mut T, value: T) {
    // SAFETY: the caller's promise is ours.
    let _ = unsafe { put(to, value) };
}

/// Fails for a null pointer, before anything is changed.
fn not_null<T>(pointer: *const T) -> R {
    if pointer.is_null() { Err(Status::CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
}

/// Fails for a flag outside of `known`.
fn only_flags(flags: u32, known: u32) -> R {
    if flags & !known == 0 { Ok(()) } else { Err(Status::CUDA_ERROR_INVALID_VALUE) }
}
