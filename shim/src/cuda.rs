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

/// `CUstreamBatchMemOpParams`, a union of which the header's Rust makes enums too.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct MemoryOp {
    operation: u32,
    barrier_flags: u32,
    address: u64,
    value: u64,
    flags: u32,
    alias: u64,
    _rest: u64,
}

const _: () = assert!(size_of::<MemoryOp>() == size_of::<sys::CUstreamBatchMemOpParams>());

impl MemoryOp {
    /// `CU_STREAM_MEM_OP_BARRIER` of type `CU_STREAM_MEMORY_BARRIER_TYPE_SYS`: needs no memory to act on.
    pub(crate) const BARRIER: Self =
        Self { operation: 6, barrier_flags: 0, address: 0, value: 0, flags: 0, alias: 0, _rest: 0 };

    /// `CU_STREAM_MEM_OP_WAIT_VALUE_32` with `CU_STREAM_WAIT_VALUE_GEQ`: until the word there has come to `value`, compared cyclically.
    pub(crate) const fn wait(address: u64, value: u32) -> Self {
        Self { operation: 1, address, value: value as u64, ..Self::BARRIER }
    }

    /// `CU_STREAM_MEM_OP_WRITE_VALUE_32` with `CU_STREAM_WRITE_VALUE_DEFAULT`: comes after all work before it.
    pub(crate) const fn write(address: u64, value: u32) -> Self {
        Self { operation: 2, address, value: value as u64, ..Self::BARRIER }
    }
}

/// The address behind any pointer type of the API.
#[inline]
pub(crate) fn address<T>(pointer: *const T) -> usize {
    pointer.cast::<c_void>() as usize
}
