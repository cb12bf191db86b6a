//! The pool: an allocation and its free together, over sizes, unseen and shown in a map as the library shows it.

use aishim_benches::shown::Shown;
use aishim_pool::{Mark, PinnedSource, Pool, PoolConfig, WorkFence};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;
use std::ptr::NonNull;

/// Ordinary memory in the place of page-locked memory.
struct Heap;

impl PinnedSource for Heap {
    fn reserve(&self, bytes: usize) -> Result<NonNull<u8>, i32> {
        let layout = Layout::from_size_align(bytes, 4096).map_err(|_| 1)?;
        // SAFETY: the pool never asks for zero bytes.
        NonNull::new(unsafe { alloc(layout) }).ok_or(2)
    }

    fn release(&self, address: NonNull<u8>, bytes: usize) {
        if let Ok(layout) = Layout::from_size_align(bytes, 4096) {
            // SAFETY: it came from `reserve` with the same size.
            unsafe { dealloc(address.as_ptr(), layout) };
        }
    }
}

/// A GPU that is always done.
struct Idle;

impl WorkFence for Idle {
    fn mark(&self) -> Option<Mark> {
        Some(1)
    }

    fn passed(&self, _mark: Mark) -> bool {
        true
    }
}

fn pool() -> Pool {
    Pool::new(&PoolConfig::default(), Box::new(Heap), Box::new(Idle))
}

fn alloc_and_free(c: &mut Criterion) {
    measure(c, "alloc and free", &pool());
    let (_map, shown) = Shown::of(pool(), &PoolConfig::default()).expect("a map");
    measure(c, "alloc and free, shown", &shown);
}

fn measure(c: &mut Criterion, name: &str, pool: &Pool) {
    while pool.grow().is_ok_and(|outcome| matches!(outcome, aishim_pool::GrowOutcome::Grown(_))) {}
    let mut group = c.benchmark_group(name);
    for bytes in [1, 4 << 10, 64 << 10, 1 << 20, 16 << 20] {
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &bytes, |b, &bytes| {
            b.iter(|| {
                if let Ok(block) = pool.alloc(black_box(bytes), 0) {
                    black_box(pool.free(block.as_ptr()));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, alloc_and_free);
criterion_main!(benches);
