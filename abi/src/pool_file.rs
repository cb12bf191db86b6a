//! A pool map's life as a file, beside its process's segment ([`segment_file`](crate::segment_file)).
//!
//! * `.PID-TICKS.pool` while it is made: locked, allocated in full, its header filled; then renamed to
//! * `PID-TICKS.pool`, locked while the process lives, by the mapping, as a segment is. It keeps its name when the process
//!   has ended: the segment's name says that. It is removed with its segment, or by the next sweep after it.
//!
//! A process makes one map, with its first pool; later pools, of other contexts, are shown in the same map. A thread that
//! is still in the pool of a context that has ended may then spoil a word of the new picture, and nothing else.

use crate::mapping;
use crate::pool_layout::{AGE_SHIFT, HEADER_BYTES, Header, MAGIC, SLABS, VERSION, Word, map_bytes};
use crate::segment_file;
use std::io;
use std::path::Path;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release},
};

/// Whose map it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Process id as the process sees itself.
    pub pid: u32,
    /// Start time, field 22 of /proc/PID/stat, in clock ticks since boot.
    pub start_ticks: u64,
    /// That of the process's segment.
    pub generation: u64,
    /// Now, nanoseconds since the epoch.
    pub unix_ns: u64,
    /// Now by `CLOCK_MONOTONIC`, in nanoseconds.
    pub monotonic_ns: u64,
    /// Size of a block in bytes.
    pub block_bytes: u32,
}

/// This process's own map, mapped for good.
#[derive(Clone, Copy)]
pub struct PoolMap {
    header: &'static Header,
    words: &'static [AtomicU64],
    block_bytes: usize,
    created_monotonic_ns: u64,
}

impl PoolMap {
    /// Publishes an empty map of so many words in `directory`, in the place of one of the same process.
    ///
    /// # Errors
    /// Whatever open, flock, fallocate, write, rename or mmap say; there is then no file.
    pub fn publish(directory: &Path, identity: &Identity, words: u32) -> io::Result<Self> {
        let name = format!("{}-{}.pool", identity.pid, identity.start_ticks);
        let (unfinished, finished) = (directory.join(format!(".{name}")), directory.join(name));
        let file = segment_file::create(&unfinished, map_bytes(words))?;
        let made: io::Result<Self> = segment_file::allocate_locked(&file, map_bytes(words)).and_then(|()| {
            rustix::io::pwrite(&file, &header_bytes(identity, words), 0)?;
            // Mapped before it is seen, so that what is seen is written to.
            let (header, words) = mapping::map_pool(&file, words)?;
            rustix::fs::rename(&unfinished, &finished)?;
            let block_bytes = identity.block_bytes as usize;
            Ok(Self { header, words, block_bytes, created_monotonic_ns: identity.monotonic_ns })
        });
        if made.is_err() {
            let _ = rustix::fs::unlink(&unfinished);
        }
        made
    }

    /// Says that the extent of `blocks` from `index` on, of which so many bytes were asked for, was allocated when
    /// `CLOCK_MONOTONIC` stood at `monotonic_ns`.
    #[inline]
    pub fn set_allocated(&self, index: u32, blocks: u32, requested_bytes: usize, monotonic_ns: u64) {
        // A coarse clock may be a tick behind the one that told when the map was made.
        let moment = monotonic_ns.saturating_sub(self.created_monotonic_ns) >> AGE_SHIFT;
        let moment = u32::try_from(moment).unwrap_or(u32::MAX);
        self.set(index, Word::Allocated { blocks, slack_bytes: self.slack_bytes(blocks, requested_bytes), moment });
    }

    /// Says that the same was freed in `epoch`.
    #[inline]
    pub fn set_freed(&self, index: u32, blocks: u32, requested_bytes: usize, epoch: u64) {
        let slack_bytes = self.slack_bytes(blocks, requested_bytes);
        self.set(index, Word::Freed { blocks, slack_bytes, epoch: epoch as u32 });
    }

    #[inline]
    fn set(&self, index: u32, word: Word) {
        if let Some(cell) = self.words.get(index as usize) {
            cell.store(word.to_bits(), Relaxed);
        }
    }

    #[inline]
    fn slack_bytes(&self, blocks: u32, requested_bytes: usize) -> u32 {
        (blocks as usize * self.block_bytes).saturating_sub(requested_bytes) as u32
    }

    /// Says up to which epoch freed blocks are safe.
    pub fn set_safe(&self, epoch: u64) {
        self.header.safe_epoch.store(epoch, Relaxed);
    }

    /// Says which slabs are there: number, address, first word and blocks of each.
    pub fn set_slabs(&self, placed: impl Iterator<Item = (usize, u64, u32, u32)>) {
        let mut starts = [0; SLABS];
        for (number, start, first_word, blocks) in placed {
            if let (Some(slab), Some(to)) = (self.header.slabs.get(number), starts.get_mut(number)) {
                slab.first_word.store(first_word, Relaxed);
                slab.blocks.store(blocks, Relaxed);
                *to = start;
            }
        }
        for (slab, start) in self.header.slabs.iter().zip(starts) {
            // Release: who sees the address through the mapping sees the other fields; a copy by pread(2) is checked.
            slab.start.store(start, Release);
        }
    }

    /// Forgets everything: another pool begins.
    pub fn clear(&self) {
        self.set_slabs(std::iter::empty());
        self.set_safe(0);
        self.words.iter().for_each(|word| word.store(0, Relaxed));
    }

    /// Lets go of the file in a child process: what is written from here on nobody sees.
    ///
    /// # Errors
    /// That of mmap(2). Async-signal-safe: one mmap(2).
    pub fn disown(&self) -> io::Result<()> {
        Ok(mapping::unmap_pool(self.header, self.words.len())?)
    }
}

fn header_bytes(identity: &Identity, words: u32) -> Vec<u8> {
    use std::mem::offset_of;
    let mut bytes = vec![0; HEADER_BYTES];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(offset_of!(Header, magic), &MAGIC);
    put(offset_of!(Header, version), &VERSION.to_ne_bytes());
    put(offset_of!(Header, block_bytes), &identity.block_bytes.to_ne_bytes());
    put(offset_of!(Header, map_bytes), &(map_bytes(words) as u64).to_ne_bytes());
    put(offset_of!(Header, generation), &identity.generation.to_ne_bytes());
    put(offset_of!(Header, pid), &identity.pid.to_ne_bytes());
    put(offset_of!(Header, words), &words.to_ne_bytes());
    put(offset_of!(Header, start_ticks), &identity.start_ticks.to_ne_bytes());
    put(offset_of!(Header, created_unix_ns), &identity.unix_ns.to_ne_bytes());
    put(offset_of!(Header, created_monotonic_ns), &identity.monotonic_ns.to_ne_bytes());
    bytes
}
