//! Devices: there is one.

use super::{not_null, put};
use crate::status::{R, Status};
use cudarc::driver::sys::{CUcontext, CUdevice, CUuuid};
use std::ffi::{CStr, c_char, c_int, c_uint};

/// The GPU's name.
pub(crate) const NAME: &CStr = c"aishim simulated GPU";
/// The GPU's identity: NVML writes the same bytes as text.
pub(crate) const UUID: [u8; 16] = *b"\xa1\x54\x1e\x00simcuda-gpu0";
/// Where it would sit.
pub(crate) const PCI_BUS_ID: &CStr = c"0000:5C:00.0";

pub(crate) const MULTIPROCESSORS: i32 = 132;
const SHARED_PER_MULTIPROCESSOR: i32 = 228 << 10;
/// The most shared memory a block can have, in bytes.
pub(crate) const SHARED_PER_BLOCK_OPTIN: i32 = 227 << 10;

/// Attributes by the number the driver's header gives them, as an H200 has them; those left out are 0.
const ATTRIBUTES: [(u32, i32); 53] = [
    (1, 1024),       // MAX_THREADS_PER_BLOCK
    (2, 1024),       // MAX_BLOCK_DIM_X
    (3, 1024),       // MAX_BLOCK_DIM_Y
    (4, 64),         // MAX_BLOCK_DIM_Z
    (5, i32::MAX),   // MAX_GRID_DIM_X
    (6, 65_535),     // MAX_GRID_DIM_Y
    (7, 65_535),     // MAX_GRID_DIM_Z
    (8, 48 << 10),   // MAX_SHARED_MEMORY_PER_BLOCK
    (9, 64 << 10),   // TOTAL_CONSTANT_MEMORY
    (10, 32),        // WARP_SIZE
    (11, i32::MAX),  // MAX_PITCH
    (12, 65_536),    // MAX_REGISTERS_PER_BLOCK
    (13, 1_980_000), // CLOCK_RATE, kHz
    (14, 512),       // TEXTURE_ALIGNMENT
    (15, 1),         // GPU_OVERLAP
    (16, MULTIPROCESSORS),
    (19, 1),         // CAN_MAP_HOST_MEMORY
    (31, 1),         // CONCURRENT_KERNELS
    (32, 1),         // ECC_ENABLED
    (33, 0x5c),      // PCI_BUS_ID
    (36, 3_201_000), // MEMORY_CLOCK_RATE, kHz
    (37, 6_144),     // GLOBAL_MEMORY_BUS_WIDTH, bits
    (38, 60 << 20),  // L2_CACHE_SIZE
    (39, 2_048),     // MAX_THREADS_PER_MULTIPROCESSOR
    (40, 2),         // ASYNC_ENGINE_COUNT
    (41, 1),         // UNIFIED_ADDRESSING
    (75, 9),         // COMPUTE_CAPABILITY_MAJOR
    (78, 1),         // STREAM_PRIORITIES_SUPPORTED
    (79, 1),         // GLOBAL_L1_CACHE_SUPPORTED
    (80, 1),         // LOCAL_L1_CACHE_SUPPORTED
    (81, SHARED_PER_MULTIPROCESSOR),
    (82, 65_536), // MAX_REGISTERS_PER_MULTIPROCESSOR
    (83, 1),      // MANAGED_MEMORY
    (87, 2),      // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
    (89, 1),      // CONCURRENT_MANAGED_ACCESS
    (90, 1),      // COMPUTE_PREEMPTION_SUPPORTED
    (91, 1),      // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
    (92, 1),      // CAN_USE_STREAM_MEM_OPS_V1
    (93, 1),      // CAN_USE_64_BIT_STREAM_MEM_OPS_V1
    (94, 1),      // CAN_USE_STREAM_WAIT_VALUE_NOR_V1
    (95, 1),      // COOPERATIVE_LAUNCH
    (97, SHARED_PER_BLOCK_OPTIN),
    (99, 1),      // HOST_REGISTER_SUPPORTED
    (102, 1),     // VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED
    (106, 32),    // MAX_BLOCKS_PER_MULTIPROCESSOR
    (111, 1_024), // RESERVED_SHARED_MEMORY_PER_BLOCK
    (113, 1),     // READ_ONLY_HOST_REGISTER_SUPPORTED
    (115, 1),     // MEMORY_POOLS_SUPPORTED
    (120, 1),     // CLUSTER_LAUNCH
    (122, 1),     // CAN_USE_64_BIT_STREAM_MEM_OPS
    (123, 1),     // CAN_USE_STREAM_WAIT_VALUE_NOR
    (131, -1),    // NUMA_ID
    (134, -1),    // HOST_NUMA_ID
];

