//! The rings of each context: taken off for a copy, put back after it, made when one is missing.

use super::Transfer;
use super::plan::{RINGS, worth_a_ring_bytes};
use super::ring::{Refusal, Ring};
use crate::driver;
use crate::handlers::capture::{RelaxedThread, Section};
use crate::life::Errand;
use crate::segment;
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;

/// The rings of one context.
struct Shelf {
    context: usize,
    /// Another number in each life of a context: one that is made anew may have the address of its forerunner.
    life: u64,
    /// On the shelf, not in use.
    rings: Vec<Ring>,
    /// All there are, in use or being made too.
    count: usize,
    /// There will never be any.
    is_refused: bool,
}

struct Shelves {
    all: Vec<Shelf>,
    next_life: u64,
}

static SHELVES: Mutex<Shelves> = Mutex::new(Shelves { all: Vec::new(), next_life: 1 });

/// Makes rings in the background.
static MAKER: Errand = Errand::new();

/// Held while a ring is made in the background, and while a context ends.
static MAKING: Mutex<()> = Mutex::new(());

/// What to do where no ring is on the shelf.
enum Want {
    Nothing,
    MakeNow { life: u64 },
    MakeInBackground { life: u64 },
}

/// A ring of the current context for a copy by so many threads. Where there is none the copy is the driver's, and is
/// counted as passed on.
pub(super) fn take(context: usize, transfer: &Transfer, threads: usize) -> Option<Ring> {
    let is_worth_it = transfer.bytes >= worth_a_ring_bytes(threads);
    let want = {
        let mut shelves = SHELVES.lock();
        let shelf = shelves.of(context);
        if let Some(ring) = shelf.rings.pop() {
            return Some(ring);
        }
        if shelf.is_refused { return None } else { shelf.want(is_worth_it) }
    };
    match want {
        Want::MakeNow { life } => {
            let made = Ring::make(context, life);
            if let Ok(ring) = made {
                return Some(ring);
            }
            settle(context, life, made);
        }
        Want::MakeInBackground { life } => {
            if !MAKER.start("aishim-ring", move || make_in_background(context, life)) {
                settle(context, life, Err(Refusal::NotNow));
            }
        }
        Want::Nothing => {}
    }
    segment::add(Statistic::StagedPassedOn, 1);
    None
}

impl Shelves {
    fn of(&mut self, context: usize) -> &mut Shelf {
        let index = self.all.iter().position(|shelf| shelf.context == context).unwrap_or_else(|| {
            self.all.push(Shelf { context, life: self.next_life, rings: Vec::new(), count: 0, is_refused: false });
            self.next_life += 1;
            self.all.len() - 1
        });
        &mut self.all[index]
    }

    fn living(&mut self, context: usize, life: u64) -> Option<&mut Shelf> {
        self.all.iter_mut().find(|shelf| shelf.context == context && shelf.life == life)
    }
}

impl Shelf {
    /// One more ring is counted here, and is to be made.
    fn want(&mut self, is_worth_it: bool) -> Want {
        if self.count >= RINGS {
            return Want::Nothing;
        }
        self.count += 1;
        let life = self.life;
        if self.count == 1 && is_worth_it { Want::MakeNow { life } } else { Want::MakeInBackground { life } }
    }
}

/// Puts a ring that was made on its shelf, or notes that none was.
fn settle(context: usize, life: u64, made: Result<Ring, Refusal>) {
    let mut shelves = SHELVES.lock();
    let Some(shelf) = shelves.living(context, life) else {
        return;
    };
    match made {
        Ok(ring) => shelf.rings.push(ring),
        Err(refusal) => {
            shelf.count -= 1;
            // A second ring that is not to be had says nothing against the first.
            shelf.is_refused |= refusal == Refusal::Never && shelf.count == 0;
        }
    }
}

fn make_in_background(context: usize, life: u64) {
    let _making = MAKING.lock();
    let made = make_there(context, life);
    settle(context, life, made);
}

fn make_there(context: usize, life: u64) -> Result<Ring, Refusal> {
    let section = Section::enter().ok_or(Refusal::NotNow)?;
    // Only now, with the lock held and in the section: a context that ends waits for both, so this one is still there.
    let is_there = SHELVES.lock().living(context, life).is_some();
    if !is_there || !driver::set_current_context(context as _).is_ok() {
        return Err(Refusal::NotNow);
    }
    let _relaxed = RelaxedThread::begin();
    let made = Ring::make(context, life);
    drop(section);
    made
}

/// Puts a ring back on its shelf, if that is still there: else its context has ended, and the ring is forgotten without
/// a driver call. So is one that is spoilt.
pub(super) fn put_back(ring: Ring) {
    if let Some(shelf) = SHELVES.lock().living(ring.context, ring.life).filter(|_| !ring.is_spoilt) {
        shelf.rings.push(ring);
    }
}

/// The program may be about to end a context, and no [`Section`] can be entered any more: waits until no ring is being
/// made.
pub(crate) fn context_may_end() {
    drop(MAKING.lock());
}

/// A context ends, its rings with it.
pub(crate) fn forget_context(context: usize) {
    SHELVES.lock().all.retain(|shelf| shelf.context != context);
}

/// The process ends: a ring that is being made has to be there first.
pub(crate) fn process_ends() {
    MAKER.wait();
}

/// In a forked child: who was making a ring has stayed behind.
pub(crate) fn disown() {
    MAKER.forget();
}
