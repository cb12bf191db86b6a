//! How a pool ends: forgotten with its context, or released.

use std::sync::atomic::Ordering::SeqCst;

use aishim_pool::{BLOCK_BYTES, FreeOutcome, GrowOutcome, Miss, StillAllocated};

use crate::doubles::{Bench, Gate};

#[test]
fn a_forgotten_pool_knows_nothing_and_releases_nothing() {
    let bench = Bench::full_grown(&[16, 16]);
    let address = bench.alloc(3);
    bench.pool.free(bench.alloc(1));
    bench.pool.forget();
    assert!(!bench.pool.contains(address));
    assert_eq!(bench.pool.free(address), FreeOutcome::NotOurs);
    assert_eq!(bench.pool.alloc(1, 0), Err(Miss::Closed));
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Closed));
    assert!(!bench.pool.wants_growth());
    assert_eq!(bench.pool.stats().reserved_bytes, 0);
    assert_eq!(bench.host.held_slabs(), 2);
    let marks = bench.gpu.marks.load(SeqCst);
    bench.pool.tend();
    assert_eq!(bench.gpu.marks.load(SeqCst), marks, "there is no context to mark anything in");
}

#[test]
fn memory_is_released_once_nobody_uses_it() {
    let bench = Bench::full_grown(&[16, 16]);
    let address = bench.alloc(3);
    assert_eq!(bench.pool.release_all(), Err(StillAllocated { blocks: 3 }));
    assert!(bench.pool.alloc(BLOCK_BYTES, 0).map(|other| bench.pool.free(other.as_ptr())).is_ok());
    bench.pool.free(address);
    assert_eq!(bench.pool.release_all(), Ok(()));
    assert_eq!(bench.host.held_slabs(), 0);
    assert_eq!(bench.pool.release_all(), Ok(()), "again does nothing");
    assert_eq!(bench.pool.alloc(1, 0), Err(Miss::Closed));
}

#[test]
fn a_slab_that_comes_after_the_release_goes_back_at_once() {
    let bench = Bench::empty(&[16]);
    let (gate, keeper) = Gate::new();
    *bench.host.gate.lock().unwrap() = Some(gate);
    let bench = &bench;
    std::thread::scope(move |scope| {
        let growing = scope.spawn(|| bench.pool.grow());
        keeper.reached.recv().unwrap();
        assert_eq!(bench.pool.release_all(), Ok(()));
        keeper.go_on.send(()).unwrap();
        assert_eq!(growing.join().unwrap(), Ok(GrowOutcome::Closed));
    });
    assert_eq!(bench.host.held_slabs(), 0);
    assert_eq!(bench.pool.stats().reserved_bytes, 0);
}
