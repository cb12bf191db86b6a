//! Who may call out: a claim that needs no destructor and outlives nobody for long.
//!
//! A call to the source or the fence goes to the driver, where its thread may be cancelled; a lock would then be held
//! for ever. A claim names the moment it was taken, and one that is older than [`STALE_MS`] is taken over. Its first
//! holder, should it only have been slow, notices when it gives the claim back; what it does until then is safe
//! beside another holder.

use crate::sync::{AtomicU64, Ordering};

/// How long a claim is respected, in milliseconds: longer than any call to the driver that comes back should take.
pub(crate) const STALE_MS: u64 = 10_000;

const SEQUENCE_BITS: u32 = 20;

/// At most one holder at a time, but for stale ones.
#[derive(Debug)]
pub(crate) struct Claim {
    /// 0 when free, else the holder's ticket: the time it was taken plus 1, and a sequence number.
    holder: AtomicU64,
    sequence: AtomicU64,
}

/// What a holder gives back. It has no destructor: a thread that is cancelled runs none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Claim {
    /// A claim that is free.
    pub(crate) fn new() -> Self {
        Self { holder: AtomicU64::new(0), sequence: AtomicU64::new(0) }
    }

    /// Takes the claim when it is free or stale at `now_ms`.
    pub(crate) fn take(&self, now_ms: u64) -> Option<Ticket> {
        let seen = self.holder.load(Ordering::Relaxed);
        if seen != 0 && now_ms.saturating_add(1) < (seen >> SEQUENCE_BITS).saturating_add(STALE_MS) {
            return None;
        }
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) & ((1 << SEQUENCE_BITS) - 1);
        let ticket = (now_ms + 1) << SEQUENCE_BITS | sequence;
        // Acquire, for the Release in `give_back`: what the last holder left is seen by the next.
        self.holder.compare_exchange(seen, ticket, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Ticket(ticket))
    }

    /// Gives the claim back, unless it has been taken over.
    pub(crate) fn give_back(&self, ticket: Ticket) {
        let _ = self.holder.compare_exchange(ticket.0, 0, Ordering::Release, Ordering::Relaxed);
    }

    /// Whose it is at the moment.
    pub(crate) fn holder(&self) -> Option<Ticket> {
        let holder = self.holder.load(Ordering::Acquire);
        (holder != 0).then_some(Ticket(holder))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let claim = Claim::new();
        let ticket = claim.take(5).unwrap();
        assert_eq!(claim.holder(), Some(ticket));
        assert_eq!(claim.take(5), None);
        claim.give_back(ticket);
        assert_eq!(claim.holder(), None);
        assert!(claim.take(5).is_some_and(|next| next != ticket));
    }

    #[test]
    fn a_dead_holder_is_replaced_and_cannot_give_back_what_is_not_its_own() {
        let claim = Claim::new();
        let dead = claim.take(0).unwrap();
        assert_eq!(claim.take(STALE_MS - 1), None);
        let heir = claim.take(STALE_MS).unwrap();
        claim.give_back(dead);
        assert_eq!(claim.holder(), Some(heir));
        claim.give_back(heir);
        assert_eq!(claim.holder(), None);
    }
}
