//! The CUDA driver and the GPUs.

use super::Finding;
use crate::stats::cuda_version;
use aishim_observe::{Board, Gpu};
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};

const DRIVER: &str = "libcuda.so.1";

/// Oldest version whose functions the hooks were checked against.
const OLDEST: u32 = 12_000;

pub(super) fn check(board: &Result<Board, String>) -> Vec<Finding> {
    let mut findings = vec![driver(board)];
    match board {
        Ok(board) if board.gpus.is_empty() => findings.push(Finding::warn(
            "GPUs: the driver sees none",
            "check `nvidia-smi -L`; in a container, start it with its GPUs (docker run --gpus all)",
        )),
        Ok(board) => findings.extend(board.gpus.iter().enumerate().map(|(i, g)| gpu(i, g))),
        Err(reason) => findings.push(Finding::warn(
            format!("GPUs: {reason}; `aictl stats` shows no figures of the GPUs"),
            "install the driver's libnvidia-ml.so.1; in a container, start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )),
    }
    findings
}

fn driver(board: &Result<Board, String>) -> Finding {
    let package = board.as_ref().ok().and_then(|b| b.driver_version.as_deref());
    let package = package.map(|v| format!(", version {v}")).unwrap_or_default();
    match version() {
        Ok(version) if version < OLDEST => Finding::warn(
            format!("driver: CUDA {}{package}, older than the hooks were made for", cuda_version(version)),
            "update the NVIDIA driver to one that serves CUDA 12.0 or newer (525 or newer)",
        ),
        Ok(version) => Finding::ok(format!("driver: CUDA {} ({DRIVER}{package})", cuda_version(version))),
        Err(reason) => Finding::fail(
            format!("driver: {reason}"),
            "install the NVIDIA driver; in a container, start it with its GPUs (docker run --gpus all)",
        ),
    }
}

/// The newest CUDA version that the driver serves. It makes no context and does not even initialise the driver: of all
/// its functions only cuDriverGetVersion may be called before cuInit (CUDA Driver API, Version Management).
fn version() -> Result<u32, String> {
    type DriverGetVersion = unsafe extern "C" fn(*mut i32) -> u32;
    // SAFETY: the driver's library is made to be loaded into any program; its initialisers have no conditions.
    let library = unsafe { Library::open(Some(DRIVER), RTLD_LAZY | RTLD_LOCAL) };
    let library = library.map_err(|e| format!("{DRIVER} cannot be loaded: {e}"))?;
    // SAFETY: the type is that of cuDriverGetVersion in cuda.h: CUresult (an int-sized enum) of one pointer to int.
    let symbol = unsafe { library.get::<DriverGetVersion>(b"cuDriverGetVersion\0") };
    let ask = symbol.map_err(|e| format!("{DRIVER} is no CUDA driver: {e}"))?;
    let mut version = 0;
    // SAFETY: the pointer is to an int of ours.
    let result = unsafe { ask(&raw mut version) };
    // Unloading a driver is less well trodden than keeping it until the end.
    std::mem::forget(library);
    match u32::try_from(version) {
        Ok(version) if result == 0 => Ok(version),
        _ => Err(format!("{DRIVER} does not tell its version (error {result})")),
    }
}

fn gpu(index: usize, gpu: &Gpu) -> Finding {
    let name = gpu.name.as_deref().unwrap_or("unknown");
    match &gpu.unavailable {
        None => Finding::ok(format!("GPU {index}: {name}, available")),
        Some(reason) => Finding::warn(
            format!("GPU {index}: {name}, not available: {reason}"),
            "end the process that holds it, or set its compute mode with `nvidia-smi -c DEFAULT`; a lost GPU needs a reset",
        ),
    }
}
