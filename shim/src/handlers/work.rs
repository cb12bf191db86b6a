//! Work other than launches: memsets and copies are counted by bytes and begin requests; whatever has no room of its
//! own is counted and forwarded. Large copies of pageable memory are carried out by [`copies`].

use crate::clock;
use crate::copies::{self, Direction, Transfer};
use crate::cuda::{Status, address, sys};
use crate::fence::fenced;
use crate::gate::{self, MemoryWork};
use crate::handlers::streams;
use crate::hook::Hook;
use crate::mode;
use crate::ranges::Place;
use crate::segment::{self, segment};
use crate::thread;
use aishim_abi::statistics::Statistic;

/// A hook that is only counted.
pub(crate) unsafe fn counted(hook: Hook, call: impl FnOnce() -> Status) -> Status {
    let status = call();
    if mode::is_pass_through() {
        return status;
    }
    thread::count(hook);
    if !status.is_ok() && status != Status::NOT_READY {
        segment::error(hook);
    }
    status
}

/// Makes the driver's call and counts it.
pub(crate) fn forward(hook: Hook, call: impl FnOnce() -> Status) -> Status {
    // SAFETY: `counted` has no preconditions of its own.
    unsafe { counted(hook, call) }
}

/// Work of some bytes on a stream.
fn work(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    waits: bool,
    account: impl FnOnce(),
) -> Status {
    if mode::is_pass_through() {
        return call();
    }
    if waits {
        gate::waits();
    }
    let start = clock::now();
    let status = forward(hook, call);
    if status.is_ok() {
        fenced(|| {
            account();
            let key = streams::key(address(stream), hook);
            if mode::mode() & (mode::CAPTURING | mode::INACTIVE) == 0 {
                streams::work_begins(key, start);
                if waits {
                    streams::request_ends(key);
                    gate::idle();
                    gate::look_again();
                }
            } else {
                streams::used(key);
            }
        });
    }
    status
}

/// Memsets of `width * height` elements of `element` bytes.
pub(crate) unsafe fn memset(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    width: usize,
    height: usize,
    element: usize,
) -> Status {
    let bytes = width.wrapping_mul(height).wrapping_mul(element) as u64;
    let key = streams::key(address(stream), hook);
    let call = || gate::on_device(MemoryWork::Set, bytes as usize, (stream, hook), call);
    if mode::is_ordinary() && has_open(key) {
        return memset_of_request(hook, call, key, bytes);
    }
    work(hook, call, stream, false, || {
        segment::add(Statistic::MemsetBytes, bytes);
    })
}

/// A memset among launches, of which eager PyTorch makes one to every 25: its request is open, so there is nothing to note but
/// numbers, and nothing that could panic.
#[inline]
fn memset_of_request(hook: Hook, call: impl FnOnce() -> Status, key: usize, bytes: u64) -> Status {
    // In while the driver works.
    thread::prefetch(&raw const segment().counters[Statistic::MemsetBytes as usize]);
    let status = forward(hook, call);
    if status.is_ok() {
        segment::add(Statistic::MemsetBytes, bytes);
        if !has_open(key) {
            work_begins(key);
        }
    }
    status
}

/// Whether the calling thread knows that the request of a stream is open.
#[inline]
fn has_open(key: usize) -> bool {
    let thread = thread::current();
    // SAFETY: the calling thread's own.
    !thread.is_null() && unsafe { &*thread }.has_open(key)
}

/// The request was ended by another thread during the call.
#[cold]
fn work_begins(key: usize) {
    fenced(|| match mode::mode() & (mode::CAPTURING | mode::INACTIVE) {
        0 => streams::work_begins(key, clock::now()),
        _ => streams::used(key),
    });
}

