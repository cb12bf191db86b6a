//! What is different where NVIDIA's MPS lets several processes have the GPU at the same time.
//!
//! There the GPU turns from one process to another within 8 us and not 140, and a kernel that runs leaves what it does not fill to others. So
//! (H100, driver 580.159.04; docs/scheduling.md, log 7):
//!
//! * *There are no turns among equals:* three inference jobs of equal rank get 25 % more done at once than one after the other. Each has one group on the GPU then, and lets the next
//!   one through when that is done, not before: by the estimate it would be while all of them are at it, and twice as much would be in the way of somebody more important. Under a policy
//!   without ranks, whose order is its turns, these hold as ever.
//! * *Long kernels are begun also while somebody is due:* they do not keep others out until they end.
//! * *The end of a request is waited for:* what is let through before that is beside it at once, and makes it later.
//! * *Groups are twice as long,* where nobody else of that rank is at it, for the same reason.

use crate::driver;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// `CU_DEVICE_ATTRIBUTE_MPS_ENABLED`: contexts on the device are shared by MPS.
const MPS_ENABLED: u32 = 133;

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Where a client of MPS finds its server: this, else the directory that NVIDIA's documentation names (Multi-Process Service, environment variables).
const PIPES: &str = "CUDA_MPS_PIPE_DIRECTORY";
const USUAL_PIPES: &str = "/tmp/nvidia-mps";

/// There is a context on a device. MPS serves a process on all of its GPUs or on none. The attribute alone would do by its documentation, but was seen set under MPS only
/// and not yet looked at without it; to take no turns where the GPU is shared in time slices would cost those more important what the gate is for.
pub(super) fn note(device: i32) {
    let mut is_on = 0;
    if driver::device_attribute(&raw mut is_on, MPS_ENABLED, device).is_ok() {
        IS_ON.store(is_on != 0 && has_pipes(), Relaxed);
    }
}

fn has_pipes() -> bool {
    let pipes = std::env::var_os(PIPES).unwrap_or_else(|| USUAL_PIPES.into());
    std::path::Path::new(&pipes).is_dir()
}

/// Whether others have the GPU at the same time.
#[inline]
pub(super) fn is_on() -> bool {
    IS_ON.load(Relaxed)
}
