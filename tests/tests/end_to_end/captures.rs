//! Stream captures: nothing of the library's gets into one or ends one, and it notices however one ends.

use aishim_abi::statistics::Statistic;
use aishim_tests::{Program, Sandbox, Via};

fn beside_others(mode: &str) {
    const TIMES: u64 = 60;
    let program = Program::new("captures").build();
    let sandbox = Sandbox::new();
    let arguments = [mode.to_owned(), TIMES.to_string()];
    sandbox.run(sandbox.native(&program).args(&arguments)).assert_success();
    let outcome = sandbox.succeed(sandbox.shimmed(&program).args(&arguments));
    let segment = sandbox.segment(outcome.pid);
    let launched = segment.calls("cuLaunchKernel");
    assert_eq!(outcome.stdout, format!("{launched} launches, {TIMES} captures\n"));
    assert_eq!(segment.calls("cuGraphLaunch"), 3 * TIMES);
    assert_eq!(segment.statistic(Statistic::Captures), TIMES);
    // Event pairs beside the captures, also those that were given up afterwards: where the processors are taken, half of the eight or nine that there
    // are come too late behind their first event.
    let pairs = [Statistic::GpuSamples, Statistic::GpuSamplesContended, Statistic::GpuSamplesDiscarded];
    assert!(pairs.iter().any(|which| segment.statistic(*which) > 0), "sampling was at work");
}

#[test]
fn global_captures_while_others_launch() {
    beside_others("0");
}

#[test]
fn thread_local_captures_while_others_launch_and_allocate() {
    beside_others("1");
}

#[test]
fn relaxed_captures_while_others_launch_and_allocate() {
    beside_others("2");
}

#[test]
fn captures_that_do_not_end_as_they_should() {
    for via in [Via::Link, Via::Proc(2)] {
        let program = Program::new("captures_ending").via(via).build();
        let sandbox = Sandbox::new();
        let native = sandbox.run(&mut sandbox.native(&program));
        native.assert_success();
        let shimmed = sandbox.run(&mut sandbox.shimmed(&program));
        shimmed.assert_same(&native);
        let segment = sandbox.segment(shimmed.pid);
        let afterwards = native.stdout.matches("well afterwards").count() as u64;
        assert_eq!(segment.statistic(Statistic::PoolHits), afterwards, "{}", native.stdout);
    }
}

#[test]
fn on_one_of_thousands_of_streams() {
    let program = Program::new("streams_many").build();
    let sandbox = Sandbox::new();
    sandbox.run(sandbox.native(&program).arg("3000")).assert_success();
    for _ in 0..3 {
        let outcome = sandbox.succeed(sandbox.shimmed(&program).arg("3000"));
        assert_eq!(outcome.stdout, "right\n");
    }
}
