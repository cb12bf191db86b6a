//! A client's page, version 1: what a process says of itself to the others on its GPUs. It alone may write it.
//!
//! Three cache lines: who it is, which never changes; what a launch writes and those who wait read; and what is only
//! counted. A launch writes the second line and no other.
//!
//! What stands in a page is an allegation, of a process that may have scribbled over it. [`PageView::busy_until_ns`]
//! is the one rule by which it is believed, and it holds nobody back for longer than [`STALE_NS`] at a time: a time at
//! which nothing was renewed lately, or which lies in the future, means idle. Random bytes are idle.

use crate::board::SLOTS;
use crate::memfd::{Memory, SharedError};
use crate::rank::Class;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::thread::futex;
use std::io;
use std::mem::offset_of;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

/// First eight bytes of every page.
pub const MAGIC: [u8; 8] = *b"AISHIMCP";

/// Version of the layout; changes with every change that an older reader would misread.
pub const VERSION: u32 = 1;

/// What was not renewed for this long means nothing any more, in nanoseconds.
pub const STALE_NS: u64 = 100_000_000;

/// How far `renewed_ns` may lie ahead of a reader's own look at the clock, which it may have taken a little before.
const AHEAD_NS: u64 = 1_000_000;

/// What lies in the page.
#[repr(C, align(4096))]
pub struct Page {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// Process id as the process sees itself.
    pub pid: AtomicU32,
    /// Random id of this life of the process, that of its segment.
    pub generation: AtomicU64,
    /// Start time of the process, field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot.
    pub start_ticks: AtomicU64,
    _reserved0: [AtomicU64; 4],

    /// When the GPU will be done with what the process has launched, as it estimates, by `CLOCK_MONOTONIC`; 0 or past: idle.
    pub busy_until_ns: AtomicU64,
    /// When that was last said or confirmed, by `CLOCK_MONOTONIC`.
    pub renewed_ns: AtomicU64,
    /// Raised whenever the process falls idle; who waits for that sleeps on it (futex(2)).
    pub turn_word: AtomicU32,
    /// Launches that wait at its gate at this moment.
    pub is_waiting: AtomicU32,
    /// Estimated GPU time of all that it has launched, in nanoseconds.
    pub launched_ns: AtomicU64,
    /// Before this it will not launch again, as its habits say, by `CLOCK_MONOTONIC`; said when it falls idle, 0: not known.
    pub due_ns: AtomicU64,
    /// By this it will have, as far as habits go.
    pub due_until_ns: AtomicU64,
    /// When what it waits for will be done, as it estimates, by `CLOCK_MONOTONIC`, where it will not launch again right after that; else 0.
    pub ends_ns: AtomicU64,
    /// Before this nobody waits for what it has launched, as its habits say, by `CLOCK_MONOTONIC`; 0 or past: it is waited for.
    pub urgent_ns: AtomicU64,

    /// GPU time it has used, as its samples say, in nanoseconds.
    pub used_ns: AtomicU64,
    /// Time that launches have waited at its gate, in nanoseconds.
    pub gated_ns: AtomicU64,
    /// Launches that waited.
    pub gate_waits: AtomicU64,
    /// Waits that ended by their time limit.
    pub gate_timeouts: AtomicU64,
    /// Times that the bound on its backlog opened because nothing completed.
    pub openings: AtomicU64,
    /// [`Class`] that its behaviour suggests.
    pub class_suggested: AtomicU32,
    /// Why.
    pub class_reason: AtomicU32,
    _reserved2: [AtomicU64; 2],
    _rest: [AtomicU64; 488],
}

/// Size of a page in bytes.
pub const PAGE_BYTES: usize = size_of::<Page>();

const _: () = {
    assert!(PAGE_BYTES == 4096);
    assert!(offset_of!(Page, generation) == 16);
    assert!(offset_of!(Page, busy_until_ns) == 64);
    assert!(offset_of!(Page, turn_word) == 80);
    assert!(offset_of!(Page, due_ns) == 96);
    assert!(offset_of!(Page, ends_ns) == 112);
    assert!(offset_of!(Page, urgent_ns) == 120);
    assert!(offset_of!(Page, used_ns) == 128);
    assert!(offset_of!(Page, class_suggested) == 168);
    assert!(offset_of!(Page, _rest) == 192);
};

/// Whose page it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process id as the process sees itself.
    pub pid: u32,
    /// Start time, field 22 of /proc/PID/stat, in clock ticks since boot.
    pub start_ticks: u64,
    /// That of the process's segment.
    pub generation: u64,
}

