//! What a [`Gpu`](super::Gpu) is told.

use super::{ClientId, JobId, Kind, PartyId, Priority, Weight};

/// What a client is when it joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// As granted, not as wished.
    pub priority: Priority,
    /// Its share under `fair`.
    pub weight: Weight,
    /// The job whose members take turns as one.
    pub job: Option<JobId>,
}

/// What happened on one GPU. An event about a client that is not there has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A client is there, idle. Whoever had its slot before has left.
    Joined {
        /// Which.
        client: ClientId,
        /// What it is.
        member: Member,
    },
    /// A client was given another priority or weight.
    Changed {
        /// Which.
        client: ClientId,
        /// From now on.
        priority: Priority,
        /// From now on.
        weight: Weight,
    },
    /// A client is gone.
    Left {
        /// Which.
        client: ClientId,
    },
    /// A client has launches that wait, or has launched lately.
    Wanting {
        /// Which.
        client: ClientId,
    },
    /// A client no longer wants.
    Idle {
        /// Which.
        client: ClientId,
    },
    /// A client has used the GPU since this was last said of it.
    Used {
        /// Which.
        client: ClientId,
        /// GPU time in nanoseconds, as the client says: what cannot be true is clipped.
        gpu_ns: u64,
    },
    /// The time that [`wake_ns`](super::Gpu::wake_ns) told has come. Harmless at any other.
    TimePassed,
    /// Another policy from now on.
    Switched {
        /// Which.
        to: Kind,
    },
}

/// What a policy is told: events about parties that are there, each of which makes sense after the one before.
#[derive(Debug, Clone, Copy)]
pub(super) enum PartyEvent {
    Entered { party: PartyId, priority: Priority, weight: Weight },
    Departed { party: PartyId },
    Wanting { party: PartyId },
    Idle { party: PartyId },
    Used { party: PartyId, gpu_ns: u64 },
    TimePassed,
}
