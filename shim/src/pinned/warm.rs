//! What a free runs through, asked for in the allocation before it.
//!
//! A free behind a running kernel costs what it costs to fetch its code: it makes no call to the driver or to the kernel,
//! and is some 350 instructions on 31 cache lines, which the launch and the wait before have pushed out. What it reads
//! and writes the allocation has touched; the code it has not, and fetches it while the program goes on. Only when nothing
//! has been allocated or freed for a tick: else the code is there.

use crate::exports;
use crate::hook::Hook;
use crate::hot::HOT;
use crate::thread::prefetch;
use aishim_pool::Witness;

const LINE_BYTES: usize = 64;

/// All of cuMemFreeHost, into which the pool's part is inlined: 3.6 KiB. Where it is less, some of what follows is
/// fetched in vain.
const FREE_LINES: usize = 58;

/// Asks for the code of a free.
#[cold]
pub(super) fn fetch_free() {
    let freed: fn(&super::shown::Shown, u32, u32, usize, u64) = <super::shown::Shown as Witness>::freed;
    fetch(exports::of(Hook::cuMemFreeHost), FREE_LINES);
    fetch(freed as *const (), 2);
    prefetch(&raw const HOT.real[Hook::cuMemFreeHost as usize]);
}

fn fetch<T>(code: *const T, lines: usize) {
    for line in 0..lines {
        prefetch(code.cast::<u8>().wrapping_add(line * LINE_BYTES));
    }
}
