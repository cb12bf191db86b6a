//! What an allocation and its free cost, at 1 and at 16 threads. Run it in release mode:
//! `cargo run --release -p aishim-pool --example pool_speed [THREADS...]`
//!
//! The memory is made of addresses nobody touches, and the GPU is always idle: what is left is the pool's own cost.
//! Each figure is the cost of one alloc and one free together, in ns; with it goes the cost of the clock itself, which
//! `mean` is free of. Where there are as many processors as threads, each thread has one to itself; where there are
//! not, the upper percentiles show how long a thread waits for its turn on one, and nothing of the pool's.
//!
//! A request that finds no room is a miss, and has columns of its own: `miss` is the share of misses, in percent, and
//! the last two columns say how long the caller waited to be told. Threads that all hold a block at once ask for
//! threads times bytes; `demand` is that, in percent of the pool. At 100 % or more, misses are to be expected: a block
//! has to be freed and known to be done with before the next request can be served.

mod nothing;

use std::{sync::Barrier, time::Instant};

use aishim_pool::{DEFAULT_CAPACITY_BYTES, GrowOutcome, Mark, PinnedSource, Pool, PoolConfig, WorkFence};
use nothing::pool;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let threads = if asked.is_empty() { vec![1, 16] } else { asked };
    let processors = processors();
    println!("clock: {} ns; processors: {}", clock_ns(), processors.len());
    println!(
        "{:>7} {:>6} {:>9} {:>6} | {:>9} {:>8} {:>8} {:>8} | {:>6} {:>8} {:>8}",
        "threads", "pinned", "bytes", "demand", "mean", "p50", "p99", "p99.9", "miss", "p50", "p99"
    );
    for &threads in &threads {
        for bytes in [1, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20] {
            measure(threads, bytes, &processors);
        }
    }
}

/// What one thread saw.
struct Seen {
    mean_ns: f64,
    hits: Vec<u64>,
    misses: Vec<u64>,
}

fn measure(threads: usize, bytes: usize, processors: &[usize]) {
    let pool = pool();
    let rounds = if bytes > 1 << 20 { 20_000 } else { 200_000 };
    let start = Barrier::new(threads);
    let is_pinned = threads <= processors.len();
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let work = |number: usize| {
            let is_pinned = is_pinned && pin_to(processors[number]);
            assert_eq!(is_pinned, threads <= processors.len(), "a thread could not be pinned");
            start.wait();
            let mean_ns = mean_ns(&pool, bytes, rounds);
            start.wait();
            sample(&pool, bytes, rounds, mean_ns)
        };
        let workers: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mean = seen.iter().map(|seen| seen.mean_ns).sum::<f64>() / threads as f64;
    let (hits, misses): (Vec<_>, Vec<_>) = seen.into_iter().map(|seen| (seen.hits, seen.misses)).unzip();
    let (hits, misses) = (sorted(hits.concat()), sorted(misses.concat()));
    println!(
        "{threads:>7} {:>6} {bytes:>9} {:>5.0}% | {mean:>9.1} {:>8} {:>8} {:>8} | {:>5.2}% {:>8} {:>8}",
        if is_pinned { "yes" } else { "no" },
        percent(threads * bytes.next_multiple_of(4096), DEFAULT_CAPACITY_BYTES),
        at(&hits, 0.5),
        at(&hits, 0.99),
        at(&hits, 0.999),
        percent(misses.len(), hits.len() + misses.len()),
        at(&misses, 0.5),
        at(&misses, 0.99),
    );
}

fn mean_ns(pool: &Pool, bytes: usize, rounds: usize) -> f64 {
    let begin = Instant::now();
    for _ in 0..rounds {
        pair(pool, bytes);
    }
    begin.elapsed().as_nanos() as f64 / rounds as f64
}

fn sample(pool: &Pool, bytes: usize, rounds: usize, mean_ns: f64) -> Seen {
    let mut seen = Seen { mean_ns, hits: Vec::with_capacity(rounds), misses: Vec::with_capacity(rounds) };
    for _ in 0..rounds {
        let (ns, is_hit) = timed(|| pair(pool, bytes));
        if is_hit { &mut seen.hits } else { &mut seen.misses }.push(ns);
    }
    seen
}

/// An allocation and its free; false when there was nothing.
fn pair(pool: &Pool, bytes: usize) -> bool {
    let address = pool.alloc(bytes, 0);
    if let Ok(address) = address {
        pool.free(std::hint::black_box(address).as_ptr());
    }
    address.is_ok()
}

fn timed<R>(act: impl FnOnce() -> R) -> (u64, R) {
    let begin = Instant::now();
    let result = act();
    (begin.elapsed().as_nanos() as u64, result)
}

fn clock_ns() -> u64 {
    at(&sorted((0..10_000).map(|_| timed(|| ()).0).collect()), 0.5)
}

fn sorted(mut samples: Vec<u64>) -> Vec<u64> {
    samples.sort_unstable();
    samples
}

/// The sample below which that share of the sorted ones lies; 0 when there is none.
fn at(sorted: &[u64], share: f64) -> u64 {
    let place = (sorted.len().saturating_sub(1) as f64 * share) as usize;
    sorted.get(place).copied().unwrap_or(0)
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}

/// The processors this process may run on.
fn processors() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor)).collect()
}

fn pin_to(processor: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).is_ok()
}
