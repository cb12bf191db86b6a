//! The replayer, with the synthetic record, whose figures can be worked out by hand.

use aishim_abi::trace::{self, Event, What};
use aishim_benches::replay::{self, Settings};
use aishim_pool::Miss;

const MIB: u64 = 1 << 20;

fn settings(pool_mib: usize) -> Settings {
    Settings { pool_bytes: pool_mib << 20, limit_bytes: 0, gpu_us: 10_000 }
}

fn synthetic() -> Vec<Event> {
    trace::parse(include_str!("../traces/synthetic.trace")).expect("a record")
}

#[test]
fn the_synthetic_record_comes_out_as_it_was_written() {
    let report = replay::run(&synthetic(), &settings(256)).expect("a report");
    assert_eq!((report.requests, report.threads), (220, 2));
    // 4 of the blocks of 1 MiB fill the first slab; the second comes 5 ms later, and the other 16 within 2 ms.
    assert_eq!((report.stats.hits, report.stats.misses.of(Miss::NotReserved)), (204, 16));
    assert_eq!(report.requested_peak_bytes, 20 * MIB + 65_536);
    assert_eq!(report.stats.high_water_bytes, 4 * MIB + 65_536);
    assert_eq!(report.reserved_bytes, 16 * MIB);
    assert_eq!(report.stats.allocated_bytes, 0);
    assert!(report.fragmentation.iter().all(|f| (0.0..1.0).contains(f)));
    // In the end two slabs are free, which no block can span: a quarter of what is free is not in the longest run.
    assert_eq!(report.fragmentation.last(), Some(&0.25));
}

/// Records of three programs on an H100: what they ask for is served from the pool, but for what comes in the first
/// milliseconds, when there are 4 MiB, and a DataLoader's first two batches of 32 MiB, which no slab is large enough for yet.
#[test]
fn recorded_programs_are_served() {
    let records = [
        ("dataloader", include_str!("../traces/dataloader.trace"), 20, 2),
        ("serving", include_str!("../traces/serving.trace"), 46, 4),
        ("uncached", include_str!("../traces/uncached.trace"), 800, 5),
    ];
    for (name, text, requests, misses) in records {
        let events = trace::parse(text).expect("a record");
        let report = replay::run(&events, &settings(256)).expect("a report");
        assert_eq!(report.requests, requests, "{name}");
        assert_eq!(report.stats.hits, requests - misses, "{name}");
        assert_eq!(report.stats.misses.of(Miss::NotReserved), misses, "{name}");
    }
}

#[test]
fn a_block_is_not_handed_out_again_before_the_next_synchronisation_or_its_time() {
    let event = |at_us, what| Event { at_us, thread: 1, what };
    let alloc = |block| What::Alloc { block, bytes: MIB };
    let free = |block| What::Free { block };
    // A pool of one block.
    let events = [
        event(0, alloc(1)),
        event(1, free(1)),
        event(2, alloc(2)), // waits for the GPU
        event(3, What::Synchronise),
        event(4, alloc(3)),
        event(5, free(3)),
        event(9_000, alloc(4)), // waits
        event(15_006, alloc(5)),
    ];
    let report = replay::run(&events, &settings(1)).expect("a report");
    assert_eq!((report.stats.hits, report.stats.misses.of(Miss::WaitingForGpu)), (3, 2));
}

#[test]
fn what_the_record_does_not_know_is_left_alone() {
    let events = [Event { at_us: 0, thread: 1, what: What::Free { block: 7 } }];
    let report = replay::run(&events, &settings(16)).expect("a report");
    assert_eq!((report.requests, report.stats.frees), (0, 0));
    assert!(replay::run(&[], &settings(16)).is_ok());
    assert!(replay::run(&[], &settings(0)).is_err());
}
