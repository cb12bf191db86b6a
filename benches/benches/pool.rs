//! The pool: an allocation and its free together, over sizes, unseen and shown in a map as the library shows it.

use aishim_abi::pool_file::{Identity, PoolMap};
use aishim_pool::{BLOCK_BYTES, Mark, PinnedSource, Pool, PoolConfig, Witness, WorkFence};
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

/// Writes a map, with the coarse clock's time.
struct Shown(PoolMap);

impl Witness for Shown {
    fn allocated(&self, index: u32, blocks: u32, requested_bytes: usize) {
        self.0.set_allocated(index, blocks, requested_bytes, coarse_ns());
    }

    fn freed(&self, index: u32, blocks: u32, requested_bytes: usize, epoch: u64) {
        self.0.set_freed(index, blocks, requested_bytes, epoch);
    }

    fn safe(&self, epoch: u64) {
        self.0.set_safe(epoch);
    }
}

fn coarse_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn pool() -> Pool {
    Pool::new(&PoolConfig::default(), Box::new(Heap), Box::new(Idle))
}

fn shown(pid: u32) -> Pool {
    let block_bytes = BLOCK_BYTES as u32;
    let identity = Identity { pid, start_ticks: 0, generation: 0, unix_ns: 0, monotonic_ns: coarse_ns(), block_bytes };
    let directory = std::env::temp_dir();
    let map = PoolMap::publish(&directory, &identity, PoolConfig::default().index_count()).expect("a map");
    // The file is not needed, only its mapping.
    std::fs::remove_file(directory.join(format!("{pid}-0.pool"))).expect("the file that was just made");
    pool().with_witness(Box::new(Shown(map)))
}

fn alloc_and_free(c: &mut Criterion) {
    measure(c, "alloc and free", &pool());
    measure(c, "alloc and free, shown", &shown(std::process::id()));
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
