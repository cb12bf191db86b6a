//! Sources and fences that fail, dawdle, or never come back. The pool goes on with what it has.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use aishim_pool::{BLOCK_BYTES, FreeOutcome, GrowOutcome, Miss};

use crate::doubles::{Bench, Gate};

#[test]
fn a_source_that_fails_is_quoted_and_not_asked_again_unbidden() {
    let bench = Bench::empty(&[16, 16]);
    bench.host.error.store(2, SeqCst);
    assert_eq!(bench.pool.alloc(1, 0), Err(Miss::NotReserved));
    assert_eq!(bench.pool.grow(), Err(2));
    assert!(!bench.pool.wants_growth());
    assert_eq!(bench.pool.alloc(1, 0), Err(Miss::NotReserved));
    assert!(!bench.pool.wants_growth());
    bench.host.error.store(0, SeqCst);
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(16 * BLOCK_BYTES)));
    bench.alloc(16);
    assert_eq!(bench.pool.alloc(1, 0), Err(Miss::NotReserved));
    assert!(bench.pool.wants_growth());
}

#[test]
fn memory_that_is_not_aligned_goes_back() {
    let bench = Bench::empty(&[16]);
    bench.host.skew_bytes.store(64, SeqCst);
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Misaligned));
    assert_eq!(bench.host.held_slabs(), 0);
    assert!(!bench.pool.wants_growth());
}

#[test]
fn a_slow_source_keeps_nobody_else_waiting() {
    let bench = Bench::empty(&[16, 16]);
    assert!(bench.pool.grow().is_ok());
    let (gate, keeper) = Gate::new();
    *bench.host.gate.lock().unwrap() = Some(gate);
    let bench = &bench;
    std::thread::scope(move |scope| {
        let growing = scope.spawn(|| bench.pool.grow());
        keeper.reached.recv().unwrap();
        let address = bench.alloc(16);
        assert_eq!(bench.pool.alloc(1, 0), Err(Miss::NotReserved));
        assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Busy));
        assert_eq!(bench.pool.free(address), FreeOutcome::Freed);
        keeper.go_on.send(()).unwrap();
        assert_eq!(growing.join().unwrap(), Ok(GrowOutcome::Grown(16 * BLOCK_BYTES)));
    });
    bench.alloc(16);
    bench.alloc(16);
}

#[test]
fn a_thread_that_never_comes_back_from_the_source_stops_the_growth_only() {
    let bench = Arc::new(Bench::empty(&[16, 16]));
    assert!(bench.pool.grow().is_ok());
    let (gate, keeper) = Gate::new();
    *bench.host.gate.lock().unwrap() = Some(gate);
    let lost = Arc::clone(&bench);
    std::thread::spawn(move || lost.pool.grow());
    keeper.reached.recv().unwrap();
    std::mem::forget(keeper);
    for _ in 0..1000 {
        let address = bench.alloc(5);
        assert_eq!(bench.pool.free(address), FreeOutcome::Freed);
    }
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Busy));
}

#[test]
fn work_that_never_ends_costs_the_freed_blocks_and_two_marks() {
    let bench = Bench::full_grown(&[64]);
    bench.gpu.submit();
    for _ in 0..64 {
        let address = bench.alloc(1);
        assert_eq!(bench.pool.free(address), FreeOutcome::Freed);
    }
    for _ in 0..100 {
        assert_eq!(bench.pool.alloc(1, 0), Err(Miss::WaitingForGpu));
    }
    assert!(bench.gpu.marks.load(SeqCst) <= 2);
    assert_eq!(bench.pool.stats().quarantined_bytes, 64 * BLOCK_BYTES as u64);
    bench.gpu.finish_all();
    bench.alloc(64);
    assert_eq!(bench.pool.stats().quarantined_bytes, 0);
}

#[test]
fn while_no_mark_can_be_made_blocks_wait_and_then_come_back() {
    let bench = Bench::full_grown(&[64]);
    bench.gpu.is_capturing.store(true, SeqCst);
    for _ in 0..64 {
        let address = bench.alloc(1);
        assert_eq!(bench.pool.free(address), FreeOutcome::Freed);
    }
    assert_eq!(bench.pool.alloc(1, 0), Err(Miss::WaitingForGpu));
    assert_eq!(bench.pool.stats().marks_made, 0);
    bench.gpu.is_capturing.store(false, SeqCst);
    bench.alloc(64);
}

#[test]
fn a_free_between_a_failed_mark_and_the_next_is_not_forgotten() {
    let bench = Bench::full_grown(&[2]);
    let (first, second) = (bench.alloc(1), bench.alloc(1));
    bench.pool.free(first);
    bench.gpu.is_capturing.store(true, SeqCst);
    bench.pool.tend();
    bench.pool.free(second);
    bench.gpu.is_capturing.store(false, SeqCst);
    bench.alloc(2);
}

#[test]
fn a_thread_that_never_comes_back_from_the_fence_costs_misses_and_no_hang() {
    let bench = Arc::new(Bench::full_grown(&[64]));
    let addresses: Vec<_> = (0..64).map(|_| bench.alloc(1)).collect();
    bench.pool.free(addresses[0]);
    let (gate, keeper) = Gate::new();
    *bench.gpu.gate.lock().unwrap() = Some(gate);
    let lost = Arc::clone(&bench);
    std::thread::spawn(move || lost.pool.tend());
    keeper.reached.recv().unwrap();
    std::mem::forget(keeper);
    for &address in &addresses[1..] {
        assert_eq!(bench.pool.free(address), FreeOutcome::Freed);
    }
    assert_eq!(bench.pool.alloc(1, 0), Err(Miss::WaitingForGpu));
    bench.pool.tend();
}
