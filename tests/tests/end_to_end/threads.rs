//! Threads of unusual kinds: with small stacks, launching while they end, forking while another one comes to life.

use aishim_abi::statistics::Statistic;
use aishim_tests::program::fakecuda;
use aishim_tests::{Outcome, Program, Sandbox};

fn odd(sandbox: &Sandbox, kind: &str) -> Outcome {
    let program = Program::new("odd_threads").on_fakecuda().build();
    let native = sandbox.run(sandbox.native(&program).arg(kind).env("LD_LIBRARY_PATH", fakecuda()));
    native.assert_success();
    let shimmed = sandbox.run(sandbox.shimmed(&program).arg(kind).env("LD_LIBRARY_PATH", fakecuda()));
    shimmed.assert_same(&native);
    shimmed
}

#[test]
fn with_small_stacks() {
    let sandbox = Sandbox::new();
    let outcome = odd(&sandbox, "small");
    assert_eq!(sandbox.segment(outcome.pid).calls("cuLaunchKernel"), 600);
}

#[test]
fn that_launch_while_they_end() {
    let sandbox = Sandbox::new();
    let outcome = odd(&sandbox, "late");
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.calls("cuLaunchKernel"), 60 + 20 * (1 + 2 + 3));
    assert_eq!(segment.statistic(Statistic::SharedShardLaunches), 0, "all shards are given back");
}

#[test]
fn that_fork_while_another_makes_the_first_context() {
    for _ in 0..10 {
        let sandbox = Sandbox::new();
        let outcome = odd(&sandbox, "born");
        assert_eq!(sandbox.segment(outcome.pid).calls("cuLaunchKernel"), 1);
    }
}
