//! What a [`Gpu`](super::Gpu) has decided, as it is to be written on the board.

use super::{Kind, PartyId, Priority};

/// Parties that share a turn: those of one rank under `priority`, all of them under `fair` and `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u8);

impl Group {
    /// The group of a policy that has only one.
    pub const ONLY: Self = Self(0);
    /// How many there can be: the length of a table by [`index`](Self::index).
    pub const COUNT: usize = Priority::MAX_LEVEL + 1;

    pub(super) fn of(priority: Priority) -> Self {
        Self(priority.level())
    }

    /// Below [`COUNT`](Self::COUNT).
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Who of a group may launch, as far as its equals are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Everybody: no two of the group want at this time.
    All,
    /// The members of one party.
    Of(PartyId),
}

/// A change of the board. What is not named stays as it was; at first each turn is everybody's and nothing is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Another policy is in force. What the one before has said is void: each turn is everybody's, nothing is open.
    Policy {
        /// Which.
        kind: Kind,
    },
    /// A party's members wait for this group's turn from now on, and have this rank. Said anew whenever a member joins.
    Placed {
        /// Which.
        party: PartyId,
        /// Whose turn it looks at.
        group: Group,
        /// The rank of all its members.
        priority: Priority,
    },
    /// A group's turn.
    Turn {
        /// Whose.
        group: Group,
        /// Who has it.
        turn: Turn,
        /// Until when (CLOCK_MONOTONIC); `u64::MAX` where nobody waits for it.
        until_ns: u64,
    },
    /// All gates are open until then; a time that has passed closes them.
    Open {
        /// CLOCK_MONOTONIC.
        until_ns: u64,
    },
}
