//! What lies where in a process's pool of pinned memory, from its map.

use crate::skipped::Skipped;
use aishim_abi::pool_reader::{PoolMapCopy, SlabCopy, Totals};
use aishim_abi::segment_file;
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A process's pool as its map shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMap {
    /// Size of a block in bytes.
    pub block_bytes: u64,
    /// The slabs that are there, with what lies in them.
    pub slabs: Vec<SlabCopy>,
    /// What there is of each.
    pub totals: Totals,
    /// How long the map had been there when it was read, or when its process ended.
    shown_for: Duration,
}

impl PoolMap {
    /// The map beside the segment file at `segment`, if it is of the same life of the process, which has `ended` or not.
    pub(crate) fn beside(segment: &Path, generation: u64, ended: Option<SystemTime>) -> Result<Option<Self>, Skipped> {
        let path = segment.with_extension("pool");
        let file = match segment_file::open(&path) {
            Ok(file) => file,
            // A process that has asked for no pinned memory has none.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Skipped::unopened(&path, &e)),
        };
        let copy = PoolMapCopy::read(&file).map_err(|e| Skipped::unread(&path, &e))?;
        Ok((copy.generation() == generation).then(|| Self::of(&copy, ended)))
    }

    fn of(copy: &PoolMapCopy, ended: Option<SystemTime>) -> Self {
        let slabs = copy.slabs();
        let shown_for = match ended {
            Some(moment) => moment.duration_since(copy.created()).unwrap_or_default(),
            None => monotonic().saturating_sub(copy.created_monotonic()),
        };
        Self { block_bytes: u64::from(copy.block_bytes()), totals: Totals::of(&slabs), slabs, shown_for }
    }

    /// How old a block is that was allocated so long after the map was made; to 0.13 s.
    #[must_use]
    pub fn age(&self, since_created: Duration) -> Duration {
        self.shown_for.saturating_sub(since_created)
    }
}

fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}
