//! The board as everybody else reads it.
//!
//! Whoever sent it is root or the reader's own user ([`channel`](crate::channel) sees to that), but may be of another
//! version, or broken: a record that makes no sense holds nobody back.

use crate::board::{
    ENTRIES_OFFSET, Entry, EntryWords, GPUS, Gpu, GpuRecord, Header, MAGIC, RANKS, SLOTS, TURN_MAX_NS, TURNS_OFFSET,
    Turn, TurnRecord, VERSION, board_bytes,
};
use crate::memfd::{Memory, SharedError};
use crate::rank::{Class, PolicyKind, Priority, Uuid, Weight};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;
use std::io;
use std::sync::atomic::{
    Ordering::{Acquire, Relaxed},
    fence,
};
use std::time::Duration;

/// How often an entry is read that is being written; a coordinator that died while it wrote never finishes.
const ATTEMPTS: usize = 100;

/// A board, mapped to be read.
#[derive(Debug)]
pub struct BoardView {
    memory: Memory,
    slots: usize,
    about: About,
}

/// Whose board it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Random id of this life of the coordinator.
    pub generation: u64,
    /// Process id of the coordinator as it sees itself.
    pub pid: u32,
    /// When it began, nanoseconds since the epoch.
    pub started_unix_ns: u64,
}

/// What of a board a launch looks at.
#[derive(Clone, Copy)]
pub struct Gates<'a> {
    header: &'a Header,
    turns: &'a [TurnRecord],
}

/// What a board says to a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Whether it waits while more important clients have work on the GPU.
    pub waits_for_peers: bool,
    /// Whose turn it is, as [`Turn::to_word`] has it.
    pub turn: u32,
    /// Until when.
    pub until_ns: u64,
}

impl Gates<'_> {
    /// What counts on a GPU for clients of that rank: [`BoardView::gpu`] and [`BoardView::turn`] in as few loads as that
    /// takes. A slot that is not there has a turn all the same, until it ends.
    #[must_use]
    #[inline]
    pub fn gate(&self, gpu: usize, rank: Priority, now_ns: u64) -> Gate {
        let open = Gate { waits_for_peers: false, turn: Turn::Everybody.to_word(), until_ns: u64::MAX };
        let Some(record) = self.header.gpus.get(gpu) else { return open };
        let is_open = now_ns < record.open_until_ns.load(Relaxed);
        if is_open || record.policy.load(Relaxed) == PolicyKind::Off.number() {
            return open;
        }
        let is_by_rank = record.is_by_rank.load(Relaxed) != 0;
        let place = gpu * RANKS + if is_by_rank { rank.number() as usize } else { 0 };
        let everybodys = Gate { waits_for_peers: is_by_rank, ..open };
        let Some(turn) = self.turns.get(place) else { return everybodys };
        let until_ns = turn.until_ns.load(Relaxed);
        if now_ns >= until_ns || until_ns > now_ns.saturating_add(TURN_MAX_NS) {
            return everybodys;
        }
        if self.header.has_ended.load(Relaxed) != 0 {
            return open;
        }
        Gate { waits_for_peers: is_by_rank, turn: turn.party.load(Relaxed), until_ns }
    }
}

impl BoardView {
    /// Maps and checks a board that the coordinator passed us.
    ///
    /// # Errors
    /// [`SharedError`] says what is wrong with it.
    pub fn open(descriptor: OwnedFd) -> Result<Self, SharedError> {
        let memory = Memory::open(descriptor, board_bytes(0)..=board_bytes(SLOTS))?;
        let header: &Header = memory.slice(0, 1).first().ok_or(SharedError::NotOurs)?;
        if header.magic.load(Relaxed).to_le_bytes() != MAGIC {
            return Err(SharedError::NotOurs);
        }
        let found = header.version.load(Relaxed);
        if found != VERSION {
            return Err(SharedError::OtherVersion { found });
        }
        // Read once: it may be written again.
        let slots = header.slots.load(Relaxed) as usize;
        if slots > SLOTS || board_bytes(slots) != memory.bytes() {
            return Err(SharedError::Corrupt { field: "slots" });
        }
        let about = About {
            generation: header.generation.load(Relaxed),
            pid: header.pid.load(Relaxed),
            started_unix_ns: header.started_unix_ns.load(Relaxed),
        };
        Ok(Self { memory, slots, about })
    }

