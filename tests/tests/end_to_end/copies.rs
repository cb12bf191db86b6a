//! Copies of pageable memory that the library stages: every byte, the order of streams, captures, faults, and the life of
//! the process around them. On a machine with one processor none is staged, and all must be right all the same.

use aishim_abi::statistics::Statistic;
use aishim_tests::sandbox::Segment;
use aishim_tests::{Outcome, Program, Sandbox, Via};
use std::path::PathBuf;
use std::process::Command;

const SIGBUS: i32 = 7;
const SIGSEGV: i32 = 11;

fn copies() -> PathBuf {
    Program::new("copies").build()
}

fn faults() -> PathBuf {
    Program::new("copies_faults").build()
}

fn life() -> PathBuf {
    Program::new("copies_life").build()
}

/// Runs it natively and under the library, where both must say the same; the second run and its segment.
fn compared(program: &PathBuf, arguments: &[&str]) -> (Outcome, Segment) {
    compared_with(program, arguments, |_| {})
}

fn compared_with(program: &PathBuf, arguments: &[&str], prepare: impl Fn(&mut Command)) -> (Outcome, Segment) {
    let sandbox = Sandbox::new();
    let run = |mut command: Command| {
        prepare(command.args(arguments));
        sandbox.run(&mut command)
    };
    let native = run(sandbox.native(program));
    let shimmed = run(sandbox.shimmed(program));
    shimmed.assert_same(&native);
    let segment = sandbox.segment(shimmed.pid);
    assert_eq!(segment.statistic(Statistic::Panics), 0);
    (shimmed, segment)
}

fn staged(segment: &Segment) -> u64 {
    segment.statistic(Statistic::StagedCopies)
}

/// At least so many copies were staged; with one processor, none.
#[track_caller]
fn assert_staged(segment: &Segment, least: u64) {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if processors > 1 {
        assert!(staged(segment) >= least, "{} staged", staged(segment));
    } else {
        assert_eq!(staged(segment), 0);
    }
}

#[test]
fn every_byte_of_random_copies_on_many_streams() {
    for (via, seed) in [(Via::Link, "1"), (Via::Proc(0), "2"), (Via::Proc(2), "3")] {
        let (outcome, segment) = compared(&Program::new("copies").via(via).build(), &["bytes", seed, "20", "1"]);
        assert_eq!(outcome.stdout, "0 wrong\n");
        assert_staged(&segment, 10);
    }
}

/// The GPU takes what was sent to it as late as it likes: a slot that is filled again before would show.
#[test]
fn every_byte_over_a_slow_bus() {
    let (outcome, segment) = compared_with(&copies(), &["bytes", "4", "15", "1"], |command| {
        command.env("SIMCUDA_COSTS", "h200").env("SIMCUDA_H2D_GBPS", "3").env("SIMCUDA_D2H_GBPS", "3");
    });
    assert_eq!(outcome.stdout, "0 wrong\n");
    assert_staged(&segment, 8);
}

#[test]
fn many_threads_at_once() {
    let (outcome, segment) = compared(&copies(), &["bytes", "5", "6", "6"]);
    assert_eq!(outcome.stdout, "0 wrong\n");
    assert_staged(&segment, 8);
    let total = segment.statistic(Statistic::StagedBytes);
    let pageable =
        segment.statistic(Statistic::HostToDevicePageable) + segment.statistic(Statistic::DeviceToHostPageable);
    assert!(total <= pageable, "each copy is counted once, and in its size");
}

/// In which the driver's queue is short, so that sending a chunk waits for the stream.
#[test]
fn behind_a_full_queue() {
    let (outcome, segment) = compared_with(&copies(), &["bytes", "6", "15", "2"], |command| {
        command.env("SIMCUDA_QUEUE_DEPTH", "2");
    });
    assert_eq!(outcome.stdout, "0 wrong\n");
    assert_staged(&segment, 8);
}

#[test]
fn from_a_source_that_a_host_function_fills_just_before() {
    let (outcome, segment) = compared(&copies(), &["host"]);
    assert_eq!(outcome.stdout.matches(": 0 old\n").count(), 8, "{}", outcome.stdout);
    assert_staged(&segment, 4);
}

