//! Measurements only (feature `bypass`): a process that turns our handlers on and off between two requests compares like
//! with like. Two processes never are: where their memory happens to lie makes a request of one 2 % slower than the same
//! request of the other, which is more than what is to be measured (benches/gpu/own_cost.py).

use crate::driver;
use crate::hook::Hook;
use aishim_abi::layout::HookKind;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static IS_ON: AtomicBool = AtomicBool::new(false);

/// The driver's function, to be called as if we were not there. What allocates, frees, creates or ends is always ours,
/// so that we know of it.
#[inline]
pub(crate) fn around(hook: Hook) -> Option<*const c_void> {
    let is_work = matches!(hook.kind(), HookKind::Launch | HookKind::Memset | HookKind::Copy | HookKind::Synchronise);
    let real = driver::real(hook);
    (is_work && IS_ON.load(Relaxed) && !real.is_null()).then_some(real)
}

/// Whether calls go past our handlers from here on: not for 0, the state at the start.
#[unsafe(no_mangle)]
extern "C" fn aishim_bypass(is_on: c_int) {
    IS_ON.store(is_on != 0, Relaxed);
}