/// This process's own page.
#[derive(Debug)]
pub struct OwnPage {
    memory: Memory,
}

impl OwnPage {
    /// Makes the page of this process: idle, and sealed.
    ///
    /// # Errors
    /// Whatever memfd_create, fallocate, mmap or fcntl say; EINVAL on a kernel before 5.1, which cannot seal it.
    pub fn create(identity: &Identity) -> io::Result<Self> {
        let own = Self { memory: Memory::create("aishim-page", PAGE_BYTES)? };
        let page = own.page().ok_or(Errno::INVAL)?;
        page.pid.store(identity.pid, Relaxed);
        page.start_ticks.store(identity.start_ticks, Relaxed);
        page.generation.store(identity.generation, Relaxed);
        page.version.store(VERSION, Relaxed);
        // Nobody else has it yet; it reaches them through a socket, which orders.
        page.magic.store(u64::from_le_bytes(MAGIC), Relaxed);
        Ok(own)
    }

    /// The page, to be written. There always is one.
    #[must_use]
    #[inline]
    pub fn page(&self) -> Option<&Page> {
        self.memory.slice(0, 1).first()
    }

    /// Its descriptor, to be sent with `Hello`; none where the program has closed it behind our back.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.memory.descriptor()
    }

    /// Says that the process has fallen idle at `now_ns`, and wakes those who wait for that.
    pub fn fall_idle(&self, now_ns: u64) {
        let Some(page) = self.page() else { return };
        page.renewed_ns.store(now_ns, Relaxed);
        page.busy_until_ns.store(now_ns, Relaxed);
        // Pairs with the acquire in `PageView::turn_word`: who sees the word raised sees that we are idle.
        page.turn_word.fetch_add(1, Release);
        let _ = futex::wake(&page.turn_word, futex::Flags::empty(), i32::MAX.cast_unsigned());
    }

    /// Lets go of the page in a child process, whose stores then reach nobody. Async-signal-safe.
    ///
    /// # Errors
    /// That of mmap(2).
    pub fn disown(&self) -> io::Result<()> {
        self.memory.disown()
    }
}

/// Somebody else's page, mapped to be read.
#[derive(Debug)]
pub struct PageView {
    memory: Memory,
    identity: Identity,
}

impl PageView {
    /// Maps and checks a page that somebody passed us.
    ///
    /// # Errors
    /// [`SharedError`] says what is wrong with it.
    pub fn open(descriptor: OwnedFd) -> Result<Self, SharedError> {
        let memory = Memory::open(descriptor, PAGE_BYTES..=PAGE_BYTES)?;
        let identity = check(memory.slice(0, 1))?;
        Ok(Self { memory, identity })
    }

    /// Whose it said it was when it was opened.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Checks it again: whether its owner has since written over what must never change.
    ///
    /// # Errors
    /// [`SharedError`] says what is wrong with it.
    pub fn check(&self) -> Result<(), SharedError> {
        match check(self.memory.slice(0, 1))? {
            identity if identity == self.identity => Ok(()),
            _ => Err(SharedError::Corrupt { field: "generation" }),
        }
    }

    /// Until when others wait for the owner: none where it is idle at `now_ns`, or has not renewed what it said.
    ///
    /// It is never more than [`STALE_NS`] ahead; who waits until then looks again.
    #[must_use]
    #[inline]
    pub fn busy_until_ns(&self, now_ns: u64) -> Option<u64> {
        busy_until_ns(self.page()?, now_ns)
    }

    /// The word that is raised whenever the owner falls idle; to be read before [`busy_until_ns`](Self::busy_until_ns),
    /// and given to [`wait`](Self::wait).
    #[must_use]
    #[inline]
    pub fn turn_word(&self) -> u32 {
        // Pairs with the release in `OwnPage::fall_idle`.
        self.page().map_or(0, |page| page.turn_word.load(Acquire))
    }

    /// Sleeps until the owner falls idle, at most so long; returns at once where the word is no longer `seen`. May return
    /// early.
    pub fn wait(&self, seen: u32, at_most: Duration) {
        let Some(page) = self.page() else { return };
        wait_on(&page.turn_word, seen, at_most);
    }

