//! The bytes of a pool's map, version 1: what lies where in a process's pool of pinned memory, for others to see.
//!
//! Candidates weighed for how the map comes about:
//! * *a dump on demand:* costs nothing until somebody asks, but asking takes a signal or a thread that listens in every
//!   program, and a program that hangs, which is when people look, does not answer;
//! * *a dump now and then by the background thread:* nothing on the road of a request either, but a walk over all words
//!   for each dump, a thread that never ends in every program, and a picture that is always a little old and lost with a
//!   process that is killed;
//! * *the pool's own words in the shared mapping:* no store more than the pool makes anyway, but then the truth about what
//!   may be freed lies in a file, where a stray write from outside turns into memory handed out twice;
//! * **chosen: a word for each block beside the pool's own,** written by each allocation and each free with one relaxed
//!   store. The picture is always there and always new, it survives a kill, and nothing the pool believes is read from it.
//!   Both stores and the coarse clock cost an allocation and its free some 7 ns together up to 64 KiB; at 1 MiB, where
//!   the words that are written lie 2 KiB apart and share few cache sets, 15 to 25 ns (`make bench`, "shown").
//!
//! A block is one word at its first index; the words behind it are whatever earlier blocks left there, and mean nothing.
//! A freed block's word says in which epoch it was freed; it is free once the header's `safe_epoch` has come that far. Free
//! extents are not written down as they are split and merged: what no other block covers is free.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// First eight bytes of every map.
pub const MAGIC: [u8; 8] = *b"AISHIMPM";

/// Version of the layout; changes with every change that an older reader would misread.
pub const VERSION: u32 = 1;

/// Most slabs a map can name.
pub const SLABS: usize = 16;

/// Most words a map can have: 4 GiB in blocks of 4 KiB.
pub const WORDS: usize = 1 << 20;

/// Ages are told in steps of 2 to this power nanoseconds, 0.13 s.
pub const AGE_SHIFT: u32 = 27;

/// At most so many epochs are unsafe at a time; a freed block of an epoch further ahead is one whose count has wrapped.
pub const UNSAFE_EPOCHS: u32 = 8;

const STATE_BITS: u32 = 2;
const BLOCKS_BITS: u32 = 18;
const SLACK_BITS: u32 = 16;
const MOMENT_BITS: u32 = 28;
const BLOCKS_SHIFT: u32 = STATE_BITS;
const SLACK_SHIFT: u32 = BLOCKS_SHIFT + BLOCKS_BITS;
const MOMENT_SHIFT: u32 = SLACK_SHIFT + SLACK_BITS;

/// The last age that can be told; an older block is at least that old.
pub const MOMENT_MAX: u32 = (1 << MOMENT_BITS) - 1;

const ALLOCATED: u64 = 1;
const FREED: u64 = 2;

/// Where a slab lies.
#[repr(C)]
pub struct Slab {
    /// Address of its first byte in the process; 0 while it is not there.
    pub start: AtomicU64,
    /// Index of its first block's word; the others follow.
    pub first_word: AtomicU32,
    /// Its size in blocks.
    pub blocks: AtomicU32,
}

/// The first page of a map; the words follow.
#[repr(C, align(4096))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: AtomicU32,
    /// Size of a block in bytes.
    pub block_bytes: AtomicU32,
    /// Size of the whole map in bytes.
    pub map_bytes: AtomicU64,
    /// That of the process's segment: both are of one life.
    pub generation: AtomicU64,
    /// Process id in the process's own PID namespace: the owner of all that is allocated here.
    pub pid: AtomicU32,
    /// How many words follow the header.
    pub words: AtomicU32,
    /// Start time of the process, field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot.
    pub start_ticks: AtomicU64,
    /// When the map was made, nanoseconds since the epoch.
    pub created_unix_ns: AtomicU64,
    /// The same moment by `CLOCK_MONOTONIC`; ages are counted from it.
    pub created_monotonic_ns: AtomicU64,
    /// What was freed in this epoch or before is free; the others wait for the GPU.
    pub safe_epoch: AtomicU64,
    _reserved: [u64; 7],
    /// The slabs, by number.
    pub slabs: [Slab; SLABS],
}

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = size_of::<Header>();

const _: () = {
    assert!(HEADER_BYTES == 4096);
    assert!(size_of::<Slab>() == 16);
    assert!(std::mem::offset_of!(Header, slabs) == 128);
    assert!(MOMENT_SHIFT + MOMENT_BITS == u64::BITS);
};

