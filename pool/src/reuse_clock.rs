//! When a freed extent may be handed out again.
//!
//! Time is cut into epochs. A free is stamped with the open epoch. To find out whether the GPU is done with what was
//! freed, the open epoch `e` is closed, and only then the fence marks "now": every free stamped `e` or less was
//! stamped before the mark, and the work that could touch its extent was submitted before that. Once the mark has
//! passed, epoch `e` and all before it are safe. Marks cost calls to the driver, so they are made for many frees at
//! once, and no more than two are in flight.
//!
//! The proof needs one pair of barriers. The freeing thread: submit work; full barrier; read the open epoch. The
//! marking thread: close the epoch; SeqCst fence; mark. Either the mark sees the work, or the free reads the new
//! epoch, which this mark does not make safe.

use crate::{
    claim::Claim,
    fence::{Mark, WorkFence},
    patient_lock::PatientLock,
    sync::{AtomicU64, Ordering, barrier_after_rmw, fence},
};

/// The epochs, and the marks in flight.
#[derive(Debug)]
pub(crate) struct ReuseClock {
    open: AtomicU64,
    safe: AtomicU64,
    claim: Claim,
    in_flight: PatientLock<InFlight>,
    /// The newest epoch that has a mark; written by the claim's holder.
    marked_epoch: AtomicU64,
    /// How many frees there were when an epoch was last closed; written by the claim's holder.
    frees_at_close: AtomicU64,
    marks_made: AtomicU64,
    marks_passed: AtomicU64,
}

/// What a turn of the clock did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The epochs above this one, up to and with `safe_now`, became safe in this turn.
    pub(crate) safe_before: u64,
    /// The newest epoch that is safe.
    pub(crate) safe_now: u64,
    /// All frees that there were when the turn began are marked.
    pub(crate) marked: bool,
}

/// Closed epochs and their marks, the older one first.
type InFlight = [Option<(u64, Mark)>; 2];

impl ReuseClock {
    /// A clock in its first epoch, with nothing in flight.
    pub(crate) fn new() -> Self {
        Self {
            open: AtomicU64::new(1),
            safe: AtomicU64::new(0),
            claim: Claim::new(),
            in_flight: PatientLock::new([None; 2]),
            marked_epoch: AtomicU64::new(0),
            frees_at_close: AtomicU64::new(0),
            marks_made: AtomicU64::new(0),
            marks_passed: AtomicU64::new(0),
        }
    }

    /// The epoch of a free that happens now; right behind the read-modify-write by which the block was retired.
    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        // Pairs with the fence in `mark`.
        barrier_after_rmw();
        self.open.load(Ordering::Relaxed)
    }

    /// What was freed in this epoch or before may be handed out.
    #[inline]
    pub(crate) fn safe(&self) -> u64 {
        // Acquire, for the Release in `settle`: what the fence saw happens before the reuse.
        self.safe.load(Ordering::Acquire)
    }

    /// Marks made and marks passed since the beginning.
    pub(crate) fn marks(&self) -> (u64, u64) {
        (self.marks_made.load(Ordering::Relaxed), self.marks_passed.load(Ordering::Relaxed))
    }

    /// True while another thread turns the clock.
    pub(crate) fn is_turning(&self) -> bool {
        self.claim.is_taken()
    }

    /// Asks about the marks in flight, and makes new ones, as far as there is room, when there were frees since the
    /// last. `frees` counts them, each after it was stamped. What came of it is told to `note` before another turn
    /// can begin. False when another thread is at it. No lock and no destructor is held across a call to `gpu`.
    pub(crate) fn turn(&self, gpu: &dyn WorkFence, now_ms: u64, frees: impl Fn() -> u64, note: impl Fn(Turn)) -> bool {
        let Some(ticket) = self.claim.take(now_ms) else {
            return false;
        };
        let safe_before = self.safe.load(Ordering::Relaxed);
        let marked = self.mark_all(gpu, frees);
        note(Turn { safe_before, safe_now: self.safe(), marked });
        self.claim.give_back(ticket);
        true
    }

    /// True when no free before the call is without a mark.
    fn mark_all(&self, gpu: &dyn WorkFence, frees: impl Fn() -> u64) -> bool {
        self.settle(gpu);
        let closed = self.open.load(Ordering::Relaxed) - 1;
        if closed > self.marked_epoch.load(Ordering::Relaxed) {
            // It was closed when no mark could be made. It gets its mark first: epochs would pile up else.
            if !self.has_room() || !self.mark(gpu, closed) {
                return false;
            }
        }
        let frees = frees();
        if frees == self.frees_at_close.load(Ordering::Relaxed) {
            return true;
        }
        if !self.has_room() {
            return false;
        }
        self.frees_at_close.store(frees, Ordering::Relaxed);
        let closed = self.open.fetch_add(1, Ordering::Relaxed);
        self.mark(gpu, closed)
    }

    /// Marks now, for `epoch` and all before it, which are closed.
    fn mark(&self, gpu: &dyn WorkFence, epoch: u64) -> bool {
        // Pairs with the fence in `stamp`.
        fence(Ordering::SeqCst);
        let Some(mark) = gpu.mark() else { return false };
        self.marks_made.fetch_add(1, Ordering::Relaxed);
        let kept = self.append(epoch, mark);
        if kept {
            self.marked_epoch.fetch_max(epoch, Ordering::Relaxed);
            self.settle(gpu);
        }
        kept
    }

    /// Takes note of marks that have passed.
    fn settle(&self, gpu: &dyn WorkFence) {
        while let Some((epoch, mark)) = self.oldest() {
            if !gpu.passed(mark) {
                break;
            }
            if self.remove(epoch, mark) {
                self.marks_passed.fetch_add(1, Ordering::Relaxed);
            }
            // Release, for the Acquire in `safe`.
            self.safe.fetch_max(epoch, Ordering::Release);
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight.lock().is_some_and(|in_flight| in_flight.iter().any(Option::is_none))
    }

    fn oldest(&self) -> Option<(u64, Mark)> {
        self.in_flight.lock()?.first().copied().flatten()
    }

    fn remove(&self, epoch: u64, mark: Mark) -> bool {
        let Some(mut in_flight) = self.in_flight.lock() else {
            return false;
        };
        let [first, second] = *in_flight;
        let ours = first == Some((epoch, mark));
        if ours {
            *in_flight = [second, None];
        }
        ours
    }

    /// False when there is no room after all: the claim was taken over, and the mark is abandoned.
    fn append(&self, epoch: u64, mark: Mark) -> bool {
        let Some(mut in_flight) = self.in_flight.lock() else {
            return false;
        };
        let Some(slot) = in_flight.iter_mut().find(|slot| slot.is_none()) else {
            return false;
        };
        *slot = Some((epoch, mark));
        true
    }
}
