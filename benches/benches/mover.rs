//! Moving bytes for the staged copies: ordinary stores against non-temporal ones, in the two patterns in which they are
//! used, by one thread and by as many as there are processors. It is the library's own function that is measured.

#![allow(dead_code, unreachable_pub, reason = "a module of the library, of which parts are measured")]

#[path = "../../shim/src/copies/mover.rs"]
#[allow(unused_imports, reason = "its unit tests are not run here")]
mod mover;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mover::Stores;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The program's side of a copy: larger than any cache.
const PROGRAM_BYTES: usize = 256 << 20;
const RING_BYTES: usize = 16 << 20;
const PIECE_BYTES: usize = 256 << 10;

#[derive(Clone, Copy, Debug)]
enum Pattern {
    IntoRing,
    OutOfRing,
}

/// Every byte of the program's side once, piece by piece, the ring's side over and over.
fn pass(pattern: Pattern, program: &mut [u8], ring: &mut [u8], threads: usize, stores: Stores) {
    let (program, ring) = (program.as_mut_ptr() as usize, ring.as_mut_ptr() as usize);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let start = next.fetch_add(PIECE_BYTES, Relaxed);
            if start >= PROGRAM_BYTES {
                break;
            }
            let (one, other) = (program + start, ring + start % RING_BYTES);
            let (from, to) = match pattern {
                Pattern::IntoRing => (one, other),
                Pattern::OutOfRing => (other, one),
            };
            // SAFETY: both lie within the slices, which are different. Threads that are a whole ring apart may store to
            // the same part of it: what they store is not read.
            unsafe { mover::copy(from as *const u8, to as *mut u8, PIECE_BYTES, stores) };
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
}

fn movers(c: &mut Criterion) {
    let (mut program, mut ring) = (vec![1_u8; PROGRAM_BYTES], vec![2_u8; RING_BYTES]);
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut group = c.benchmark_group("mover");
    group.sample_size(10).throughput(Throughput::Bytes(PROGRAM_BYTES as u64));
    for pattern in [Pattern::IntoRing, Pattern::OutOfRing] {
        let mut counts = vec![1, 4, 8, all];
        counts.retain(|threads| *threads <= all);
        counts.dedup();
        for threads in counts {
            for stores in [Stores::Ordinary, Stores::NonTemporal] {
                let id = BenchmarkId::new(format!("{pattern:?} {stores:?}"), threads);
                group.bench_function(id, |b| b.iter(|| pass(pattern, &mut program, &mut ring, threads, stores)));
            }
        }
    }
    group.finish();
}

criterion_group!(benches, movers);
criterion_main!(benches);
