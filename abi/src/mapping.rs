//! With `memfd` and `credentials` the only unsafe code of this crate: a segment seen as bytes, a file mapped over a segment, a pool map mapped.

use crate::layout::{SEGMENT_BYTES, Segment};
use crate::pool_layout::{HEADER_BYTES, Header, map_bytes};
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

/// Maps a pool map of so many words, shared and writable, for as long as the process lives. The file is at least as long.
pub(crate) fn map_pool(file: impl AsFd, words: u32) -> io::Result<(&'static Header, &'static [AtomicU64])> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping where the kernel likes.
    let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), map_bytes(words), access, MapFlags::SHARED, file, 0)? };
    // SAFETY: page-aligned, as long as the header and the words together, never unmapped (`unmap_pool` only puts other
    // pages in its place), and made of integers, which are accessed through atomics alone from here on.
    unsafe {
        let cells = start.byte_add(HEADER_BYTES).cast::<AtomicU64>();
        Ok((&*start.cast::<Header>(), std::slice::from_raw_parts(cells, words as usize)))
    }
}

/// Puts private zero pages in the place of a map that [`map_pool`] made of so many words.
pub(crate) fn unmap_pool(header: &'static Header, words: usize) -> io::Result<()> {
    let bytes = map_bytes(u32::try_from(words).unwrap_or(u32::MAX));
    let start = std::ptr::from_ref(header).cast_mut().cast();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: exactly the pages that `map_pool` mapped; zero is a value of all that lies there.
    unsafe { rustix::mm::mmap_anonymous(start, bytes, access, MapFlags::PRIVATE | MapFlags::FIXED)? };
    Ok(())
}