#[test]
fn back_from_memory_that_is_filled_just_before() {
    for via in [Via::Link, Via::Proc(2)] {
        let (outcome, segment) = compared(&Program::new("copies").via(via).build(), &["behind"]);
        assert_eq!(outcome.stdout, "0 old\n");
        assert_staged(&segment, 1 + 5);
    }
}

#[test]
fn in_captures_and_beside_captures_of_others() {
    for mode in ["0", "1", "2"] {
        let (outcome, segment) = compared(&copies(), &["captures", mode]);
        assert_eq!(outcome.stdout, "0 wrong\n");
        // The one that warms up, before any capture; of the others as many as found none open.
        assert_staged(&segment, 1);
    }
}

/// A copy on the default stream was one call of the driver's, which a capture could not come between. Its chunks are many.
#[test]
fn in_the_middle_of_which_a_capture_begins() {
    let (outcome, segment) = compared_with(&copies(), &["beside"], |command| {
        command.env("SIMCUDA_COSTS", "h200").env("SIMCUDA_H2D_GBPS", "2").env("SIMCUDA_D2H_GBPS", "2");
        command.env("SIMCUDA_PAGEABLE_GBPS", "2");
    });
    assert_eq!(outcome.stdout, "side by side\n");
    assert_staged(&segment, 1);
}

#[test]
fn in_contexts_that_come_and_go() {
    let (outcome, segment) = compared(&copies(), &["contexts"]);
    assert_eq!(outcome.stdout, "0 wrong\n");
    // Warming up, and three times there and back.
    assert_staged(&segment, 6 * (1 + 3 + 3));
}

/// A part of such a copy must not have been made when the driver refuses the rest.
#[test]
fn that_the_driver_refuses() {
    let (outcome, segment) = compared(&copies(), &["refused"]);
    assert_eq!(outcome.stdout, "right\n");
    assert_eq!(segment.statistic(Statistic::CopyFailures), 5);
}

#[test]
fn of_memory_that_is_registered_for_a_while() {
    let (outcome, segment) = compared(&copies(), &["registered"]);
    assert_eq!(outcome.stdout, "right\n");
    let pinned = segment.statistic(Statistic::HostToDevicePinned) + segment.statistic(Statistic::DeviceToHostPinned);
    assert_eq!(pinned, 2 * (16 << 20));
    assert!(staged(&segment) <= 2, "the one that warms up, and the last");
}

/// A chunk that the driver refuses fails its copy with the driver's answer, and the next copy is right.
#[test]
fn whose_chunks_the_driver_refuses() {
    for fault in ["cuMemcpyHtoDAsync_v2:2:after=140:times=3", "cuMemcpyDtoHAsync_v2:2:after=20:times=3"] {
        let sandbox = Sandbox::new();
        let mut command = sandbox.shimmed(copies());
        command.arg("failing").env("SIMCUDA_FAIL", fault);
        let outcome = sandbox.succeed(&mut command);
        assert!(
            outcome.stdout.ends_with(" failed, 0 wrong\n") && !outcome.stdout.starts_with("0 "),
            "{}",
            outcome.stdout
        );
        let segment = sandbox.segment(outcome.pid);
        assert_staged(&segment, 20);
        assert!((1..=3).contains(&segment.statistic(Statistic::CopyFailures)));
    }
}

/// Recording an event fails: the slots behind it can never be known to be free, so that ring is not used again.
#[test]
fn whose_events_the_driver_refuses() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.shimmed(copies());
    command.arg("failing").env("SIMCUDA_FAIL", "cuEventRecord:2:after=200");
    let outcome = sandbox.succeed(&mut command);
    assert!(outcome.stdout.ends_with(" failed, 0 wrong\n"), "{}", outcome.stdout);
    assert_staged(&sandbox.segment(outcome.pid), 3);
}

/// Without page-locked memory there is nothing to stage through, and nothing is said of it.
#[test]
fn where_the_driver_has_no_page_locked_memory() {
    let (_, segment) = compared_with(&copies(), &["bytes", "7", "3", "1"], |command| {
        command.env("SIMCUDA_FAIL", "cuMemHostAlloc:2");
    });
    assert_eq!(staged(&segment), 0);
}

