//! Device memory: how much is in use, and its peak.

use crate::cuda::{Status, sys};
use crate::driver;
use crate::fence::fenced;
use crate::handlers::work::forward;
use crate::hook::Hook;
use crate::mode;
use crate::ranges::{self, Kind};
use crate::segment;
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::c_void;

/// Makes the call and, when it succeeds and the shim works, takes note of it.
fn noted(hook: Hook, call: impl FnOnce() -> Status, note: impl FnOnce()) -> Status {
    let status = forward(hook, call);
    if status.is_ok() && mode::may_call_driver() {
        fenced(note);
    }
    status
}

/// cuMemAlloc.
///
/// # Safety
/// `pointer` is the out-pointer the program passed; the driver has stored through it when the call succeeds. The same
/// holds for all functions here.
pub(crate) unsafe fn alloc(
    hook: Hook,
    call: impl FnOnce() -> Status,
    pointer: *mut sys::CUdeviceptr,
    bytes: usize,
) -> Status {
    noted(hook, call, || {
        // SAFETY: see above.
        ranges::insert(unsafe { *pointer } as usize, bytes, Kind::Device, driver::context());
    })
}

/// cuMemAllocPitch.
pub(crate) unsafe fn alloc_pitch(
    hook: Hook,
    call: impl FnOnce() -> Status,
    pointer: *mut sys::CUdeviceptr,
    pitch: *mut usize,
    height: usize,
) -> Status {
    noted(hook, call, || {
        // SAFETY: see `alloc`.
        let (start, pitch) = unsafe { (*pointer as usize, *pitch) };
        ranges::insert(start, pitch.saturating_mul(height), Kind::Device, driver::context());
    })
}

/// cuMemAllocManaged.
pub(crate) unsafe fn alloc_managed(
    hook: Hook,
    call: impl FnOnce() -> Status,
    pointer: *mut sys::CUdeviceptr,
    bytes: usize,
) -> Status {
    noted(hook, call, || {
        // SAFETY: see `alloc`.
        ranges::insert(unsafe { *pointer } as usize, bytes, Kind::Managed, driver::context());
    })
}

/// cuMemAllocAsync, cuMemAllocFromPoolAsync. During a capture it only makes a node of a graph.
pub(crate) unsafe fn alloc_async(
    hook: Hook,
    call: impl FnOnce() -> Status,
    pointer: *mut sys::CUdeviceptr,
    bytes: usize,
) -> Status {
    noted(hook, call, || {
        if mode::mode() & mode::CAPTURING == 0 {
            // SAFETY: see `alloc`.
            ranges::insert(unsafe { *pointer } as usize, bytes, Kind::Device, driver::context());
        }
    })
}

/// cuMemFree. The range is forgotten before the driver may hand the address to another thread.
pub(crate) unsafe fn free(hook: Hook, call: impl FnOnce() -> Status, pointer: sys::CUdeviceptr) -> Status {
    forget_before(hook, call, pointer, true)
}

/// cuMemFreeAsync.
pub(crate) unsafe fn free_async(hook: Hook, call: impl FnOnce() -> Status, pointer: sys::CUdeviceptr) -> Status {
    // In a capture it only makes a node of a graph.
    forget_before(hook, call, pointer, mode::mode() & mode::CAPTURING == 0)
}

fn forget_before(hook: Hook, call: impl FnOnce() -> Status, pointer: sys::CUdeviceptr, at_once: bool) -> Status {
    if at_once && mode::may_call_driver() {
        fenced(|| {
            ranges::remove(pointer as usize, |k| matches!(k, Kind::Device | Kind::Managed));
        });
    }
    forward(hook, call)
}

/// Physical memory made with cuMemCreate: in use until its handle is released and its last mapping undone.
struct Physical {
    bytes: usize,
    references: usize,
    mappings: usize,
}

/// Physical allocations by a number of ours; the driver may give a released handle's value to a new allocation while
/// the old one is still mapped.
struct Book {
    next: usize,
    physical: BTreeMap<usize, Physical>,
    by_handle: BTreeMap<u64, usize>,
    by_mapping: BTreeMap<usize, usize>,
}