    /// Launches that wait at its gate; none where the owner has not renewed what it said.
    #[must_use]
    pub fn is_waiting(&self, now_ns: u64) -> u32 {
        let Some(page) = self.page() else { return 0 };
        match page.is_waiting.load(Relaxed) {
            waiting @ 1.. if stale_ns(page.renewed_ns.load(Relaxed), now_ns).is_some() => waiting,
            _ => 0,
        }
    }

    /// Estimated GPU time of all that the owner says it has launched, in nanoseconds.
    #[must_use]
    pub fn launched_ns(&self) -> u64 {
        self.page().map_or(0, |page| page.launched_ns.load(Relaxed))
    }

    /// Between which times an idle owner says it will launch again; none where it does not know.
    #[must_use]
    pub fn due_ns(&self) -> Option<(u64, u64)> {
        let page = self.page()?;
        let due_ns = page.due_ns.load(Relaxed);
        (due_ns != 0).then(|| (due_ns, page.due_until_ns.load(Relaxed)))
    }

    /// Before when nobody waits for what the owner has launched, as it says; 0 or past: it is waited for.
    #[must_use]
    pub fn urgent_ns(&self) -> u64 {
        self.page().map_or(0, |page| page.urgent_ns.load(Relaxed))
    }

    /// What its gate did and its samples say.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let Some(page) = self.page() else { return Figures::default() };
        Figures {
            used_ns: page.used_ns.load(Relaxed),
            gated_ns: page.gated_ns.load(Relaxed),
            gate_waits: page.gate_waits.load(Relaxed),
            gate_timeouts: page.gate_timeouts.load(Relaxed),
            openings: page.openings.load(Relaxed),
            class_suggested: Class::from_number(page.class_suggested.load(Relaxed)),
            class_reason: page.class_reason.load(Relaxed),
        }
    }

    /// Its descriptor, to be passed on.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.memory.descriptor()
    }

    fn page(&self) -> Option<&Page> {
        self.memory.slice(0, 1).first()
    }
}

/// Room for the pages of all clients that a board may have, each at the place of its slot, at which threads may look for as long
/// as the process lives, whoever comes and goes: who is not there is idle.
#[derive(Debug)]
pub struct Peers {
    memory: Memory,
}

impl Peers {
    /// Nobody yet.
    ///
    /// # Errors
    /// That of mmap(2).
    pub fn reserve() -> io::Result<Self> {
        Ok(Self { memory: Memory::reserve(SLOTS * PAGE_BYTES)? })
    }

    /// Lays the page of the client in `slot` there, in the place of any before it.
    ///
    /// # Errors
    /// [`SharedError`] says what is wrong with it; the one before stays then.
    pub fn lay(&self, slot: usize, descriptor: &OwnedFd) -> Result<Identity, SharedError> {
        let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?;
        let identity = PageView::open(copy)?.identity();
        self.memory.lay(slot.saturating_mul(PAGE_BYTES), PAGE_BYTES, descriptor)?;
        Ok(identity)
    }

    /// The client in `slot` is no longer there, and so idle.
    ///
    /// # Errors
    /// That of mmap(2).
    pub fn clear(&self, slot: usize) -> io::Result<()> {
        self.memory.clear(slot.saturating_mul(PAGE_BYTES), PAGE_BYTES)
    }

    /// All pages, by slot.
    #[must_use]
    pub fn pages(&self) -> &[Page] {
        self.memory.slice(0, SLOTS)
    }

    /// As [`PageView::busy_until_ns`].
    #[must_use]
    pub fn busy_until_ns(&self, slot: usize, now_ns: u64) -> Option<u64> {
        busy_until_ns(self.page(slot)?, now_ns)
    }

    /// When the client in `slot` last renewed what it says.
    #[must_use]
    pub fn renewed_ns(&self, slot: usize) -> u64 {
        self.page(slot).map_or(0, |page| page.renewed_ns.load(Relaxed))
    }

    /// As [`PageView::turn_word`].
    #[must_use]
    pub fn turn_word(&self, slot: usize) -> u32 {
        // Pairs with the release in `OwnPage::fall_idle`.
        self.page(slot).map_or(0, |page| page.turn_word.load(Acquire))
    }

    /// As [`PageView::wait`]. Where the page goes meanwhile, only the time limit ends it.
    pub fn wait(&self, slot: usize, seen: u32, at_most: Duration) {
        if let Some(page) = self.page(slot) {
            wait_on(&page.turn_word, seen, at_most);
        }
    }

    #[inline]
    fn page(&self, slot: usize) -> Option<&Page> {
        self.memory.slice(slot.saturating_mul(PAGE_BYTES), 1).first()
    }
}

