//! Memory of the process's own for one slab: a range of addresses, mapped at once, whose pages are made to be there before
//! the driver is asked to page-lock it, so that the driver's part is short.
//!
//! The pages are made by this thread under the policy that `placement` sets, so they lie on the GPU's node; mbind(2)
//! would say the same for good, but also where the program has chosen a policy of its own. Huge pages are asked for: they
//! are faster to make and to page-lock, and where the kernel has none the pages are small.
//!
//! The memory is shared (MAP_SHARED), so that a forked child can read it, as it can read what the driver allocates
//! (observed on an H100, driver 580.159). Private pages would be shared by copy-on-write, which goes ill with a device that
//! writes to them: kernels before 5.12 may leave the parent another page than the device's, later ones copy all of it at
//! the fork. For such memory huge pages are to be had where `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says so.

use std::ffi::c_int;
use std::ptr::NonNull;

/// The size of a huge page of x86-64.
const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// How much is touched at once: some milliseconds, for which a context that ends has to wait.
const TOUCH_BYTES: usize = 4 << 20;

/// `MADV_POPULATE_WRITE` of <linux/mman.h>, since Linux 5.14.
const POPULATE_WRITE: c_int = 23;

/// The range; unmapped by [`unmap`](Self::unmap) alone, since a device may be using it.
#[derive(Debug)]
pub(super) struct Stretch {
    start: NonNull<u8>,
    bytes: usize,
    /// So many bytes from the start are in memory.
    touched: usize,
    is_locked: bool,
}

// SAFETY: plain memory that belongs to the value, not to a thread.
unsafe impl Send for Stretch {}

impl Stretch {
    /// A range of `bytes`; none where there are no addresses for it.
    pub(super) fn map(bytes: usize) -> Option<Self> {
        let all = bytes.checked_add(HUGE_PAGE)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // Reserved: a machine that keeps count refuses here, and not by a signal when a page is touched.
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: mmap(2) of fresh memory, at no address in particular.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), all, protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return None;
        }
        let first = mapped.cast::<u8>();
        let before = first.align_offset(HUGE_PAGE).min(HUGE_PAGE);
        // SAFETY: within what was just mapped, since `before` is one huge page at most.
        let (start, end) = unsafe { (first.add(before), first.add(before + bytes)) };
        // SAFETY: munmap(2) of the ends of what was just mapped, which nobody knows of; of 0 bytes it fails and does
        // nothing. madvise(2) of what is left: advice that a kernel may refuse.
        unsafe {
            libc::munmap(mapped, before);
            libc::munmap(end.cast(), HUGE_PAGE - before);
            for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP] {
                libc::madvise(start.cast(), bytes, advice);
            }
        }
        Some(Self { start: NonNull::new(start)?, bytes, touched: 0, is_locked: false })
    }

    /// The address of its first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the driver has page-locked it.
    pub(super) fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// The driver has page-locked it, or does so no more.
    pub(super) fn note_locked(&mut self, is_locked: bool) {
        self.is_locked = is_locked;
    }

    /// So many bytes of it are in memory.
    pub(super) fn touched_bytes(&self) -> usize {
        self.touched
    }

    /// Whether all its pages are in memory.
    pub(super) fn is_touched(&self) -> bool {
        self.touched == self.bytes
    }

    /// Makes some more of its pages.
    pub(super) fn touch_some(&mut self) -> Result<(), NoMemory> {
        let bytes = TOUCH_BYTES.min(self.bytes - self.touched);
        self.touch(self.touched, bytes)?;
        self.touched += bytes;
        Ok(())
    }

    pub(super) fn contains(&self, at: usize) -> bool {
        at.wrapping_sub(self.start.as_ptr().addr()) < self.bytes
    }

    /// Takes it out of the address space.
    ///
    /// # Safety
    /// Nobody uses it any more, no device either: it is not page-locked, or the context in which it was has ended.
    pub(super) unsafe fn unmap(self) {
        // SAFETY: munmap(2) of what `map` has mapped, which by the caller's promise nobody uses.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }

    fn touch(&self, offset: usize, bytes: usize) -> Result<(), NoMemory> {
        // SAFETY: within the range, which is as long as `touch_some` has seen to it.
        let first = unsafe { self.start.add(offset) };
        // SAFETY: madvise(2) of pages of ours; it makes them without changing what is in them.
        if unsafe { libc::madvise(first.as_ptr().cast(), bytes, POPULATE_WRITE) } == 0 {
            return Ok(());
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return Err(NoMemory);
        }
        // The kernel does not know the advice.
        for page in (0..bytes).step_by(PAGE) {
            // SAFETY: within the same bytes, which are ours alone until they are handed out.
            unsafe { first.add(page).write_volatile(0) };
        }
        Ok(())
    }
}

/// The kernel has no memory for the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoMemory;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn its_pages_are_made_some_at_a_time_and_all_are_there_in_the_end() {
        let mut stretch = Stretch::map(10 * MIB).unwrap();
        assert!(stretch.start().as_ptr().addr().is_multiple_of(HUGE_PAGE));
        let mut calls = 0;
        while !stretch.is_touched() {
            assert_eq!(stretch.touch_some(), Ok(()));
            calls += 1;
        }
        assert_eq!(calls, 3, "a few mebibytes each");
        let mut is_there = [0_u8; 10 * MIB / PAGE];
        // SAFETY: mincore(2) writes a byte for each page of the range, as many as there are in the array.
        let asked = unsafe { libc::mincore(stretch.start().as_ptr().cast(), 10 * MIB, is_there.as_mut_ptr()) };
        assert_eq!(asked, 0);
        assert!(is_there.iter().all(|page| page & 1 == 1));
        // SAFETY: it is not page-locked, and nobody else knows of it.
        unsafe { stretch.unmap() };
    }

    #[test]
    fn it_holds_its_own_addresses_alone() {
        let stretch = Stretch::map(5 * MIB).unwrap();
        let start = stretch.start().as_ptr().addr();
        let holds = [start - 1, start, start + 5 * MIB - 1, start + 5 * MIB].map(|at| stretch.contains(at));
        assert_eq!(holds, [false, true, true, false]);
        // SAFETY: it is not page-locked, and nobody else knows of it.
        unsafe { stretch.unmap() };
    }
}
