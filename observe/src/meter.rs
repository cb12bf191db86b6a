//! What a GPU does at this moment, asked of NVML again and again: for whoever watches and not only looks once.
//!
//! A call may take milliseconds, or as long as the driver hangs. Each figure that NVML does not give is none.

use crate::gpu::{unloaded, uuid_text};
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::path::Path;

/// NVML, initialised for as long as this lives.
#[derive(Debug)]
pub struct Meter {
    nvml: Nvml,
}

/// A GPU, or an instance of one.
#[derive(Debug)]
pub struct MeteredGpu<'meter> {
    device: Device<'meter>,
    /// The time of the newest sample of processes that was seen, in NVML's own microseconds.
    seen_us: u64,
}

/// What a GPU does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Part of the last sample period in which a kernel ran, in percent.
    pub utilisation_percent: Option<u32>,
    /// Clock of its multiprocessors in MHz.
    pub sm_mhz: Option<u32>,
    /// Power it draws, in milliwatts.
    pub power_mw: Option<u32>,
}

impl Meter {
    /// Loads NVML from `library` and initialises it.
    ///
    /// # Errors
    /// In words: that it cannot be loaded, or does not start.
    pub fn open(library: &Path) -> Result<Self, String> {
        let loaded = Nvml::builder().lib_path(library.as_os_str()).init();
        Ok(Self { nvml: loaded.map_err(|e| unloaded(library, &e))? })
    }

    /// The GPU, or the MIG instance, of that UUID.
    ///
    /// # Errors
    /// In words: that NVML does not reach it.
    pub fn gpu(&self, uuid: &[u8; 16]) -> Result<MeteredGpu<'_>, String> {
        let text = uuid_text(uuid);
        let found = self.nvml.device_by_uuid(text.as_str());
        let instance = || self.nvml.device_by_uuid(text.replacen("GPU-", "MIG-", 1));
        let device =
            found.or_else(|e| instance().map_err(|_| e)).map_err(|e| format!("NVML does not reach it: {e}"))?;
        Ok(MeteredGpu { device, seen_us: 0 })
    }
}

impl MeteredGpu<'_> {
    /// What it does.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity {
            utilisation_percent: self.device.utilization_rates().ok().map(|rates| rates.gpu),
            sm_mhz: self.device.clock_info(Clock::SM).ok(),
            power_mw: self.device.power_usage().ok(),
        }
    }

    /// Its memory in bytes: in use, and all of it.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<(u64, u64)> {
        self.device.memory_info().ok().map(|memory| (memory.used, memory.total))
    }

    /// Each process's part of the GPU since this was last asked, in percent, as its newest sample says; none where NVML does not
    /// tell. An empty list need not mean that nothing ran: in containers and virtual machines it is often empty.
    pub fn processes(&mut self) -> Option<Vec<(u32, u32)>> {
        let samples = match self.device.process_utilization_stats(self.seen_us) {
            Ok(samples) => samples,
            // As NVML says that nothing ran.
            Err(NvmlError::NotFound) => Vec::new(),
            Err(_) => return None,
        };
        let mut newest = std::collections::BTreeMap::new();
        for sample in samples.iter().filter(|sample| sample.pid != 0) {
            let known = newest.entry(sample.pid).or_insert((sample.timestamp, sample.sm_util));
            if sample.timestamp >= known.0 {
                *known = (sample.timestamp, sample.sm_util);
            }
            self.seen_us = self.seen_us.max(sample.timestamp);
        }
        Some(newest.into_iter().map(|(pid, (_, percent))| (pid, percent)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let reason = Meter::open(Path::new("libno-such-nvml.so.1")).unwrap_err();
        assert!(reason.contains("libno-such-nvml.so.1"), "{reason}");
    }
}
