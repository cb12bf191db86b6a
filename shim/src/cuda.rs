//! The types of the CUDA driver API as they cross our boundary.
//!
//! `cudarc::driver::sys` is the header in Rust, and each hook's signature is checked against it when we are compiled.
//! Its enums, though, are Rust enums: a value that a newer driver returns or a sloppy program passes would be undefined
//! behaviour. So enums cross as integers ([`Abi::Raw`]), and results as [`Status`].

pub(crate) use cudarc::driver::sys;

use std::ffi::c_void;

/// A `CUresult` as the driver returned it, known to us or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Status(pub(crate) u32);

impl Status {
    pub(crate) const SUCCESS: Self = Self(0);
    pub(crate) const INVALID_VALUE: Self = Self(1);
    pub(crate) const INVALID_HANDLE: Self = Self(400);
    pub(crate) const NOT_READY: Self = Self(600);
    pub(crate) const NOT_SUPPORTED: Self = Self(801);

    #[inline]
    pub(crate) const fn is_ok(self) -> bool {
        self.0 == 0
    }
}

/// Maps a type of the header to the one that crosses the boundary: itself, but for enums an integer.
pub(crate) trait Abi {
    type Raw;
}

macro_rules! as_themselves {
    ($($t:ty),*) => { $(impl Abi for $t { type Raw = $t; })* };
}

macro_rules! as_integers {
    ($($t:ty),*) => { $(impl Abi for $t { type Raw = u32; })* };
}

as_themselves!(i32, u32, u64, usize, u8, u16);
as_integers!(sys::CUstreamCaptureMode_enum, sys::CUpointer_attribute_enum);

impl<T> Abi for *mut T {
    type Raw = Self;
}

impl<T> Abi for *const T {
    type Raw = Self;
}

impl Abi for sys::CUstreamCallback {
    type Raw = Self;
}

/// `CU_STREAM_LEGACY`: the default stream that waits for all blocking streams of its context.
pub(crate) const STREAM_LEGACY: usize = 1;

/// `CU_STREAM_PER_THREAD`: the calling thread's own default stream.
pub(crate) const STREAM_PER_THREAD: usize = 2;

/// `CU_MEMHOSTALLOC_PORTABLE`, `_DEVICEMAP` and `_WRITECOMBINED`, CUDA Driver API, cuMemHostAlloc.
pub(crate) mod host_alloc {
    pub(crate) const PORTABLE: u32 = 1;
    pub(crate) const DEVICEMAP: u32 = 2;
}

/// The address behind any pointer type of the API.
#[inline]
pub(crate) fn address<T>(pointer: *const T) -> usize {
    pointer.cast::<c_void>() as usize
}
