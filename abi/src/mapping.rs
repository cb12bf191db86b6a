//! The only unsafe code of this crate: a segment seen as bytes, and a file mapped over a segment.

use crate::layout::{SEGMENT_BYTES, Segment};
use rustix::fd::AsFd;
use rustix::io;
use rustix::mm::{MapFlags, ProtFlags};
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::sync::atomic::{AtomicU64, Ordering};

/// A segment filled with zeros.
pub(crate) fn zeroed() -> Box<Segment> {
    let layout = Layout::new::<Segment>();
    // SAFETY: `Segment` has a size greater than zero.
    let memory = unsafe { alloc_zeroed(layout) }.cast::<Segment>();
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: the memory was allocated with the layout of `Segment`, and all of its fields are integers, atomic
    // integers and arrays of them, for which zero is a value.
    unsafe { Box::from_raw(memory) }
}

/// The bytes of a segment nobody else sees.
pub(crate) fn bytes_mut(segment: &mut Segment) -> &mut [u8] {
    // SAFETY: the reference is exclusive; the layout has no padding that is read as anything but bytes, and every bit
    // pattern is a valid `Segment` (integers only).
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(segment).cast(), SEGMENT_BYTES) }
}

/// A copy of a segment that other threads may be counting in.
pub(crate) fn words(segment: *const Segment) -> Vec<u64> {
    // SAFETY: the caller's segment lives as long as the process (it is the shim's static); it is aligned to 4096 and
    // made of whole 8-byte words, each of which is only written through atomics of the same or a smaller size while
    // this runs.
    let words = unsafe { std::slice::from_raw_parts(segment.cast::<AtomicU64>(), SEGMENT_BYTES / 8) };
    words.iter().map(|w| w.load(Ordering::Relaxed)).collect()
}

/// Maps the first [`SEGMENT_BYTES`] of `file`, shared and writable, in the place of `segment`.
///
/// # Safety
/// `segment` points to a segment that nobody holds references to other than through atomics and that is not unmapped
/// while the process lives. The file is at least as long.
pub(crate) unsafe fn map_over(file: impl AsFd, segment: *mut Segment) -> io::Result<()> {
    // SAFETY: the pages replaced are those of the segment alone (page-aligned, whole pages, asserted in `layout`), and
    // the caller vouches for them.
    unsafe {
        rustix::mm::mmap(
            segment.cast(),
            SEGMENT_BYTES,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED,
            file,
            0,
        )?;
    }
    Ok(())
}

/// Puts private zero pages in the place of `segment`, which lets go of the file mapped there.
///
/// # Safety
/// As for [`map_over`].
pub(crate) unsafe fn map_private(segment: *mut Segment) -> io::Result<()> {
    // SAFETY: as in `map_over`.
    unsafe {
        rustix::mm::mmap_anonymous(
            segment.cast(),
            SEGMENT_BYTES,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::FIXED,
        )?;
    }
    Ok(())
}
