//! A pool map built by hand.

use aishim_abi::pool_layout::{HEADER_BYTES, Header, MAGIC, Slab, VERSION, Word, map_bytes};
use std::fs::File;
use std::io::Write;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

/// A pool map as bytes.
#[derive(Clone)]
pub struct PoolSample {
    pub bytes: Vec<u8>,
    pid: u32,
    start_ticks: u64,
}

impl PoolSample {
    /// The empty map of the process whose segment is `Sample::new(pid, start_ticks)`.
    pub fn new(pid: u32, start_ticks: u64, words: u32) -> Self {
        let mut sample = Self { bytes: vec![0; map_bytes(words)], pid, start_ticks };
        sample.bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        sample.u32(offset_of!(Header, version), VERSION);
        sample.u32(offset_of!(Header, block_bytes), 4096);
        sample.u64(offset_of!(Header, map_bytes), map_bytes(words) as u64);
        sample.u64(offset_of!(Header, generation), 0x0123_4567_89ab_cdef);
        sample.u32(offset_of!(Header, pid), pid);
        sample.u32(offset_of!(Header, words), words);
        sample.u64(offset_of!(Header, start_ticks), start_ticks);
        sample.u64(offset_of!(Header, created_unix_ns), 1_700_000_000_000_000_000);
        sample
    }

    pub fn u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }

    pub fn u64(&mut self, offset: usize, value: u64) {
        self.bytes[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
    }

    /// A slab.
    pub fn slab(mut self, number: usize, start: u64, first_word: u32, blocks: u32) -> Self {
        let at = offset_of!(Header, slabs) + number * size_of::<Slab>();
        self.u64(at + offset_of!(Slab, start), start);
        self.u32(at + offset_of!(Slab, first_word), first_word);
        self.u32(at + offset_of!(Slab, blocks), blocks);
        self
    }

    /// What was freed in this epoch is safe.
    pub fn safe_epoch(mut self, epoch: u64) -> Self {
        self.u64(offset_of!(Header, safe_epoch), epoch);
        self
    }

    /// What a word says.
    pub fn word(mut self, index: usize, word: Word) -> Self {
        self.u64(HEADER_BYTES + 8 * index, word.to_bits());
        self
    }

    /// Puts it beside its process's segment.
    pub fn file(&self, directory: &Path) -> PathBuf {
        let path = directory.join(format!("{}-{}.pool", self.pid, self.start_ticks));
        File::create(&path).unwrap().write_all(&self.bytes).unwrap();
        path
    }
}
