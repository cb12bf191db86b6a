//! Stream memory operations: cuStreamWriteValue, cuStreamWaitValue, and batches of them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const GEQ: u32 = 0;
const EQ: u32 = 1;
const AND: u32 = 2;
const NOR: u32 = 3;
/// CU_STREAM_WAIT_VALUE_FLUSH, which changes nothing here: memory is coherent.
pub(crate) const FLUSH: u32 = 1 << 30;

/// True for the comparisons that exist.
pub(crate) fn is_condition(flags: u32) -> bool {
    flags & !FLUSH <= NOR
}

fn read(address: usize, wide: bool) -> u64 {
    // SAFETY: the address was checked against the allocations, and for alignment, when the wait was called.
    unsafe {
        if wide {
            (*(address as *const AtomicU64)).load(Ordering::Acquire)
        } else {
            u64::from((*(address as *const AtomicU32)).load(Ordering::Acquire))
        }
    }
}

/// Stores `value`, after everything that was done before.
pub(super) fn write(address: usize, value: u64, wide: bool) {
    // SAFETY: as in `read`.
    unsafe {
        if wide {
            (*(address as *const AtomicU64)).store(value, Ordering::Release);
        } else {
            (*(address as *const AtomicU32)).store(value as u32, Ordering::Release);
        }
    }
}

/// True if the memory satisfies the wait.
pub(super) fn is_satisfied(address: usize, value: u64, wide: bool, flags: u32) -> bool {
    let current = read(address, wide);
    match flags & !FLUSH {
        // Cyclic comparison, as documented: (int)(*addr - value) >= 0.
        GEQ if wide => current.wrapping_sub(value) as i64 >= 0,
        GEQ => (current as u32).wrapping_sub(value as u32) as i32 >= 0,
        EQ => current == value,
        AND => current & value != 0,
        _ => {
            let width_mask = if wide { u64::MAX } else { u64::from(u32::MAX) };
            !(current | value) & width_mask != 0
        }
    }
}
