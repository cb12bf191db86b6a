//! Runs records of pinned memory through the pool, and prints what became of them.
//!
//!     cargo run --release -p aishim-benches --bin replay -- [--pool-mib N] [--max-mib N] [--gpu-us N] TRACE...
//!
//! `--pool-mib` and `--max-mib` are AISHIM_POOL_MIB and AISHIM_POOL_MAX_MIB; `--gpu-us` says after how long the GPU is
//! done with a block where no synchronisation says so before (10000).

use aishim_abi::trace;
use aishim_benches::replay::{self, Report, Settings};
use aishim_pool::Miss;
use std::process::ExitCode;

fn main() -> ExitCode {
    match arguments().and_then(|(settings, files)| replay_all(&settings, &files)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("replay: {why}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<(Settings, Vec<String>), String> {
    let (mut pool_mib, mut max_mib, mut gpu_us, mut files) = (256, 0, 10_000, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = match word.as_str() {
            "--pool-mib" => &mut pool_mib,
            "--max-mib" => &mut max_mib,
            "--gpu-us" => &mut gpu_us,
            _ => {
                files.push(word);
                continue;
            }
        };
        *number = words.next().and_then(|n| n.parse().ok()).ok_or_else(|| format!("{word} takes a number"))?;
    }
    if files.is_empty() {
        return Err("which TRACE? AISHIM_TRACE=FILE makes one".to_owned());
    }
    let settings = Settings { pool_bytes: pool_mib << 20, limit_bytes: max_mib << 20, gpu_us: gpu_us as u64 };
    Ok((settings, files))
}

fn replay_all(settings: &Settings, files: &[String]) -> Result<(), String> {
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
        let events = trace::parse(&text).map_err(|e| format!("{file}: {e}"))?;
        let report = replay::run(&events, settings).map_err(|e| format!("{file}: {e}"))?;
        print(file, &report);
    }
    Ok(())
}

fn print(file: &str, report: &Report) {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let stats = &report.stats;
    let rate = 100.0 * stats.hits as f64 / report.requests.max(1) as f64;
    let misses: Vec<String> = Miss::ALL
        .iter()
        .map(|&miss| (miss, stats.misses.of(miss)))
        .filter(|&(_, count)| count > 0)
        .map(|(miss, count)| format!("{count} {miss:?}"))
        .collect();
    let misses = if misses.is_empty() { "none".to_owned() } else { misses.join(", ") };
    println!("{file}: {} requests on {} threads", report.requests, report.threads);
    println!("  hit rate        {rate:.1} % ({} of {}; misses: {misses})", stats.hits, report.requests);
    println!("  high-water mark {} (asked for: {})", mib(stats.high_water_bytes), mib(report.requested_peak_bytes));
    println!("  page-locked     {} of {}", mib(report.reserved_bytes), mib(stats.capacity_bytes));
    println!("  fragmentation   {}", fragmentation(&report.fragmentation));
}

fn fragmentation(looks: &[f64]) -> String {
    let Some(last) = looks.last() else {
        return "nothing was ever free".to_owned();
    };
    let average = looks.iter().sum::<f64>() / looks.len() as f64;
    let most = looks.iter().copied().fold(0.0, f64::max);
    format!("{:.0} % on average, {:.0} % at most, {:.0} % in the end", 100.0 * average, 100.0 * most, 100.0 * last)
}
