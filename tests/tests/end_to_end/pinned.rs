//! Page-locked memory: the pool answers as the driver does, and no block is reused while the GPU may still touch it.

use aishim_abi::statistics::Statistic;
use aishim_tests::{Program, Sandbox, Via};

#[test]
fn answers_are_those_of_the_driver() {
    for via in [Via::Link, Via::Proc(2)] {
        let program = Program::new("pinned_codes").via(via).build();
        let sandbox = Sandbox::new();
        let native = sandbox.run(&mut sandbox.native(&program));
        let shimmed = sandbox.run(&mut sandbox.shimmed(&program));
        native.assert_success();
        shimmed.assert_same(&native);
        let without_pool = sandbox.run(sandbox.shimmed(&program).env("AISHIM_POOL_MIB", "0"));
        without_pool.assert_same(&native);
        let segment = sandbox.segment(shimmed.pid);
        assert!(segment.statistic(Statistic::PoolHits) > 5);
        assert_eq!(segment.statistic(Statistic::PinnedBytes), 0);
        assert_eq!(segment.statistic(Statistic::RegisteredBytes), 0);
    }
}

/// Copies so slow that freed blocks would be overwritten many times before they are done.
fn content(captures: &str) {
    let program = Program::new("pinned_content").build();
    let sandbox = Sandbox::new();
    let mut command = sandbox.shimmed(&program);
    command.args(["6", captures]);
    command.env("SIMCUDA_COSTS", "h200").env("SIMCUDA_H2D_GBPS", "0.2").env("SIMCUDA_D2H_GBPS", "0.2");
    let outcome = sandbox.succeed(&mut command);
    assert_eq!(outcome.stdout, "0 wrong\n");
    let segment = sandbox.segment(outcome.pid);
    assert!(segment.statistic(Statistic::PoolHits) > 50, "the pool was at work");
    assert_eq!(segment.statistic(Statistic::PinnedBytes), 0);
}

#[test]
fn a_freed_block_waits_for_the_gpu() {
    content("0");
}

#[test]
fn a_freed_block_waits_for_the_gpu_also_while_captures_are_open() {
    content("1");
}

#[test]
fn many_threads_and_contexts() {
    let program = Program::new("pinned_churn").build();
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(sandbox.shimmed(&program).arg("1500"));
    assert_eq!(outcome.stdout, "right\n");
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.statistic(Statistic::PinnedBytes), 0);
    assert_eq!(segment.statistic(Statistic::PoolAllocated), 0);
    assert!(segment.statistic(Statistic::PinnedPeakBytes) > 0);
}
