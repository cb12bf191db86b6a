//! What an allocation and its free cost, at 1 and at 16 threads. Run it in release mode:
//! `cargo run --release -p aishim-pool --example pool_speed [THREADS...]`
//!
//! The memory is made of addresses nobody touches, and the GPU is always idle: what is left is the pool's own cost.
//! Each figure is the cost of one alloc and one free together, in ns; with it goes the cost of the clock itself.

use std::{
    ptr::NonNull,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use aishim_pool::{GrowOutcome, Mark, PinnedSource, Pool, PoolConfig, WorkFence};

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let threads = if asked.is_empty() { vec![1, 16] } else { asked };
    println!("clock: {} ns", median(&mut (0..10_000).map(|_| timed(|| {})).collect::<Vec<_>>()));
    println!("{:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}", "threads", "bytes", "mean", "p50", "p99", "p99.9", "misses");
    for &threads in &threads {
        for bytes in [1, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20] {
            measure(threads, bytes);
        }
    }
}

fn measure(threads: usize, bytes: usize) {
    let pool = pool();
    let rounds = if bytes > 1 << 20 { 20_000 } else { 200_000 };
    let start = Barrier::new(threads);
    let (samples, mean): (Vec<Vec<u64>>, Vec<f64>) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let mean = mean_ns(&pool, bytes, rounds);
                    start.wait();
                    ((0..rounds).map(|_| timed(|| pair(&pool, bytes))).collect(), mean)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).unzip()
    });
    let mut all: Vec<u64> = samples.concat();
    all.sort_unstable();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    println!(
        "{threads:>7} {bytes:>9} {:>9.1} {:>9} {:>9} {:>9} {:>9}",
        mean.iter().sum::<f64>() / threads as f64,
        at(0.5),
        at(0.99),
        at(0.999),
        pool.stats().misses.total()
    );
}

fn mean_ns(pool: &Pool, bytes: usize, rounds: usize) -> f64 {
    let begin = Instant::now();
    for _ in 0..rounds {
        pair(pool, bytes);
    }
    begin.elapsed().as_nanos() as f64 / rounds as f64
}

fn pair(pool: &Pool, bytes: usize) {
    if let Ok(address) = pool.alloc(bytes, 0) {
        pool.free(std::hint::black_box(address).as_ptr());
    }
}

fn timed(act: impl FnOnce()) -> u64 {
    let begin = Instant::now();
    act();
    begin.elapsed().as_nanos() as u64
}

fn median(samples: &mut [u64]) -> u64 {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn pool() -> Pool {
    let pool = Pool::new(&PoolConfig::default(), Box::new(Addresses(AtomicUsize::new(1 << 40))), Box::new(Idle));
    while matches!(pool.grow(), Ok(GrowOutcome::Grown(_))) {}
    pool
}

/// Gives out addresses with nothing behind them.
struct Addresses(AtomicUsize);

impl PinnedSource for Addresses {
    fn reserve(&self, bytes: usize) -> Result<NonNull<u8>, i32> {
        let base = self.0.fetch_add(bytes, Ordering::Relaxed);
        NonNull::new(std::ptr::without_provenance_mut(base)).ok_or(2)
    }

    fn release(&self, _address: NonNull<u8>, _bytes: usize) {}
}

/// A GPU that has never anything to do.
struct Idle;

impl WorkFence for Idle {
    fn mark(&self) -> Option<Mark> {
        Some(0)
    }

    fn passed(&self, _mark: Mark) -> bool {
        true
    }
}
