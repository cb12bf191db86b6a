//! The GPUs and their processes, through NVML, which is loaded when it is asked for.
//!
//! Each figure that NVML does not give is none: utilisation and process lists are missing in some containers, virtual
//! machines and MIG partitions, and the rest is worth showing all the same.

use nvml_wrapper::enum_wrappers::device::ComputeMode;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};
use std::path::Path;

/// What a simulated GPU has in its name.
const SIMULATED: &str = "simulated";

/// All GPUs of the machine.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// Version of the driver as NVML writes it, such as `580.159.04`.
    pub driver_version: Option<String>,
    /// Newest CUDA version that the driver serves, 13000 for 13.0.
    pub cuda_version: Option<u32>,
    /// The GPUs by index.
    pub gpus: Vec<Gpu>,
    /// The compute processes on them; one that uses several GPUs is there once for each.
    pub processes: Vec<GpuProcess>,
}

/// One GPU.
#[derive(Clone, Debug, Default)]
pub struct Gpu {
    /// UUID, `GPU-` and five groups of hexadecimal digits.
    pub uuid: Option<String>,
    /// Product name.
    pub name: Option<String>,
    /// Part of the last sample period in which a kernel ran, in percent.
    pub utilisation_percent: Option<u32>,
    /// Memory in use, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Memory there is, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Why no new process can make a context on it; none where one can. A GPU is available when NVML reaches it, its
    /// compute mode is not "prohibited", and nobody holds it in "exclusive process" mode.
    pub unavailable: Option<String>,
}

/// A process on a GPU, as NVML sees it.
#[derive(Clone, Debug)]
pub struct GpuProcess {
    /// Process id.
    pub pid: u32,
    /// UUID of the GPU.
    pub gpu_uuid: String,
    /// Memory it uses there, in bytes.
    pub memory_bytes: Option<u64>,
}

impl Board {
    /// Loads NVML from `library` and asks it.
    ///
    /// # Errors
    /// In words: that it cannot be loaded, or does not start.
    pub fn read(library: &Path) -> Result<Self, String> {
        let loaded = Nvml::builder().lib_path(library.as_os_str()).init();
        let nvml = loaded.map_err(|e| unloaded(library, &e))?;
        let count = nvml.device_count().map_err(|e| format!("NVML does not count the GPUs: {e}"))?;
        let mut board = Self {
            driver_version: nvml.sys_driver_version().ok(),
            cuda_version: nvml.sys_cuda_driver_version().ok().and_then(|v| u32::try_from(v).ok()),
            ..Self::default()
        };
        for index in 0..count {
            board.add(nvml.device_by_index(index));
        }
        Ok(board)
    }

    fn add(&mut self, device: Result<Device<'_>, NvmlError>) {
        let device = match device {
            Ok(device) => device,
            Err(e) => {
                let unavailable = Some(format!("NVML does not reach it: {e}"));
                self.gpus.push(Gpu { unavailable, ..Gpu::default() });
                return;
            }
        };
        let running = device.running_compute_processes();
        let holder = running.as_ref().ok().and_then(|r| r.first()).map(|p| p.pid);
        let gpu = Gpu::of(&device, holder);
        let uuid = gpu.uuid.clone().unwrap_or_default();
        let processes = running.unwrap_or_default();
        self.processes.extend(processes.iter().map(|p| GpuProcess::of(p, &uuid)));
        self.gpus.push(gpu);
    }

    /// Whether this is the simulator's work.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        let names = self.gpus.iter().filter_map(|g| g.name.as_deref());
        let mut texts = names.chain(self.driver_version.as_deref());
        texts.any(|t| t.to_lowercase().contains(SIMULATED))
    }
}

impl Gpu {
    fn of(device: &Device<'_>, holder: Option<u32>) -> Self {
        let memory = device.memory_info();
        let uuid = device.uuid();
        let lost = uuid.as_ref().err().map(|e| format!("NVML does not reach it: {e}"));
        Self {
            unavailable: lost.or_else(|| closed(device.compute_mode().ok()?, holder)),
            uuid: uuid.ok(),
            name: device.name().ok(),
            utilisation_percent: device.utilization_rates().ok().map(|u| u.gpu),
            memory_used_bytes: memory.as_ref().ok().map(|m| m.used),
            memory_total_bytes: memory.ok().map(|m| m.total),
        }
    }
}

impl GpuProcess {
    fn of(info: &ProcessInfo, uuid: &str) -> Self {
        Self {
            pid: info.pid,
            gpu_uuid: uuid.to_owned(),
            memory_bytes: match info.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            },
        }
    }
}

/// Why the compute mode keeps a new process out, if it does.
fn closed(mode: ComputeMode, holder: Option<u32>) -> Option<String> {
    match (mode, holder) {
        (ComputeMode::Prohibited, _) => Some("its compute mode is \"prohibited\"".to_owned()),
        (ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread, Some(pid)) => {
            Some(format!("its compute mode is \"exclusive process\" and process {pid} holds it"))
        }
        _ => None,
    }
}

pub(crate) fn unloaded(library: &Path, error: &NvmlError) -> String {
    let library = library.display();
    match error {
        // The loader's own words name the file.
        NvmlError::LibloadingError(e) => format!("NVML cannot be loaded: {e}"),
        NvmlError::DriverNotLoaded => {
            format!("{library} was loaded, but the kernel's NVIDIA driver is not")
        }
        e => format!("{library} does not start: {e}"),
    }
}

/// A device's UUID in the form of NVML and nvidia-smi.
#[must_use]
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    format!("GPU-{}", groups.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let reason = Board::read(Path::new("libno-such-nvml.so.1")).unwrap_err();
        assert!(reason.contains("libno-such-nvml.so.1"), "{reason}");
    }

    #[test]
    fn a_uuid_is_written_as_nvml_does() {
        let uuid = std::array::from_fn(|i| i as u8 * 17);
        assert_eq!(uuid_text(&uuid), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn exclusive_mode_closes_a_gpu_only_while_it_is_held() {
        assert!(closed(ComputeMode::Default, Some(1)).is_none());
        assert!(closed(ComputeMode::ExclusiveProcess, None).is_none());
        assert!(closed(ComputeMode::ExclusiveProcess, Some(7)).unwrap().contains("process 7"));
        assert!(closed(ComputeMode::Prohibited, None).is_some());
    }
}
