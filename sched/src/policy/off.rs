//! `off`: every gate is open, and the GPU shares itself among its contexts as it does without us.

use super::{Decision, Group, Priority, event::PartyEvent, registry::Policy};

#[derive(Debug)]
pub(super) struct Off;

impl Policy for Off {
    fn decide(&mut self, _now_ns: u64, _event: PartyEvent, _decisions: &mut Vec<Decision>) {}

    fn group(&self, _priority: Priority) -> Group {
        Group::ONLY
    }

    fn wake_ns(&self) -> Option<u64> {
        None
    }
}
