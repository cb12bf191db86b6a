//! What the process's behaviour looks like, as a class, from counters that are there anyway, a few times a second: watched by the thread that listens to the coordinator, and where there
//! is none, so that there is no such thread, by the program's own when they have just waited or visit a kernel for a sample.
//! An ordinary launch does nothing for it.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`watch`] | what counters over a second or two suggest; pure |
//!
//! The suggestion stands in the segment for people and on the client's page for the coordinator, which applies it where that was
//! asked for (class `auto`).

mod watch;

use crate::clock;
use crate::handlers::streams;
use crate::hook::Hook;
use crate::segment::{self, segment};
use aishim_abi::layout::HookKind;
use aishim_abi::rank::{Class, ClassReason};
use aishim_abi::statistics::Statistic;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use watch::{Sample, Watch};

/// Without a coordinator, how often the program's threads look, in nanoseconds; as often as a sample is taken into account.
const AGAIN_NS: u64 = watch::INTERVAL_NS;

/// When they look again, by time stamps in nanoseconds; `u64::MAX` while the listening thread does, and before there is anything to look at.
static AGAIN_AT_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// What they have seen.
static SEEN: Mutex<Option<Behaviour>> = Mutex::new(None);

/// The listening thread looks from now on, or no longer does.
pub(crate) fn attend(is_attended: bool) {
    let mut seen = SEEN.lock();
    // Made here, since a launch may be what looks next.
    *seen = (!is_attended).then(Behaviour::new);
    AGAIN_AT_NS.store(if is_attended { u64::MAX } else { 0 }, Relaxed);
}

/// Looks where that is due and nobody else does.
#[inline]
pub(crate) fn look_by_the_way() {
    let at_ns = AGAIN_AT_NS.load(Relaxed);
    if at_ns != u64::MAX && clock::ns(clock::now()) >= at_ns {
        look_now();
    }
}

#[cold]
fn look_now() {
    let Some(mut seen) = SEEN.try_lock() else { return };
    let Some(behaviour) = seen.as_mut() else { return };
    behaviour.look(clock::monotonic_ns(), 0);
    AGAIN_AT_NS.store(clock::ns(clock::now()).saturating_add(AGAIN_NS), Relaxed);
}

/// What was seen of the process since somebody began to look.
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
