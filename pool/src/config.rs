//! How much memory the pool may hold, and in which pieces.

use std::{error::Error, fmt};

use crate::cells::LINE;

/// The unit of allocation, in bytes, and the alignment of every block.
pub const BLOCK_BYTES: usize = 4096;

/// What a pool takes when nothing else is asked for, in bytes.
pub const DEFAULT_CAPACITY_BYTES: usize = 256 * MIB;

/// The largest capacity a pool can have, in bytes.
pub const MAX_CAPACITY_BYTES: usize = 4096 * MIB - (MAX_SLABS + 1) * LINE as usize * BLOCK_BYTES;

/// The largest slab, in bytes: a block's word has 30 bits for the size that was asked for.
pub const MAX_SLAB_BYTES: usize = 512 * MIB;

/// The most slabs a pool can have.
pub const MAX_SLABS: usize = 16;

const MIB: usize = 1024 * 1024;

/// The first slab, and where the second ends; from there on they double.
const FIRST_BYTES: usize = 4 * MIB;
const SECOND_END_BYTES: usize = 16 * MIB;

/// Up to where they double: the least of these that is enough.
const LARGEST_BYTES: [usize; 4] = [64 * MIB, 128 * MIB, 256 * MIB, MAX_SLAB_BYTES];

/// The slabs a pool grows by, in order. A block never spans two of them.
///
/// Three sizes say how it lives. What it *keeps* it wants from its first slab on and never gives back: the first two,
/// or with [`eager`](Self::eager) all of its ordinary size, which it then wants before anybody asks. Up to its *ordinary
/// size* it grows ahead of need, whenever less than half of what it has is free, or a request finds nothing that is safe
/// at once. Beyond that, up to its *limit*, it grows only for a request that missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    slab_bytes: Vec<usize>,
    kept_slabs: usize,
    ordinary_slabs: usize,
    is_eager: bool,
}

/// How many slabs are kept where nothing else is asked for.
const KEPT_SLABS: usize = 2;

impl PoolConfig {
    /// A pool of exactly these slabs, each a size in bytes, of which it keeps the first.
    ///
    /// # Errors
    /// When there is none or more than [`MAX_SLABS`], one is no multiple of [`BLOCK_BYTES`], is zero or above
    /// [`MAX_SLAB_BYTES`], or all together exceed [`MAX_CAPACITY_BYTES`].
    pub fn with_slabs(slab_bytes: &[usize]) -> Result<Self, ConfigError> {
        if slab_bytes.is_empty() || slab_bytes.len() > MAX_SLABS {
            return Err(ConfigError::SlabCount(slab_bytes.len()));
        }
        for &bytes in slab_bytes {
            if bytes == 0 || bytes > MAX_SLAB_BYTES || !bytes.is_multiple_of(BLOCK_BYTES) {
                return Err(ConfigError::SlabSize(bytes));
            }
        }
        let total = slab_bytes.iter().sum();
        if total > MAX_CAPACITY_BYTES {
            return Err(ConfigError::Capacity(total));
        }
        Ok(Self { slab_bytes: slab_bytes.to_vec(), kept_slabs: 1, ordinary_slabs: slab_bytes.len(), is_eager: false })
    }

    /// A pool of `bytes`, rounded up to whole blocks, in slabs of 4, 12, 16, 32, 64, 64, 64 MiB and so on. Somebody waits
    /// for the first, so it is small; the next double what is there. What a slab's coming costs others grows with it, so
    /// none is larger than 64 MiB, or where that would make more than [`MAX_SLABS`], than the least of 128, 256 and 512
    /// MiB that does not.
    ///
    /// # Errors
    /// When `bytes` is zero or exceeds [`MAX_CAPACITY_BYTES`].
    pub fn with_capacity(bytes: usize) -> Result<Self, ConfigError> {
        Self::with_limit(bytes, bytes)
    }