    /// Room for any board, at which threads may look for as long as the process lives, whatever boards come and go there: an
    /// empty one at first.
    ///
    /// # Errors
    /// That of mmap(2).
    pub fn reserve() -> io::Result<Self> {
        let about = About { generation: 0, pid: 0, started_unix_ns: 0 };
        Ok(Self { memory: Memory::reserve(board_bytes(SLOTS))?, slots: SLOTS, about })
    }

    /// Lays a board over what was [reserved](Self::reserve), in the place of the one before.
    ///
    /// # Errors
    /// [`SharedError`] says what is wrong with it; the one before stays then.
    pub fn lay(&self, descriptor: &OwnedFd) -> Result<About, SharedError> {
        let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?;
        let checked = Self::open(copy)?;
        // A smaller one leaves nothing of a larger one before it.
        self.clear().map_err(|_| SharedError::Io(Errno::NOMEM.raw_os_error()))?;
        self.memory.lay(0, board_bytes(checked.slots), descriptor)?;
        Ok(checked.about)
    }

    /// Puts an empty board in the place of what was laid.
    ///
    /// # Errors
    /// That of mmap(2).
    pub fn clear(&self) -> io::Result<()> {
        self.memory.clear(0, board_bytes(SLOTS))
    }

    /// Whose it is.
    #[must_use]
    pub fn about(&self) -> About {
        self.about
    }

