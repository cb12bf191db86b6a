//! Threads of unusual kinds: with small stacks, launching before `main` or while they end, forking while another one comes
//! to life.

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

/// A library that the program is linked to may use the GPU in its constructor, and the loader runs that before ours. What
/// ours did for the launch path was not there yet: the first launch that was not out of the ordinary took the thread's
/// control block for what we keep of the thread, and the program crashed before `main`.
#[test]
fn that_launch_before_our_own_constructor() {
    let library = Program::new("early").on_fakecuda().shared("libearly.so").flag("-DLIBRARY").build_as("libearly.so");
    let folder = library.parent().expect("a folder");
    let program = Program::new("early")
        .on_fakecuda()
        .flag(format!("-L{}", folder.display()))
        .flag("-l:libearly.so")
        .flag(format!("-Wl,-rpath,{}", folder.display()))
        .build();
    let sandbox = Sandbox::new();
    let native = sandbox.run(sandbox.native(&program).env("LD_LIBRARY_PATH", fakecuda()));
    native.assert_success();
    let shimmed = sandbox.run(sandbox.shimmed(&program).env("LD_LIBRARY_PATH", fakecuda()));
    shimmed.assert_same(&native);
    assert_eq!(sandbox.segment(shimmed.pid).calls("cuLaunchKernel"), 300);
    // Nor has it been asked yet whether anything of ours is wanted.
    let sandbox = Sandbox::new();
    let off = sandbox.run(sandbox.shimmed(&program).env("LD_LIBRARY_PATH", fakecuda()).env("AISHIM", "off"));
    off.assert_same(&native);
    assert_eq!(sandbox.files(), Vec::<String>::new());
}
