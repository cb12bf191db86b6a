//! What the process's behaviour looks like, as a class: watched by the thread that listens to the coordinator, from counters that are
//! there anyway, a few times a second. A launch does nothing for it.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`watch`] | what counters over a second or two suggest; pure |
//!
//! The suggestion stands in the segment for people and on the client's page for the coordinator, which applies it where that was
//! asked for (class `auto`).

mod watch;

use crate::handlers::streams;
use crate::hook::Hook;
use crate::segment::{self, segment};
use aishim_abi::layout::HookKind;
use aishim_abi::rank::{Class, ClassReason};
use aishim_abi::statistics::Statistic;
use std::sync::atomic::Ordering::Relaxed;
use watch::{Sample, Watch};

/// What was seen of the process since the conversation began; the listening thread's own.
pub(crate) struct Behaviour {
    watch: Watch,
}

impl Behaviour {
    pub(crate) fn new() -> Self {
        Self { watch: Watch::default() }
    }

    /// Looks at the counters where that is due, and publishes what they suggest; that.
    pub(crate) fn look(&mut self, now_ns: u64, waiting: u32) -> (Class, ClassReason) {
        if self.watch.is_due(now_ns) {
            self.watch.feed(sample(now_ns, waiting));
            segment::set(Statistic::GatedShare, self.watch.gated_per_mille());
        }
        let (class, reason) = self.watch.suggestion();
        segment::set(Statistic::ClassSuggested, class.number().into());
        segment::set(Statistic::ClassReason, reason.number().into());
        (class, reason)
    }
}

/// The counters as they stand.
fn sample(now_ns: u64, waiting: u32) -> Sample {
    let of = segment::value;
    let mut sample = Sample {
        at_ns: now_ns,
        requests: streams::requests_ended(),
        request_ns: segment().request.sum_ns.load(Relaxed),
        is_open: of(Statistic::OpenRequests) > 0,
        copied_bytes: COPIES.iter().map(|which| of(*which)).fold(0, u64::wrapping_add),
        device_bytes: of(Statistic::DeviceBytes),
        gated_ns: of(Statistic::GatedTime),
        is_gated: waiting > 0,
        ..Sample::default()
    };
    for hook in Hook::ALL {
        let is_graph = hook.symbol().to_bytes().starts_with(b"cuGraphLaunch");
        let counted = match hook.kind() {
            HookKind::Launch if is_graph => &mut sample.graphs,
            HookKind::Launch => &mut sample.kernels,
            HookKind::Synchronise => &mut sample.waits,
            _ => continue,
        };
        let shards = segment().shards.iter();
        let calls = shards.map(|shard| shard.calls[*hook as usize].load(Relaxed));
        *counted = calls.fold(*counted, u64::wrapping_add);
    }
    sample
}

const COPIES: [Statistic; 4] = [
    Statistic::HostToDevicePinned,
    Statistic::HostToDevicePageable,
    Statistic::DeviceToHostPinned,
    Statistic::DeviceToHostPageable,
];
