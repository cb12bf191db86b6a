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
    apart::Apart,
    claim::{Claim, Ticket},
    fence::{Mark, WorkFence},
    patient_lock::PatientLock,
    sync::{AtomicU64, Ordering, barrier_after_rmw, fence},
};

/// The epochs, and the marks in flight.
#[derive(Debug)]
pub(crate) struct ReuseClock {
    epochs: Apart<Epochs>,
    claim: Apart<Claim>,
    marks: Apart<Marks>,
}

/// What every allocation and every free reads: written once or twice a turn.
#[derive(Debug)]
struct Epochs {
    open: AtomicU64,
    safe: AtomicU64,
}

/// What the claim's holder works on.
#[derive(Debug)]
struct Marks {
    in_flight: PatientLock<InFlight>,
    /// The newest epoch that has a mark.
    marked_epoch: AtomicU64,
    made: AtomicU64,
    passed: AtomicU64,
}

/// Closed epochs and their marks, the older one first.
type InFlight = [Option<(u64, Mark)>; 2];

impl ReuseClock {
    /// A clock in its first epoch, with nothing in flight.
    pub(crate) fn new() -> Self {
        Self {
            epochs: Apart(Epochs { open: AtomicU64::new(1), safe: AtomicU64::new(0) }),
            claim: Apart(Claim::new()),
            marks: Apart(Marks {
                in_flight: PatientLock::new([None; 2]),
                marked_epoch: AtomicU64::new(0),
                made: AtomicU64::new(0),
                passed: AtomicU64::new(0),
            }),
        }
    }

    /// The epoch of a free that happens now; right behind the read-modify-write by which the block was retired.
    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        // Pairs with the fence in `mark`.
        barrier_after_rmw();
        self.epochs.open.load(Ordering::Relaxed)
    }

    /// The epoch that is open, or was a moment ago: no stamp.
    pub(crate) fn open(&self) -> u64 {
        self.epochs.open.load(Ordering::Relaxed)
    }

    /// What was freed in this epoch or before may be handed out.
    #[inline]
    pub(crate) fn safe(&self) -> u64 {
        // Acquire, for the Release in `settle`: what the fence saw happens before the reuse.
        self.epochs.safe.load(Ordering::Acquire)
    }

    /// Marks made and marks passed since the beginning.
    pub(crate) fn marks(&self) -> (u64, u64) {
        (self.marks.made.load(Ordering::Relaxed), self.marks.passed.load(Ordering::Relaxed))
    }

    /// The turn that another thread is at: each has its own ticket.
    pub(crate) fn turning(&self) -> Option<Ticket> {
        self.claim.holder()
    }

    /// Asks about the marks in flight, and makes new ones, as far as there is room, when `is_worth_it` says so of the
    /// open epoch: there were frees in it, each counted after it was stamped. That all frees there were are marked is told to
    /// `note_marked` before another turn can begin. False when another thread is at it. No lock and no destructor is held across a call to
    /// `gpu`.
    pub(crate) fn turn(
        &self,
        gpu: &dyn WorkFence,
        now_ms: u64,
        is_worth_it: impl Fn(u64) -> bool,
        note_marked: impl Fn(),
    ) -> bool {
        let Some(ticket) = self.claim.take(now_ms) else {
            return false;
        };
        if self.mark_all(gpu, is_worth_it) {
            note_marked();
        }
        self.claim.give_back(ticket);
        true
    }

    /// True when no free before the call is without a mark.
    fn mark_all(&self, gpu: &dyn WorkFence, is_worth_it: impl Fn(u64) -> bool) -> bool {
        let mut has_room = self.settle(gpu);
        let open = self.epochs.open.load(Ordering::Relaxed);
        if open - 1 > self.marks.marked_epoch.load(Ordering::Relaxed) {
            // It was closed when no mark could be made. It gets its mark first: epochs would pile up else.
            if !has_room || !self.mark(gpu, open - 1) {
                return false;
            }
            has_room = self.settle(gpu);
        }
        if !is_worth_it(open) {
            return true;
        }
        if !has_room {
            return false;
        }
        let closed = self.epochs.open.fetch_add(1, Ordering::Relaxed);
        let is_marked = self.mark(gpu, closed);
        if is_marked {
            self.settle(gpu);
        }
        is_marked
    }

    /// Marks now, for `epoch` and all before it, which are closed.
    fn mark(&self, gpu: &dyn WorkFence, epoch: u64) -> bool {
        // Pairs with the fence in `stamp`.
        fence(Ordering::SeqCst);
        let Some(mark) = gpu.mark() else { return false };
        self.marks.made.fetch_add(1, Ordering::Relaxed);
        let kept = self.append(epoch, mark);
        if kept {
            self.marks.marked_epoch.fetch_max(epoch, Ordering::Relaxed);
        }
        kept
    }

    /// Takes note of marks that have passed. True when there is room for another.
    fn settle(&self, gpu: &dyn WorkFence) -> bool {
        let Some(mut in_flight) = self.in_flight() else {
            return false;
        };
        while let [Some((epoch, mark)), second] = in_flight {
            if !gpu.passed(mark) {
                return second.is_none();
            }
            // Release, for the Acquire in `safe`.
            self.epochs.safe.fetch_max(epoch, Ordering::Release);
            let Some(left) = self.remove(epoch, mark) else {
                return false;
            };
            in_flight = left;
        }
        true
    }

    fn in_flight(&self) -> Option<InFlight> {
        self.marks.in_flight.lock().map(|in_flight| *in_flight)
    }

    /// Removes the older mark, if this is it, and returns what is left.
    fn remove(&self, epoch: u64, mark: Mark) -> Option<InFlight> {
        let mut in_flight = self.marks.in_flight.lock()?;
        let [first, second] = *in_flight;
        if first == Some((epoch, mark)) {
            *in_flight = [second, None];
            self.marks.passed.fetch_add(1, Ordering::Relaxed);
        }
        Some(*in_flight)
    }

    /// False when there is no room after all: the claim was taken over, and the mark is abandoned.
    fn append(&self, epoch: u64, mark: Mark) -> bool {
        let Some(mut in_flight) = self.marks.in_flight.lock() else {
            return false;
        };
        let Some(slot) = in_flight.iter_mut().find(|slot| slot.is_none()) else {
            return false;
        };
        *slot = Some((epoch, mark));
        true
    }
}
