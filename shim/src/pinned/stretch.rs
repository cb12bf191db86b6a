//! Memory of the process's own, page-locked piece by piece: one range of addresses, mapped at once, whose pages are made
//! to be there before the driver is asked, so that the driver's part is short.
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
    /// So many of these are page-locked; always whole pieces.
    locked: usize,
    piece_bytes: usize,
}

// SAFETY: plain memory that belongs to the value, not to a thread.
unsafe impl Send for Stretch {}

/// What is page-locked by one call and unlocked by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) bytes: usize,
}

impl Stretch {
    /// A range of `bytes`, in pieces of `piece_bytes` and a last one that may be shorter; none where there are no
    /// addresses for it.
    pub(super) fn map(bytes: usize, piece_bytes: usize) -> Option<Self> {
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
        Some(Self { start: NonNull::new(start)?, bytes, touched: 0, locked: 0, piece_bytes })
    }

    /// The address of its first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked == self.bytes
    }

    /// The next piece to page-lock; none when all are.
    pub(super) fn next_to_lock(&self) -> Option<Piece> {
        self.piece_at(self.locked)
    }

    /// Makes some more pages of the next piece; whether all of them are in memory.
    pub(super) fn touch_some(&mut self) -> Result<bool, NoMemory> {
        let end = self.locked + self.next_to_lock().map_or(0, |piece| piece.bytes);
        if self.touched < end {
            let bytes = TOUCH_BYTES.min(end - self.touched);
            self.touch(Piece { start: self.start.as_ptr().expose_provenance() + self.touched, bytes })?;
            self.touched += bytes;
        }
        Ok(self.touched >= end)
    }

    /// The piece that was page-locked last; none when none is.
    pub(super) fn last_locked(&self) -> Option<Piece> {
        self.piece_at(self.locked.checked_sub(1)? / self.piece_bytes * self.piece_bytes)
    }

    /// The piece that [`next_to_lock`](Self::next_to_lock) gave has been page-locked.
    pub(super) fn note_locked(&mut self, piece: Piece) {
        self.locked += piece.bytes;
    }

    /// The piece that [`last_locked`](Self::last_locked) gave is page-locked no more.
    pub(super) fn note_unlocked(&mut self, piece: Piece) {
        self.locked -= piece.bytes;
    }

    /// The first address of each piece but the first that begins among these addresses.
    pub(super) fn joins(&self, from: usize, to: usize) -> impl Iterator<Item = usize> + use<> {
        let (start, piece_bytes) = (self.start.as_ptr().addr(), self.piece_bytes);
        let first = from.saturating_sub(start) / piece_bytes + 1;
        let last = to.min(start + self.bytes).saturating_sub(start).div_ceil(piece_bytes);
        (first..last).map(move |piece| start + piece * piece_bytes)
    }

    pub(super) fn contains(&self, at: usize) -> bool {
        at.wrapping_sub(self.start.as_ptr().addr()) < self.bytes
    }

    /// Takes it out of the address space.
    ///
    /// # Safety
    /// Nobody uses it any more, no device either: nothing of it is page-locked, or the context in which it was has ended.
    pub(super) unsafe fn unmap(self) {
        // SAFETY: munmap(2) of what `map` has mapped, which by the caller's promise nobody uses.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }

    fn piece_at(&self, offset: usize) -> Option<Piece> {
        let bytes = self.piece_bytes.min(self.bytes - offset);
        (bytes > 0).then(|| Piece { start: self.start.as_ptr().expose_provenance() + offset, bytes })
    }

    fn touch(&self, piece: Piece) -> Result<(), NoMemory> {
        let first = std::ptr::with_exposed_provenance_mut::<u8>(piece.start);
        // SAFETY: madvise(2) of pages of ours; it makes them without changing what is in them.
        if unsafe { libc::madvise(first.cast(), piece.bytes, POPULATE_WRITE) } == 0 {
            return Ok(());
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return Err(NoMemory);
        }
        // The kernel does not know the advice.
        for offset in (0..piece.bytes).step_by(PAGE) {
            // SAFETY: within the piece, which is ours alone until it is handed out.
            unsafe { first.add(offset).write_volatile(0) };
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
    fn it_is_locked_piece_by_piece_and_unlocked_in_reverse() {
        let mut stretch = Stretch::map(5 * MIB, 2 * MIB).unwrap();
        let start = stretch.start().as_ptr().addr();
        assert!(start.is_multiple_of(HUGE_PAGE) && stretch.last_locked().is_none());
        let mut locked = Vec::new();
        while let Some(piece) = stretch.next_to_lock() {
            assert!(!stretch.is_locked());
            while !stretch.touch_some().unwrap() {}
            stretch.note_locked(piece);
            locked.push((piece.start - start, piece.bytes));
        }
        assert!(stretch.is_locked());
        assert_eq!(locked, [(0, 2 * MIB), (2 * MIB, 2 * MIB), (4 * MIB, MIB)]);
        while let Some(piece) = stretch.last_locked() {
            stretch.note_unlocked(piece);
            assert_eq!(locked.pop(), Some((piece.start - start, piece.bytes)));
        }
        assert!(locked.is_empty());
        // SAFETY: nothing is page-locked, and nobody else knows of it.
        unsafe { stretch.unmap() };
    }

    #[test]
    fn joins_are_where_pieces_begin() {
        let stretch = Stretch::map(5 * MIB, 2 * MIB).unwrap();
        let start = stretch.start().as_ptr().addr();
        let joins = |from: usize, to: usize| -> Vec<usize> {
            stretch.joins(start + from, start + to).map(|at| at - start).collect()
        };
        assert_eq!(joins(0, 5 * MIB), [2 * MIB, 4 * MIB]);
        assert!(joins(MIB, 2 * MIB).is_empty(), "up to a join is not across it");
        assert_eq!(joins(MIB, 2 * MIB + 1), [2 * MIB]);
        assert!(joins(2 * MIB, 4 * MIB).is_empty());
        assert_eq!((stretch.contains(start + 5 * MIB - 1), stretch.contains(start + 5 * MIB)), (true, false));
        // SAFETY: nothing is page-locked, and nobody else knows of it.
        unsafe { stretch.unmap() };
    }

    #[test]
    fn all_pages_of_a_piece_are_there_before_it_is_locked() {
        let mut stretch = Stretch::map(12 * MIB, 10 * MIB).unwrap();
        let mut calls = 1;
        while !stretch.touch_some().unwrap() {
            calls += 1;
        }
        assert_eq!(calls, 3, "a few mebibytes each");
        let mut is_there = [0_u8; 12 * MIB / PAGE];
        // SAFETY: mincore(2) writes a byte for each page of the range, as many as there are in the array.
        let asked = unsafe { libc::mincore(stretch.start().as_ptr().cast(), 12 * MIB, is_there.as_mut_ptr()) };
        assert_eq!(asked, 0);
        assert!(is_there[..10 * MIB / PAGE].iter().all(|page| page & 1 == 1));
        // SAFETY: nothing is page-locked, and nobody else knows of it.
        unsafe { stretch.unmap() };
    }
}
