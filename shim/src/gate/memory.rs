//! Memsets and copies at the gate.
//!
//! Which of them compete with others' kernels, and with what:
//!
//! | operation | what it takes | at the gate |
//! | --- | --- | --- |
//! | memset, copy within the device or between devices | multiprocessors or the memory's whole bandwidth, and the context's time slice | a launch, of any size |
//! | copy from or to the host, 64 KiB and more | a copy engine and the bus | stays back while more important work is on the GPU; says that it is there |
//! | the same, smaller; host to host | a microsecond or two of a copy engine, or nothing | nothing |
//!
//! **Work on the device** is a launch in all respects: it waits, in the program or on the GPU, it is told of, and its own backlog is bounded. It is so for the small
//! too. What it costs others in time slicing is not what it takes but that its context has work at all: a process that sets 4 KiB again and again gets each second
//! slice of 2 ms, as does one with kernels of 2 us, and those pass the gate as well.
//!
//! **Copies from and to the host.** Candidates:
//!
//! * *let them pass, untold (as it was):* others' kernels lose nothing but a fiftieth of the memory's bandwidth. But requests as a rule begin and end with a copy, which then
//!   stands behind others' in the same engine, where 256 MiB take 5 ms; and a kernel that follows a long copy on its stream is not protected, since its estimate has passed
//!   before it begins.
//! * *launches, too:* strict, but a copy's time would be taken for the multiprocessors': a training job's kernels would wait for its own prefetching, which runs beside them, a copy of a
//!   millisecond would be kept back as long kernels are while somebody is due, and policies by GPU time would charge for the bus.
//! * **Kept back while somebody more important has work on the GPU, free else (built):** what somebody is in the middle of is a request, whose copies come at its ends; in the gaps nobody is
//!   in their way, and they are in the way of no kernels. In their stream's order in either case. One that has begun when a request comes ends as it would: staged copies ask for each chunk of at most 2 MiB
//!   ([`chunk`]), others cannot be cut. To be measured on a GPU: what an important process's small copy loses beside others' large ones, which is what all this is for.
//!
//! And they are told of, which is what makes the process busy from a request's first copy on, before its first kernel: others' last kernels end meanwhile. A copy is told of for
//! [`TOLD_MOST_NS`] at most: it needs nothing of what others are kept from, and a process that reads its weights for ten seconds is no reason to keep kernels back so long.
//!
//! **What it takes.** An operation of some size class (powers of two) takes per KiB what the quickest of the last [`SAMPLES`] timed ones of its class took, since whoever comes between only adds to
//! it; one is timed at a time, at most every [`TIME_EVERY_NS`], by two events around it. Before the first, and where sampling is off, it is reckoned for an H100: [`SET_PS`], [`COPY_PS`]. On a slower
//! GPU that is too little, so that more is let through than was meant until one of the class was timed. Candidates: *twice the memory's clock times its width, which the driver tells* (of the
//! whole GPU also in a MIG instance, and nothing of what the driver's kernels make of it); *the strata of launches* (their counts and histograms are those of kernels, which people read as such).

use super::ahead::Joined;
use super::{Admitted, activity, admit, backlog, go_ahead, situation, wait};
use crate::clock;
use crate::cuda::{Status, address, sys};
use crate::fence::fenced;
use crate::handlers::streams;
use crate::hook::Hook;
use crate::mode;
use crate::sampling::{self, Stopwatch};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What is done on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Set,
    Copy,
    /// Copies in one call, whose sizes may be read only once the driver has taken them: what counts is how many they are.
    Batch,
}

/// The least that the shortest operation takes, as the shortest kernel.
const SHORTEST_NS: u64 = 2_000;

/// Picoseconds per KiB that is set, or read and written, until it was measured: 2.6 and 1.3 TB/s.
const SET_PS: u64 = 394;
const COPY_PS: u64 = 788;

/// The same over the bus: 50 GB/s.
const HOST_COPY_PS: u64 = 20_480;

/// No operation is believed to take longer: what the program says of sizes may be refused by the driver, and 80 GB are set in 30 ms.
const LONGEST_NS: u64 = 100_000_000;

/// Copies from and to the host below this are neither kept back nor told of.
const LEAST_HOST_BYTES: usize = 64 << 10;

/// How long such a copy counts at most.
const TOLD_MOST_NS: u64 = 1_000_000;

/// What it counts among launches that wait on the GPU, whose bound it has no part in.
const SUBMITTED_NS: u64 = 2_000;

/// Timed operations of a class that are remembered.
const SAMPLES: usize = 8;

/// One is timed at most so often, since it costs the processor some 8 us.
const TIME_EVERY_NS: u64 = 10_000_000;

/// Classes of powers of two, from 256 KiB on, below which it is the launch that takes time.
const LEAST_CLASS: u32 = 18;
const CLASSES: usize = 20;

static LEARNT: [[Class; CLASSES]; 2] = [const { [const { Class::new() }; CLASSES] }; 2];

/// Operations of about one size.
struct Class {
    /// What the last of them took, in picoseconds per KiB; 0 for none.
    taken_ps: [AtomicU64; SAMPLES],
    next: AtomicUsize,
    /// The least of them.
    least_ps: AtomicU64,
}

