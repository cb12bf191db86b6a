//! The board as the coordinator writes it.

use crate::board::{
    ENTRIES_OFFSET, Entry, EntryWords, GPUS, GpuRecord, Header, MAGIC, RANKS, SLOTS, TURNS_OFFSET, Turn, TurnRecord,
    VERSION, board_bytes,
};
use crate::memfd::Memory;
use crate::rank::{PolicyKind, Uuid};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::thread::futex;
use std::io;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release},
    fence,
};

/// The board, to be written by one thread.
#[derive(Debug)]
pub struct Board {
    memory: Memory,
    slots: usize,
}

impl Board {
    /// Makes an empty board with so many entries, of the coordinator that knows itself as `pid`.
    ///
    /// # Errors
    /// EINVAL for more than [`SLOTS`] entries, and whatever memfd_create, fallocate, mmap or fcntl say.
    pub fn create(slots: usize, pid: u32, generation: u64, unix_ns: u64) -> io::Result<Self> {
        if slots > SLOTS {
            return Err(Errno::INVAL.into());
        }
        let board = Self { memory: Memory::create("aishim-board", board_bytes(slots))?, slots };
        let header = board.header().ok_or(Errno::INVAL)?;
        header.slots.store(slots as u32, Relaxed);
        header.pid.store(pid, Relaxed);
        header.generation.store(generation, Relaxed);
        header.started_unix_ns.store(unix_ns, Relaxed);
        for turn in board.turns() {
            turn.party.store(Turn::Everybody.to_word(), Relaxed);
        }
        header.version.store(VERSION, Relaxed);
        // Nobody else has it yet; it reaches them through a socket, which orders.
        header.magic.store(u64::from_le_bytes(MAGIC), Relaxed);
        Ok(board)
    }

