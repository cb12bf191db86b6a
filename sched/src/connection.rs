//! One connection: what it may still say, what it was told, what it is yet to be told. Its memory is bounded, whatever the other
//! side does or leaves undone.

use crate::admission::Visitor;
use aishim_abi::channel::{Channel, ChannelError, Sent};
use aishim_abi::message::Answer;
use rustix::event::epoll::EventFlags;
use rustix::fd::BorrowedFd;
use std::collections::{BTreeMap, BTreeSet};

/// What a message costs, in nanoseconds of patience: 200 a second are heard.
const MESSAGE_NS: u64 = 5_000_000;

/// So much may be said at once: 50 messages.
const PATIENCE_NS: u64 = 250_000_000;

/// What a client was told of one that is more important.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) generation: u64,
    pub(crate) rank: u32,
    pub(crate) gpus: u64,
}

/// A descriptor that goes with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum With {
    /// None.
    Nothing,
    /// The board.
    Board,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) visitor: Visitor,
    /// When it was accepted.
    pub(crate) opened_ns: u64,
    /// The client that it is; none while it is nobody's.
    pub(crate) slot: Option<usize>,
    /// An answer that the socket did not take yet. While there is one nothing more is heard, so there is never a second.
    pub(crate) answer: Option<(Answer, With)>,
    /// Slots of which it is perhaps to be told something.
    pub(crate) pending: BTreeSet<usize>,
    /// What it was told, by slot.
    pub(crate) told: BTreeMap<usize, Told>,
    /// Whether it is waited for to read.
    pub(crate) is_full: bool,
    /// Whether something is to be sent again after a while.
    pub(crate) is_to_retry: bool,
    /// When all that it has said is forgiven.
    forgiven_ns: u64,
    /// What epoll was last told to look for.
    pub(crate) looked_for: EventFlags,
}

impl Connection {
    pub(crate) fn new(channel: Channel, visitor: Visitor, now_ns: u64) -> Self {
        Self {
            channel,
            visitor,
            opened_ns: now_ns,
            slot: None,
            answer: None,
            pending: BTreeSet::new(),
            told: BTreeMap::new(),
            is_full: false,
            is_to_retry: false,
            forgiven_ns: now_ns,
            looked_for: EventFlags::empty(),
        }
    }

    /// Whether one more message is heard now; that is then counted.
    pub(crate) fn may_speak(&mut self, now_ns: u64) -> bool {
        let is_heard = !self.is_impatient(now_ns);
        if is_heard {
            self.forgiven_ns = self.forgiven_ns.max(now_ns) + MESSAGE_NS;
        }
        is_heard
    }

    /// Whether it has said so much that nothing more is heard for a while.
    pub(crate) fn is_impatient(&self, now_ns: u64) -> bool {
        self.forgiven_ns > now_ns.saturating_add(PATIENCE_NS)
    }

    /// Whether it is heard at all at this moment.
    pub(crate) fn listens(&self, now_ns: u64) -> bool {
        self.answer.is_none() && !self.is_impatient(now_ns)
    }

    /// What epoll is to look for.
    pub(crate) fn wanted(&self, now_ns: u64) -> EventFlags {
        let input = if self.listens(now_ns) { EventFlags::IN | EventFlags::RDHUP } else { EventFlags::empty() };
        let output = if self.is_full { EventFlags::OUT } else { EventFlags::empty() };
        input | output
    }

    /// Sends an answer, or keeps it until the socket takes it.
    pub(crate) fn say(
        &mut self,
        answer: Answer,
        with: With,
        board: Option<BorrowedFd<'_>>,
    ) -> Result<(), ChannelError> {
        self.answer = Some((answer, with));
        self.send_answer(board)
    }

    /// Sends the answer that is kept, if there is one.
    pub(crate) fn send_answer(&mut self, board: Option<BorrowedFd<'_>>) -> Result<(), ChannelError> {
        let Some((answer, with)) = self.answer.take() else { return Ok(()) };
        let descriptor = if with == With::Board { board } else { None };
        let sent = self.channel.send(&answer, descriptor)?;
        if self.note(sent) {
            return Ok(());
        }
        self.answer = Some((answer, with));
        Ok(())
    }

    /// Remembers what came of sending; whether it is on its way.
    pub(crate) fn note(&mut self, sent: Sent) -> bool {
        match sent {
            Sent::Yes => return true,
            Sent::Full => self.is_full = true,
            Sent::TooManyDescriptors => self.is_to_retry = true,
        }
        false
    }
}
