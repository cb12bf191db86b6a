//! The price of a time stamp on this machine, and medians.

use std::hint::black_box;

/// The processor's time stamp counter.
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Nanoseconds per tick, measured against the monotonic clock over 50 ms.
#[must_use]
pub fn ns_per_tick() -> f64 {
    let (start, start_ticks) = (std::time::Instant::now(), ticks());
    while start.elapsed().as_millis() < 50 {
        std::hint::spin_loop();
    }
    let elapsed = start.elapsed();
    elapsed.as_nanos() as f64 / (ticks() - start_ticks) as f64
}

/// The ticks that `count` time stamps take.
#[must_use]
pub fn batch(count: usize) -> u64 {
    let start = ticks();
    for _ in 0..count {
        black_box(ticks());
    }
    ticks() - start
}

/// The middle of some values; 0 where there is none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The mean of the middle half of some values, for machines whose counters move in steps; 0 where there is none.
#[must_use]
pub fn middle_mean(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = &values[values.len() / 4..values.len() - values.len() / 4];
    if middle.is_empty() { 0.0 } else { middle.iter().sum::<f64>() / middle.len() as f64 }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_middle_is_found() {
        assert!((super::median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((super::middle_mean(vec![3.0, 900.0, 2.0, -70.0]) - 2.5).abs() < 1e-9);
        assert!(super::middle_mean(Vec::new()).abs() < 1e-9);
    }
}