#[test]
fn not_where_they_are_turned_off() {
    let (outcome, segment) = compared_with(&copies(), &["bytes", "8", "5", "1"], |command| {
        command.env("AISHIM_COPY", "off");
    });
    assert_eq!(outcome.stdout, "0 wrong\n");
    assert_eq!(staged(&segment), 0);
    assert_eq!(segment.statistic(Statistic::StagedPassedOn), 0);
}

#[test]
fn not_on_one_processor() {
    let sandbox = Sandbox::new();
    let mut command = Command::new("taskset");
    let shimmed = sandbox.shimmed(life());
    command.args(["-c", &first_processor().to_string()]).arg(life()).arg("small");
    for (name, value) in shimmed.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let outcome = sandbox.succeed(&mut command);
    assert_eq!(outcome.stdout, "0 wrong\n");
    assert_eq!(staged(&sandbox.segment(outcome.pid)), 0);
}

/// The first processor that this process may run on.
fn first_processor() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's own status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("its processors");
    let digits = list.trim().split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().expect("a number")
}

#[test]
fn on_processors_that_are_given_and_taken_away() {
    let (outcome, segment) = compared(&life(), &["processors"]);
    assert_eq!(outcome.stdout, "0 wrong\n");
    assert_staged(&segment, 1 + 12);
    assert!(staged(&segment) <= 1 + 12, "those on one processor are the driver's");
}

/// Small copies do not wait until there is something to stage them through, and are staged once there is.
#[test]
fn before_and_after_there_is_page_locked_memory_for_them() {
    let (outcome, segment) = compared(&life(), &["small"]);
    assert_eq!(outcome.stdout, "0 wrong\n");
    assert_staged(&segment, 10);
}

#[test]
fn of_pages_that_the_program_mends_when_they_fault() {
    let (outcome, segment) = compared(&faults(), &["mended"]);
    assert_eq!(outcome.stdout, "right, faults seen\n");
    assert_staged(&segment, 3);
}

#[test]
fn of_pages_that_cannot_be_had() {
    for (kind, signal) in [("protected", SIGSEGV), ("truncated", SIGBUS)] {
        let sandbox = Sandbox::new();
        let file = sandbox.path("file");
        for mut command in [sandbox.native(faults()), sandbox.shimmed(faults())] {
            let outcome = sandbox.run(command.arg(kind).arg(&file));
            assert_eq!((outcome.signal(), outcome.stderr.as_str()), (Some(signal), ""), "{kind}");
        }
    }
}

/// The program ends as it would without us, and what it shared with others is whole.
#[test]
fn of_memory_that_another_thread_unmaps() {
    let sandbox = Sandbox::new();
    for mut command in [sandbox.native(faults()), sandbox.shimmed(faults())] {
        let outcome = sandbox.run(command.arg("unmapped"));
        assert!(outcome.code() == Some(0) || outcome.signal() == Some(SIGSEGV), "{outcome:?}");
    }
    let outcome = sandbox.succeed(sandbox.shimmed(life()).arg("once"));
    assert_staged(&sandbox.segment(outcome.pid), 1);
}

#[test]
fn in_a_process_that_forks_between_them() {
    let (outcome, segment) = compared(&life(), &["fork"]);
    assert_eq!(outcome.stdout, format!("{}0 wrong\n", "child 9\n".repeat(4)));
    assert_staged(&segment, 9);
}

#[test]
fn in_a_process_that_exits_meanwhile() {
    for after_us in (0..20).map(|i| i * 1_500) {
        let sandbox = Sandbox::new();
        let outcome = sandbox.run(sandbox.shimmed(life()).arg("exit").arg(after_us.to_string()));
        assert_eq!((outcome.code(), outcome.stderr.as_str()), (Some(6), ""), "after {after_us} us");
    }
}

#[test]
fn in_threads_that_are_cancelled() {
    let (outcome, segment) = compared(&life(), &["cancel"]);
    assert_eq!(outcome.stdout, "0 wrong\n");
    assert_staged(&segment, 9);
}

/// The helping threads: none before they are needed, no signal of the program's taken by them, none for ever.
#[test]
fn with_threads_that_come_and_go() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(sandbox.shimmed(life()).arg("signals"));
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let there = if processors > 1 { "some" } else { "none" };
    let wanted = format!("before 0, with a copy {there}, later 0, signals taken 0\nagain {there}\n");
    assert_eq!(outcome.stdout, wanted);
}
