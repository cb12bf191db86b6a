//! Which addresses are whose: device memory, page-locked host memory, managed memory; with sizes, so that a free knows
//! what it frees.
//!
//! A tree under a lock, off the launch path: the calls that change it cost the driver microseconds, and copies ask it
//! once. What the driver hands out in ways that are not hooked (imported handles, arrays) is not in it.

use crate::pinned;
use crate::segment;
use aishim_abi::statistics::Statistic;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Where bytes are, as far as copies are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a device, or in managed memory.
    Device,
    /// In page-locked host memory.
    Pinned,
    /// In any other host memory.
    Pageable,
}

/// What a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// cuMemAlloc, pitched and stream-ordered allocations.
    Device,
    /// A mapping of physical memory (cuMemMap), which is accounted for by its handle.
    Mapped,
    /// cuMemAllocManaged.
    Managed,
    /// cuMemHostAlloc from the driver (not from our pool).
    Pinned,
    /// cuMemHostRegister.
    Registered,
}

/// One allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) bytes: usize,
    pub(crate) kind: Kind,
    /// The context it dies with; 0 when not known.
    pub(crate) context: usize,
}

static RANGES: RwLock<BTreeMap<usize, Range>> = RwLock::new(BTreeMap::new());

/// Ranges of host memory among them. Most programs have none, their pinned memory being the pool's, and where a copy's
/// host side lies is then known without a look into the tree. Relaxed: who copies from a range has come by its address
/// through the call that noted it, or from a thread that did, and so sees it counted.
static LOCKED: AtomicUsize = AtomicUsize::new(0);

impl Kind {
    /// The gauge, and its peak, in which such a range counts.
    fn gauges(self) -> Option<(Statistic, Option<Statistic>)> {
        match self {
            Self::Device => Some((Statistic::DeviceBytes, Some(Statistic::DevicePeakBytes))),
            Self::Managed => Some((Statistic::ManagedBytes, None)),
            Self::Pinned => Some((Statistic::PinnedBytes, Some(Statistic::PinnedPeakBytes))),
            Self::Registered => Some((Statistic::RegisteredBytes, None)),
            Self::Mapped => None,
        }
    }

    fn place(self) -> Place {
        match self {
            Self::Device | Self::Mapped | Self::Managed => Place::Device,
            Self::Pinned | Self::Registered => Place::Pinned,
        }
    }
}

/// Notes an allocation at `start`.
pub(crate) fn insert(start: usize, bytes: usize, kind: Kind, context: usize) {
    if start == 0 {
        return;
    }
    if kind.place() == Place::Pinned {
        LOCKED.fetch_add(1, Relaxed);
    }
    let before = RANGES.write().insert(start, Range { bytes, kind, context });
    if let Some(stale) = before {
        uncount(stale);
    }
    match kind.gauges() {
        Some((gauge, Some(peak))) => segment::add_with_peak(gauge, peak, bytes as u64),
        Some((gauge, None)) => segment::add(gauge, bytes as u64),
        None => {}
    }
}

/// Forgets the allocation that begins at `start`, if it is of a kind that `frees` accepts.
pub(crate) fn remove(start: usize, frees: impl Fn(Kind) -> bool) {
    let mut ranges = RANGES.write();
    if ranges.get(&start).is_some_and(|r| frees(r.kind)) {
        let removed = ranges.remove(&start);
        drop(ranges);
        removed.into_iter().for_each(uncount);
    }
}

/// Forgets the mappings within an address range (cuMemUnmap may undo several at once).
pub(crate) fn remove_mapped(start: usize, bytes: usize) -> Vec<usize> {
    let end = start.saturating_add(bytes);
    let mut ranges = RANGES.write();
    let inside = ranges.range(start..end).filter(|(_, r)| r.kind == Kind::Mapped);
    let starts: Vec<usize> = inside.map(|(start, _)| *start).collect();
    for start in &starts {
        ranges.remove(start);
    }
    starts
}

/// Forgets everything that dies with a context.
pub(crate) fn remove_context(context: usize) {
    let mut gone = Vec::new();
    RANGES.write().retain(|_, range| {
        let dies = range.context == context && range.kind != Kind::Registered;
        if dies {
            gone.push(*range);
        }
        !dies
    });
    gone.into_iter().for_each(uncount);
}

fn uncount(range: Range) {
    if range.kind.place() == Place::Pinned {
        LOCKED.fetch_sub(1, Relaxed);
    }
    if let Some((gauge, _)) = range.kind.gauges() {
        segment::subtract(gauge, range.bytes as u64);
    }
}

/// Where the byte at `at` is, when it lies in an allocation we know.
pub(crate) fn place_of(at: usize) -> Option<Place> {
    if pinned::contains(at) {
        return Some(Place::Pinned);
    }
    let ranges = RANGES.read();
    let (start, range) = ranges.range(..=at).next_back()?;
    (at - start < range.bytes.max(1)).then(|| range.kind.place())
}

/// Whether all of these bytes lie in device memory that we know; it may be mapped piece by piece.
pub(crate) fn is_device_memory(start: usize, bytes: usize) -> bool {
    let ranges = RANGES.read();
    let mut at = start;
    let Some(end) = start.checked_add(bytes) else {
        return false;
    };
    while at < end {
        let found = ranges.range(..=at).next_back();
        let in_device = found.filter(|(_, range)| matches!(range.kind, Kind::Device | Kind::Mapped));
        match in_device.and_then(|(start, range)| start.checked_add(range.bytes)) {
            Some(range_end) if range_end > at => at = range_end,
            _ => return false,
        }
    }
    true
}

impl Place {
    /// The place of an address that is host memory for certain.
    pub(crate) fn of_host(at: usize) -> Self {
        if pinned::contains(at) {
            return Self::Pinned;
        }
        if LOCKED.load(Relaxed) == 0 {
            return Self::Pageable;
        }
        match place_of(at) {
            Some(Self::Pinned) => Self::Pinned,
            _ => Self::Pageable,
        }
    }

    /// The place of a unified address.
    pub(crate) fn of(at: usize) -> Self {
        place_of(at).unwrap_or(Self::Pageable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shortcut for programs without page-locked ranges must not outlive the first one, nor be lost with the last.
    #[test]
    fn host_memory_is_pinned_while_a_range_says_so() {
        const AT: usize = 0x7000_0000_0000;
        let places = || [AT, AT + 4095, AT + 4096].map(Place::of_host);
        let counted = || LOCKED.load(Relaxed);
        assert_eq!((places(), counted()), ([Place::Pageable; 3], 0));
        insert(AT + 4096, 4096, Kind::Device, 1);
        assert_eq!((places(), counted()), ([Place::Pageable; 3], 0));
        insert(AT, 4096, Kind::Registered, 1);
        let first_two = [Place::Pinned, Place::Pinned, Place::Pageable];
        assert_eq!((places(), counted()), (first_two, 1));
        // The driver gave the address away again without our having seen it freed.
        insert(AT, 4096, Kind::Pinned, 1);
        assert_eq!((places(), counted()), (first_two, 1));
        remove(AT, |kind| kind == Kind::Registered);
        assert_eq!(counted(), 1, "that was not a free of its kind");
        remove(AT, |kind| kind == Kind::Pinned);
        assert_eq!((places(), counted()), ([Place::Pageable; 3], 0));
        insert(AT, 4096, Kind::Pinned, 1);
        remove_context(1);
        assert_eq!((places(), counted()), ([Place::Pageable; 3], 0));
    }
}