/// The size of a map of so many words, in bytes: whole pages.
#[must_use]
pub const fn map_bytes(words: u32) -> usize {
    (HEADER_BYTES + words as usize * 8).next_multiple_of(4096)
}

/// What a word says about the block at its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nothing: no block begins here, or what it says is nothing that a writer of this version says.
    Nothing,
    /// A block is the program's.
    Allocated {
        /// Its size in blocks.
        blocks: u32,
        /// How much of that was not asked for, in bytes.
        slack_bytes: u32,
        /// When, in steps of 2^[`AGE_SHIFT`] ns since the map was made.
        moment: u32,
    },
    /// A block was freed.
    Freed {
        /// Its size in blocks.
        blocks: u32,
        /// How much of that was not asked for, in bytes.
        slack_bytes: u32,
        /// In which epoch, in so many bits as a moment has.
        epoch: u32,
    },
}

impl Word {
    /// As it stands in the map; what does not fit is cut to the largest number that does.
    #[inline]
    #[must_use]
    pub fn to_bits(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Allocated { blocks, slack_bytes, moment } => {
                pack(ALLOCATED, blocks, slack_bytes, moment.min(MOMENT_MAX))
            }
            // The lower bits: epochs are compared around the wrap.
            Self::Freed { blocks, slack_bytes, epoch } => pack(FREED, blocks, slack_bytes, epoch & MOMENT_MAX),
        }
    }

    /// What stands in the map; any bits mean something.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        let field = |shift: u32, width: u32| (bits >> shift) as u32 & ((1 << width) - 1);
        let (blocks, slack_bytes) = (field(BLOCKS_SHIFT, BLOCKS_BITS), field(SLACK_SHIFT, SLACK_BITS));
        let moment = field(MOMENT_SHIFT, MOMENT_BITS);
        match bits & ((1 << STATE_BITS) - 1) {
            ALLOCATED if blocks > 0 => Self::Allocated { blocks, slack_bytes, moment },
            FREED if blocks > 0 => Self::Freed { blocks, slack_bytes, epoch: moment },
            _ => Self::Nothing,
        }
    }
}

#[inline]
fn pack(state: u64, blocks: u32, slack_bytes: u32, moment: u32) -> u64 {
    let blocks = blocks.min((1 << BLOCKS_BITS) - 1);
    let slack_bytes = slack_bytes.min((1 << SLACK_BITS) - 1);
    state
        | u64::from(blocks) << BLOCKS_SHIFT
        | u64::from(slack_bytes) << SLACK_SHIFT
        | u64::from(moment) << MOMENT_SHIFT
}

/// Whether what was freed in `epoch` waits for the GPU while `safe_epoch` is safe.
#[must_use]
pub fn is_waiting(epoch: u32, safe_epoch: u64) -> bool {
    let ahead = epoch.wrapping_sub(safe_epoch as u32) & MOMENT_MAX;
    (1..UNSAFE_EPOCHS).contains(&ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_written() {
        for word in [
            Word::Nothing,
            Word::Allocated { blocks: 1, slack_bytes: 4095, moment: 0 },
            Word::Allocated { blocks: 131_072, slack_bytes: 65_535, moment: MOMENT_MAX },
            Word::Freed { blocks: 256, slack_bytes: 0, epoch: 12_345 },
        ] {
            assert_eq!(Word::from_bits(word.to_bits()), word);
        }
        let old = Word::Allocated { blocks: 1, slack_bytes: 0, moment: u32::MAX };
        assert_eq!(Word::from_bits(old.to_bits()), Word::Allocated { blocks: 1, slack_bytes: 0, moment: MOMENT_MAX });
        assert_eq!(Word::from_bits(3), Word::Nothing);
        assert_eq!(Word::from_bits(ALLOCATED), Word::Nothing, "a block of no size");
    }

    #[test]
    fn epochs_are_compared_around_the_wrap() {
        assert!(!is_waiting(5, 5) && !is_waiting(4, 5));
        assert!(is_waiting(6, 5) && is_waiting(8, 5));
        assert!(is_waiting(1, u64::from(MOMENT_MAX)));
        assert!(is_waiting(MOMENT_MAX & 3, (1 << 40) + 2));
        assert!(!is_waiting(1000, 5), "left from before the wrap");
    }
}
