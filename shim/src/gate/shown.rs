//! What people are shown of the gate, and what our behaviour suggests: looked at once a round of the listening thread.

use super::activity;
use super::situation::{self, Closed};
use crate::behaviour::Behaviour;
use crate::segment::{self, segment};
use aishim_abi::board::Turn;
use aishim_abi::message::Welcome;
use aishim_abi::statistics::Statistic;
use std::sync::atomic::Ordering::Relaxed;

/// Publishes it.
pub(super) fn round(behaviour: &mut Behaviour, welcome: Option<&Welcome>, now_ns: u64) {
    let Some(page) = activity::page() else { return };
    let waiting = page.is_waiting.load(Relaxed);
    let (class, reason) = behaviour.look(now_ns, waiting);
    page.class_reason.store(reason.number(), Relaxed);
    page.class_suggested.store(class.number(), Relaxed);
    segment::set(Statistic::GateWaiting, waiting.into());
    segment::set(Statistic::GatedBy, if waiting > 0 { keeper(now_ns).into() } else { 0 });
    let own = welcome.and_then(|welcome| {
        let own = situation::places()?.board.entry(welcome.slot as usize)?;
        (own.generation == welcome.generation).then_some(own)
    });
    if let Some(own) = own {
        segment().header.priority.store(own.rank.number(), Relaxed);
        segment::set(Statistic::Weight, own.weight.number().into());
        segment::set(Statistic::Class, own.class.number().into());
    }
}

/// The conversation is over: nobody waits.
pub(super) fn end() {
    for which in [Statistic::GateWaiting, Statistic::GatedBy, Statistic::GatedShare] {
        segment::set(which, 0);
    }
}

/// The process that keeps our launches waiting, by its own PID; 0 for nobody in particular: a job, or our own work that is queued.
fn keeper(now_ns: u64) -> u32 {
    let Some(places) = situation::places() else { return 0 };
    let slot = match situation::look_at_all(now_ns) {
        Err(Closed::Peer { slot, .. } | Closed::Partner { slot, .. }) => slot,
        Err(Closed::Turn { gpu, .. }) => match places.board.turn(gpu, situation::rank(), now_ns).0 {
            Turn::Client(slot) => slot as usize,
            Turn::Everybody | Turn::Job(_) => return 0,
        },
        Ok(_) => return 0,
    };
    places.board.entry(slot).map_or(0, |entry| entry.own_pid)
}
