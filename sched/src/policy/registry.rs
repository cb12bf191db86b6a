//! Which policies there are. A new one is a file and a line here, and the conformance suite finds it.

use std::fmt::{self, Debug};

use super::{Decision, Group, Priority, event::PartyEvent, fair::Fair, off::Off, priority::ByPriority};

/// In the order of their numbers on the board, so lines are only ever appended.
const POLICIES: &[Registration] = &[
    Registration { name: "off", by_rank: false, start: || Box::new(Off) },
    Registration { name: "priority", by_rank: true, start: || Box::<ByPriority>::default() },
    Registration { name: "fair", by_rank: false, start: || Box::<Fair>::default() },
];

struct Registration {
    name: &'static str,
    by_rank: bool,
    start: fn() -> Box<dyn Policy>,
}

/// A policy that runs on one GPU.
pub(super) trait Policy: Debug + Send {
    /// Appends to `decisions` what changes because of `event`. `now_ns` never goes back. O(log n) in the parties, but
    /// for a constant of 101 ranks.
    fn decide(&mut self, now_ns: u64, event: PartyEvent, decisions: &mut Vec<Decision>);

    /// Whose turn a party of that priority waits for.
    fn group(&self, priority: Priority) -> Group;

    /// When it wants to be told that time has passed.
    fn wake_ns(&self) -> Option<u64>;
}

/// One of the registered policies.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(u8);

impl Kind {
    /// The policy of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|kind| kind.name() == name)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..POLICIES.len() as u8).map(Self)
    }

    /// Its number on the board.
    pub fn number(self) -> u8 {
        self.0
    }

    /// As users write it.
    pub fn name(self) -> &'static str {
        self.registration().map_or("", |entry| entry.name)
    }

    /// Whether gates wait for more important clients under it.
    pub fn is_by_rank(self) -> bool {
        self.registration().is_some_and(|entry| entry.by_rank)
    }

    pub(super) fn start(self) -> Box<dyn Policy> {
        self.registration().map_or_else(|| Box::new(Off) as Box<dyn Policy>, |entry| (entry.start)())
    }

    /// Always there: a `Kind` is only made by `all`.
    fn registration(self) -> Option<&'static Registration> {
        POLICIES.get(usize::from(self.0))
    }
}

impl Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
