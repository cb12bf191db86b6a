//! fork, vfork, posix_spawn, exec and daemons: before a context a child has a life of its own, after one it is left alone.

use aishim_abi::statistics::Statistic;
use aishim_tests::{Outcome, Program, Sandbox};
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn program() -> PathBuf {
    Program::new("fork").build()
}

/// Runs it natively and under the library, where both must say the same; the number it told is the second run's.
fn forked(sandbox: &Sandbox, how: &str) -> (Outcome, u32) {
    let told = sandbox.path("told");
    let native = sandbox.run(sandbox.native(program()).arg(how).arg(&told));
    let shimmed = sandbox.run(sandbox.shimmed(program()).arg(how).arg(&told));
    shimmed.assert_same(&native);
    (shimmed, number_in(&told))
}

fn number_in(file: &PathBuf) -> u32 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.parse().unwrap_or_else(|_| panic!("no number in {text:?}"))
}

#[test]
fn before_a_context_both_sides_are_counted_for_themselves() {
    let sandbox = Sandbox::new();
    let (parent, child) = forked(&sandbox, "before");
    assert_eq!(parent.stdout, "child 7\n");
    assert_eq!(sandbox.segment(parent.pid).calls("cuLaunchKernel"), 5);
    assert_eq!(sandbox.segment(child).calls("cuLaunchKernel"), 7);
    assert_eq!(sandbox.segments().len(), 2);
}

#[test]
fn after_a_context_the_child_is_only_forwarded() {
    let sandbox = Sandbox::new();
    let (parent, child) = forked(&sandbox, "after");
    assert!(parent.stdout.ends_with("child 4\n"), "{}", parent.stdout);
    let segments = sandbox.segments();
    assert_eq!(segments.len(), 1, "the child has none");
    assert_ne!(segments[0].copy.pid(), child);
    assert_eq!(segments[0].calls("cuLaunchKernel"), 11);
    assert_eq!(segments[0].errors("cuLaunchKernel"), 0);
    assert_eq!(segments[0].statistic(Statistic::PassThrough), 0);
}

#[test]
fn a_child_that_outlives_its_parent_does_not_keep_its_segment_alive() {
    let sandbox = Sandbox::new();
    let told = sandbox.path("told");
    let parent = sandbox.succeed(sandbox.shimmed(program()).arg("orphan").arg(&told));
    let child = number_in(&told);
    let is_ended = sandbox.segment(parent.pid).is_ended();
    // SAFETY: kill(2) of the process that our own program has just made.
    unsafe { libc::kill(child.cast_signed(), libc::SIGKILL) };
    assert!(is_ended, "the orphan holds the lock");
}

#[test]
fn a_child_that_becomes_another_program_has_its_own_segment() {
    for how in ["fork", "vfork", "spawn"] {
        let sandbox = Sandbox::new();
        let (parent, child) = forked(&sandbox, how);
        assert_eq!(parent.stdout, "child 3\nsystem 5\n", "{how}");
        assert_eq!(sandbox.segment(parent.pid).calls("cuLaunchKernel"), 11, "{how}");
        assert_eq!(sandbox.segment(child).calls("cuLaunchKernel"), 3, "{how}");
        assert_eq!(sandbox.segments().len(), 2, "{how}");
    }
}

#[test]
fn a_process_that_becomes_another_program_begins_anew() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(sandbox.shimmed(program()).arg("replaced"));
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (Some(3), ""));
    assert_eq!(sandbox.segment(outcome.pid).calls("cuLaunchKernel"), 3);
}

#[test]
fn a_daemon_is_counted() {
    let sandbox = Sandbox::new();
    let told = sandbox.path("told");
    let _ = sandbox.succeed(sandbox.shimmed(program()).arg("daemon").arg(&told));
    let begun = Instant::now();
    let text = || std::fs::read_to_string(&told).unwrap_or_default();
    while text().is_empty() || !sandbox.segments().iter().all(aishim_tests::sandbox::Segment::is_ended) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the daemon does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    let segment = sandbox.segment(number_in(&told));
    assert_eq!(segment.calls("cuLaunchKernel"), 8);
}

#[test]
fn in_a_thread_while_others_launch() {
    let sandbox = Sandbox::new();
    let told = sandbox.path("told");
    let outcome = sandbox.succeed(sandbox.shimmed(program()).arg("threaded").arg(&told));
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.calls("cuLaunchKernel"), u64::from(number_in(&told)));
    assert_eq!(segment.errors("cuLaunchKernel"), 0);
    assert_eq!(sandbox.segments().len(), 1);
}
