//! Who is on the GPU: one slot a process, claimed with its first context.

use super::{Layout, SLOTS, SharedGpu};
use std::sync::atomic::{AtomicU64, Ordering};

const WINDOWS: usize = 16;
const WINDOW_NS: u64 = 100_000_000;

/// A process's share of the GPU.
#[repr(C)]
pub(crate) struct Slot {
    /// pid in the upper half, the lower 32 bits of its start time in the lower; 0 is free.
    owner: AtomicU64,
    pub(crate) memory_bytes: AtomicU64,
    /// Until when this process's wish for the compute engine counts.
    pub(super) wants_until_ns: AtomicU64,
    /// Compute time per window of 100 ms: the window's number in the upper half, microseconds in the lower.
    busy: [AtomicU64; WINDOWS],
}

/// Which slot is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SlotIndex(pub(super) usize);

/// A living process on the GPU, as NVML reports it.
pub(crate) struct Client {
    pub(crate) pid: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) busy_percent: u32,
}

impl SharedGpu {
    /// Claims a slot for this process; none if 128 living processes have one each.
    pub(crate) fn claim_slot(&self) -> Option<SlotIndex> {
        let me = identity(std::process::id())?;
        for (index, slot) in self.layout.slots.iter().enumerate() {
            let owner = slot.owner.load(Ordering::Acquire);
            if owner != 0 && is_alive(owner) {
                continue;
            }
            if slot.owner.compare_exchange(owner, me, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                slot.memory_bytes.store(0, Ordering::Relaxed);
                slot.wants_until_ns.store(0, Ordering::Relaxed);
                slot.busy.iter().for_each(|window| window.store(0, Ordering::Relaxed));
                return Some(SlotIndex(index));
            }
        }
        None
    }

    /// Gives the slot back, with the last context.
    pub(crate) fn release_slot(&self, slot: SlotIndex) {
        let slot = &self.layout.slots[slot.0];
        slot.memory_bytes.store(0, Ordering::Relaxed);
        slot.owner.store(0, Ordering::Release);
    }

    /// Living processes with a context.
    pub(crate) fn clients(&self, now_ns: u64) -> Vec<Client> {
        let client = |slot: &Slot| Client {
            pid: (slot.owner.load(Ordering::Relaxed) >> 32) as u32,
            memory_bytes: slot.memory_bytes.load(Ordering::Relaxed),
            busy_percent: slot.busy_percent(now_ns),
        };
        self.living().map(client).collect()
    }

    pub(super) fn living(&self) -> impl Iterator<Item = &Slot> {
        living(self.layout)
    }

    pub(super) fn slot(&self, index: usize) -> Option<&Slot> {
        self.layout.slots[..SLOTS].get(index)
    }
}

pub(super) fn living(layout: &Layout) -> impl Iterator<Item = &Slot> {
    let own = std::process::id();
    layout.slots.iter().filter(move |slot| {
        let owner = slot.owner.load(Ordering::Acquire);
        owner != 0 && ((owner >> 32) as u32 == own || is_alive(owner))
    })
}

impl Slot {
    /// Adds compute time that ended at `end_ns`.
    pub(super) fn add_busy(&self, end_ns: u64, busy_ns: u64) {
        let window = end_ns / WINDOW_NS;
        let cell = &self.busy[window as usize % WINDOWS];
        let old = cell.load(Ordering::Relaxed);
        let base = if old >> 32 == window & 0xffff_ffff { old & 0xffff_ffff } else { 0 };
        let busy_us = (base + busy_ns.div_ceil(1_000)).min(u64::from(u32::MAX));
        cell.store((window & 0xffff_ffff) << 32 | busy_us, Ordering::Relaxed);
    }

    /// Share of the last second, in percent.
    fn busy_percent(&self, now_ns: u64) -> u32 {
        let current = now_ns / WINDOW_NS;
        let recent = self.busy.iter().map(|cell| cell.load(Ordering::Relaxed)).filter(|cell| {
            let age = current.wrapping_sub(cell >> 32) & 0xffff_ffff;
            *cell != 0 && (1..=10).contains(&age)
        });
        let busy_us: u64 = recent.map(|cell| cell & 0xffff_ffff).sum();
        (busy_us.div_ceil(10_000)).min(100) as u32
    }
}

/// pid and start time as one word; none if there is no such process.
fn identity(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the command in parentheses may hold anything, so fields are counted after the last ')'.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let start_time: u64 = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(u64::from(pid) << 32 | start_time & 0xffff_ffff)
}

fn is_alive(owner: u64) -> bool {
    identity((owner >> 32) as u32) == Some(owner)
}