/// What a page counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// GPU time used, in nanoseconds.
    pub used_ns: u64,
    /// Time that launches have waited, in nanoseconds.
    pub gated_ns: u64,
    /// Launches that waited.
    pub gate_waits: u64,
    /// Waits that ended by their time limit.
    pub gate_timeouts: u64,
    /// Times that the bound on the backlog opened.
    pub openings: u64,
    /// What the behaviour suggests; none where it is a number that stands for no class.
    pub class_suggested: Option<Class>,
    /// Why.
    pub class_reason: u32,
}

/// As [`PageView::busy_until_ns`], of any page.
#[must_use]
#[inline]
pub fn busy_until_ns(page: &Page, now_ns: u64) -> Option<u64> {
    let busy_until_ns = page.busy_until_ns.load(Relaxed);
    // As a rule; the second word need not be looked at then.
    if busy_until_ns <= now_ns {
        return None;
    }
    believed(busy_until_ns, page.renewed_ns.load(Relaxed), now_ns)
}

/// Until when nobody waits for what the owner has launched; none where it is waited for, or that is more than `foresight_ns` ahead and not believed.
#[must_use]
#[inline]
pub fn urgent_ns(page: &Page, now_ns: u64, foresight_ns: u64) -> Option<u64> {
    let urgent_ns = page.urgent_ns.load(Relaxed);
    (urgent_ns > now_ns && urgent_ns <= now_ns.saturating_add(foresight_ns)).then_some(urgent_ns)
}

/// Until when to wait, given what a page says.
#[inline]
fn believed(busy_until_ns: u64, renewed_ns: u64, now_ns: u64) -> Option<u64> {
    let until_ns = busy_until_ns.min(stale_ns(renewed_ns, now_ns)?);
    (until_ns > now_ns).then_some(until_ns)
}

/// Until when a page that was renewed then is believed; none where it is not at `now_ns`.
#[inline]
fn stale_ns(renewed_ns: u64, now_ns: u64) -> Option<u64> {
    let stale_ns = renewed_ns.checked_add(STALE_NS)?;
    (renewed_ns <= now_ns.saturating_add(AHEAD_NS) && now_ns < stale_ns).then_some(stale_ns)
}

fn check(page: &[Page]) -> Result<Identity, SharedError> {
    let page = page.first().ok_or(SharedError::WrongSize { bytes: 0 })?;
    if page.magic.load(Relaxed).to_le_bytes() != MAGIC {
        return Err(SharedError::NotOurs);
    }
    let found = page.version.load(Relaxed);
    if found != VERSION {
        return Err(SharedError::OtherVersion { found });
    }
    let identity = Identity {
        pid: page.pid.load(Relaxed),
        start_ticks: page.start_ticks.load(Relaxed),
        generation: page.generation.load(Relaxed),
    };
    match identity {
        Identity { pid: 0, .. } => Err(SharedError::Corrupt { field: "pid" }),
        Identity { generation: 0, .. } => Err(SharedError::Corrupt { field: "generation" }),
        _ => Ok(identity),
    }
}

/// Sleeps on a word of memory that may well be read-only (futex(2), FUTEX_WAIT takes that since Linux 2.6.39).
fn wait_on(word: &AtomicU32, seen: u32, at_most: Duration) {
    let Ok(limit) = rustix::time::Timespec::try_from(at_most) else { return };
    let _ = futex::wait(word, futex::Flags::empty(), seen, Some(&limit));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_is_not_renewed_or_not_of_now_is_idle() {
        let now = 1_000 * MS;
        assert_eq!(believed(now + 3 * MS, now - MS, now), Some(now + 3 * MS));
        assert_eq!(believed(now, now - MS, now), None, "past");
        assert_eq!(believed(0, 0, now), None, "never said");
        assert_eq!(believed(now + 300 * MS, now - MS, now), Some(now + 99 * MS), "until it must be renewed");
        assert_eq!(believed(now + 300 * MS, now - 100 * MS, now), None, "not renewed");
        assert_eq!(believed(u64::MAX, now + MS, now), Some(now + 101 * MS), "a clock read a little later");
        assert_eq!(believed(u64::MAX, now + 2 * MS, now), None, "said in the future");
        assert_eq!(believed(u64::MAX, u64::MAX, now), None);
        assert_eq!(believed(u64::MAX, u64::MAX, u64::MAX), None);
    }
}