/// CU_DEVICE_ATTRIBUTE_MPS_ENABLED.
const MPS_ENABLED: u32 = 133;

/// One past the last attribute that CUDA 13.0 defines.
const ATTRIBUTE_END: u32 = 148;

/// Fails for any device but the one.
pub(super) fn check_device(device: CUdevice) -> R {
    if device == 0 { Ok(()) } else { Err(Status::CUDA_ERROR_INVALID_DEVICE) }
}

unsafe fn put_string(to: *mut c_char, length: c_int, text: &CStr) -> R {
    let length = usize::try_from(length).ok().filter(|length| *length > 0 && !to.is_null());
    let length = length.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
    let bytes = text.to_bytes_with_nul();
    let copied = bytes.len().min(length);
    // SAFETY: the caller has `length` bytes there.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, copied);
        to.add(copied - 1).write(0);
    }
    Ok(())
}

driver_api! {
    /// The device of an ordinal.
    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) |_| {
        not_null(device)?;
        check_device(ordinal)?;
        put(device, 0)
    }

    /// The number of devices.
    fn cuDeviceGetCount(count: *mut c_int) |_| { put(count, 1) }

    /// The device's name, cut to `length` bytes.
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice) |_| {
        check_device(device)?;
        put_string(name, length, NAME)
    }

    /// The device's identity.
    fn cuDeviceGetUuid(uuid: *mut CUuuid, device: CUdevice) |_| {
        check_device(device)?;
        put(uuid, CUuuid { bytes: UUID.map(|byte| byte as c_char) })
    }

    /// The device's identity; the same, there being no MIG here.
    fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice) |_| {
        check_device(device)?;
        put(uuid, CUuuid { bytes: UUID.map(|byte| byte as c_char) })
    }

    /// The device's memory, in bytes.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) |process| {
        check_device(device)?;
        put(bytes, process.gpu.memory_bytes() as usize)
    }

    /// An attribute of the device.
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: CUdevice) |process| {
        not_null(value)?;
        if attribute == 0 || attribute >= ATTRIBUTE_END {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        check_device(device)?;
        if attribute == MPS_ENABLED {
            return put(value, process.settings.mps.into());
        }
        put(value, ATTRIBUTES.iter().find(|entry| entry.0 == attribute).map_or(0, |entry| entry.1))
    }

    /// Where the device sits, as text.
    fn cuDeviceGetPCIBusId(text: *mut c_char, length: c_int, device: CUdevice) |_| {
        check_device(device)?;
        put_string(text, length, PCI_BUS_ID)
    }

    /// The primary context, made with its first user.
    fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) |process| {
        not_null(context)?;
        check_device(device)?;
        let handle = process.sim().retain_primary(process)?;
        put(context, handle as CUcontext)
    }

    /// One user of the primary context less; it goes with the last one.
    fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) |process| {
        check_device(device)?;
        let mut sim = process.sim();
        if let Some(handle) = sim.release_primary()? {
            process.drain(&mut sim, Some(handle));
            sim.destroy_context(process, handle);
        }
        Ok(())
    }

    /// Takes the primary context down, whoever uses it.
    fn cuDevicePrimaryCtxReset_v2(device: CUdevice) |process| {
        check_device(device)?;
        let mut sim = process.sim();
        sim.primary.users = 0;
        if let Some(handle) = sim.primary.handle.take() {
            process.drain(&mut sim, Some(handle));
            sim.destroy_context(process, handle);
        }
        Ok(())
    }

    /// Flags of the primary context, and whether it exists.
    fn cuDevicePrimaryCtxGetState(device: CUdevice, flags: *mut c_uint, active: *mut c_int) |process| {
        check_device(device)?;
        let sim = process.sim();
        not_null(flags)?;
        put(active, c_int::from(sim.primary.handle.is_some()))?;
        put(flags, sim.primary.flags)
    }

    /// Flags for the primary context, from now on.
    fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: c_uint) |process| {
        check_device(device)?;
        super::only_flags(flags, super::context::FLAGS)?;
        process.sim().primary.flags = flags;
        Ok(())
    }
}
