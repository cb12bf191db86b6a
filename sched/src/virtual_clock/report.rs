//! Latency and throughput of each class, as a table.

use std::fmt::Write;

use super::trace::{Arrivals, Trace, Workload};

/// What came of the clients of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassResult {
    /// As the trace calls it.
    pub class: String,
    /// How many.
    pub clients: usize,
    /// What their requests took, ascending; from the scheduled arrival in an open loop.
    pub latencies_ns: Vec<u64>,
    /// How many requests an open loop has asked for.
    pub offered: Option<usize>,
    /// GPU time of all of them.
    pub used_ns: u64,
    /// GPU time of the one that had least.
    pub least_used_ns: u64,
    /// How long they ran.
    pub length_ns: u64,
}

impl ClassResult {
    /// In the order of their first clients.
    pub(super) fn of_all<'a>(
        trace: &Trace,
        clients: impl Iterator<Item = (&'a Workload, &'a [u64], u64)>,
    ) -> Vec<Self> {
        let mut classes: Vec<Self> = Vec::new();
        for (workload, latencies_ns, used_ns) in clients {
            let index = classes.iter().position(|known| known.class == workload.class).unwrap_or_else(|| {
                classes.push(Self::new(workload, trace.length_ns));
                classes.len() - 1
            });
            let class = &mut classes[index];
            class.clients += 1;
            class.latencies_ns.extend(latencies_ns);
            class.used_ns += used_ns;
            class.least_used_ns = class.least_used_ns.min(used_ns);
            if let Arrivals::At(times_ns) = &workload.arrivals {
                let offered = times_ns.iter().filter(|at_ns| **at_ns <= trace.length_ns).count();
                class.offered = Some(class.offered.unwrap_or(0) + offered);
            }
        }
        classes.iter_mut().for_each(|class| class.latencies_ns.sort_unstable());
        classes
    }

    fn new(of: &Workload, length_ns: u64) -> Self {
        let class = of.class.clone();
        Self { class, clients: 0, latencies_ns: vec![], offered: None, used_ns: 0, least_used_ns: u64::MAX, length_ns }
    }

    /// The latency that so many per cent of the requests keep, in nanoseconds; 0 without requests.
    pub fn percentile_ns(&self, percent: usize) -> u64 {
        let rank = (self.latencies_ns.len() * percent).div_ceil(100);
        self.latencies_ns.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }

    /// Requests done in a second.
    pub fn per_second(&self) -> f64 {
        self.latencies_ns.len() as f64 * 1e9 / self.length_ns as f64
    }
}

/// A heading and a line for each class of each run.
pub fn table<'a>(runs: impl IntoIterator<Item = (&'a str, &'a [ClassResult])>) -> String {
    let mut text = String::from(
        "| run | class | clients | requests | p50 ms | p90 ms | p99 ms | max ms | requests/s | GPU % | least % |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (run, class) in runs.into_iter().flat_map(|(run, classes)| classes.iter().map(move |class| (run, class))) {
        let requests = match (class.latencies_ns.len(), class.offered) {
            (done, Some(offered)) => format!("{done} of {offered}"),
            (done, None) => done.to_string(),
        };
        let ms = |ns: u64| ns as f64 / 1e6;
        let share = |used_ns: u64| 100.0 * used_ns as f64 / class.length_ns as f64;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {run} | {} | {} | {requests} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} | {:.3} |",
            class.class,
            class.clients,
            ms(class.percentile_ns(50)),
            ms(class.percentile_ns(90)),
            ms(class.percentile_ns(99)),
            ms(class.latencies_ns.last().copied().unwrap_or(0)),
            class.per_second(),
            share(class.used_ns),
            share(class.least_used_ns),
        );
    }
    text
}