    /// As [`with_capacity`](Self::with_capacity), with further slabs for requests that would miss, up to
    /// `limit_bytes` in all; a limit below `bytes` adds nothing.
    ///
    /// # Errors
    /// When `bytes` is zero, or either exceeds [`MAX_CAPACITY_BYTES`].
    pub fn with_limit(bytes: usize, limit_bytes: usize) -> Result<Self, ConfigError> {
        let limit_bytes = limit_bytes.max(bytes);
        for total in [bytes, limit_bytes] {
            if total == 0 || total > MAX_CAPACITY_BYTES {
                return Err(ConfigError::Capacity(total));
            }
        }
        let grown = |largest: usize, largest_beyond: usize| {
            let mut slab_bytes = Vec::new();
            grow(&mut slab_bytes, bytes, largest);
            let ordinary_slabs = slab_bytes.len();
            grow(&mut slab_bytes, limit_bytes, largest_beyond);
            (slab_bytes, ordinary_slabs)
        };
        // What everybody has is kept small first.
        let ceilings = LARGEST_BYTES.iter().flat_map(|&of| LARGEST_BYTES.iter().map(move |&beyond| (of, beyond)));
        let mut shapes = ceilings.filter(|(of, beyond)| of <= beyond).map(|(of, beyond)| grown(of, beyond));
        let (slab_bytes, ordinary_slabs) = shapes
            .find(|(slab_bytes, _)| slab_bytes.len() <= MAX_SLABS)
            .unwrap_or_else(|| grown(MAX_SLAB_BYTES, MAX_SLAB_BYTES));
        let kept_slabs = ordinary_slabs.min(KEPT_SLABS);
        Ok(Self { kept_slabs, ordinary_slabs, ..Self::with_slabs(&slab_bytes)? })
    }

    /// The same, its ordinary size wanted from the beginning and kept for good.
    #[must_use]
    pub fn eager(self) -> Self {
        Self { kept_slabs: self.ordinary_slabs, is_eager: true, ..self }
    }

    /// The slabs' sizes in bytes, in the order in which they are reserved.
    #[must_use]
    pub fn slab_bytes(&self) -> &[usize] {
        &self.slab_bytes
    }

    /// More than the largest block index: every slab has as many indices as blocks, and one to eight unused ones before
    /// it, so that no two are neighbours and each begins at a multiple of eight.
    #[must_use]
    pub fn index_count(&self) -> u32 {
        self.slab_blocks().fold(LINE, next_slab)
    }

    /// The first index of each slab, and its size in blocks.
    pub(crate) fn slab_indices(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.slab_blocks().scan(LINE, |next, blocks| {
            let first = *next;
            *next = next_slab(first, blocks);
            Some((first, blocks))
        })
    }

    fn slab_blocks(&self) -> impl Iterator<Item = u32> + '_ {
        self.slab_bytes.iter().map(|bytes| (bytes / BLOCK_BYTES) as u32)
    }

    pub(crate) fn kept_slabs(&self) -> u32 {
        self.kept_slabs as u32
    }

    pub(crate) fn ordinary_slabs(&self) -> u32 {
        self.ordinary_slabs as u32
    }

    pub(crate) fn is_eager(&self) -> bool {
        self.is_eager
    }
}

/// Where the slab after one of `blocks` at index `first` begins.
fn next_slab(first: u32, blocks: u32) -> u32 {
    (first + blocks + 1).next_multiple_of(LINE)
}

impl Default for PoolConfig {
    /// [`DEFAULT_CAPACITY_BYTES`] in slabs of 4, 12, 16, 32, 64, 64 and 64 MiB.
    fn default() -> Self {
        let slab_bytes = [4, 12, 16, 32, 64, 64, 64].map(|mib| mib * MIB).to_vec();
        Self { kept_slabs: KEPT_SLABS, ordinary_slabs: slab_bytes.len(), is_eager: false, slab_bytes }
    }
}

/// Adds slabs, none above `largest`, until there are `total` bytes.
fn grow(slab_bytes: &mut Vec<usize>, total: usize, largest: usize) {
    let total = total.next_multiple_of(BLOCK_BYTES);
    let mut so_far: usize = slab_bytes.iter().sum();
    while so_far < total {
        let wanted = match so_far {
            0 => FIRST_BYTES,
            _ if so_far < SECOND_END_BYTES => SECOND_END_BYTES - FIRST_BYTES,
            _ => so_far.min(largest),
        };
        let next = wanted.min(total - so_far);
        slab_bytes.push(next);
        so_far += next;
    }
}

