//! The seam between the daemon and its policies: what a policy is told of one GPU's clients, and what it decides about the board.
//!
//! A policy ([`Order`]) is a pure function of what it was told: no clock, no I/O. The daemon ([`gpus`](crate::gpus)) tells it who comes
//! and goes, and, where it wants that ([`Order::looks`]), what their pages show; and it writes down what was decided. That is all
//! that either knows of the other.

use aishim_abi::board::Turn;
use aishim_abi::rank::{PolicyKind, Priority, Weight};
use std::fmt::Debug;

/// Which client: a slot may have had others before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId {
    /// Its slot on the board.
    pub slot: u32,
    /// The generation of its entry.
    pub generation: u64,
}

/// What counts of a client when it is put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its rank, the same for all of its job.
    pub rank: Priority,
    /// Its share.
    pub weight: Weight,
    /// Number of its job, whose processes are let on together; 0 for none.
    pub job: u32,
}

/// What happened on one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client uses the GPU from now on.
    Joined(ClientId, Standing),
    /// A client has another standing.
    Changed(ClientId, Standing),
    /// A client uses it no longer.
    Left(ClientId),
    /// A client has launches that wait, or work on the GPU.
    Wanting(ClientId),
    /// It has not any more.
    Idle(ClientId),
    /// A client has used so many nanoseconds of GPU time since that was last said, as it says.
    Used(ClientId, u64),
    /// The moment that [`Order::wake_ns`] told has come, or another.
    TimePassed,
}

/// What is to be written on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Whose turn it is among those of a rank, and until when by `CLOCK_MONOTONIC`.
    Turn {
        /// That rank; 0 under a policy that is not by rank.
        rank: Priority,
        /// Whose.
        turn: Turn,
        /// Until when.
        until_ns: u64,
    },
    /// Until when all gates are open, by `CLOCK_MONOTONIC`.
    Open {
        /// Until when; past closes them.
        until_ns: u64,
    },
}

/// A policy on one GPU. It begins without clients, each turn everybody's and nothing open.
pub trait Order: Debug {
    /// Appends to `decisions` what changes because of `event`.
    fn decide(&mut self, now_ns: u64, event: Event, decisions: &mut Vec<Decision>);

    /// When it wants to be told that time has passed.
    fn wake_ns(&self) -> Option<u64>;

    /// Whether each rank has a turn of its own, and gates wait for more important clients.
    fn is_by_rank(&self) -> bool;

    /// Whether it wants to know what clients do.
    fn looks(&self) -> bool;
}

/// The policy of that kind, where this daemon has it.
#[must_use]
pub fn start(kind: PolicyKind) -> Option<Box<dyn Order>> {
    match kind {
        PolicyKind::Off => Some(Box::new(Off)),
        PolicyKind::Priority | PolicyKind::Fair => None,
    }
}

/// `off`: every gate is open, nobody waits.
#[derive(Debug)]
struct Off;

impl Order for Off {
    fn decide(&mut self, _now_ns: u64, _event: Event, _decisions: &mut Vec<Decision>) {}

    fn wake_ns(&self) -> Option<u64> {
        None
    }

    fn is_by_rank(&self) -> bool {
        false
    }

    fn looks(&self) -> bool {
        false
    }
}
