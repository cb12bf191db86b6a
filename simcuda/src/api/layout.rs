//! Structures of the driver's header whose enumerations may hold any number when they come from C. The types of
//! `cudarc::driver::sys` say how large each is.

use cudarc::driver::sys;
use std::ffi::{c_int, c_uint, c_void};

/// CUctxCreateParams.
#[repr(C)]
pub(crate) struct CtxCreateParams {
    pub(crate) affinity: *const c_void,
    pub(crate) affinity_count: c_int,
    pub(crate) graphics: *const c_void,
}

/// CUmemLocation.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MemLocation {
    pub(crate) kind: c_uint,
    pub(crate) id: c_int,
}

/// CUmemAllocationProp.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AllocationProp {
    pub(crate) kind: c_uint,
    pub(crate) handle_types: c_uint,
    pub(crate) location: MemLocation,
    pub(crate) win32: *const c_void,
    pub(crate) flags: [u8; 8],
}

/// CUmemAccessDesc.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AccessDesc {
    pub(crate) location: MemLocation,
    pub(crate) flags: c_uint,
}

/// CUmemPoolProps.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PoolProps {
    pub(crate) kind: c_uint,
    pub(crate) handle_types: c_uint,
    pub(crate) location: MemLocation,
    pub(crate) win32: *const c_void,
    pub(crate) reserved: [u8; 64],
}

/// CUDA_MEMCPY2D.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Memcpy2D {
    pub(crate) src_x: usize,
    pub(crate) src_y: usize,
    pub(crate) src_kind: c_uint,
    pub(crate) src_host: usize,
    pub(crate) src_device: u64,
    pub(crate) src_array: usize,
    pub(crate) src_pitch: usize,
    pub(crate) dst_x: usize,
    pub(crate) dst_y: usize,
    pub(crate) dst_kind: c_uint,
    pub(crate) dst_host: usize,
    pub(crate) dst_device: u64,
    pub(crate) dst_array: usize,
    pub(crate) dst_pitch: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// CUDA_MEMCPY3D.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Memcpy3D {
    pub(crate) src_x: usize,
    pub(crate) src_y: usize,
    pub(crate) src_z: usize,
    pub(crate) src_lod: usize,
    pub(crate) src_kind: c_uint,
    pub(crate) src_host: usize,
    pub(crate) src_device: u64,
    pub(crate) src_array: usize,
    pub(crate) reserved0: usize,
    pub(crate) src_pitch: usize,
    pub(crate) src_height: usize,
    pub(crate) dst_x: usize,
    pub(crate) dst_y: usize,
    pub(crate) dst_z: usize,
    pub(crate) dst_lod: usize,
    pub(crate) dst_kind: c_uint,
    pub(crate) dst_host: usize,
    pub(crate) dst_device: u64,
    pub(crate) dst_array: usize,
    pub(crate) reserved1: usize,
    pub(crate) dst_pitch: usize,
    pub(crate) dst_height: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

/// CUstreamBatchMemOpParams: a wait or a write. Of a barrier `kind` alone is looked at, and its flags, which follow it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct BatchMemOp {
    pub(crate) kind: c_uint,
    pub(crate) barrier_flags: c_uint,
    pub(crate) address: u64,
    pub(crate) value: u64,
    pub(crate) flags: c_uint,
    pub(crate) alias: u64,
    pub(crate) reserved: u64,
}

const _: () = {
    assert!(size_of::<BatchMemOp>() == size_of::<sys::CUstreamBatchMemOpParams>());
    assert!(size_of::<CtxCreateParams>() == size_of::<sys::CUctxCreateParams>());
    assert!(size_of::<MemLocation>() == size_of::<sys::CUmemLocation>());
    assert!(size_of::<AllocationProp>() == size_of::<sys::CUmemAllocationProp>());
    assert!(size_of::<AccessDesc>() == size_of::<sys::CUmemAccessDesc>());
    assert!(size_of::<PoolProps>() == size_of::<sys::CUmemPoolProps>());
    assert!(size_of::<Memcpy2D>() == size_of::<sys::CUDA_MEMCPY2D>());
    assert!(size_of::<Memcpy3D>() == size_of::<sys::CUDA_MEMCPY3D>());
};