/// Why a pool cannot have the shape that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigError {
    /// This many slabs: none, or more than [`MAX_SLABS`].
    SlabCount(usize),
    /// A slab of this many bytes: zero, no multiple of [`BLOCK_BYTES`], or above [`MAX_SLAB_BYTES`].
    SlabSize(usize),
    /// This many bytes in all: zero, or above [`MAX_CAPACITY_BYTES`].
    Capacity(usize),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlabCount(count) => write!(f, "a pool has 1 to {MAX_SLABS} slabs, not {count}"),
            Self::SlabSize(bytes) => {
                write!(f, "a slab is a multiple of {BLOCK_BYTES} bytes up to {MAX_SLAB_BYTES}, not {bytes}")
            }
            Self::Capacity(bytes) => {
                write!(f, "a pool has 1 to {MAX_CAPACITY_BYTES} bytes, not {bytes}")
            }
        }
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_its_capacity_gives() {
        let config = PoolConfig::with_capacity(DEFAULT_CAPACITY_BYTES).unwrap();
        assert_eq!(config, PoolConfig::default());
    }

    #[test]
    fn any_capacity_is_reached_exactly_in_whole_blocks() {
        for bytes in [1, 4096, 4097, 16 * MIB, 16 * MIB + 1, 100 * MIB, 1024 * MIB, MAX_CAPACITY_BYTES] {
            let config = PoolConfig::with_capacity(bytes).unwrap();
            let total: usize = config.slab_bytes().iter().sum();
            assert_eq!(total, bytes.next_multiple_of(BLOCK_BYTES));
            assert!(config.index_count() <= 1 << 20, "an index has 20 bits");
        }
    }

    #[test]
    fn a_limit_adds_slabs_that_are_not_ordinary() {
        let config = PoolConfig::with_limit(100 * MIB, 300 * MIB).unwrap();
        assert_eq!(mib(&config), [4, 12, 16, 32, 36, 64, 64, 64, 8]);
        assert_eq!((config.kept_slabs(), config.ordinary_slabs()), (2, 5));
        assert_eq!(config.eager().kept_slabs(), 5);
        assert_eq!(PoolConfig::with_limit(16 * MIB, MIB), PoolConfig::with_capacity(16 * MIB));
        assert_eq!(PoolConfig::with_limit(4 * MIB, 300 * MIB).map(|config| config.kept_slabs()), Ok(1));
    }

    fn mib(config: &PoolConfig) -> Vec<usize> {
        config.slab_bytes().iter().map(|bytes| bytes / MIB).collect()
    }

    #[test]
    fn slabs_are_larger_than_64_mib_only_where_there_would_be_too_many() {
        let of = |bytes: usize, limit: usize| mib(&PoolConfig::with_limit(bytes * MIB, limit * MIB).unwrap());
        let ordinary = [4, 12, 16, 32, 64, 64, 64];
        assert_eq!(of(256, 832), [&ordinary[..], &[64; 9]].concat());
        assert_eq!(of(256, 833), [&ordinary[..], &[128, 128, 128, 128, 65]].concat());
        assert_eq!(of(256, 4095), [&ordinary[..], &[256, 512, 512, 512, 512, 512, 512, 511]].concat());
        assert_eq!(of(832, 832), [&ordinary[..], &[64; 9]].concat());
        assert_eq!(of(1024, 1024), [&[4, 12, 16, 32, 64][..], &[128; 7]].concat());
    }

    #[test]
    fn any_sizes_can_be_had_together() {
        for bytes in 1..4096 {
            for limit in (bytes..4096).step_by(63).chain([4095]) {
                let config = PoolConfig::with_limit(bytes * MIB, limit * MIB);
                let total = config.map(|config| config.slab_bytes().iter().sum::<usize>());
                assert_eq!(total, Ok(limit * MIB), "{bytes} {limit}");
            }
        }
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        assert_eq!(PoolConfig::with_slabs(&[]), Err(ConfigError::SlabCount(0)));
        assert_eq!(PoolConfig::with_slabs(&[4096; 17]), Err(ConfigError::SlabCount(17)));
        assert_eq!(PoolConfig::with_slabs(&[4095]), Err(ConfigError::SlabSize(4095)));
        assert_eq!(PoolConfig::with_slabs(&[0]), Err(ConfigError::SlabSize(0)));
        assert_eq!(PoolConfig::with_capacity(0), Err(ConfigError::Capacity(0)));
        assert_eq!(
            PoolConfig::with_capacity(MAX_CAPACITY_BYTES + 1),
            Err(ConfigError::Capacity(MAX_CAPACITY_BYTES + 1))
        );
    }
}
