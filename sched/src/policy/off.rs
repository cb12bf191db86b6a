//! `off`: every gate is open, and the GPU shares itself among its contexts as it does without us.

use super::{Decision, Group, event::PartyEvent, registry::Policy};

#[derive(Debug)]
pub(super) struct Off;

impl Policy for Off {
    fn decide(&mut self, _now_ns: u64, event: PartyEvent, decisions: &mut Vec<Decision>) {
        if let PartyEvent::Entered { party, priority, .. } = event {
            decisions.push(Decision::Placed { party, group: Group::ONLY, priority });
        }
    }

    fn wake_ns(&self) -> Option<u64> {
        None
    }
}
