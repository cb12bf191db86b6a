//! Time stamps for the launch path.
//!
//! Measured in a virtual machine: `rdtsc` 21 ns, `clock_gettime` 40 to 50 ns. The counter is used where the processor
//! says that it runs at one rate in every state ("invariant TSC", CPUID 0x80000007 EDX bit 8, AMD64 APM vol. 3 and Intel
//! SDM vol. 3 17.17.1), with its rate measured once against `CLOCK_MONOTONIC`; elsewhere `clock_gettime` it is.

use crate::hot::HOT;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static FIRST_TICKS: AtomicU64 = AtomicU64::new(0);
static FIRST_NS: AtomicU64 = AtomicU64::new(0);

/// Between the two readings that give the rate; 100 ns of doubt in each then make one part in ten thousand.
const CALIBRATION_NS: u64 = 2_000_000;

/// A moment, in ticks; only differences mean anything.
#[inline]
pub(crate) fn now() -> u64 {
    if HOT.clock_scale.load(Relaxed) == 0 {
        return monotonic_ns();
    }
    rdtsc()
}

/// Nanoseconds in a number of ticks.
#[inline]
pub(crate) fn ns(ticks: u64) -> u64 {
    counter().map_or(ticks, |counter| counter.ns(ticks))
}

/// The processor's counter, where it serves: asked for once by who reads it several times.
#[inline]
pub(crate) fn counter() -> Option<Counter> {
    NonZeroU64::new(HOT.clock_scale.load(Relaxed)).map(Counter)
}

/// The processor's counter, by its nanoseconds per tick times 2^32.
#[derive(Clone, Copy)]
pub(crate) struct Counter(NonZeroU64);

impl Counter {
    /// As [`now`].
    #[inline]
    pub(crate) fn now(self) -> u64 {
        rdtsc()
    }

    /// As [`ns`].
    #[inline]
    pub(crate) fn ns(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.0.get())) >> 32) as u64
    }
}

/// The first of two readings: when the program initialises the driver, long before it makes a context.
pub(crate) fn begin_calibration() {
    if FIRST_NS.load(Relaxed) == 0 {
        FIRST_TICKS.store(rdtsc(), Relaxed);
        FIRST_NS.store(monotonic_ns(), Relaxed);
    }
}

/// The second reading: when the first context has been made. Waits out what is missing of 2 ms, once per process.
pub(crate) fn finish_calibration() {
    if !is_invariant() {
        return;
    }
    begin_calibration();
    let mut elapsed_ns = 0;
    while elapsed_ns < CALIBRATION_NS {
        elapsed_ns = monotonic_ns().saturating_sub(FIRST_NS.load(Relaxed));
        std::hint::spin_loop();
    }
    let ticks = rdtsc().wrapping_sub(FIRST_TICKS.load(Relaxed));
    let scale = (u128::from(elapsed_ns) << 32) / u128::from(ticks.max(1));
    HOT.clock_scale.store(u64::try_from(scale).unwrap_or(0), Relaxed);
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[cold]
pub(crate) fn monotonic_ns() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC)
}

/// The same as of the kernel's last tick, 1 to 10 ms ago: a sixth of the cost, for ages.
#[inline]
pub(crate) fn coarse_ns() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC_COARSE)
}

/// Nanoseconds since the epoch.
pub(crate) fn unix_ns() -> u64 {
    read_clock(libc::CLOCK_REALTIME)
}

fn read_clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) fills the structure.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[inline]
fn rdtsc() -> u64 {
    // SAFETY: every x86-64 processor has it, and Linux allows it in user mode unless prctl(PR_SET_TSC) forbids.
    unsafe { std::arch::x86_64::_rdtsc() }
}

fn is_invariant() -> bool {
    let highest = std::arch::x86_64::__cpuid(0x8000_0000).eax;
    highest >= 0x8000_0007 && std::arch::x86_64::__cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        finish_calibration();
        let (start, start_ns) = (now(), monotonic_ns());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let (ours, theirs) = (ns(now() - start), monotonic_ns() - start_ns);
        assert!(ours.abs_diff(theirs) < theirs / 20, "{ours} ns by ticks, {theirs} ns by the clock");
    }
}
