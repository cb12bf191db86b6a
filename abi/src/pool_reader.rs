//! A validated private copy of somebody else's pool map.
//!
//! As with a segment ([`reader`](crate::reader)), what another process wrote is an allegation: the file is copied with
//! pread(2), the header is checked, and what the words say is clipped to the slab they stand in. The words are read while
//! they are being written: a block that is just allocated or freed may show either way, and one that begins inside another
//! is left out.

use crate::pool_layout::{
    AGE_SHIFT, HEADER_BYTES, Header, MAGIC, SLABS, Slab, VERSION, WORDS, Word, is_waiting, map_bytes,
};
use crate::reader::{ReadError, copy};
use rustix::fd::AsFd;
use std::mem::offset_of;
use std::time::{Duration, SystemTime};

/// A copy of a map whose header has been checked.
#[derive(Debug)]
pub struct PoolMapCopy {
    bytes: Vec<u8>,
}

/// A slab and what lies in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlabCopy {
    /// Its place in the order in which slabs are reserved, from 0.
    pub number: usize,
    /// The address of its first byte, in its process.
    pub start: u64,
    /// The number of its first block, counted over the slabs that are there.
    pub first_block: u64,
    /// Its size in blocks.
    pub blocks: u32,
    /// What lies in it, from the first block to the last without a gap.
    pub extents: Vec<Extent>,
}

/// Blocks in a row that are one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first of them, counted from the slab's first block.
    pub first_block: u32,
    /// How many.
    pub blocks: u32,
    /// What they are.
    pub state: State,
}

/// What blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody's.
    Free,
    /// The program's.
    Allocated {
        /// What it asked for, in bytes.
        requested_bytes: u64,
        /// When it was allocated, since the map was made; to 0.13 s.
        since_created: Duration,
    },
    /// Freed, and not known to be done with by the GPU.
    WaitingForGpu {
        /// What the program had asked for, in bytes.
        requested_bytes: u64,
    },
}

/// What there is of each, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// In all slabs.
    pub blocks: u64,
    /// The program's.
    pub allocated_blocks: u64,
    /// Freed, and not known to be done with by the GPU.
    pub waiting_blocks: u64,
    /// Nobody's.
    pub free_blocks: u64,
    /// The longest run of free blocks.
    pub largest_free_blocks: u64,
}

impl PoolMapCopy {
    /// Copies and checks the map in `file`.
    ///
    /// # Errors
    /// [`ReadError`] says what is wrong with it.
    pub fn read(file: impl AsFd) -> Result<Self, ReadError> {
        let mut bytes = vec![0; HEADER_BYTES];
        let done = copy(&file, &mut bytes, 0)?;
        let whole = check_header(&bytes[..done])?;
        bytes.resize(whole, 0);
        let more = copy(&file, &mut bytes[HEADER_BYTES..], HEADER_BYTES as u64)?;
        Self::check(bytes, HEADER_BYTES + more)
    }

