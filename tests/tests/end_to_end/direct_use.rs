//! Programs that know of the library: `include/aishim.h` from C and from Python.

use aishim_abi::statistics::Statistic;
use aishim_tests::{Outcome, Program, Sandbox, Via, dist};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program, with the header where the build places it.
fn program(via: Via) -> Program {
    let include = dist::file("include/aishim.h");
    let include = include.parent().unwrap_or(Path::new("."));
    Program::new("direct_use").via(via).flag(format!("-I{}", include.display()))
}

fn is_right(sandbox: &Sandbox, outcome: &Outcome) {
    assert_eq!(outcome.stdout, "right\n");
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.statistic(Statistic::PinnedBytes), 0);
    assert_eq!(segment.statistic(Statistic::PoolHits), 1);
}

#[test]
fn found_with_dlsym_under_the_library() {
    for via in [Via::Link, Via::Dlsym, Via::Proc(0)] {
        let sandbox = Sandbox::new();
        let program = program(via).flag("-DVIA_LOOKUP").build();
        is_right(&sandbox, &sandbox.succeed(&mut sandbox.shimmed(program)));
    }
}

/// In front of the driver, as the header asks.
#[test]
fn linked_to_the_library() {
    let shim = dist::shim();
    let folder = shim.parent().unwrap_or(Path::new("."));
    let program = program(Via::Itself)
        .flag("-Wl,--no-as-needed")
        .flag(format!("-L{}", folder.display()))
        .flag(format!("-Wl,-rpath,{}", folder.display()))
        .flag("-laishim")
        .flag(format!("-L{}", dist::simulator().display()))
        .flag("-l:libcuda.so.1")
        .build_as("direct_use_linked");
    let sandbox = Sandbox::new();
    is_right(&sandbox, &sandbox.succeed(&mut sandbox.native(program)));
}

fn python(sandbox: &Sandbox, script: PathBuf) -> Command {
    let mut command = sandbox.shimmed("python3");
    command.arg(script);
    command
}

fn python_says(sandbox: &Sandbox, what: &str) -> String {
    let script = dist::workspace().join("tests/programs/direct_use.py");
    sandbox.succeed(python(sandbox, script).arg(what)).stdout
}

#[test]
fn from_python() {
    let sandbox = Sandbox::new();
    assert_eq!(python_says(&sandbox, "all"), "version 1, 88 of 88 bytes, hits 1\n");
    assert_eq!(python_says(&sandbox, "no-context"), "ENXIO\n");
    assert_eq!(python_says(&sandbox, "no-cuda"), "ENODEV\n");
}

#[test]
fn switched_off_or_without_a_pool_the_driver_serves() {
    let script = || dist::workspace().join("tests/programs/direct_use.py");
    for (name, value) in [("AISHIM", "off"), ("AISHIM_POOL_MIB", "0")] {
        let sandbox = Sandbox::new();
        let outcome = sandbox.succeed(python(&sandbox, script()).arg("all").env(name, value));
        assert_eq!(outcome.stdout, "version 1, 88 of 88 bytes, hits 0\n", "{name}");
    }
}

/// With NumPy the whole of it, and without, one line that says so.
#[test]
fn the_example_for_numpy() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&mut python(&sandbox, dist::workspace().join("examples/pinned_numpy.py")));
    if outcome.code() == Some(0) {
        assert!(
            outcome.stdout.contains("there and back: right") && outcome.stdout.contains("and 0 now"),
            "{outcome:?}"
        );
    } else {
        assert_eq!(outcome.stderr, "pinned_numpy.py needs NumPy: pip install numpy\n");
    }
}

/// What the library exports is what docs/hooks.md lists, the header, and `dlsym`.
#[test]
fn nothing_else_is_exported() {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(dist::shim()).output().expect("nm, of binutils");
    let output = String::from_utf8_lossy(&output.stdout);
    let exported: BTreeSet<_> = output.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    let docs = std::fs::read_to_string(dist::workspace().join("docs/hooks.md")).expect("the list of hooks");
    let hooks = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let ours = ["dlsym", "ai_alloc_pinned", "ai_free_pinned", "ai_pool_stats"];
    assert_eq!(exported, hooks.chain(ours).collect());
}