static BOOK: Mutex<Book> =
    Mutex::new(Book { next: 0, physical: BTreeMap::new(), by_handle: BTreeMap::new(), by_mapping: BTreeMap::new() });

impl Book {
    fn forget_unused(&mut self, number: usize) {
        let unused = |p: &Physical| p.references == 0 && p.mappings == 0;
        if self.physical.get(&number).is_some_and(unused)
            && let Some(physical) = self.physical.remove(&number)
        {
            segment::subtract(Statistic::DeviceBytes, physical.bytes as u64);
        }
    }
}

/// cuMemCreate; memory of the host (`CU_MEM_LOCATION_TYPE_HOST` and its NUMA forms) is not counted.
pub(crate) unsafe fn create(
    hook: Hook,
    call: impl FnOnce() -> Status,
    handle: *mut u64,
    bytes: usize,
    properties: *const sys::CUmemAllocationProp,
) -> Status {
    const LOCATION_DEVICE: u32 = 1;
    noted(hook, call, || {
        // SAFETY: the driver has accepted the structure; the enum is read as the integer it is.
        let location = unsafe { (&raw const (*properties).location.type_).cast::<u32>().read() };
        if location != LOCATION_DEVICE {
            return;
        }
        let mut book = BOOK.lock();
        let number = book.next;
        book.next += 1;
        book.physical.insert(number, Physical { bytes, references: 1, mappings: 0 });
        // SAFETY: see `alloc`.
        book.by_handle.insert(unsafe { *handle }, number);
        segment::add_with_peak(Statistic::DeviceBytes, Statistic::DevicePeakBytes, bytes as u64);
    })
}

/// cuMemRelease.
pub(crate) unsafe fn release(hook: Hook, call: impl FnOnce() -> Status, handle: u64) -> Status {
    noted(hook, call, || {
        let mut book = BOOK.lock();
        let Some(number) = book.by_handle.get(&handle).copied() else {
            return;
        };
        let Some(physical) = book.physical.get_mut(&number) else {
            return;
        };
        physical.references = physical.references.saturating_sub(1);
        if physical.references == 0 {
            book.by_handle.remove(&handle);
        }
        book.forget_unused(number);
    })
}

/// cuMemRetainAllocationHandle: one more release to come.
pub(crate) unsafe fn retain(hook: Hook, call: impl FnOnce() -> Status, handle: *mut u64) -> Status {
    noted(hook, call, || {
        let mut book = BOOK.lock();
        // SAFETY: see `alloc`.
        let number = book.by_handle.get(&unsafe { *handle }).copied();
        if let Some(physical) = number.and_then(|n| book.physical.get_mut(&n)) {
            physical.references += 1;
        }
    })
}

/// cuMemMap.
pub(crate) unsafe fn map(
    hook: Hook,
    call: impl FnOnce() -> Status,
    pointer: sys::CUdeviceptr,
    bytes: usize,
    handle: u64,
) -> Status {
    noted(hook, call, || {
        let start = pointer as usize;
        ranges::insert(start, bytes, Kind::Mapped, 0);
        let mut book = BOOK.lock();
        let Some(number) = book.by_handle.get(&handle).copied() else {
            return;
        };
        if let Some(physical) = book.physical.get_mut(&number) {
            physical.mappings += 1;
            book.by_mapping.insert(start, number);
        }
    })
}

/// cuMemUnmap.
pub(crate) unsafe fn unmap(
    hook: Hook,
    call: impl FnOnce() -> Status,
    pointer: sys::CUdeviceptr,
    bytes: usize,
) -> Status {
    noted(hook, call, || {
        let starts = ranges::remove_mapped(pointer as usize, bytes);
        let mut book = BOOK.lock();
        for start in starts {
            let Some(number) = book.by_mapping.remove(&start) else {
                continue;
            };
            if let Some(physical) = book.physical.get_mut(&number) {
                physical.mappings = physical.mappings.saturating_sub(1);
            }
            book.forget_unused(number);
        }
    })
}

/// The address of an out-pointer's content, for handlers that share the shape.
///
/// # Safety
/// `pointer` is null or may be read.
pub(crate) unsafe fn stored(pointer: *mut *mut c_void) -> usize {
    if pointer.is_null() {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { *pointer as usize }
}
