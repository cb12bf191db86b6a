//! From which size on a copy is staged, with how many threads, and how it is cut: every constant of the staged copies.
//!
//! What they were chosen from, GB/s on an H100 (PCIe 5, 16 cores of a VM, driver 580.159.04), synchronous copies of
//! malloc'd memory (benches/runs/2026-11-25-h100/copy_variants.txt; runs differ by a quarter):
//!
//! | | 4 MiB | 16 MiB | 256 MiB | 1 GiB |
//! | --- | --- | --- | --- | --- |
//! | to the device: the driver alone | 11 | 12 | 7 | 7 |
//! | 12 threads, ordinary stores into 8 slots | 11-12 | 20-21 | 43-44 | 33-42 |
//! | 8 threads | 11 | 19 | 40 | 46 |
//! | 16 threads | 11 | 20 | 34 | 29 |
//! | 12 threads, non-temporal stores | 23 | 34 | 33 | 32 |
//! | 12 threads, 16 slots | 7 | 23 | 30 | 34 |
//! | from the device: the driver alone | 9 | 10 | 10 | 10 |
//! | 12 threads, non-temporal stores out of 8 slots | 12 | 14-20 | 32-33 | 31 |
//! | 8 threads | 15 | 23 | 39 | 37 |
//! | 12 threads, 16 slots | 16 | 25 | 49 | 44 |
//!
//! With 2 threads to the device 16 MiB went at 0.84 of the driver's rate and 256 MiB at 1.7 times that. Below 4 MiB the
//! driver's one thread is as fast to the device, where it begins at once. benches/gpu/copies.py measures every cell.

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToDevice,
    FromDevice,
}

/// No copy below this size is ever staged.
const LEAST_BYTES: usize = 1 << 20;

/// Nor one to the device below this.
const LEAST_BYTES_TO_DEVICE: usize = 4 << 20;

/// With two or three threads, which are little faster than the driver, from these sizes on.
const LEAST_BYTES_FEW_TO_DEVICE: usize = 8 << 20;
const LEAST_BYTES_FEW_FROM_DEVICE: usize = 16 << 20;

/// An asynchronous copy to the device that finds work before it on its stream is the driver's below this size. The
/// driver returns from 2 MiB at once; above, it waits for the stream and then reads what is beyond the first 2 MiB with
/// one thread, in which time several threads read all of it from twice that size on.
pub(super) const LEAST_BEHIND_WORK: usize = 4 << 20;

/// Threads that move bytes, the caller among them.
pub(super) const MOST_THREADS: usize = 8;

/// Rings a context may have, that is, copies staged at the same time.
pub(super) const RINGS: usize = 2;

/// Slots of a ring, and the size of one. Page-locking 16 MiB takes 4 to 9 ms.
pub(super) const SLOTS: usize = 16;
pub(super) const SLOT_BYTES: usize = 2 << 20;
pub(super) const RING_BYTES: usize = SLOTS * SLOT_BYTES;

impl Direction {
    /// How many of them a copy goes through. To the device, a smaller ring stays in the caches from which the bus reads;
    /// from the device, more in flight keep the bus going while a thread is behind.
    pub(super) fn slots(self) -> usize {
        match self {
            Self::ToDevice => SLOTS / 2,
            Self::FromDevice => SLOTS,
        }
    }
}

/// Copies to the device below this size are moved past the caches: their threads are many for what there is to do, and
/// non-temporal stores do not first read what they overwrite. With larger ones the memory's own speed is the bound.
pub(super) const PAST_CACHES_BYTES: usize = 64 << 20;

/// A copy of this size is worth the time in which the first ring is made: it waits for it. Others take the driver's way
/// while one is made in the background.
pub(super) const WORTH_A_RING_BYTES: usize = 64 << 20;
const WORTH_A_RING_BYTES_FEW: usize = 128 << 20;

const FEW_THREADS: usize = 3;

/// From this size on a copy is staged by so many threads.
pub(super) fn least_bytes(direction: Direction, threads: usize) -> usize {
    match (threads, direction) {
        (0 | 1, _) => usize::MAX,
        (2..=FEW_THREADS, Direction::ToDevice) => LEAST_BYTES_FEW_TO_DEVICE,
        (2..=FEW_THREADS, Direction::FromDevice) => LEAST_BYTES_FEW_FROM_DEVICE,
        (_, Direction::ToDevice) => LEAST_BYTES_TO_DEVICE,
        (_, Direction::FromDevice) => LEAST_BYTES,
    }
}

/// The least that is staged in a direction with any number of threads: known without asking how many there are.
#[inline]
pub(super) fn least_bytes_of_all(direction: Direction) -> usize {
    match direction {
        Direction::ToDevice => LEAST_BYTES_TO_DEVICE,
        Direction::FromDevice => LEAST_BYTES,
    }
}

/// From this size on a copy waits until the first ring is made.
pub(super) fn worth_a_ring_bytes(threads: usize) -> usize {
    if threads <= FEW_THREADS { WORTH_A_RING_BYTES_FEW } else { WORTH_A_RING_BYTES }
}

/// How a copy is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) bytes: usize,
    /// What goes through a slot at once: at most its size.
    pub(super) chunk_bytes: usize,
    /// What a thread moves at once: a part of a chunk, so that the first one is on its way soon and all threads have
    /// something to do at the end.
    pub(super) piece_bytes: usize,
}

impl Plan {
    pub(super) fn new(bytes: usize) -> Self {
        let (chunk_bytes, piece_bytes) = match bytes >> 20 {
            0..8 => (256 << 10, 64 << 10),
            8..64 => (1 << 20, 128 << 10),
            _ => (SLOT_BYTES, 256 << 10),
        };
        Self { bytes, chunk_bytes, piece_bytes }
    }

    pub(super) fn chunks(&self) -> usize {
        self.bytes.div_ceil(self.chunk_bytes)
    }

    /// Where a chunk begins and how long it is.
    pub(super) fn chunk(&self, index: usize) -> (usize, usize) {
        let start = (index * self.chunk_bytes).min(self.bytes);
        (start, self.chunk_bytes.min(self.bytes - start))
    }

    /// Pieces of a full chunk.
    pub(super) fn pieces(&self) -> usize {
        self.chunk_bytes.div_ceil(self.piece_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_size_once() {
        for bytes in [1, LEAST_BYTES, LEAST_BYTES + 1, (8 << 20) - 1, 8 << 20, (64 << 20) + 7, 1 << 32] {
            let plan = Plan::new(bytes);
            assert!(plan.chunk_bytes <= SLOT_BYTES && plan.piece_bytes <= plan.chunk_bytes);
            let mut end = 0;
            for index in 0..plan.chunks() {
                let (start, length) = plan.chunk(index);
                assert_eq!(start, end);
                assert!(length > 0);
                end = start + length;
            }
            assert_eq!(end, bytes);
            assert_eq!(plan.chunk(plan.chunks()), (bytes, 0));
        }
    }

    #[test]
    fn one_thread_stages_nothing_and_few_only_what_is_large() {
        for direction in [Direction::ToDevice, Direction::FromDevice] {
            assert_eq!(least_bytes(direction, 1), usize::MAX);
            assert!(least_bytes(direction, 2) > least_bytes(direction, 4));
            assert!((2..=MOST_THREADS).all(|threads| least_bytes(direction, threads) >= LEAST_BYTES));
        }
    }
}
