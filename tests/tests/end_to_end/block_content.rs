//! What a block of the pool holds: what its last owner left; zeroes where they are asked for; poison in the test build
//! that fills freed blocks with it.

use aishim_abi::statistics::Statistic;
use aishim_tests::{Program, Sandbox, dist};
use std::process::Command;

fn content(sandbox: &Sandbox, kind: &str) -> Command {
    let mut command = sandbox.shimmed(Program::new("block_content").build());
    command.arg(kind);
    command
}

/// Blocks that had the address of the one before, and bytes that were not zero.
fn taken_again(prepare: impl FnOnce(&mut Command)) -> (u64, u64) {
    let sandbox = Sandbox::new();
    let mut command = content(&sandbox, "again");
    prepare(&mut command);
    let outcome = sandbox.succeed(&mut command);
    assert!(sandbox.segment(outcome.pid).statistic(Statistic::PoolHits) > 200, "the pool was at work");
    let mut counts = outcome.stdout.split_whitespace().map(|n| n.parse().expect("a count"));
    (counts.next().expect("blocks"), counts.next().expect("bytes"))
}

#[test]
fn zeroes_where_they_are_asked_for() {
    let (same, not_zero) = taken_again(|c| {
        c.env("AISHIM_POOL_ZERO", "1");
    });
    assert!(same > 10, "only {same} were taken again");
    assert_eq!(not_zero, 0);
}

#[test]
fn no_zeroes_where_nobody_asks() {
    for value in ["", "0"] {
        let (same, not_zero) = taken_again(|c| {
            c.env("AISHIM_POOL_ZERO", value);
        });
        assert!(same > 10 && not_zero > 4096, "{same} taken again, {not_zero} bytes not zero");
    }
}

#[test]
fn zeroes_over_poison() {
    let (_, not_zero) = taken_again(|c| {
        c.env("AISHIM_POOL_ZERO", "1").env("LD_PRELOAD", dist::poisoning_shim());
    });
    assert_eq!(not_zero, 0);
}

/// Not at the free, at which the GPU may still read it; and then without anybody having taken it again.
#[test]
fn poison_once_reuse_is_allowed() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(content(&sandbox, "freed").env("LD_PRELOAD", dist::poisoning_shim()));
    assert_eq!(outcome.stdout, "behind the free 0 changed, 0 wrong arrived; then 0xdb, 0 others\n");
}

#[test]
fn no_poison_in_the_ordinary_library() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(&mut content(&sandbox, "freed"));
    assert_eq!(outcome.stdout, "behind the free 0 changed, 0 wrong arrived; then 0x5a, 0 others\n");
}