/// A copy that is ours where it can be staged, and the driver's where not. To the program, and in every count, it is one
/// copy in either case.
fn copy_linear(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    waits: bool,
    transfer: Transfer,
    account: impl FnOnce(),
) -> Status {
    let call = || {
        let is_candidate = copies::is_candidate(&transfer);
        match is_candidate.then(|| fenced(|| copies::carry(hook, stream, transfer))).flatten() {
            Some(status) => status,
            None => gate::with_host(transfer.bytes, waits, (stream, hook), call),
        }
    };
    copy(hook, call, stream, waits, account)
}

fn copy(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    waits: bool,
    account: impl FnOnce(),
) -> Status {
    let status = work(hook, call, stream, waits, account);
    if !status.is_ok() && !mode::is_pass_through() {
        segment::add(Statistic::CopyFailures, 1);
    }
    status
}

/// A copy that is not staged, between places that are known.
fn copy_between(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    waits: bool,
    (from, to): (Place, Place),
    bytes: usize,
) -> Status {
    let call = || match (from, to) {
        (Place::Device, Place::Device) => gate::on_device(MemoryWork::Copy, bytes, (stream, hook), call),
        (Place::Device, _) | (_, Place::Device) => gate::with_host(bytes, waits, (stream, hook), call),
        _ => call(),
    };
    copy(hook, call, stream, waits, || count_copy(from, to, bytes))
}

/// Host to device. From pageable memory the synchronous forms may return before the copy is done, so none of them ends
/// a request (CUDA Driver API, "API synchronization behavior").
pub(crate) unsafe fn copy_h2d(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    destination: sys::CUdeviceptr,
    source: *const std::ffi::c_void,
    bytes: usize,
    synchronous: bool,
) -> Status {
    let (device, host) = (destination as usize, address(source));
    let transfer = Transfer { direction: Direction::ToDevice, host, device, bytes, synchronous };
    copy_linear(hook, call, stream, false, transfer, || {
        count_copy(Place::of_host(host), Place::Device, bytes);
    })
}

/// Device to host; the synchronous form waits until it is done.
pub(crate) unsafe fn copy_d2h(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    destination: *mut std::ffi::c_void,
    source: sys::CUdeviceptr,
    bytes: usize,
    synchronous: bool,
) -> Status {
    let (host, device) = (address(destination), source as usize);
    let transfer = Transfer { direction: Direction::FromDevice, host, device, bytes, synchronous };
    copy_linear(hook, call, stream, synchronous, transfer, || {
        count_copy(Place::Device, Place::of_host(host), bytes);
    })
}

/// Device to device; not even the synchronous form waits.
pub(crate) unsafe fn copy_d2d(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    bytes: usize,
) -> Status {
    copy_between(hook, call, stream, false, (Place::Device, Place::Device), bytes)
}

/// Between contexts or devices.
pub(crate) unsafe fn copy_peer(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    bytes: usize,
) -> Status {
    let call = || gate::on_device(MemoryWork::Copy, bytes, (stream, hook), call);
    copy(hook, call, stream, false, || {
        segment::add(Statistic::PeerToPeer, bytes as u64);
    })
}

/// Unified addresses, whose places the driver works out; so do we.
pub(crate) unsafe fn copy_any(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    destination: sys::CUdeviceptr,
    source: sys::CUdeviceptr,
    bytes: usize,
    synchronous: bool,
) -> Status {
    let (from, to) = (source as usize, destination as usize);
    let (from_place, to_place) = (Place::of(from), Place::of(to));
    let waits = synchronous && to_place != Place::Device;
    let places = (from_place, to_place);
    let account = || count_copy(from_place, to_place, bytes);
    let (direction, host, device) = match places {
        (Place::Pageable, Place::Device) => (Direction::ToDevice, from, to),
        (Place::Device, Place::Pageable) => (Direction::FromDevice, to, from),
        _ => return copy_between(hook, call, stream, waits, places, bytes),
    };
    copy_linear(hook, call, stream, waits, Transfer { direction, host, device, bytes, synchronous }, account)
}