    /// How many entries there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// What a launch looks at; none where the board has no room for it, which a checked or reserved one always has.
    #[must_use]
    pub fn gates(&self) -> Option<Gates<'_>> {
        Some(Gates { header: self.header()?, turns: self.memory.slice(TURNS_OFFSET, GPUS * RANKS) })
    }

    /// Whether the coordinator has ended in order.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.header().is_none_or(|header| header.has_ended.load(Relaxed) != 0)
    }

    /// Clients at this moment.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.header().map_or(0, |header| (header.clients.load(Relaxed) as usize).min(self.slots))
    }

    /// Connections and requests that were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.header().map_or(0, |header| header.refused.load(Relaxed))
    }

    /// The client in a slot; none where there is none, or what stands there makes no sense.
    #[must_use]
    pub fn entry(&self, slot: usize) -> Option<Entry> {
        read_entry(self.memory.slice(ENTRIES_OFFSET, self.slots).get(slot)?)
    }

    /// All clients with their slots.
    pub fn entries(&self) -> impl Iterator<Item = (usize, Entry)> + '_ {
        (0..self.slots).filter_map(|slot| Some((slot, self.entry(slot)?)))
    }

    /// What is said about a GPU at `now_ns`; none where the record is free.
    #[must_use]
    pub fn gpu(&self, gpu: usize, now_ns: u64) -> Option<Gpu> {
        let record = self.record(gpu)?;
        let uuid = uuid_of(record);
        let open_until_ns = record.open_until_ns.load(Relaxed);
        (uuid != Uuid::NONE).then(|| Gpu {
            uuid,
            policy: PolicyKind::from_number(record.policy.load(Relaxed)).unwrap_or(PolicyKind::Off),
            is_by_rank: record.is_by_rank.load(Relaxed) != 0 && !self.has_ended(),
            is_open: now_ns < open_until_ns,
            open_until_ns,
            clients: record.clients.load(Relaxed).min(self.slots as u32),
        })
    }

    /// Which record is that of the GPU with this UUID.
    #[must_use]
    pub fn find_gpu(&self, uuid: Uuid) -> Option<usize> {
        self.header()?.gpus.iter().position(|record| uuid_of(record) == uuid)
    }

    /// All GPUs with their numbers, at `now_ns`.
    pub fn gpus(&self, now_ns: u64) -> impl Iterator<Item = (usize, Gpu)> + '_ {
        (0..GPUS).filter_map(move |gpu| Some((gpu, self.gpu(gpu, now_ns)?)))
    }

    /// Whose turn it is at `now_ns` among those of this rank on a GPU, and until when at most.
    #[must_use]
    #[inline]
    pub fn turn(&self, gpu: usize, rank: Priority, now_ns: u64) -> (Turn, u64) {
        let Some(record) = self.turn_record(gpu, rank) else { return (Turn::Everybody, u64::MAX) };
        let until_ns = record.until_ns.load(Relaxed);
        let is_of_now = now_ns < until_ns && until_ns <= now_ns.saturating_add(TURN_MAX_NS);
        if !is_of_now || self.has_ended() {
            return (Turn::Everybody, u64::MAX);
        }
        (Turn::from_word(record.party.load(Relaxed), self.slots), until_ns)
    }

    /// The number that is raised with every change of that turn and when the GPU's gates open; to be read before
    /// [`turn`](Self::turn) and [`gpu`](Self::gpu), and given to [`wait`](Self::wait).
    #[must_use]
    #[inline]
    pub fn changes(&self, gpu: usize, rank: Priority) -> u32 {
        // Pairs with the release in `board_writer::announce`.
        self.turn_record(gpu, rank).map_or(0, |record| record.changes.load(Acquire))
    }

    /// Sleeps until it is `own` turn there or everybody's, or all gates open, at most until `until_ns` by `CLOCK_MONOTONIC`; returns at once where the
    /// number is no longer `seen`. Another's turn in the place of another's ends it not, so that time should be no later than the end of the turn
    /// that was seen. May return early.
    pub fn wait(&self, gpu: usize, rank: Priority, own: Turn, seen: u32, until_ns: u64) {
        let Some(record) = self.turn_record(gpu, rank) else { return };
        let Ok(until) = Timespec::try_from(Duration::from_nanos(until_ns)) else { return };
        // FUTEX_WAIT_BITSET's limit is a time of CLOCK_MONOTONIC.
        let _ = futex::wait_bitset(&record.changes, futex::Flags::empty(), seen, Some(&until), own.waiters());
    }

    /// The turn at which those of this rank look.
    fn turn_record(&self, gpu: usize, rank: Priority) -> Option<&TurnRecord> {
        let is_by_rank = self.record(gpu)?.is_by_rank.load(Relaxed) != 0;
        let rank = if is_by_rank { rank.number() as usize } else { 0 };
        self.memory.slice(TURNS_OFFSET, GPUS * RANKS).get(gpu * RANKS + rank)
    }

    fn header(&self) -> Option<&Header> {
        self.memory.slice(0, 1).first()
    }

    fn record(&self, gpu: usize) -> Option<&GpuRecord> {
        self.header()?.gpus.get(gpu)
    }
}

fn uuid_of(record: &GpuRecord) -> Uuid {
    Uuid::from_words([record.uuid[0].load(Relaxed), record.uuid[1].load(Relaxed)])
}

fn read_entry(words: &EntryWords) -> Option<Entry> {
    for _ in 0..ATTEMPTS {
        // Pairs with the release store in `board_writer::write_entry`.
        let before = words.sequence.load(Acquire);
        let read = checked(words);
        // Pairs with the release fence there: what was read of a later entry shows in the number.
        fence(Acquire);
        if before & 1 == 0 && words.sequence.load(Relaxed) == before {
            return read;
        }
        std::hint::spin_loop();
    }
    None
}

/// An entry whose every field has a value that it may have.
fn checked(words: &EntryWords) -> Option<Entry> {
    let entry = Entry {
        generation: words.generation.load(Relaxed),
        pid: words.pid.load(Relaxed),
        own_pid: words.own_pid.load(Relaxed),
        uid: words.uid.load(Relaxed),
        start_ticks: words.start_ticks.load(Relaxed),
        gpus: words.gpus.load(Relaxed),
        job: words.job.load(Relaxed),
        priority: Priority::new(words.priority.load(Relaxed))?,
        rank: Priority::new(words.rank.load(Relaxed))?,
        limit: Priority::new(words.limit.load(Relaxed))?,
        weight: Weight::new(words.weight.load(Relaxed))?,
        class: Class::from_number(words.class.load(Relaxed))?,
    };
    (entry.generation != 0 && entry.pid != 0).then_some(entry)
}
