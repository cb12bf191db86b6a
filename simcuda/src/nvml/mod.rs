//! The little of NVML that readers of a GPU's state ask for. Figures come from the shared simulated GPU.

mod types;

use crate::api::device::{NAME, PCI_BUS_ID, UUID};
use crate::clock::now_ns;
use crate::gpu::{Client, SharedGpu};
use crate::settings::Settings;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use types::{Code, Memory, MemoryV2, PciInfo, ProcessInfo, ProcessInfoV1, ProcessUtilization, Utilization};

/// The only device's handle.
const DEVICE: usize = 0x6e76_6d6c;
const DRIVER_VERSION: &CStr = c"580.00 (simulated)";
const NVML_VERSION: &CStr = c"13.580.00";
const IDLE_MILLIWATTS: u32 = 75_000;
const FULL_MILLIWATTS: u32 = 700_000;

static USERS: AtomicU32 = AtomicU32::new(0);

fn gpu() -> &'static SharedGpu {
    static GPU: OnceLock<SharedGpu> = OnceLock::new();
    GPU.get_or_init(|| SharedGpu::open(Settings::of_this_process().memory_bytes))
}

type Nvml<T = ()> = Result<T, Code>;

/// What every call but initialisation begins with.
fn enter(call: impl FnOnce() -> Nvml) -> c_uint {
    if USERS.load(Ordering::Relaxed) == 0 {
        return Code::Uninitialized as c_uint;
    }
    call().err().unwrap_or(Code::Success) as c_uint
}

fn check(device: *mut c_void) -> Nvml {
    if device as usize == DEVICE { Ok(()) } else { Err(Code::InvalidArgument) }
}

/// # Safety
/// `to` is null or writable.
unsafe fn put<T>(to: *mut T, value: T) -> Nvml {
    if to.is_null() {
        return Err(Code::InvalidArgument);
    }
    // SAFETY: the caller vouches for a pointer that is not null.
    unsafe { to.write(value) };
    Ok(())
}

/// # Safety
/// `to` is null or has `length` writable bytes.
unsafe fn put_text(to: *mut c_char, length: c_uint, text: &CStr) -> Nvml {
    let bytes = text.to_bytes_with_nul();
    if to.is_null() {
        return Err(Code::InvalidArgument);
    }
    if bytes.len() > length as usize {
        return Err(Code::InsufficientSize);
    }
    // SAFETY: the caller has that much room.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, bytes.len()) };
    Ok(())
}

/// Fills an array of the caller's; `count` is its length, then how much there is.
///
/// # Safety
/// `count` is writable, `to` null or an array of that many.
unsafe fn put_array<T>(count: *mut c_uint, to: *mut T, items: Vec<T>) -> Nvml {
    if count.is_null() {
        return Err(Code::InvalidArgument);
    }
    // SAFETY: checked above.
    let room = unsafe { count.read() } as usize;
    // SAFETY: as above.
    unsafe { count.write(items.len() as c_uint) };
    if items.len() > room || (to.is_null() && !items.is_empty()) {
        return Err(Code::InsufficientSize);
    }
    for (index, item) in items.into_iter().enumerate() {
        // SAFETY: within the array.
        unsafe { to.add(index).write(item) };
    }
    Ok(())
}

fn clients() -> Vec<Client> {
    gpu().clients(now_ns())
}

fn busy_percent() -> u32 {
    clients().iter().map(|client| client.busy_percent).sum::<u32>().min(100)
}

fn uuid() -> CString {
    let hex: String = UUID.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    CString::new(format!("GPU-{}", parts.join("-"))).unwrap_or_default()
}

macro_rules! nvml_api {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $($(#[$doc])*
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub(crate) unsafe extern "C" fn $name($($arg: $ty),*) -> c_uint {
            enter(|| {
                // SAFETY: pointers are as NVML's page on this function asks of its caller.
                #[allow(unused_unsafe)]
                unsafe { $body }
            })
        })*
    };
}

