//! A simulated GPU behind the CUDA driver API (13.0) and NVML.
//!
//! One library that is libcuda.so.1 and libnvidia-ml.so.1 by link. All processes that load it share one simulated GPU:
//! its memory, its engines, its time. Kernels are named native functions that really compute; what things cost is stated
//! and settable. It exists so that a laptop can run the demonstration and CI can test: nothing it shows is performance.
//!
//! Folders: `gpu` is what processes share, `sim` the driver's state in one process, `api` the exported functions, `nvml`
//! the few of NVML. README.md beside this crate lists the settings.

mod api;
mod clock;
mod gpu;
mod kernels;
mod nvml;
mod proc_address;
mod settings;
mod sim;
mod status;
