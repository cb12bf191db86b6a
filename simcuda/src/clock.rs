//! The one clock: CLOCK_MONOTONIC in nanoseconds, the same for every process of the machine.

/// Nanoseconds since boot.
pub(crate) fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec and CLOCK_MONOTONIC always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps until `deadline_ns` on [`now_ns`]'s clock. A raw system call, because libc's wrapper is a point of thread
/// cancellation and a cancelled thread must not unwind through the driver.
pub(crate) fn sleep_until(deadline_ns: u64) {
    let time = libc::timespec {
        tv_sec: (deadline_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (deadline_ns % 1_000_000_000) as libc::c_long,
    };
    while now_ns() < deadline_ns {
        // SAFETY: clock_nanosleep(2) reads `time` and ignores the null remainder for an absolute deadline.
        unsafe {
            libc::syscall(
                libc::SYS_clock_nanosleep,
                libc::CLOCK_MONOTONIC,
                libc::TIMER_ABSTIME,
                &raw const time,
                std::ptr::null_mut::<libc::timespec>(),
            );
        }
    }
}

/// Sleeps for `duration_ns`; zero returns at once.
pub(crate) fn sleep_for(duration_ns: u64) {
    if duration_ns > 0 {
        sleep_until(now_ns() + duration_ns);
    }
}