/// A rectangle.
///
/// # Safety
/// `copy` is null or points to a description, as the driver demands.
pub(crate) unsafe fn copy_2d(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    description: *const sys::CUDA_MEMCPY2D,
    synchronous: bool,
) -> Status {
    if description.is_null() {
        return forward(hook, call);
    }
    // SAFETY: not null, and the program's to keep valid; the memory types are read as integers.
    let (from, to, bytes) = unsafe {
        let d = description;
        (
            place(memory_type(&raw const (*d).srcMemoryType), address((*d).srcHost), (*d).srcDevice),
            place(memory_type(&raw const (*d).dstMemoryType), address((*d).dstHost), (*d).dstDevice),
            (*d).WidthInBytes.wrapping_mul((*d).Height),
        )
    };
    let waits = synchronous && to != Place::Device;
    copy_between(hook, call, stream, waits, (from, to), bytes)
}

/// A box.
///
/// # Safety
/// As for [`copy_2d`].
pub(crate) unsafe fn copy_3d(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    description: *const sys::CUDA_MEMCPY3D,
    synchronous: bool,
) -> Status {
    if description.is_null() {
        return forward(hook, call);
    }
    // SAFETY: as in `copy_2d`.
    let (from, to, bytes) = unsafe {
        let d = description;
        (
            place(memory_type(&raw const (*d).srcMemoryType), address((*d).srcHost), (*d).srcDevice),
            place(memory_type(&raw const (*d).dstMemoryType), address((*d).dstHost), (*d).dstDevice),
            (*d).WidthInBytes.wrapping_mul((*d).Height).wrapping_mul((*d).Depth),
        )
    };
    let waits = synchronous && to != Place::Device;
    copy_between(hook, call, stream, waits, (from, to), bytes)
}

/// Many copies in one call.
///
/// # Safety
/// The arrays have `count` elements, as the driver demands.
pub(crate) unsafe fn copy_batch(
    hook: Hook,
    call: impl FnOnce() -> Status,
    stream: sys::CUstream,
    destinations: *mut sys::CUdeviceptr,
    sources: *mut sys::CUdeviceptr,
    sizes: *mut usize,
    count: usize,
) -> Status {
    let call = || gate::on_device(MemoryWork::Batch, count, (stream, hook), call);
    copy(hook, call, stream, false, || {
        if destinations.is_null() || sources.is_null() || sizes.is_null() {
            return;
        }
        for i in 0..count {
            // SAFETY: the driver has accepted the arrays, so they have `count` elements.
            let (to, from, bytes) = unsafe { (*destinations.add(i), *sources.add(i), *sizes.add(i)) };
            count_copy(Place::of(from as usize), Place::of(to as usize), bytes);
        }
    })
}

/// A `CUmemorytype` as the integer it is.
///
/// # Safety
/// `field` may be read.
unsafe fn memory_type(field: *const sys::CUmemorytype) -> u32 {
    // SAFETY: the caller's promise; the enum is 4 bytes wide.
    unsafe { field.cast::<u32>().read() }
}

/// `CU_MEMORYTYPE_HOST` 1, `DEVICE` 2, `ARRAY` 3, `UNIFIED` 4.
fn place(memory_type: u32, host: usize, device: sys::CUdeviceptr) -> Place {
    match memory_type {
        1 => Place::of_host(host),
        4 => Place::of(device as usize),
        _ => Place::Device,
    }
}

fn count_copy(from: Place, to: Place, bytes: usize) {
    let which = match (from, to) {
        (Place::Pinned, Place::Device) => Statistic::HostToDevicePinned,
        (Place::Pageable, Place::Device) => Statistic::HostToDevicePageable,
        (Place::Device, Place::Pinned) => Statistic::DeviceToHostPinned,
        (Place::Device, Place::Pageable) => Statistic::DeviceToHostPageable,
        (Place::Device, Place::Device) => Statistic::DeviceToDevice,
        _ => Statistic::HostToHost,
    };
    segment::add(which, bytes as u64);
}
