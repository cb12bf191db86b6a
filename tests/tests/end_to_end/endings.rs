//! Calls that never return, and processes that end with work in flight.

use aishim_abi::statistics::Statistic;
use aishim_tests::program::fakecuda;
use aishim_tests::{Program, Sandbox};

fn calls_cut_short(way: &str) {
    let folder = fakecuda();
    let program = Program::new("cut_short").on_fakecuda().build();
    let sandbox = Sandbox::new();
    let native = sandbox.run(sandbox.native(&program).arg(way).env("LD_LIBRARY_PATH", &folder));
    native.assert_success();
    let shimmed = sandbox.run(sandbox.shimmed(&program).arg(way).env("LD_LIBRARY_PATH", &folder));
    shimmed.assert_same(&native);
    let segment = sandbox.segment(shimmed.pid);
    let launched: u64 = native.stdout.trim().parse().expect("a count");
    // Those that never came back are nobody's: neither launched nor refused.
    assert_eq!(segment.calls("cuLaunchKernel"), launched);
    assert_eq!(segment.statistic(Statistic::Panics), 0);
    assert_eq!(segment.statistic(Statistic::SharedShardLaunches), 0);
}

#[test]
fn a_thread_cancelled_at_a_cancellation_point_in_the_driver() {
    calls_cut_short("0");
}

#[test]
fn a_thread_cancelled_at_once_in_the_driver() {
    calls_cut_short("1");
}

#[test]
fn a_thread_that_ends_itself_in_the_driver() {
    calls_cut_short("2");
}

#[test]
fn a_signal_handler_that_jumps_out_of_the_driver() {
    calls_cut_short("3");
}

/// Launches, and whether the end was in order.
fn ends(how: &str, launches: u64, in_order: bool) {
    let program = Program::new("ending").build();
    let sandbox = Sandbox::new();
    let run = |command: &mut std::process::Command| sandbox.run(command.arg(how));
    let native = run(&mut sandbox.native(&program));
    let shimmed = run(&mut sandbox.shimmed(&program));
    shimmed.assert_same(&native);
    let segment = sandbox.segment(shimmed.pid);
    assert!(segment.is_ended(), "{how}");
    assert_eq!(segment.copy.ended().is_some(), in_order, "{how}");
    assert_eq!(segment.calls("cuLaunchKernel"), launches, "{how}");
    let file = segment.path.extension();
    assert_eq!(file.and_then(|e| e.to_str()), Some("ended"), "{how}");
}

#[test]
fn a_return_from_main_and_exit_run_handlers_that_launch() {
    ends("return", 5 + 3, true);
    ends("exit", 5 + 3, true);
}

#[test]
fn an_end_without_handlers() {
    for how in ["_exit", "quick_exit", "abort", "kill", "fault", "terminate"] {
        ends(how, 5, false);
    }
}

#[test]
fn a_main_thread_that_ends_before_the_others() {
    ends("main thread first", 5 + 50 + 3, true);
}

#[test]
fn an_end_while_the_pool_is_growing() {
    let program = Program::new("ending").build();
    let sandbox = Sandbox::new();
    for _ in 0..20 {
        // The simulator's own costs: page-locking takes its milliseconds, in a thread of the library's.
        let mut command = sandbox.shimmed(&program);
        command.arg("return").env("SIMCUDA_COSTS", "h200").env("SIMCUDA_SPEED", "20");
        let outcome = sandbox.run(&mut command);
        assert_eq!((outcome.code(), outcome.stderr.as_str()), (Some(24), ""));
    }
}