    /// Its descriptor, to be passed on.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.memory.descriptor()
    }

    /// How many entries there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Writes the entry of a client; a slot that is not there is left alone.
    pub fn set_entry(&mut self, slot: usize, entry: &Entry) {
        let Some(words) = self.entry(slot) else { return };
        write_entry(words, || {
            words.generation.store(entry.generation, Relaxed);
            words.pid.store(entry.pid, Relaxed);
            words.own_pid.store(entry.own_pid, Relaxed);
            words.uid.store(entry.uid, Relaxed);
            words.start_ticks.store(entry.start_ticks, Relaxed);
            words.gpus.store(entry.gpus, Relaxed);
            words.job.store(entry.job, Relaxed);
            words.priority.store(entry.priority.number(), Relaxed);
            words.rank.store(entry.rank.number(), Relaxed);
            words.limit.store(entry.limit.number(), Relaxed);
            words.weight.store(entry.weight.number(), Relaxed);
            words.class.store(entry.class.number(), Relaxed);
        });
    }

    /// Says that a slot is free.
    pub fn clear_entry(&mut self, slot: usize) {
        let Some(words) = self.entry(slot) else { return };
        write_entry(words, || words.generation.store(0, Relaxed));
    }

    /// Says how many clients there are.
    pub fn set_clients(&mut self, clients: usize) {
        if let Some(header) = self.header() {
            header.clients.store(clients as u32, Relaxed);
        }
    }

    /// Counts something that was refused.
    pub fn count_refused(&mut self) {
        if let Some(header) = self.header() {
            add(&header.refused, 1);
        }
    }

    /// Gives a record to a GPU, or to none (`Uuid::NONE`) where the last client has left it.
    pub fn set_gpu(&mut self, gpu: usize, uuid: Uuid) {
        let Some(record) = self.gpu(gpu) else { return };
        let [low, high] = uuid.to_words();
        record.uuid[0].store(low, Relaxed);
        record.uuid[1].store(high, Relaxed);
    }

    /// Says which policy is in force on a GPU, and whether that is one by rank. What another has said before is void: every turn is
    /// everybody's, and nothing is open.
    pub fn set_policy(&mut self, gpu: usize, policy: PolicyKind, is_by_rank: bool) {
        let Some(record) = self.gpu(gpu) else { return };
        record.policy.store(policy.number(), Relaxed);
        record.is_by_rank.store(is_by_rank.into(), Relaxed);
        record.open_until_ns.store(0, Relaxed);
        for turn in self.turns_of(gpu) {
            turn.party.store(Turn::Everybody.to_word(), Relaxed);
            announce(turn, Turn::Everybody);
        }
    }

    /// Says how many clients use a GPU.
    pub fn set_gpu_clients(&mut self, gpu: usize, clients: usize) {
        if let Some(record) = self.gpu(gpu) {
            record.clients.store(clients as u32, Relaxed);
        }
    }

    /// Says whose turn it is among those of a rank on a GPU, and until when; wakes those who wait for it.
    pub fn set_turn(&mut self, gpu: usize, rank: usize, turn: Turn, until_ns: u64) {
        let Some(record) = self.turns_of(gpu).get(rank) else { return };
        // The time first: with the party before it, that one's turn only lasts a little longer.
        record.until_ns.store(until_ns, Relaxed);
        record.party.store(turn.to_word(), Relaxed);
        announce(record, turn);
    }

    /// Says until when all gates of a GPU are open; wakes those who wait there for a turn. Where it is sooner than was said, nobody who sleeps
    /// need know of it.
    pub fn set_open(&mut self, gpu: usize, until_ns: u64) {
        let Some(record) = self.gpu(gpu) else { return };
        let before_ns = record.open_until_ns.load(Relaxed);
        record.open_until_ns.store(until_ns, Relaxed);
        // Nobody sleeps where the turn is everybody's: of 101 ranks most are nobody's at all.
        let has_sleepers = |turn: &&TurnRecord| turn.party.load(Relaxed) != Turn::Everybody.to_word();
        if until_ns > before_ns {
            self.turns_of(gpu).iter().filter(has_sleepers).for_each(|turn| announce(turn, Turn::Everybody));
        }
    }

    /// Says that the coordinator ends: nobody waits.
    pub fn end(&mut self) {
        let Some(header) = self.header() else { return };
        header.has_ended.store(1, Relaxed);
        for turn in self.turns() {
            turn.party.store(Turn::Everybody.to_word(), Relaxed);
            announce(turn, Turn::Everybody);
        }
    }

    fn header(&self) -> Option<&Header> {
        self.memory.slice(0, 1).first()
    }

    fn entry(&self, slot: usize) -> Option<&EntryWords> {
        self.memory.slice(ENTRIES_OFFSET, self.slots).get(slot)
    }

    fn gpu(&self, gpu: usize) -> Option<&GpuRecord> {
        self.header()?.gpus.get(gpu)
    }

    fn turns(&self) -> &[TurnRecord] {
        self.memory.slice(TURNS_OFFSET, GPUS * RANKS)
    }

    fn turns_of(&self, gpu: usize) -> &[TurnRecord] {
        self.turns().chunks_exact(RANKS).nth(gpu).unwrap_or_default()
    }
}

/// Writes an entry under its sequence number.
fn write_entry(words: &EntryWords, write: impl FnOnce()) {
    let before = words.sequence.load(Relaxed) & !1;
    words.sequence.store(before.wrapping_add(1), Relaxed);
    // Pairs with the acquire fence in `board_reader::read_entry`: who has seen any store of `write` sees the odd number.
    fence(Release);
    write();
    // Pairs with the acquire there: who sees the even number sees all of `write`.
    words.sequence.store(before.wrapping_add(2), Release);
}

/// Raises the number and wakes those whose turn it is.
fn announce(record: &TurnRecord, turn: Turn) {
    // Pairs with the acquire in `BoardView::changes`: who sees the number raised sees what was changed.
    record.changes.fetch_add(1, Release);
    let all = i32::MAX.cast_unsigned();
    let _ = futex::wake_bitset(&record.changes, futex::Flags::empty(), all, turn.waiters());
}

/// There is one writer, so no locked addition is needed.
fn add(to: &AtomicU64, more: u64) {
    to.store(to.load(Relaxed).saturating_add(more), Relaxed);
}
