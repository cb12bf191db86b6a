//! One process in detail: its histograms drawn, and its pool.

use super::order::Standing;
use crate::units;
use aishim_abi::layout::PassThrough;
use aishim_abi::statistics::{ALL, Statistic};
use aishim_observe::summary::Bucket;
use aishim_observe::{Process, Summary};
use std::fmt::Write;

/// Characters of the longest bar.
const BAR: u64 = 40;

/// What begins the key of a statistic that counts misses for one reason.
const MISSES: &str = "pool_misses_";

/// Everything about one process that does not fit into a row.
pub(super) fn process(page: &mut String, process: &Process) {
    about(page, process);
    Standing::of(process).details(page);
    histogram(page, "Host cost of a launch call", &process.launch);
    histogram(page, "GPU time of a launch (sampled)", &process.gpu);
    histogram(page, "Latency of a request", &process.request);
    pool(page, process);
}

fn about(page: &mut String, process: &Process) {
    let driver = cuda_version(process.driver_version);
    let devices = process.devices.join(", ");
    let _ = writeln!(page, "\nCommand: {}", process.command);
    let _ = writeln!(
        page,
        "Library {}, CUDA driver {driver}, on {}",
        process.library_version,
        if devices.is_empty() { "no device" } else { &devices }
    );
    if let Some(reason) = why_pass_through(process) {
        let _ = writeln!(page, "It only forwards calls: {reason}");
    }
}

/// A CUDA version as people write it; 13000 is 13.0 (cuDriverGetVersion).
pub(crate) fn cuda_version(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Why the library in a process has stopped to count, if it has.
pub(crate) fn why_pass_through(process: &Process) -> Option<&'static str> {
    match process.pass_through() {
        PassThrough::No => None,
        PassThrough::Panic => Some("an error inside the library was caught; its figures end there"),
        PassThrough::Fork => Some("the process was forked after its parent had used the GPU"),
    }
}

fn histogram(page: &mut String, title: &str, summary: &Summary) {
    let _ = writeln!(page, "\n{title}");
    let Some(f) = summary.figures else {
        page.push_str("  nothing measured\n");
        return;
    };
    let time = units::duration;
    let _ = writeln!(
        page,
        "  count {}, average {}, p50 {}, p90 {}, p99 {}, max {}",
        summary.count,
        time(f.average_ns),
        time(f.p50_ns),
        time(f.p90_ns),
        time(f.p99_ns),
        time(f.max_ns)
    );
    rows(page, &summary.powers_of_two());
}

fn rows(page: &mut String, rows: &[Bucket]) {
    let most = rows.iter().map(|r| r.count).max().unwrap_or(0);
    let digits = |n: u64| n.to_string().len();
    let width = rows.last().map_or(1, |r| digits(r.high_ns));
    let count_width = digits(most).max("count".len());
    let range = 2 * width + " -> ".len();
    let _ = writeln!(page, "  {:^range$} : {:<count_width$} |distribution", "ns", "count");
    for row in rows {
        let (low, high, count) = (row.low_ns, row.high_ns, row.count);
        let bar = bar(count, most);
        let _ = writeln!(
            page,
            "  {low:>width$} -> {high:<width$} : {count:<count_width$} |{bar:<bar_width$}|",
            bar_width = BAR as usize
        );
    }
}

/// Stars in proportion to the fullest row; what is counted at all shows at least one.
fn bar(count: u64, most: u64) -> String {
    let stars = u128::from(count) * u128::from(BAR) / u128::from(most.max(1));
    let stars = (stars as usize).max(usize::from(count > 0));
    "*".repeat(stars)
}

fn pool(page: &mut String, process: &Process) {
    let of = |s| process.statistic(s);
    let size = |s| units::bytes(of(s));
    page.push_str("\nPool of pinned memory\n");
    if of(Statistic::PoolCapacity) == 0 {
        page.push_str("  off\n");
        return;
    }
    let lines = [
        (
            "Total Pool Size",
            format!("{} ({} page-locked so far)", size(Statistic::PoolCapacity), size(Statistic::PoolReserved)),
        ),
        ("Block Size", size(Statistic::PoolBlock)),
        ("Total Blocks", units::or_dash(blocks(process, Statistic::PoolCapacity).map(units::count))),
        ("Allocated", allocated(process)),
        ("High-water mark", size(Statistic::PoolHighWater)),
        ("Hits", of(Statistic::PoolHits).to_string()),
        ("Misses", misses_in_words(process)),
    ];
    for (title, text) in lines {
        let _ = writeln!(page, "  {title:<16} {text}");
    }
}

/// How many blocks a size in bytes is; none where the block size is not known.
pub(super) fn blocks(process: &Process, which: Statistic) -> Option<u64> {
    process.statistic(which).checked_div(process.statistic(Statistic::PoolBlock))
}

fn allocated(process: &Process) -> String {
    let waiting = process.statistic(Statistic::PoolQuarantined);
    let blocks = units::or_dash(blocks(process, Statistic::PoolAllocated).map(units::count));
    let size = units::bytes(process.statistic(Statistic::PoolAllocated));
    let waiting = units::bytes(waiting);
    format!("{size} ({blocks} blocks); {waiting} freed and waiting for the GPU")
}

/// The misses by reason, as the statistics declare them.
pub(crate) fn misses(process: &Process) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    ALL.iter().filter_map(|s| {
        let reason = s.description().key.strip_prefix(MISSES)?;
        Some((reason, process.statistic(*s)))
    })
}

fn misses_in_words(process: &Process) -> String {
    let total = misses(process).fold(0u64, |sum, (_, n)| sum.saturating_add(n));
    let reasons: Vec<String> = misses(process)
        .filter(|(_, n)| *n > 0)
        .map(|(reason, n)| format!("{n} {}", reason.replace('_', " ")))
        .collect();
    if reasons.is_empty() {
        return "0".to_owned();
    }
    format!("{total}: {}", reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion_and_never_lost() {
        assert_eq!(bar(10, 10).len(), 40);
        assert_eq!(bar(5, 10).len(), 20);
        assert_eq!(bar(1, 1_000_000).len(), 1);
        assert_eq!(bar(0, 10).len(), 0);
        assert_eq!(bar(u64::MAX, u64::MAX).len(), 40);
    }

    #[test]
    fn rows_are_aligned() {
        let bucket = |low_ns, high_ns, count| Bucket { low_ns, high_ns, count };
        let mut page = String::new();
        rows(&mut page, &[bucket(512, 1023, 1), bucket(1024, 2047, 4)]);
        let expected = format!(
            "       ns      : count |distribution\n   512 -> 1023 : 1     |{:<40}|\n  1024 -> 2047 : 4     |{:<40}|\n",
            "*".repeat(10),
            "*".repeat(40)
        );
        assert_eq!(page, expected);
    }

    #[test]
    fn there_are_reasons_for_misses() {
        let keys = ALL.iter().map(|s| s.description().key);
        assert!(keys.filter(|k| k.starts_with(MISSES)).count() >= 7);
    }
}