    /// Checks a map that is at hand as bytes.
    ///
    /// # Errors
    /// [`ReadError`] says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReadError> {
        let whole = check_header(bytes)?;
        Self::check(bytes.iter().copied().take(whole).collect(), bytes.len().min(whole))
    }

    fn check(bytes: Vec<u8>, copied: usize) -> Result<Self, ReadError> {
        let map = Self { bytes };
        if copied < map_bytes(map.words()) {
            return Err(ReadError::Truncated { bytes: copied });
        }
        let mut end = 0;
        for (start, first_word, blocks) in (0..SLABS).map(|slab| map.slab(slab)) {
            let is_there = start != 0;
            // They stand in the order of their words, and none reaches into the next or past the last word.
            let is_possible = first_word > end && blocks > 0 && first_word.saturating_add(blocks) <= map.words();
            let is_addressable = start.checked_add(u64::from(blocks) * u64::from(map.block_bytes())).is_some();
            if is_there && !(is_possible && is_addressable) {
                return Err(ReadError::Corrupt { field: "slabs" });
            }
            if is_there {
                end = first_word + blocks - 1;
            }
        }
        Ok(map)
    }

    /// Process id, as the process itself sees it: the owner of all that is allocated.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.u32(offset_of!(Header, pid))
    }

    /// Start time in clock ticks since boot, field 22 of /proc/PID/stat.
    #[must_use]
    pub fn start_ticks(&self) -> u64 {
        self.u64(offset_of!(Header, start_ticks))
    }

    /// Random id of this life of the process, as in its segment.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.u64(offset_of!(Header, generation))
    }

    /// Size of a block in bytes.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.u32(offset_of!(Header, block_bytes))
    }

    /// When the map was made.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.u64(offset_of!(Header, created_unix_ns)))
    }

    /// When the map was made, by the machine's `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn created_monotonic(&self) -> Duration {
        Duration::from_nanos(self.u64(offset_of!(Header, created_monotonic_ns)))
    }

    /// The slabs that are there, with what lies in them.
    #[must_use]
    pub fn slabs(&self) -> Vec<SlabCopy> {
        let mut first_block = 0;
        let placed = (0..SLABS).map(|number| (number, self.slab(number))).filter(|(_, (start, ..))| *start != 0);
        placed
            .map(|(number, (start, first_word, blocks))| {
                let slab = SlabCopy { number, start, first_block, blocks, extents: self.extents(first_word, blocks) };
                first_block += u64::from(blocks);
                slab
            })
            .collect()
    }

    fn extents(&self, first_word: u32, blocks: u32) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = 0;
        while at < blocks {
            let (length, state) = self.block_at(first_word + at);
            let length = length.min(blocks - at);
            match extents.last_mut() {
                Some(last) if last.state == State::Free && state == State::Free => last.blocks += length,
                _ => extents.push(Extent { first_block: at, blocks: length, state }),
            }
            at += length;
        }
        extents
    }

    fn block_at(&self, word: u32) -> (u32, State) {
        let requested = |blocks: u32, slack_bytes: u32| {
            (u64::from(blocks) * u64::from(self.block_bytes())).saturating_sub(u64::from(slack_bytes))
        };
        match Word::from_bits(self.u64(HEADER_BYTES + word as usize * 8)) {
            Word::Allocated { blocks, slack_bytes, moment } => {
                let since_created = Duration::from_nanos(u64::from(moment) << AGE_SHIFT);
                (blocks, State::Allocated { requested_bytes: requested(blocks, slack_bytes), since_created })
            }
            Word::Freed { blocks, slack_bytes, epoch } if is_waiting(epoch, self.safe_epoch()) => {
                (blocks, State::WaitingForGpu { requested_bytes: requested(blocks, slack_bytes) })
            }
            Word::Freed { .. } | Word::Nothing => (1, State::Free),
        }
    }

    fn safe_epoch(&self) -> u64 {
        self.u64(offset_of!(Header, safe_epoch))
    }

    fn words(&self) -> u32 {
        self.u32(offset_of!(Header, words))
    }

    /// Address, first word and blocks of a slab.
    fn slab(&self, number: usize) -> (u64, u32, u32) {
        let at = offset_of!(Header, slabs) + number * size_of::<Slab>();
        (
            self.u64(at + offset_of!(Slab, start)),
            self.u32(at + offset_of!(Slab, first_word)),
            self.u32(at + offset_of!(Slab, blocks)),
        )
    }

    fn u32(&self, at: usize) -> u32 {
        u32_at(&self.bytes, at)
    }

    fn u64(&self, at: usize) -> u64 {
        u64_at(&self.bytes, at)
    }
}

/// Checks what does not need the words; the size of the whole in bytes.
fn check_header(bytes: &[u8]) -> Result<usize, ReadError> {
    if bytes.len() < 16 {
        return Err(ReadError::Truncated { bytes: bytes.len() });
    }
    if bytes[..MAGIC.len()] != MAGIC {
        return Err(ReadError::NotASegment);
    }
    let found = u32_at(bytes, offset_of!(Header, version));
    if found != VERSION {
        return Err(ReadError::OtherVersion { found });
    }
    if bytes.len() < HEADER_BYTES {
        return Err(ReadError::Truncated { bytes: bytes.len() });
    }
    let corrupt = |field| Err(ReadError::Corrupt { field });
    let words = u32_at(bytes, offset_of!(Header, words));
    if words == 0 || words as usize > WORDS {
        return corrupt("words");
    }
    if u64_at(bytes, offset_of!(Header, map_bytes)) != map_bytes(words) as u64 {
        return corrupt("map_bytes");
    }
    let block_bytes = u32_at(bytes, offset_of!(Header, block_bytes));
    if !block_bytes.is_power_of_two() || !(512..=1 << 20).contains(&block_bytes) {
        return corrupt("block_bytes");
    }
    if u32_at(bytes, offset_of!(Header, pid)) == 0 {
        return corrupt("pid");
    }
    Ok(map_bytes(words))
}

/// Zero beyond the end.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_ne_bytes(*chunk))
}

/// Zero beyond the end.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_ne_bytes(*chunk))
}

impl Totals {
    /// The sums over these slabs.
    #[must_use]
    pub fn of(slabs: &[SlabCopy]) -> Self {
        let mut totals = Self::default();
        for extent in slabs.iter().flat_map(|slab| &slab.extents) {
            let blocks = u64::from(extent.blocks);
            totals.blocks += blocks;
            match extent.state {
                State::Allocated { .. } => totals.allocated_blocks += blocks,
                State::WaitingForGpu { .. } => totals.waiting_blocks += blocks,
                State::Free => {
                    totals.free_blocks += blocks;
                    totals.largest_free_blocks = totals.largest_free_blocks.max(blocks);
                }
            }
        }
        totals
    }

    /// How much of what is free is not in the longest run, from 0 to 1; none where nothing is free. A pool of several
    /// slabs is never at 0 while more than one of them has room: no block spans two.
    #[must_use]
    pub fn fragmentation(&self) -> Option<f64> {
        (self.free_blocks > 0).then(|| 1.0 - self.largest_free_blocks as f64 / self.free_blocks as f64)
    }
}
