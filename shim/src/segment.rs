//! This process's own segment, and every way we count in it.
//!
//! The segment is a static: counting needs no pointer and no check whether anybody is looking. Until the process makes
//! its first context it is private zero pages; then [`publish`] maps the file over it, and from there on what is counted
//! is seen by all. A child forked later gets private zero pages again.

use crate::hook::Hook;
use aishim_abi::histogram::{HIGHEST_NS, index_of};
use aishim_abi::layout::{
    Histogram, HookState, MAGIC, NAME_BYTES, SEGMENT_BYTES, Segment, UNKNOWN_NAMES, VERSION, put_text,
};
use aishim_abi::segment_file;
use aishim_abi::statistics::Statistic;
use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

#[repr(transparent)]
struct Home(UnsafeCell<MaybeUninit<Segment>>);

// SAFETY: after start-up every access goes through the atomics of the segment; the few plain fields (names, command)
// are written once, by the one thread that publishes, before the file has its final name.
unsafe impl Sync for Home {}

static HOME: Home = Home(UnsafeCell::new(MaybeUninit::zeroed()));

/// This process's segment.
#[inline]
pub(crate) fn segment() -> &'static Segment {
    // SAFETY: zero is a value of every field (integers and arrays of them), and the static is never moved.
    unsafe { &*HOME.0.get().cast::<Segment>() }
}

fn plain_fields() -> *mut Segment {
    HOME.0.get().cast()
}

/// Adds to a counter.
#[inline]
pub(crate) fn add(which: Statistic, amount: u64) {
    segment().counters[which as usize].fetch_add(amount, Relaxed);
}

/// Takes from a gauge.
pub(crate) fn subtract(which: Statistic, amount: u64) {
    segment().counters[which as usize].fetch_sub(amount, Relaxed);
}

/// Sets a gauge.
pub(crate) fn set(which: Statistic, value: u64) {
    segment().counters[which as usize].store(value, Relaxed);
}

/// Raises a counter that is counted elsewhere; of several threads that tell it, the one with the most is right.
pub(crate) fn raise(which: Statistic, value: u64) {
    segment().counters[which as usize].fetch_max(value, Relaxed);
}

/// A statistic as it stands.
pub(crate) fn value(which: Statistic) -> u64 {
    segment().counters[which as usize].load(Relaxed)
}

/// Adds to a gauge and raises its peak with it.
pub(crate) fn add_with_peak(gauge: Statistic, peak: Statistic, amount: u64) {
    let now = segment().counters[gauge as usize].fetch_add(amount, Relaxed) + amount;
    segment().counters[peak as usize].fetch_max(now, Relaxed);
}

/// Counts a call that returned an error.
#[cold]
pub(crate) fn error(hook: Hook) {
    segment().errors[hook as usize].fetch_add(1, Relaxed);
}

/// Counts a value in a histogram that all threads share.
pub(crate) fn record(histogram: &Histogram, value_ns: u64) {
    let value_ns = value_ns.min(HIGHEST_NS);
    if let Some(bucket) = histogram.buckets.get(index_of(value_ns)) {
        bucket.fetch_add(1, Relaxed);
        histogram.sum_ns.fetch_add(value_ns, Relaxed);
        histogram.max_ns.fetch_max(value_ns, Relaxed);
    }
}

/// Notes how far a hook has come.
pub(crate) fn hook_state(hook: Hook, state: HookState) {
    segment().hook_states[hook as usize].fetch_max(state as u8, Relaxed);
}

/// Counts a lookup whose answer we do not know and keeps its name, once. Takes no lock: it may run inside `dlsym`.
pub(crate) fn unknown_lookup(name: &[u8]) {
    add(Statistic::UnknownLookups, 1);
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    if known_already(name) {
        return;
    }
    let index = TAKEN.fetch_add(1, Relaxed) as usize;
    if index >= UNKNOWN_NAMES {
        TAKEN.store(UNKNOWN_NAMES as u32, Relaxed);
        return;
    }
    // SAFETY: the index was handed to this thread alone; readers cut at the first zero byte, and the count that makes
    // the entry visible is raised after it is written.
    let field = unsafe { &mut (*plain_fields()).header.unknown[index] };
    put_text(field, name);
    segment().header.unknown_count.fetch_max(index as u32 + 1, Relaxed);
}

fn known_already(name: &[u8]) -> bool {
    let header = &segment().header;
    let count = (header.unknown_count.load(Relaxed) as usize).min(UNKNOWN_NAMES);
    let cut = &name[..name.len().min(NAME_BYTES - 1)];
    header.unknown[..count].iter().any(|known| known.split(|b| *b == 0).next() == Some(cut))
}

/// Who this process is, for the header.
pub(crate) struct Identity<'a> {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) generation: u64,
    pub(crate) unix_ns: u64,
    pub(crate) priority: u32,
    pub(crate) driver_version: u32,
    pub(crate) command: &'a [u8],
}

/// Fills the header and publishes the segment in `directory`.
pub(crate) fn publish(identity: &Identity<'_>, directory: &Path) -> io::Result<()> {
    fill(identity);
    aishim_abi::directory::prepare(directory, identity.uid)?;
    // SAFETY: the static lives as long as the process and is only accessed as described at `Home`.
    unsafe { segment_file::publish(plain_fields(), directory, identity.pid, identity.start_ticks) }.map(|_| ())
}

fn fill(identity: &Identity<'_>) {
    // SAFETY: called once, by the thread that activates the shim; nobody else touches the plain fields.
    let plain = unsafe { &mut *plain_fields() };
    plain.header.magic = MAGIC;
    put_text(&mut plain.header.library, env!("CARGO_PKG_VERSION").as_bytes());
    put_text(&mut plain.header.command, identity.command);
    for hook in Hook::ALL {
        put_text(&mut plain.hook_names[*hook as usize], hook.symbol().to_bytes());
        plain.hook_kinds[*hook as usize] = hook.kind() as u8;
    }
    let header = &segment().header;
    header.version.store(VERSION, Relaxed);
    header.hooks.store(Hook::ALL.len() as u32, Relaxed);
    header.segment_bytes.store(SEGMENT_BYTES as u64, Relaxed);
    header.generation.store(identity.generation, Relaxed);
    header.pid.store(identity.pid, Relaxed);
    header.uid.store(identity.uid, Relaxed);
    header.start_ticks.store(identity.start_ticks, Relaxed);
    header.created_unix_ns.store(identity.unix_ns, Relaxed);
    header.priority.store(identity.priority, Relaxed);
    header.driver_version.store(identity.driver_version, Relaxed);
}

/// Adds a device to those the process uses. Called with the lock of [`crate::life`] held.
pub(crate) fn device_used(uuid: [u8; 16]) {
    let header = &segment().header;
    let count = header.device_count.load(Relaxed) as usize;
    if count >= header.devices.len() || header.devices[..count].contains(&uuid) {
        return;
    }
    // SAFETY: the caller's lock makes this thread the only writer; the count is raised after the entry is written.
    unsafe { (*plain_fields()).header.devices[count] = uuid };
    header.device_count.store(count as u32 + 1, Relaxed);
}

/// Notes that the process ends in order.
pub(crate) fn ended(unix_ns: u64) {
    segment().header.ended_unix_ns.store(unix_ns, Relaxed);
}

/// In a forked child: the file belongs to the parent.
pub(crate) fn disown() {
    // SAFETY: as for `publish`; the child has one thread.
    let _ = unsafe { segment_file::disown(plain_fields()) };
}

/// Raises an atomic that this thread alone writes; a plain addition, but one that readers may watch.
#[inline]
pub(crate) fn bump(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}
