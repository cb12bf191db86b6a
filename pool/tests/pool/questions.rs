//! What the pool answers about addresses, and when it asks for more memory.

use std::sync::atomic::Ordering::SeqCst;

use aishim_pool::{BLOCK_BYTES, BlockInfo, FreeOutcome, GrowOutcome, Miss};

use crate::doubles::Bench;

#[test]
fn the_first_slab_is_asked_for_by_the_first_request() {
    let bench = Bench::empty(&[16, 16]);
    assert!(!bench.pool.wants_growth());
    assert_eq!(bench.pool.alloc(1, 0), Err(Miss::NotReserved));
    assert!(bench.pool.wants_growth());
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(16 * BLOCK_BYTES)));
    assert!(bench.pool.alloc(1, 0).is_ok());
    assert_eq!(bench.pool.stats().misses.of(Miss::NotReserved), 1);
}

/// It used to: what had come was not counted before somebody next came to the heap.
#[test]
fn a_pool_that_has_grown_enough_does_not_go_on_growing() {
    let bench = Bench::empty(&[4096, 4096, 8192]);
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(4096 * BLOCK_BYTES)));
    bench.alloc(3000);
    assert!(bench.pool.wants_growth());
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(4096 * BLOCK_BYTES)));
    assert!(!bench.pool.wants_growth(), "5192 of 8192 blocks are free");
}

#[test]
fn the_next_slab_is_asked_for_before_the_first_is_full() {
    let bench = Bench::empty(&[4096, 4096]);
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(4096 * BLOCK_BYTES)));
    for _ in 0..8 {
        bench.alloc(256);
        assert!(!bench.pool.wants_growth());
    }
    bench.alloc(256);
    assert!(bench.pool.wants_growth());
    assert_eq!(bench.pool.grow(), Ok(GrowOutcome::Grown(4096 * BLOCK_BYTES)));
    assert!(!bench.pool.wants_growth(), "there is no third slab");
}

#[test]
fn a_block_is_known_by_each_of_its_bytes() {
    let bench = Bench::full_grown(&[600]);
    let address = bench.pool.alloc(500 * BLOCK_BYTES - 10, 77).unwrap().as_ptr();
    let info = BlockInfo { start: address.addr(), requested_bytes: 500 * BLOCK_BYTES - 10, tag: 77 };
    for offset in [0, 1, BLOCK_BYTES, 300 * BLOCK_BYTES + 5, 500 * BLOCK_BYTES - 11] {
        assert_eq!(bench.pool.block_of(address.wrapping_add(offset)), Some(info));
    }
    let beyond = address.wrapping_add(500 * BLOCK_BYTES - 10);
    assert_eq!(bench.pool.block_of(beyond), None);
    assert!(bench.pool.contains(beyond));
    assert_eq!(bench.pool.free(beyond), FreeOutcome::NotABlockStart);
    assert_eq!(bench.pool.free(address), FreeOutcome::Freed);
    assert_eq!(bench.pool.block_of(address), None);
}

#[test]
fn foreign_addresses_are_nobodys() {
    let bench = Bench::full_grown(&[16]);
    let address = bench.alloc(16);
    let outside = [std::ptr::null(), address.wrapping_sub(1), address.wrapping_add(16 * BLOCK_BYTES)];
    for address in outside {
        assert!(!bench.pool.contains(address));
        assert_eq!(bench.pool.block_of(address), None);
        assert_eq!(bench.pool.free(address), FreeOutcome::NotOurs);
    }
}

#[test]
fn a_free_never_makes_the_next_block_wait_for_a_mark_while_there_is_other_room() {
    let bench = Bench::full_grown(&[4096]);
    bench.gpu.submit();
    for _ in 0..1000 {
        let address = bench.alloc(1);
        assert_eq!(bench.pool.free(address), FreeOutcome::Freed);
    }
    assert_eq!(bench.gpu.marks.load(SeqCst), 0);
    assert_eq!(bench.pool.stats().quarantined_bytes, 1000 * BLOCK_BYTES as u64);
}

#[test]
fn marks_are_made_for_many_frees_at_once() {
    let bench = Bench::full_grown(&[4096]);
    for _ in 0..100_000 {
        let address = bench.alloc(1);
        bench.pool.free(address);
    }
    let stats = bench.pool.stats();
    assert_eq!(stats.misses.total(), 0);
    // One for three eighths of the pool.
    assert!((55..75).contains(&stats.marks_made), "{}", stats.marks_made);
}

#[test]
fn sizes_that_cannot_be_are_told_apart() {
    let bench = Bench::full_grown(&[16]);
    assert_eq!(bench.pool.alloc(0, 0), Err(Miss::ZeroBytes));
    assert_eq!(bench.pool.alloc(16 * BLOCK_BYTES + 1, 0), Err(Miss::TooLarge));
    assert_eq!(bench.pool.alloc(usize::MAX, 0), Err(Miss::TooLarge));
    bench.alloc(16);
    assert_eq!(bench.pool.alloc(1, 0), Err(Miss::NoRoom));
}

/// The model found this: a request below 1 MiB went to the heap only, and a freed block above it, long safe, was not
/// there yet, so the pool said it had nothing.
#[test]
fn what_a_large_block_leaves_behind_serves_a_small_one() {
    let bench = Bench::full_grown(&[40, 300]);
    let large = bench.alloc(257);
    assert_eq!(bench.pool.free(large), FreeOutcome::Freed);
    bench.alloc(44);
}
