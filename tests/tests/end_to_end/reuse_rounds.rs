//! Rounds of alloc, use by the GPU, free, alloc again and overwrite, the same program as on a real GPU (benches/gpu):
//! copies are slow here, so that a block handed out too early is overwritten while it is still being read.

use aishim_abi::statistics::Statistic;
use aishim_tests::sandbox::Segment;
use aishim_tests::{Outcome, Program, Sandbox, Via, dist};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROUNDS: u64 = 400;

fn program() -> PathBuf {
    Program::new("../../benches/gpu/reuse").via(Via::Dlsym).flag("-O2").build_as("reuse_rounds")
}

/// Copies of 1 GB/s, and a driver that refuses to synchronise a context more often than the program does.
fn with_slow_copies(command: &mut Command) -> &mut Command {
    command
        .env("SIMCUDA_COSTS", "h200")
        .env("SIMCUDA_H2D_GBPS", "1")
        .env("SIMCUDA_D2H_GBPS", "1")
        .env("SIMCUDA_FAIL", "cuCtxSynchronize:999:after=2,cuCtxSynchronize_v2:999")
}

fn run(sandbox: &Sandbox, command: &mut Command) -> (Outcome, Value) {
    let outcome = sandbox.succeed(with_slow_copies(command));
    let said = serde_json::from_str(&outcome.stdout).expect("a line of JSON");
    (outcome, said)
}

fn count(said: &Value, key: &str) -> u64 {
    said[key].as_u64().unwrap_or_else(|| panic!("{key} is no count in {said}"))
}

/// All rounds under that library, in a pool from which blocks come back soon.
fn shimmed(library: &Path) -> (Value, Segment) {
    let sandbox = Sandbox::new();
    let mut command = sandbox.shimmed(program());
    command.arg(ROUNDS.to_string()).env("LD_PRELOAD", library).env("AISHIM_POOL_MIB", "16");
    let (outcome, said) = run(&sandbox, &mut command);
    let segment = sandbox.segment(outcome.pid);
    (said, segment)
}

fn assert_undisturbed(said: &Value) {
    assert_eq!(count(said, "rounds"), ROUNDS);
    assert!(count(said, "words") > ROUNDS * 1000, "{said}");
    assert_eq!(count(said, "words_wrong"), 0, "{said}");
    assert!(count(said, "captures") > 0, "{said}");
    assert_eq!(count(said, "captures_disturbed"), 0, "{said}");
}

#[test]
fn no_word_is_wrong_and_no_capture_disturbed() {
    let (said, segment) = shimmed(&dist::shim());
    assert_undisturbed(&said);
    // Behind a free that had waited for the GPU nothing would be under way.
    assert!(count(&said, "late") > ROUNDS / 20, "{said}");
    assert_eq!(segment.calls("cuCtxSynchronize"), count(&said, "context_synchronisations"));
    let not_served = count(&said, "allocations") - segment.statistic(Statistic::PoolHits);
    assert!(count(&said, "waits") <= not_served, "{said}");
    let could_be_served = count(&said, "allocations") - count(&said, "allocations_in_captures");
    assert!(segment.statistic(Statistic::PoolHits) * 10 > could_be_served * 9, "{said}");
    assert_eq!(segment.statistic(Statistic::PinnedBytes), 0);
}

/// Poison strikes all that is taken to be safe, and so whatever is still in use.
#[test]
fn nor_where_freed_blocks_are_poisoned() {
    let (said, segment) = shimmed(&dist::poisoning_shim());
    assert_undisturbed(&said);
    assert!(segment.statistic(Statistic::PoolHits) > ROUNDS, "{said}");
    assert_eq!(segment.statistic(Statistic::Panics), 0);
}

/// The driver's free waits for the block's own context alone: on an H100 this program once ended with an illegal address,
/// because its other context was not done with what it freed. So the program waits itself before it frees what is the
/// driver's, natively and where the pool did not serve it.
#[test]
fn without_the_library_none_is_wrong() {
    let sandbox = Sandbox::new();
    let (_, said) = run(&sandbox, sandbox.native(program()).arg(ROUNDS.to_string()));
    assert_undisturbed(&said);
    assert!(count(&said, "waits") > ROUNDS / 4, "{said}");
}

/// Else the other tests would prove nothing.
#[test]
fn immediate_reuse_is_found_out() {
    let sandbox = Sandbox::new();
    let (_, said) = run(&sandbox, sandbox.native(program()).args(["--immediate", "100"]));
    assert!(count(&said, "words_wrong") > 0, "{said}");
    for kind in ["from_block", "into_block", "mapped"] {
        assert!(count(&said["words_wrong_by_use"], kind) > 0, "{said}");
    }
}