/// Initialises NVML.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) extern "C" fn nvmlInit_v2() -> c_uint {
    USERS.fetch_add(1, Ordering::Relaxed);
    Code::Success as c_uint
}

/// Initialises NVML; no flag changes anything here.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> c_uint {
    nvmlInit_v2()
}

/// The text of a result code.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub(crate) extern "C" fn nvmlErrorString(code: c_uint) -> *const c_char {
    types::text(code).as_ptr()
}

nvml_api! {
    /// Ends one initialisation.
    fn nvmlShutdown() {
        USERS.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// The driver's version.
    fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) { put_text(version, length, DRIVER_VERSION) }

    /// NVML's version.
    fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) { put_text(version, length, NVML_VERSION) }

    /// The CUDA version of the driver.
    fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) { put(version, crate::proc_address::driver_version()) }

    /// The CUDA version of the driver.
    fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) { put(version, crate::proc_address::driver_version()) }

    /// The number of devices.
    fn nvmlDeviceGetCount_v2(count: *mut c_uint) { put(count, 1) }

    /// A device by its index.
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut *mut c_void) {
        if index == 0 { put(device, DEVICE as *mut c_void) } else { Err(Code::InvalidArgument) }
    }

    /// A device by its UUID.
    fn nvmlDeviceGetHandleByUUID(text: *const c_char, device: *mut *mut c_void) {
        if text.is_null() {
            return Err(Code::InvalidArgument);
        }
        if CStr::from_ptr(text) == uuid().as_c_str() { put(device, DEVICE as *mut c_void) } else { Err(Code::NotFound) }
    }

    /// A device by its place on the bus.
    fn nvmlDeviceGetHandleByPciBusId_v2(text: *const c_char, device: *mut *mut c_void) {
        if text.is_null() {
            return Err(Code::InvalidArgument);
        }
        let wanted = CStr::from_ptr(text).to_string_lossy().to_ascii_uppercase();
        let known = PCI_BUS_ID.to_string_lossy();
        if wanted.ends_with(known.as_ref()) { put(device, DEVICE as *mut c_void) } else { Err(Code::NotFound) }
    }

    /// A device's name.
    fn nvmlDeviceGetName(device: *mut c_void, name: *mut c_char, length: c_uint) {
        check(device)?;
        put_text(name, length, NAME)
    }

    /// A device's UUID.
    fn nvmlDeviceGetUUID(device: *mut c_void, text: *mut c_char, length: c_uint) {
        check(device)?;
        put_text(text, length, &uuid())
    }

    /// A device's index.
    fn nvmlDeviceGetIndex(device: *mut c_void, index: *mut c_uint) {
        check(device)?;
        put(index, 0)
    }

    /// A device's place on the bus.
    fn nvmlDeviceGetPciInfo_v3(device: *mut c_void, info: *mut PciInfo) {
        check(device)?;
        put(info, PciInfo::simulated(PCI_BUS_ID))
    }

    /// A device's compute capability.
    fn nvmlDeviceGetCudaComputeCapability(device: *mut c_void, major: *mut c_int, minor: *mut c_int) {
        check(device)?;
        put(major, 9)?;
        put(minor, 0)
    }

    /// Share of the last second in which the device computed, in percent.
    fn nvmlDeviceGetUtilizationRates(device: *mut c_void, rates: *mut Utilization) {
        check(device)?;
        let gpu = busy_percent();
        put(rates, Utilization { gpu, memory: gpu / 2 })
    }

    /// A device's memory, in bytes.
    fn nvmlDeviceGetMemoryInfo(device: *mut c_void, memory: *mut Memory) {
        check(device)?;
        let (total, used) = (gpu().memory_bytes(), gpu().used_bytes());
        put(memory, Memory { total, free: total.saturating_sub(used), used })
    }

    /// A device's memory, in bytes.
    fn nvmlDeviceGetMemoryInfo_v2(device: *mut c_void, memory: *mut MemoryV2) {
        check(device)?;
        if memory.is_null() || (&raw const (*memory).version).read() != MemoryV2::VERSION {
            return Err(Code::ArgumentVersionMismatch);
        }
        let (total, used) = (gpu().memory_bytes(), gpu().used_bytes());
        let free = total.saturating_sub(used);
        put(memory, MemoryV2 { version: MemoryV2::VERSION, total, reserved: 0, free, used })
    }

    /// Processes with a context, and the memory each has.
    fn nvmlDeviceGetComputeRunningProcesses(device: *mut c_void, count: *mut c_uint, infos: *mut ProcessInfoV1) {
        check(device)?;
        put_array(count, infos, clients().iter().map(ProcessInfoV1::from).collect())
    }

    /// Processes with a context, and the memory each has.
    fn nvmlDeviceGetComputeRunningProcesses_v2(device: *mut c_void, count: *mut c_uint, infos: *mut ProcessInfo) {
        check(device)?;
        put_array(count, infos, clients().iter().map(ProcessInfo::from).collect())
    }

    /// Processes with a context, and the memory each has.
    fn nvmlDeviceGetComputeRunningProcesses_v3(device: *mut c_void, count: *mut c_uint, infos: *mut ProcessInfo) {
        check(device)?;
        put_array(count, infos, clients().iter().map(ProcessInfo::from).collect())
    }

    /// No process draws.
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(device: *mut c_void, count: *mut c_uint, infos: *mut ProcessInfo) {
        check(device)?;
        put_array(count, infos, Vec::new())
    }

    /// Each process's share of the last second; NOT_FOUND if nothing ran.
    fn nvmlDeviceGetProcessUtilization(device: *mut c_void, samples: *mut ProcessUtilization, count: *mut c_uint, seen_us: c_ulonglong) {
        check(device)?;
        let now = now_ns();
        let time_us = now / 1_000;
        let busy: Vec<_> = clients().iter().filter(|client| client.busy_percent > 0 && time_us > seen_us)
            .map(|client| ProcessUtilization::new(client, time_us)).collect();
        if busy.is_empty() {
            put(count, 0)?;
            return Err(Code::NotFound);
        }
        put_array(count, samples, busy)
    }

    /// Power drawn, in milliwatts.
    fn nvmlDeviceGetPowerUsage(device: *mut c_void, milliwatts: *mut c_uint) {
        check(device)?;
        put(milliwatts, IDLE_MILLIWATTS + (FULL_MILLIWATTS - IDLE_MILLIWATTS) / 100 * busy_percent())
    }

    /// Limit of the power drawn, in milliwatts.
    fn nvmlDeviceGetEnforcedPowerLimit(device: *mut c_void, milliwatts: *mut c_uint) {
        check(device)?;
        put(milliwatts, FULL_MILLIWATTS)
    }

    /// A clock, in MHz: graphics, multiprocessors, memory, video.
    fn nvmlDeviceGetClockInfo(device: *mut c_void, clock: c_uint, megahertz: *mut c_uint) {
        check(device)?;
        put(megahertz, match clock { 0 | 1 | 3 => 1_980, 2 => 3_201, _ => return Err(Code::InvalidArgument) })
    }

    /// The highest that a clock goes, in MHz.
    fn nvmlDeviceGetMaxClockInfo(device: *mut c_void, clock: c_uint, megahertz: *mut c_uint) {
        check(device)?;
        put(megahertz, match clock { 0 | 1 | 3 => 1_980, 2 => 3_201, _ => return Err(Code::InvalidArgument) })
    }

    /// Temperature, in degrees Celsius.
    fn nvmlDeviceGetTemperature(device: *mut c_void, sensor: c_uint, celsius: *mut c_uint) {
        check(device)?;
        if sensor != 0 {
            return Err(Code::InvalidArgument);
        }
        put(celsius, 30 + busy_percent() / 3)
    }

    /// Any process may compute.
    fn nvmlDeviceGetComputeMode(device: *mut c_void, mode: *mut c_uint) {
        check(device)?;
        put(mode, 0)
    }
}
