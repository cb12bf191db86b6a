//! What the program measured and how it is printed.

use std::fmt;
use std::time::Duration;

/// How long one request took.
pub(crate) struct RequestTimes {
    /// From the first allocation to the last free, without filling and checking the vectors.
    pub(crate) latency: Duration,
    /// For each of the three page-locked buffers its allocation and its free together.
    pub(crate) pinned: [Duration; 3],
}

/// The result of a run in which every element was right.
pub(crate) struct Report {
    pub(crate) device: String,
    pub(crate) driver_version: i32,
    pub(crate) elements: u32,
    pub(crate) streams: u32,
    pub(crate) elapsed: Duration,
    pub(crate) requests: Vec<RequestTimes>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latencies = Sorted::new(self.requests.iter().map(|request| request.latency));
        let pinned = Sorted::new(self.requests.iter().flat_map(|request| request.pinned));
        let (major, minor) = (self.driver_version / 1000, self.driver_version % 1000 / 10);
        writeln!(f, "device: {}, CUDA {major}.{minor}", self.device)?;
        writeln!(
            f,
            "work: c = a + b, {} elements, pinned buffers of {} allocated for each request, {} {}",
            self.elements,
            ByteCount(u64::from(self.elements) * 4),
            self.streams,
            if self.streams == 1 { "stream" } else { "streams" }
        )?;
        writeln!(f, "requests done: {} in {:.3} s", self.requests.len(), self.elapsed.as_secs_f64())?;
        writeln!(
            f,
            "request latency: p50 {} us, p99 {} us",
            microseconds(latencies.percentile(50)),
            microseconds(latencies.percentile(99))
        )?;
        writeln!(f, "pinned alloc+free median: {} ns", pinned.percentile(50).as_nanos())?;
        writeln!(f, "result ok")
    }
}

fn microseconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e6)
}

/// Durations in ascending order.
struct Sorted(Vec<Duration>);

impl Sorted {
    fn new(durations: impl Iterator<Item = Duration>) -> Self {
        let mut sorted: Vec<_> = durations.collect();
        sorted.sort_unstable();
        Self(sorted)
    }

    /// The nearest-rank percentile; zero of nothing.
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

/// A number of bytes for people: whole binary units where it is whole.
struct ByteCount(u64);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 20) == 0 => write!(f, "{} MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let sorted = Sorted::new((1..=200).rev().map(Duration::from_millis));
        assert_eq!(sorted.percentile(50), Duration::from_millis(100));
        assert_eq!(sorted.percentile(99), Duration::from_millis(198));
        assert_eq!(Sorted::new(std::iter::empty()).percentile(50), Duration::ZERO);
    }

    #[test]
    fn byte_counts_choose_their_unit() {
        let texts = [4 << 20, 12 << 10, 1000].map(|bytes| ByteCount(bytes).to_string());
        assert_eq!(texts, ["4 MiB", "12 KiB", "1000 bytes"]);
    }
}
