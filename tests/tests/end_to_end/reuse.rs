//! Freed blocks of the pool: not handed out while a stream that has gone may still read them, and handed out again
//! once that is over, whatever streams and threads have come and gone.

use aishim_abi::statistics::Statistic;
use aishim_tests::sandbox::Segment;
use aishim_tests::{Program, Sandbox};
use std::process::Command;

fn reuse(sandbox: &Sandbox, kind: &str) -> Command {
    let mut command = sandbox.shimmed(Program::new("reuse").build());
    command.arg(kind).env("AISHIM_POOL_MIB", "1");
    command
}

fn misses(segment: &Segment) -> u64 {
    let reasons = [
        Statistic::PoolMissNoRoom,
        Statistic::PoolMissWaiting,
        Statistic::PoolMissContext,
        Statistic::PoolMissCapture,
        Statistic::PoolMissNotReady,
        Statistic::PoolMissTooLarge,
    ];
    reasons.into_iter().map(|reason| segment.statistic(reason)).sum()
}

#[test]
fn not_before_the_copy_of_a_stream_destroyed_during_a_capture_is_done() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(&mut reuse(&sandbox, "lost"));
    assert_eq!(outcome.stdout, "enough overwritten, 0 wrong\n");
    let segment = sandbox.segment(outcome.pid);
    // At most 16 fit before the synchronisation; 300 requests come after it.
    assert!(segment.statistic(Statistic::PoolHits) > 250, "the pool recovers");
    assert_eq!(segment.statistic(Statistic::PinnedBytes), 0);
}

#[test]
fn after_many_threads_have_used_their_default_streams() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(&mut reuse(&sandbox, "threads"));
    assert_eq!(outcome.stdout, "right\n");
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.statistic(Statistic::PoolHits) + misses(&segment), 1500 + 3000);
    assert!(misses(&segment) < 150, "{} misses", misses(&segment));
}

#[test]
fn beside_streams_of_one_request() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(&mut reuse(&sandbox, "stress"));
    assert_eq!(outcome.stdout, "0 wrong\n");
    let segment = sandbox.segment(outcome.pid);
    assert!(segment.statistic(Statistic::PoolHits) > 50, "the pool was at work");
    assert_eq!(segment.statistic(Statistic::PinnedBytes), 0);
}

/// Page-locking takes as long as it does on a real GPU, and the process ends in the middle of it: that is waited for.
#[test]
fn a_process_that_ends_while_the_pool_grows() {
    let sandbox = Sandbox::new();
    let mut grown = 0;
    for i in 0..40 {
        let mut command = reuse(&sandbox, "exit");
        command
            .arg((i / 2 * 2000).to_string())
            .env("AISHIM_POOL_MIB", "64")
            .env("SIMCUDA_COSTS", "h200")
            .env("SIMCUDA_SPEED", "0.2");
        // Of a slab that is registered the process waits for the driver's part alone, so it may end before or after.
        if i % 2 == 0 {
            command.env("SIMCUDA_FAIL", "cuMemHostRegister_v2:801");
        }
        let outcome = sandbox.succeed(&mut command);
        let segment = sandbox.segment(outcome.pid);
        assert_eq!(segment.statistic(Statistic::PoolHits), 3);
        grown += u32::from(segment.statistic(Statistic::PoolReserved) > 4 << 20);
    }
    // Where the background thread had not begun there was nothing to wait for.
    assert!(grown > 0, "none waited for the slab that was being reserved");
}
