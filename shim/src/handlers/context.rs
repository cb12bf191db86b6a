//! Contexts: the first one brings the shim to life; with each that ends, what belonged to it is forgotten.

use crate::clock;
use crate::cuda::{Status, address, sys};
use crate::driver;
use crate::fence::fenced;
use crate::handlers::streams;
use crate::handlers::work::forward;
use crate::hook::Hook;
use crate::life;
use crate::mode;
use crate::pinned;
use crate::ranges;
use crate::sampling;
use parking_lot::Mutex;

/// Primary contexts by device, with how often the program has retained them.
static PRIMARY: Mutex<Vec<(sys::CUdevice, usize)>> = Mutex::new(Vec::new());

/// Contexts the program has created itself.
static OWN: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// All contexts of the process that we know.
pub(crate) fn all() -> Vec<usize> {
    let mut all = OWN.lock().clone();
    all.extend(PRIMARY.lock().iter().map(|(_, context)| *context));
    all
}

/// cuInit: no context yet (device_count() calls it), but a good moment for the first reading of the clock.
pub(crate) unsafe fn init(hook: Hook, call: impl FnOnce() -> Status) -> Status {
    if !mode::is_pass_through() {
        clock::begin_calibration();
    }
    forward(hook, call)
}

/// cuDevicePrimaryCtxRetain.
///
/// # Safety
/// `context` is the program's out-pointer.
pub(crate) unsafe fn primary_retained(
    hook: Hook,
    call: impl FnOnce() -> Status,
    context: *mut sys::CUcontext,
    device: sys::CUdevice,
) -> Status {
    let status = forward(hook, call);
    if status.is_ok() && !mode::is_pass_through() {
        fenced(|| {
            life::context_made(device);
            // SAFETY: the driver has stored the context there.
            let context = address(unsafe { *context });
            let mut primary = PRIMARY.lock();
            primary.retain(|(d, _)| *d != device);
            primary.push((device, context));
        });
    }
    status
}

/// cuCtxCreate.
///
/// # Safety
/// As for [`primary_retained`].
pub(crate) unsafe fn created(
    hook: Hook,
    call: impl FnOnce() -> Status,
    context: *mut sys::CUcontext,
    device: sys::CUdevice,
) -> Status {
    let status = forward(hook, call);
    if status.is_ok() && !mode::is_pass_through() {
        fenced(|| {
            life::context_made(device);
            // SAFETY: the driver has stored the context there.
            OWN.lock().push(address(unsafe { *context }));
        });
    }
    status
}

/// cuCtxDestroy: nothing of the context may be used from here on, so it is forgotten before.
pub(crate) unsafe fn destroy(hook: Hook, call: impl FnOnce() -> Status, context: sys::CUcontext) -> Status {
    if mode::may_call_driver() {
        fenced(|| forget(address(context)));
    }
    forward(hook, call)
}

/// cuDevicePrimaryCtxReset.
pub(crate) unsafe fn primary_reset(hook: Hook, call: impl FnOnce() -> Status, device: sys::CUdevice) -> Status {
    if mode::may_call_driver() {
        fenced(|| forget_primary(device));
    }
    forward(hook, call)
}

/// cuDevicePrimaryCtxRelease: only the last of as many as there were retains ends the context, and the driver knows
/// whether this was it.
pub(crate) unsafe fn primary_released(hook: Hook, call: impl FnOnce() -> Status, device: sys::CUdevice) -> Status {
    if mode::may_call_driver() {
        fenced(pinned::context_may_end);
    }
    let status = forward(hook, call);
    if mode::may_call_driver() {
        fenced(|| {
            let (mut flags, mut active) = (0, 1);
            let asked = driver::primary_state(device, &raw mut flags, &raw mut active);
            if asked.is_ok() && active == 0 {
                forget_primary(device);
            }
            pinned::context_stays();
        });
    }
    status
}

fn primary_of(device: sys::CUdevice) -> usize {
    PRIMARY.lock().iter().find(|(d, _)| *d == device).map_or(0, |(_, c)| *c)
}

fn forget_primary(device: sys::CUdevice) {
    let context = primary_of(device);
    if context != 0 {
        PRIMARY.lock().retain(|(d, _)| *d != device);
        forget(context);
    }
}

fn forget(context: usize) {
    OWN.lock().retain(|c| *c != context);
    sampling::forget_context(context);
    pinned::forget_context(context);
    streams::forget_context(context);
    ranges::remove_context(context);
}
