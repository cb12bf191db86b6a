//! Every counter and gauge of a segment, declared once: its place in the segment, the key under which `aictl` prints it,
//! its unit and what it means. Tables, JSON and documentation are made from this list.
//!
//! The position in the list is the position in the segment, so lines are only ever appended; anything else needs a new
//! [`layout::VERSION`](crate::layout::VERSION).

/// Whether a number only grows or tells a present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// A present state, which may fall again.
    Gauge,
}

/// One declared statistic.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Key in machine-readable output; ends in its unit where it has one.
    pub key: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// One sentence for people.
    pub text: &'static str,
}

macro_rules! statistics {
    ($($name:ident $key:literal $kind:ident $text:literal;)*) => {
        /// A statistic of a segment; the discriminant is its index in [`Segment::counters`](crate::layout::Segment).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Statistic { $(#[doc = $text] $name,)* }

        /// All statistics, in the order of the segment.
        pub const ALL: &[Statistic] = &[$(Statistic::$name,)*];

        const DESCRIPTIONS: &[Description] =
            &[$(Description { key: $key, kind: Kind::$kind, text: $text },)*];
    };
}

statistics! {
    GpuTime "gpu_time_ns" Counter "GPU time used, estimated from the sampled launches.";
    GpuSamples "gpu_samples" Counter "Launches whose GPU time was measured.";
    GpuSamplesContended "gpu_samples_contended" Counter "Samples set aside because another process had the GPU meanwhile.";
    GpuSamplesDiscarded "gpu_samples_discarded" Counter "Samples given up: the launch came too late behind its first event, or an event could not be read.";
    SampleInterval "sample_interval_launches" Gauge "One launch in this many is sampled.";
    EmptyPair "empty_event_pair_ns" Gauge "Time between two events with nothing between them, subtracted from each sample.";
    OpenRequests "open_requests" Gauge "Streams with work that no synchronisation has ended yet.";
    HostToDevicePinned "copy_h2d_pinned_bytes" Counter "Bytes copied from page-locked host memory to the device.";
    HostToDevicePageable "copy_h2d_pageable_bytes" Counter "Bytes copied from pageable host memory to the device.";
    DeviceToHostPinned "copy_d2h_pinned_bytes" Counter "Bytes copied from the device to page-locked host memory.";
    DeviceToHostPageable "copy_d2h_pageable_bytes" Counter "Bytes copied from the device to pageable host memory.";
    DeviceToDevice "copy_d2d_bytes" Counter "Bytes copied within a device.";
    PeerToPeer "copy_peer_bytes" Counter "Bytes copied between devices or contexts.";
    HostToHost "copy_h2h_bytes" Counter "Bytes copied by the driver from host memory to host memory.";
    CopyFailures "copy_failed_calls" Counter "Copies that the driver refused.";
    MemsetBytes "memset_bytes" Counter "Bytes of device memory set.";
    DeviceBytes "device_bytes" Gauge "Device memory in use: plain, pitched, stream-ordered and physical (cuMemCreate) allocations.";
    DevicePeakBytes "device_peak_bytes" Gauge "The most device memory ever in use.";
    ManagedBytes "managed_bytes" Gauge "Managed memory in use.";
    PinnedBytes "pinned_bytes" Gauge "Page-locked host memory the program holds, from the pool and from the driver.";
    PinnedPeakBytes "pinned_peak_bytes" Gauge "The most page-locked host memory the program ever held.";
    RegisteredBytes "registered_bytes" Gauge "Host memory the program has registered with cuMemHostRegister.";
    PoolCapacity "pool_capacity_bytes" Gauge "Size the pool may grow to.";
    PoolReserved "pool_reserved_bytes" Gauge "Page-locked so far for the pool.";
    PoolBlock "pool_block_bytes" Gauge "Size of one block of the pool.";
    PoolAllocated "pool_allocated_bytes" Gauge "Blocks of the pool in the program's hands.";
    PoolQuarantined "pool_quarantined_bytes" Gauge "Freed blocks that wait until the GPU work before their free is done.";
    PoolHighWater "pool_high_water_bytes" Gauge "The most the pool ever had allocated.";
    PoolHits "pool_hits" Counter "Requests served from the pool.";
    PoolMissTooLarge "pool_misses_too_large" Counter "Requests passed on: larger than the largest slab.";
    PoolMissNoRoom "pool_misses_no_room" Counter "Requests passed on: no run of free blocks was long enough.";
    PoolMissWaiting "pool_misses_waiting_for_gpu" Counter "Requests passed on: the room there was still waited for the GPU.";
    PoolMissFlags "pool_misses_special_flags" Counter "Requests passed on: write-combined memory or flags unknown to the pool.";
    PoolMissContext "pool_misses_other_context" Counter "Requests passed on: the current context is not the pool's.";
    PoolMissCapture "pool_misses_capture" Counter "Requests passed on: a stream capture was open.";
    PoolMissNotReady "pool_misses_not_ready" Counter "Requests passed on: the pool is off or has no slab yet.";
    PoolFences "pool_fences" Counter "Times an event was put on every stream to learn when freed blocks may be used again.";
    Captures "captures" Counter "Stream captures begun.";
    UnknownLookups "unknown_lookups" Counter "Hooked names that were looked up and answered with a function we do not know.";
    SharedShardLaunches "shared_shard_launches" Counter "Launches counted with locked additions because more threads launch than there are shards.";
    Panics "panics" Counter "Panics caught inside the shim, each of which ends its interference.";
    PassThrough "pass_through" Gauge "0 while the shim works; else the reason why it only forwards (see layout::PassThrough).";
    StagedCopies "staged_copies" Counter "Copies between pageable memory and the device that went through page-locked memory of the library's.";
    StagedBytes "staged_bytes" Counter "Bytes of those copies.";
    StagedPassedOn "staged_copies_passed_on" Counter "Copies left to the driver because no page-locked memory was free for them.";
    Coordinator "coordinator" Gauge "How the process stands to a coordinator: 0 there is none, 1 it is a client of one; else why not (see layout::Coordinator).";
    Conversations "coordinator_conversations" Counter "Times that the process became a client of a coordinator.";
    GateWaits "gate_waits" Counter "Launches, memsets and copies that waited while a more important process had work on the GPU, or for the turn of theirs.";
    GateTimeouts "gate_timeouts" Counter "Such waits in which whoever was waited for was no longer heard of.";
    GatedTime "gated_ns" Counter "Time that launches waited so.";
    BacklogWaits "backlog_waits" Counter "Launches that waited until less of the process's own work was queued on the GPU.";
    BacklogTime "backlog_waited_ns" Counter "Time that launches waited so.";
    Openings "backlog_openings" Counter "Times that the bound on queued work was lifted for a second because nothing completed for 5 ms.";
    Class "class" Gauge "What kind of work the process does, as was said: 0 nobody has, 1 batch, 2 normal, 3 inference, 4 to be found out.";
    ClassSuggested "class_suggested" Gauge "The class that its behaviour suggests, by the same numbers; 0 none yet.";
    ClassReason "class_reason" Gauge "Why (see rank::ClassReason).";
    Weight "weight" Gauge "Its share among those with whom it takes turns, where it is a client of a coordinator.";
    GateWaiting "gate_waiting_launches" Gauge "Launches that waited at the gate when that was last looked at.";
    GatedBy "gated_by_pid" Gauge "The process for which they waited, by its own PID; 0 nobody in particular.";
    GatedShare "gated_share_per_mille" Gauge "Share of the last second in which a launch waited at the gate, in thousandths.";
}

impl Statistic {
    /// How this statistic is called and what it means.
    #[must_use]
    pub fn description(self) -> &'static Description {
        &DESCRIPTIONS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_are_unique_and_fit_the_segment() {
        let keys: HashSet<_> = ALL.iter().map(|s| s.description().key).collect();
        assert_eq!(keys.len(), ALL.len());
        assert!(ALL.len() <= crate::layout::COUNTERS);
    }
}