static TIMED: Timed =
    Timed { stopwatch: Stopwatch::new(), what: Mutex::new((Kind::Set, 0)), since_ns: AtomicU64::new(0) };

/// The operation that is timed.
struct Timed {
    stopwatch: Stopwatch,
    what: Mutex<(Kind, usize)>,
    /// When it was begun.
    since_ns: AtomicU64,
}

/// An operation that was let on.
struct Entered {
    cost_ns: u64,
    is_mark_due: bool,
    /// The cost stands on the page already.
    is_told: bool,
    is_timed: bool,
}

/// Makes the driver's call for an operation on the device, on a stream as the hook means it, once it may be made.
#[inline]
pub(crate) fn on_device(kind: Kind, bytes: usize, on: (sys::CUstream, Hook), call: impl FnOnce() -> Status) -> Status {
    if mode::mode() & mode::IN_COMPANY == 0 {
        return call();
    }
    on_device_in_company(kind, bytes, on, call)
}

#[cold]
#[inline(never)]
fn on_device_in_company(kind: Kind, bytes: usize, on: (sys::CUstream, Hook), call: impl FnOnce() -> Status) -> Status {
    let stream = streams::key(address(on.0), on.1);
    let entered = fenced(|| enter(kind, bytes, stream));
    let status = call();
    if let Some(entered) = entered {
        fenced(|| leave(&entered, stream, status));
    }
    status
}

/// The same for a copy from or to the host, whose call returns when it is done if it `waits`.
#[inline]
pub(crate) fn with_host(bytes: usize, waits: bool, on: (sys::CUstream, Hook), call: impl FnOnce() -> Status) -> Status {
    if bytes >= LEAST_HOST_BYTES && mode::mode() & mode::IN_COMPANY != 0 {
        enter_host_copy(bytes, waits, on);
    }
    call()
}

/// The next part of a copy of ours may be sent. Waits in the program, which waits for such a copy anyhow; no lock is held, and helpers sleep meanwhile.
#[inline]
pub(crate) fn chunk(bytes: usize, waits: bool) {
    if mode::mode() & mode::IN_COMPANY != 0 {
        wait_and_tell(bytes, waits);
    }
}

/// Whether there is any gate: no capture, no end of the process.
fn applies() -> bool {
    mode::mode() & !mode::TRACING == mode::IN_COMPANY
}

#[cold]
fn enter(kind: Kind, bytes: usize, stream: usize) -> Option<Entered> {
    if !applies() || bytes == 0 {
        return None;
    }
    let cost_ns = cost_ns(kind, bytes);
    let now_ns = activity::monotonic_ns(clock::now());
    let admitted = admit(now_ns, cost_ns, stream);
    let is_timed = class(kind, bytes).is_some() && TIMED.begin(kind, bytes, stream as sys::CUstream, now_ns);
    let Admitted { is_mark_due, is_told, .. } = admitted;
    Some(Entered { cost_ns, is_mark_due, is_told, is_timed })
}

#[cold]
fn leave(entered: &Entered, stream: usize, status: Status) {
    let handle = stream as sys::CUstream;
    if entered.is_timed {
        TIMED.stopwatch.end(handle, clock::now(), status.is_ok());
    }
    if !status.is_ok() {
        // Of a size that the program made up, say.
        if entered.is_told {
            activity::refused(entered.cost_ns);
        }
    } else if entered.is_mark_due {
        backlog::mark(handle, entered.cost_ns);
    }
}

#[cold]
#[inline(never)]
fn enter_host_copy(bytes: usize, waits: bool, (stream, hook): (sys::CUstream, Hook)) {
    if !applies() {
        return;
    }
    fenced(|| {
        let now_ns = activity::monotonic_ns(clock::now());
        match go_ahead(now_ns, SUBMITTED_NS, streams::key(address(stream), hook)) {
            Some(Joined::Queued) if waits => {}
            Some(Joined::Queued) => activity::queued(now_ns),
            Some(Joined::Told | Joined::Released) => activity::copies(told_ns(bytes), now_ns, waits),
            None => wait_and_tell(bytes, waits),
        }
    });
}

#[cold]
fn wait_and_tell(bytes: usize, waits: bool) {
    if !applies() {
        return;
    }
    let now_ns = activity::monotonic_ns(clock::now());
    if situation::look(now_ns).is_err() {
        wait::while_closed();
    }
    activity::copies(told_ns(bytes), activity::monotonic_ns(clock::now()), waits);
}

/// For how long a copy over the bus makes the process busy.
fn told_ns(bytes: usize) -> u64 {
    at_pace(HOST_COPY_PS, bytes).min(TOLD_MOST_NS)
}

/// What an operation keeps the GPU busy for; `bytes` of a batch are copies.
fn cost_ns(kind: Kind, bytes: usize) -> u64 {
    let reckoned_ps = match kind {
        Kind::Set => SET_PS,
        Kind::Copy => COPY_PS,
        Kind::Batch => return SHORTEST_NS.saturating_mul(bytes as u64).min(LONGEST_NS),
    };
    let learnt_ps = class(kind, bytes).map_or(0, |class| class.least_ps.load(Relaxed));
    at_pace(if learnt_ps == 0 { reckoned_ps } else { learnt_ps }, bytes)
}

