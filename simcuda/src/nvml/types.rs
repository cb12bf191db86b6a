//! NVML's structures and result codes, as its header lays them out.

use crate::gpu::Client;
use std::ffi::{CStr, c_char, c_uint, c_ulonglong};

/// nvmlReturn_t.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Code {
    Success = 0,
    Uninitialized = 1,
    InvalidArgument = 2,
    NotFound = 6,
    InsufficientSize = 7,
    ArgumentVersionMismatch = 25,
}

/// The text of a code.
pub(super) fn text(code: c_uint) -> &'static CStr {
    match code {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        25 => c"Argument version mismatch",
        _ => c"Unknown Error",
    }
}

/// nvmlUtilization_t, in percent.
#[repr(C)]
pub(crate) struct Utilization {
    pub(super) gpu: c_uint,
    pub(super) memory: c_uint,
}

/// nvmlMemory_t, in bytes.
#[repr(C)]
pub(crate) struct Memory {
    pub(super) total: c_ulonglong,
    pub(super) free: c_ulonglong,
    pub(super) used: c_ulonglong,
}

/// nvmlMemory_v2_t, in bytes.
#[repr(C)]
pub(crate) struct MemoryV2 {
    pub(super) version: c_uint,
    pub(super) total: c_ulonglong,
    pub(super) reserved: c_ulonglong,
    pub(super) free: c_ulonglong,
    pub(super) used: c_ulonglong,
}

impl MemoryV2 {
    /// Size and version, as NVML packs them.
    pub(super) const VERSION: c_uint = size_of::<Self>() as c_uint | 2 << 24;
}

/// nvmlProcessInfo_v1_t.
#[repr(C)]
pub(crate) struct ProcessInfoV1 {
    pid: c_uint,
    used_bytes: c_ulonglong,
}

/// nvmlProcessInfo_v2_t, of which the third version has the same fields.
#[repr(C)]
pub(crate) struct ProcessInfo {
    pid: c_uint,
    used_bytes: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// Not a part of a MIG instance.
const NO_INSTANCE: c_uint = c_uint::MAX;

impl From<&Client> for ProcessInfoV1 {
    fn from(client: &Client) -> Self {
        Self { pid: client.pid, used_bytes: client.memory_bytes }
    }
}

impl From<&Client> for ProcessInfo {
    fn from(client: &Client) -> Self {
        let (gpu_instance, compute_instance) = (NO_INSTANCE, NO_INSTANCE);
        Self { pid: client.pid, used_bytes: client.memory_bytes, gpu_instance, compute_instance }
    }
}

/// nvmlProcessUtilizationSample_t; shares in percent.
#[repr(C)]
pub(crate) struct ProcessUtilization {
    pid: c_uint,
    time_us: c_ulonglong,
    multiprocessors: c_uint,
    memory: c_uint,
    encoder: c_uint,
    decoder: c_uint,
}

impl ProcessUtilization {
    pub(super) fn new(client: &Client, time_us: u64) -> Self {
        let busy = client.busy_percent;
        Self { pid: client.pid, time_us, multiprocessors: busy, memory: busy / 2, encoder: 0, decoder: 0 }
    }
}

/// nvmlPciInfo_t.
#[repr(C)]
pub(crate) struct PciInfo {
    legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    device_id: c_uint,
    subsystem_id: c_uint,
    text: [c_char; 32],
}

impl PciInfo {
    pub(super) fn simulated(bus_id: &CStr) -> Self {
        let mut info = Self {
            legacy: [0; 16],
            domain: 0,
            bus: 0x5c,
            device: 0,
            device_id: 0x2335_10de,
            subsystem_id: 0,
            text: [0; 32],
        };
        for (index, byte) in bus_id.to_bytes().iter().enumerate() {
            info.legacy[index] = *byte as c_char;
            info.text[index] = *byte as c_char;
        }
        info
    }
}
