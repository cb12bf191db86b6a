//! From which size on a copy is staged, with how many threads, and how it is cut: every constant of the staged copies.
//!
//! What they were chosen from (one H200, PCIe 5, 16 cores; FACTS of the design, before this code existed):
//!
//! | | the driver alone | 1 thread | 2 | 4 | 8 | 12 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | to the device, 256 MiB and more, GB/s | 7.0-8.6 | 8 | 16 | 32 | 47-52 | 52 |
//! | from the device, 256 MiB and more, GB/s | 11-14 | 8 | 15 | 28 | 44 | 48 |
//! | to the device, 1 MiB / 16 MiB, GB/s | 12.6 / 13 | | | | | |
//!
//! benches/gpu/copies.py measures every cell of the table with this code.

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToDevice,
    FromDevice,
}

/// No copy below this size is ever staged.
pub(crate) const LEAST_BYTES: usize = 1 << 20;

/// With two or three threads, which are little faster than the driver, from these sizes on.
const LEAST_BYTES_FEW_TO_DEVICE: usize = 8 << 20;
const LEAST_BYTES_FEW_FROM_DEVICE: usize = 16 << 20;

/// An asynchronous copy to the device that finds work before it on its stream is the driver's below this size. The
/// driver returns from 2 MiB at once; above, it waits for the stream and then reads what is beyond the first 2 MiB with
/// one thread, in which time several threads read all of it from twice that size on.
pub(super) const LEAST_BEHIND_WORK: usize = 4 << 20;

/// Threads that move bytes, the caller among them.
pub(super) const MOST_THREADS: usize = 12;

/// Rings a context may have, that is, copies staged at the same time.
pub(super) const RINGS: usize = 2;

/// Slots of a ring, and the size of one. Page-locking 16 MiB takes 4.2 ms; a ring of that size stays in the last-level
/// cache of a server, from which the bus reads and into which it writes.
pub(super) const SLOTS: usize = 8;
pub(super) const SLOT_BYTES: usize = 2 << 20;
pub(super) const RING_BYTES: usize = SLOTS * SLOT_BYTES;

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
        _ => LEAST_BYTES,
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