fn at_pace(ps: u64, bytes: usize) -> u64 {
    let more_ns = (bytes as u64 / 1024).saturating_mul(ps) / 1000;
    more_ns.saturating_add(SHORTEST_NS).min(LONGEST_NS)
}

/// The class of an operation, where it has one.
fn class(kind: Kind, bytes: usize) -> Option<&'static Class> {
    let of_kind = match kind {
        Kind::Set => &LEARNT[0],
        Kind::Copy => &LEARNT[1],
        Kind::Batch => return None,
    };
    of_kind.get(class_of(bytes)?)
}

fn class_of(bytes: usize) -> Option<usize> {
    Some((bytes.checked_ilog2()?.checked_sub(LEAST_CLASS)? as usize).min(CLASSES - 1))
}

impl Class {
    const fn new() -> Self {
        Self {
            taken_ps: [const { AtomicU64::new(0) }; SAMPLES],
            next: AtomicUsize::new(0),
            least_ps: AtomicU64::new(0),
        }
    }

    /// One of so many bytes took so long. Plain stores: one is timed at a time.
    fn learn(&self, bytes: usize, time_ns: u64) {
        let ps = time_ns.saturating_sub(SHORTEST_NS).saturating_mul(1000) / (bytes as u64 / 1024).max(1);
        self.taken_ps[self.next.fetch_add(1, Relaxed) % SAMPLES].store(ps.max(1), Relaxed);
        let taken = self.taken_ps.iter().map(|ps| ps.load(Relaxed)).filter(|ps| *ps != 0);
        self.least_ps.store(taken.min().unwrap_or(0), Relaxed);
    }
}

impl Timed {
    /// Begins to time an operation, where none is being timed and it is time for it.
    fn begin(&self, kind: Kind, bytes: usize, stream: sys::CUstream, now_ns: u64) -> bool {
        if !sampling::is_enabled() || now_ns.saturating_sub(self.since_ns.load(Relaxed)) < TIME_EVERY_NS {
            return false;
        }
        let Some(mut what) = self.what.try_lock() else { return false };
        self.since_ns.store(now_ns, Relaxed);
        if let Some(time_ns) = self.stopwatch.read() {
            let (kind, bytes) = *what;
            if let Some(class) = class(kind, bytes) {
                class.learn(bytes, time_ns);
            }
        }
        let is_begun = self.stopwatch.begin(stream);
        if is_begun {
            *what = (kind, bytes);
        }
        is_begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_reckoned_until_it_was_measured() {
        assert_eq!(cost_ns(Kind::Set, 1 << 30), SHORTEST_NS + 413_138);
        assert_eq!(cost_ns(Kind::Copy, 1 << 30), SHORTEST_NS + 826_277);
        assert_eq!((cost_ns(Kind::Set, 1), cost_ns(Kind::Set, usize::MAX)), (SHORTEST_NS, LONGEST_NS));
        assert_eq!(cost_ns(Kind::Batch, 10), 10 * SHORTEST_NS);
        let class = class(Kind::Copy, 32 << 20).unwrap();
        class.learn(32 << 20, SHORTEST_NS + 3_276_800);
        assert_eq!(cost_ns(Kind::Copy, 32 << 20), SHORTEST_NS + 3_276_800);
        assert_eq!(cost_ns(Kind::Copy, 48 << 20), SHORTEST_NS + 3_276_800 * 3 / 2, "of the same class");
        assert_eq!(cost_ns(Kind::Copy, 64 << 20), SHORTEST_NS + 51_642, "of the next one");
    }

    #[test]
    fn the_quickest_of_the_last_counts() {
        let class = Class::new();
        let least_after = |time_ns: u64| {
            class.learn(1 << 20, SHORTEST_NS + time_ns);
            class.least_ps.load(Relaxed)
        };
        assert_eq!(
            (least_after(2_048_000), least_after(1_024_000), least_after(5_120_000)),
            (2_000_000, 1_000_000, 1_000_000)
        );
        (0..SAMPLES - 2).for_each(|_| _ = least_after(5_120_000));
        assert_eq!(least_after(5_120_000), 5_000_000, "the quick one is too long ago");
        assert_eq!(least_after(0), 1, "0 stands for none");
    }

    #[test]
    fn what_the_bus_takes_counts_for_a_while_only() {
        assert_eq!(told_ns(1 << 20), SHORTEST_NS + 20_971);
        assert_eq!(told_ns(1 << 30), TOLD_MOST_NS);
    }

    #[test]
    fn classes_are_powers_of_two() {
        assert_eq!((class_of(0), class_of((256 << 10) - 1)), (None, None));
        assert_eq!((class_of(256 << 10), class_of((512 << 10) - 1), class_of(512 << 10)), (Some(0), Some(0), Some(1)));
        assert_eq!(class_of(usize::MAX), Some(CLASSES - 1));
    }
}
