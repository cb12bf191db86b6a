//! cuGetProcAddress: the real one answers, then the pointer it gave is looked up in the hook table.

use crate::config;
use crate::cuda::Status;
use crate::driver;
use crate::fence::fenced;
use crate::handlers::work::forward;
use crate::hook::Hook;
use crate::mode;
use std::ffi::{c_char, c_void};

/// cuGetProcAddress and cuGetProcAddress_v2; a null or empty name is the driver's to judge.
///
/// # Safety
/// `symbol` is null or zero-terminated; `function` is null or the program's out-pointer.
pub(crate) unsafe fn answer(
    hook: Hook,
    call: impl FnOnce() -> Status,
    symbol: *const c_char,
    function: *mut *mut c_void,
) -> Status {
    let status = forward(hook, call);
    if !status.is_ok() || function.is_null() || mode::is_pass_through() || config::is_off() {
        return status;
    }
    fenced(|| {
        // SAFETY: the driver succeeded, so it has stored an answer (perhaps null).
        let found = unsafe { *function };
        if found.is_null() {
            return;
        }
        if let Some(ours) = driver::ours_for(found) {
            // SAFETY: as above.
            unsafe { *function = ours.cast_mut() };
            return;
        }
        // SAFETY: the driver has accepted the name.
        let name = unsafe { driver::name(symbol) };
        if let Some(name) = name.filter(|n| Hook::is_hooked_name(n.to_bytes())) {
            driver::unknown(name.to_bytes());
        }
    });
    status
}
