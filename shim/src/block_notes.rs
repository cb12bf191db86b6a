//! What is known of single blocks beyond the pool's own records: the identity (BUFFER_ID) a program has asked for, SYNC_MEMOPS.
//!
//! A block's identity has to be another one with each allocation, also at the same address, and none that the driver
//! gives to memory of its own. Candidates: a count in each block's word in the pool (its tag has 30 bits left, which
//! come round within a minute of fast allocation); a count beside it for every block (8 bytes more to write in each
//! allocation, for a question that few programs ask); **chosen:** a number drawn when it is first asked for, kept here
//! until the block is freed. An allocation pays nothing, a free one load while no program has asked.
//!
//! The driver counts its identities from small numbers up; ours have the highest bit set, so the two never meet.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Set in every identity of ours.
const OURS: u64 = 1 << 63;

#[derive(Clone, Copy, Default)]
struct Note {
    /// 0 while nobody has asked.
    identity: u64,
    syncs: bool,
}

/// Notes by the address of a block's first byte.
static NOTES: Mutex<BTreeMap<usize, Note>> = Mutex::new(BTreeMap::new());

/// How many notes there are, for [`block_freed`].
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn with_note<R>(start: usize, act: impl FnOnce(&mut Note) -> R) -> R {
    let mut notes = NOTES.lock();
    let answer = act(notes.entry(start).or_default());
    COUNT.store(notes.len(), Relaxed);
    answer
}

/// The identity of the block that begins at `start`: the same until it is freed, and never another block's.
pub(crate) fn identity(start: usize) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(OURS);
    with_note(start, |note| {
        if note.identity == 0 {
            note.identity = LAST.fetch_add(1, Relaxed) + 1;
        }
        note.identity
    })
}

/// Whether SYNC_MEMOPS is set for the block that begins at `start`.
pub(crate) fn syncs(start: usize) -> bool {
    NOTES.lock().get(&start).is_some_and(|note| note.syncs)
}

/// Sets or unsets SYNC_MEMOPS for it; returns what it was.
pub(crate) fn set_syncs(start: usize, syncs: bool) -> bool {
    with_note(start, |note| std::mem::replace(&mut note.syncs, syncs))
}

/// Whether it is set for any block.
pub(crate) fn some_sync() -> bool {
    NOTES.lock().values().any(|note| note.syncs)
}

/// The block that begins at `start` is about to be freed. Where none does, nothing happens.
pub(crate) fn block_freed(start: usize) {
    // A program that frees a block has seen to it that what it asked about the block before, on whatever thread, came
    // first; so the note's count is seen here.
    if COUNT.load(Relaxed) != 0 {
        let mut notes = NOTES.lock();
        notes.remove(&start);
        COUNT.store(notes.len(), Relaxed);
    }
}

/// The pool's memory has gone, and with it all blocks.
pub(crate) fn pool_gone() {
    let mut notes = NOTES.lock();
    notes.clear();
    COUNT.store(0, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_lasts_as_long_as_its_block() {
        let (first, other) = (identity(0x1000), identity(0x2000));
        assert!(first != other && first & other & OURS != 0);
        assert!(!set_syncs(0x1000, true) && set_syncs(0x1000, true));
        assert_eq!((identity(0x1000), syncs(0x1000), syncs(0x2000), some_sync()), (first, true, false, true));
        block_freed(0x1000);
        assert_ne!(identity(0x1000), first);
        assert!(!syncs(0x1000) && !some_sync());
        pool_gone();
        assert_ne!(identity(0x2000), other);
        assert_eq!(COUNT.load(Relaxed), 1);
    }
}
