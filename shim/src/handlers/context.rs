//! Contexts: the first one brings the shim to life; with each that ends, what belonged to it is forgotten.

use crate::clock;
use crate::copies;
use crate::cuda::{Status, address, sys};
use crate::driver;
use crate::fence::fenced;
use crate::gate;
use crate::handlers::work::forward;
use crate::handlers::{capture, streams};
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
            drop(primary);
            pinned::context_made(context);
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
            let context = address(unsafe { *context });
            note(context);
            pinned::context_made(context);
        });
    }
    status
}

/// cuGreenCtxCreate: a context of its own kind, whose streams are hooked.
pub(crate) unsafe fn green_created(hook: Hook, call: impl FnOnce() -> Status, device: sys::CUdevice) -> Status {
    let status = forward(hook, call);
    if status.is_ok() && !mode::is_pass_through() {
        fenced(|| life::context_made(device));
    }
    status
}

/// cuCtxFromGreenCtx: from here on it may be current, and its default stream used.
///
/// # Safety
/// As for [`primary_retained`].
pub(crate) unsafe fn from_green(hook: Hook, call: impl FnOnce() -> Status, context: *mut sys::CUcontext) -> Status {
    let status = forward(hook, call);
    if status.is_ok() && !mode::is_pass_through() {
        // SAFETY: the driver has stored the context there.
        fenced(|| note(address(unsafe { *context })));
    }
    status
}

/// Takes note of the current context, in whatever way it was made.
pub(crate) fn note_current() {
    let current = driver::context();
    if current != 0 {
        note(current);
    }
}

fn note(context: usize) {
    let is_primary = PRIMARY.lock().iter().any(|(_, primary)| *primary == context);
    let mut own = OWN.lock();
    if !is_primary && !own.contains(&context) {
        own.push(context);
    }
}

/// cuCtxDestroy.
pub(crate) unsafe fn destroy(hook: Hook, call: impl FnOnce() -> Status, context: sys::CUcontext) -> Status {
    ending(hook, call, |status| if status.is_ok() { address(context) } else { 0 })
}

/// cuDevicePrimaryCtxReset.
pub(crate) unsafe fn primary_reset(hook: Hook, call: impl FnOnce() -> Status, device: sys::CUdevice) -> Status {
    ending(hook, call, |status| if status.is_ok() { primary_of(device) } else { 0 })
}

/// cuDevicePrimaryCtxRelease: only the last of as many as there were retains ends the context, and the driver knows
/// whether this was it.
pub(crate) unsafe fn primary_released(hook: Hook, call: impl FnOnce() -> Status, device: sys::CUdevice) -> Status {
    ending(hook, call, |_| {
        let (mut flags, mut active) = (0, 1);
        let asked = driver::primary_state(device, &raw mut flags, &raw mut active);
        if asked.is_ok() && active == 0 { primary_of(device) } else { 0 }
    })
}

/// A call that may end a context; `ended` says which it was, or 0. Meanwhile nothing of ours is in the driver, no mark
/// is made and the pool serves nothing, just as while a capture is open; and only when the context has gone is what we
/// knew of it forgotten, since until then its work goes on.
fn ending(hook: Hook, call: impl FnOnce() -> Status, ended: impl FnOnce(Status) -> usize) -> Status {
    if !mode::may_call_driver() {
        return forward(hook, call);
    }
    fenced(|| {
        pinned::context_may_end();
        capture::keep_out();
        copies::context_may_end();
    });
    let status = forward(hook, call);
    fenced(|| {
        match ended(status) {
            0 => {}
            context => forget(context),
        }
        capture::let_in();
        pinned::context_stays();
    });
    status
}

fn primary_of(device: sys::CUdevice) -> usize {
    PRIMARY.lock().iter().find(|(d, _)| *d == device).map_or(0, |(_, c)| *c)
}

fn forget(context: usize) {
    PRIMARY.lock().retain(|(_, primary)| *primary != context);
    OWN.lock().retain(|own| *own != context);
    streams::forget_context(context);
    sampling::forget_context(context);
    pinned::forget_context(context);
    copies::forget_context(context);
    gate::forget_context(context);
    ranges::remove_context(context);
}
