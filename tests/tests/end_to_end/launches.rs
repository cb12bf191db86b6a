//! Launches are counted exactly, by form, whichever way the program found the driver's functions.

use aishim_abi::reader::Which;
use aishim_abi::statistics::Statistic;
use aishim_tests::sandbox::Segment;
use aishim_tests::{Program, Sandbox, Via};

const FORMS: [&str; 4] = ["cuLaunchKernel", "cuLaunchKernelEx", "cuLaunchCooperativeKernel", "cuGraphLaunch"];

fn assert_counts(segment: &Segment, threads: u64, launches: u64, suffix: &str) {
    for form in FORMS {
        let (captured, refused) = if form == "cuLaunchKernel" { (threads, 2 * threads) } else { (0, 0) };
        let name = format!("{form}{suffix}");
        let expected = threads * launches + captured + refused;
        assert_eq!(segment.calls(&name), expected, "{name}");
        assert_eq!(segment.errors(&name), refused, "errors of {name}");
        let other = if suffix.is_empty() { "_ptsz" } else { "" };
        assert_eq!(segment.calls(&format!("{form}{other}")), 0);
    }
    let all = 4 * threads * launches + 3 * threads;
    assert_eq!(segment.copy.launches(), all);
    assert_eq!(segment.count(Which::Launch), all);
    assert_eq!(segment.statistic(Statistic::Captures), threads);
    assert_eq!(segment.statistic(Statistic::Panics), 0);
}

fn counted(via: Via, suffix: &str) {
    let program = Program::new("forms").via(via).build();
    for (threads, launches) in [(1, 30), (8, 200), (40, 30)] {
        let sandbox = Sandbox::new();
        let mut command = sandbox.shimmed(&program);
        command.args([threads.to_string(), launches.to_string()]);
        let outcome = sandbox.succeed(&mut command);
        assert_eq!(outcome.stdout, "right\n");
        assert_counts(&sandbox.segment(outcome.pid), threads, launches, suffix);
    }
}

#[test]
fn of_a_program_linked_to_the_driver() {
    counted(Via::Link, "");
}

#[test]
fn of_a_program_that_looks_symbols_up() {
    counted(Via::Dlsym, "");
}

#[test]
fn of_a_program_that_asks_the_driver_for_addresses() {
    counted(Via::Proc(0), "");
}

#[test]
fn of_a_program_with_per_thread_default_streams() {
    counted(Via::Proc(2), "_ptsz");
}

#[test]
fn results_and_words_are_those_of_a_run_without_the_library() {
    let program = Program::new("forms").build();
    let sandbox = Sandbox::new();
    let native = sandbox.run(sandbox.native(&program).arg("4"));
    let shimmed = sandbox.run(sandbox.shimmed(&program).arg("4"));
    shimmed.assert_same(&native);
}

#[test]
fn of_threads_that_end_and_begin_again() {
    let sandbox = Sandbox::new();
    let program = Program::new("worker_turns").build();
    let outcome = sandbox.succeed(sandbox.shimmed(&program).args(["60", "4", "25"]));
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.calls("cuLaunchKernel"), 60 * 4 * 25);
    assert_eq!(segment.count(Which::Launch), 60 * 4 * 25);
    // Four at a time never run out of shards if those that end give theirs back.
    assert_eq!(segment.statistic(Statistic::SharedShardLaunches), 0);
}

/// Kernels launched in turn, which no other launch of the same kind follows at once. (Strata once shared 64 bits that said
/// whose next launch was to be sampled; whoever of a bit came first cleared it, and launches were looked at again and again.)
#[test]
fn each_of_many_kernels_in_turn_is_sampled() {
    const KERNELS: u64 = 400;
    let program = Program::new("kernels_in_turn").build();
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(sandbox.shimmed(&program).args([KERNELS.to_string(), "8".to_owned()]));
    let segment = sandbox.segment(outcome.pid);
    let samples = segment.statistic(Statistic::GpuSamples) + segment.statistic(Statistic::GpuSamplesDiscarded);
    assert!(samples >= KERNELS, "{samples} samples of {KERNELS} kernels");
    let all_ns: u64 = outcome.stdout.trim().parse().unwrap();
    let told_ns = segment.statistic(Statistic::GpuTime);
    assert!((all_ns / 2..all_ns * 2).contains(&told_ns), "{told_ns} ns told of {all_ns}");
}

/// A memset among launches finds its request open and notes no more than numbers; one behind the wait that ended it begins
/// another.
#[test]
fn memsets_among_them_belong_to_their_request() {
    const ROUNDS: u64 = 200;
    let program = Program::new("memsets").build();
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(sandbox.shimmed(&program).arg(ROUNDS.to_string()));
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.count(Which::Request), 3 * ROUNDS);
    assert_eq!(segment.calls("cuMemsetD32Async"), 5 * ROUNDS);
    assert_eq!(segment.statistic(Statistic::MemsetBytes), 5 * ROUNDS * 4096);
    assert_eq!(segment.statistic(Statistic::OpenRequests), 0);
}
