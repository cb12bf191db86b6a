//! The seam between the daemon and its policies: what one GPU's clients do, in the daemon's words, and what is decided about the
//! board.
//!
//! A policy is a pure function of what it was told: no clock, no I/O ([`policy`](crate::policy)). The daemon
//! ([`gpus`](crate::gpus)) tells it who comes and goes, and, where it wants that ([`Order::looks`]), what their pages show; and it
//! writes down what was decided. Here the words of the one are put into those of the other, and that is all that either knows of
//! the other.

use crate::policy;
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
    let gpu = policy::Gpu::new(policy::Kind::named(kind.name())?);
    Some(Box::new(Policy { gpu, decisions: Vec::new() }))
}

/// One of the policies, on one GPU.
#[derive(Debug)]
struct Policy {
    gpu: policy::Gpu,
    decisions: Vec<policy::Decision>,
}

impl Order for Policy {
    fn decide(&mut self, now_ns: u64, event: Event, decisions: &mut Vec<Decision>) {
        if let Some(event) = told(event) {
            self.gpu.decide(now_ns, event, &mut self.decisions);
        }
        decisions.extend(self.decisions.drain(..).filter_map(decided));
    }

    fn wake_ns(&self) -> Option<u64> {
        self.gpu.wake_ns()
    }

    fn is_by_rank(&self) -> bool {
        self.gpu.kind().is_by_rank()
    }

    fn looks(&self) -> bool {
        u32::from(self.gpu.kind().number()) != PolicyKind::Off.number()
    }
}

/// None for what cannot be: a rank or a weight that is none.
fn told(event: Event) -> Option<policy::Event> {
    Some(match event {
        Event::Joined(client, standing) => policy::Event::Joined {
            client: id(client),
            member: policy::Member {
                priority: priority(standing.rank)?,
                weight: weight(standing.weight)?,
                job: (standing.job != 0).then_some(policy::JobId(standing.job.into())),
            },
        },
        Event::Changed(client, standing) => policy::Event::Changed {
            client: id(client),
            priority: priority(standing.rank)?,
            weight: weight(standing.weight)?,
        },
        Event::Left(client) => policy::Event::Left { client: id(client) },
        Event::Wanting(client) => policy::Event::Wanting { client: id(client) },
        Event::Idle(client) => policy::Event::Idle { client: id(client) },
        Event::Used(client, gpu_ns) => policy::Event::Used { client: id(client), gpu_ns },
        Event::TimePassed => policy::Event::TimePassed,
    })
}

/// None for what the board says anyway: the policy, and which turn a client looks at, which follows from its rank.
fn decided(decision: policy::Decision) -> Option<Decision> {
    match decision {
        policy::Decision::Policy { .. } | policy::Decision::Placed { .. } => None,
        policy::Decision::Turn { group, turn, until_ns } => {
            let rank = Priority::new(u32::try_from(group.index()).ok()?)?;
            let turn = match turn {
                policy::Turn::All => Turn::Everybody,
                policy::Turn::Of(policy::PartyId::Client(client)) => Turn::Client(client.slot),
                policy::Turn::Of(policy::PartyId::Job(policy::JobId(job))) => Turn::Job(u32::try_from(job).ok()?),
            };
            Some(Decision::Turn { rank, turn, until_ns })
        }
        policy::Decision::Open { until_ns } => Some(Decision::Open { until_ns }),
    }
}

/// Generations are counted from 1 on; the lower half of the count tells a slot's owners apart as well.
fn id(client: ClientId) -> policy::ClientId {
    policy::ClientId { slot: client.slot, generation: client.generation as u32 }
}

fn priority(rank: Priority) -> Option<policy::Priority> {
    policy::Priority::new(u8::try_from(rank.number()).ok()?)
}

fn weight(weight: Weight) -> Option<policy::Weight> {
    policy::Weight::new(weight.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn standing(rank: u32, job: u32) -> Standing {
        Standing { rank: Priority::new(rank).unwrap(), weight: Weight::NORMAL, job }
    }

    #[test]
    fn the_policies_are_those_that_the_board_can_name() {
        let named: Vec<_> = PolicyKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(policy::Kind::all().map(policy::Kind::name).collect::<Vec<_>>(), named);
        for kind in PolicyKind::ALL {
            assert_eq!(policy::Kind::named(kind.name()).map(|k| u32::from(k.number())), Some(kind.number()));
            assert!(start(*kind).is_some());
        }
    }

    #[test]
    fn every_priority_and_weight_of_the_one_is_one_of_the_other() {
        for number in 0..=100 {
            assert_eq!(priority(Priority::new(number).unwrap()).map(|p| u32::from(p.level())), Some(number));
        }
        for number in [1, 100, 10_000] {
            assert_eq!(weight(Weight::new(number).unwrap()).map(policy::Weight::shares), Some(number));
        }
    }

    #[test]
    fn equals_that_want_have_turns_and_jobs_have_one_together() {
        let mut order = start(PolicyKind::Priority).unwrap();
        assert!(order.is_by_rank() && order.looks());
        let client = |slot| ClientId { slot, generation: 1 + u64::from(slot) };
        let mut decisions = Vec::new();
        for (slot, job) in [(0, 0), (1, 7), (2, 7)] {
            order.decide(0, Event::Joined(client(slot), standing(20, job)), &mut decisions);
        }
        order.decide(MS, Event::Wanting(client(1)), &mut decisions);
        order.decide(MS, Event::Wanting(client(2)), &mut decisions);
        assert!(!decisions.iter().any(|d| matches!(d, Decision::Turn { turn: Turn::Job(_) | Turn::Client(_), .. })));
        order.decide(MS, Event::Wanting(client(0)), &mut decisions);
        let mut holders = std::collections::BTreeSet::new();
        for _ in 0..10 {
            let now_ns = order.wake_ns().unwrap();
            order.decide(now_ns, Event::TimePassed, &mut decisions);
        }
        for decision in decisions {
            if let Decision::Turn { rank, turn, .. } = decision {
                assert_eq!(rank, Priority::NORMAL);
                holders.insert(format!("{turn:?}"));
            }
        }
        assert!(holders.contains("Client(0)") && holders.contains("Job(7)"), "{holders:?}");
    }
}
