//! `aictl doctor`: its lines, their cures, its exit codes.

#[path = "../../abi/tests/sample/mod.rs"]
mod sample;

mod aictl;

use aictl::{aictl, harmless_library, stderr, stdout};
use aishim_abi::layout::{HookKind, HookState};
use aishim_abi::statistics::Statistic;
use sample::Sample;
use std::path::Path;
use std::process::{Command, Output};

fn doctor(directory: &Path) -> Command {
    let mut command = aictl(directory);
    command.env("AISHIM_LIB", harmless_library()).arg("doctor");
    command
}

/// The line that begins with `level` and then `subject`, and the one after it.
fn finding(output: &Output, level: &str, subject: &str) -> String {
    let text = stdout(output);
    let start = format!("{level:<5} {subject}");
    let mut lines = text.lines().skip_while(|l| !l.starts_with(&start));
    let found = lines.next().unwrap_or_else(|| panic!("no {start:?} in\n{text}"));
    format!("{found}\n{}", lines.next().unwrap_or_default())
}

#[test]
fn every_fail_and_warning_has_a_cure() {
    let directory = tempfile::tempdir().unwrap();
    let output = doctor(directory.path()).env("AISHIM_LIB", "/no/such.so").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let level = line.split(' ').next().unwrap();
        assert!(["ok", "warn", "FAIL", "", "SIMULATED"].contains(&level), "{line}");
        if level == "FAIL" || level == "warn" {
            assert!(lines.peek().unwrap().starts_with("      cure: "), "{line}");
        }
    }
    assert!(finding(&output, "FAIL", "library").contains("AISHIM_LIB"));
}

#[test]
fn a_library_that_loads_silently_is_well() {
    let directory = tempfile::tempdir().unwrap();
    let output = doctor(directory.path()).output().unwrap();
    assert!(finding(&output, "ok", "library:").contains("loads"));
    finding(&output, "ok", "C library: glibc");
    finding(&output, "ok", "locked memory");
    assert!(finding(&output, "ok", "runtime directory").contains("free"));
}

#[test]
fn a_library_that_does_not_load_fails() {
    let directory = tempfile::tempdir().unwrap();
    // The beginning of a library, which is enough to be taken for one and too little to be loaded.
    let stump = directory.path().join("stump.so");
    std::fs::write(&stump, &std::fs::read(harmless_library()).unwrap()[..512]).unwrap();
    let output = doctor(directory.path()).env("AISHIM_LIB", &stump).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(finding(&output, "FAIL", "library").contains("stump.so"));
}

#[test]
fn the_runtime_directory_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let output = doctor(&missing).output().unwrap();
    assert!(finding(&output, "ok", "runtime directory").contains("not there yet"));
    let output = doctor(&missing.join("deeper")).output().unwrap();
    assert!(finding(&output, "FAIL", "runtime directory").contains("cannot be made"));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = doctor(&file).output().unwrap();
    assert!(finding(&output, "FAIL", "runtime directory").contains("no directory"));
}

#[test]
fn leftovers_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let _alive = Sample::new(1, 1).alive(directory.path());
    Sample::new(2, 2).dead(directory.path());
    Sample::new(3, 3).ended_unix_ns(1_600_000_000_000_000_000).dead(directory.path());
    std::fs::write(directory.path().join("4-4.seg"), "short").unwrap();
    let output = doctor(directory.path()).output().unwrap();
    let line = finding(&output, "warn", "segments: 1 of living processes, 1 of ended ones, 1 left over");
    assert!(line.contains("cure"), "{line}");
    assert!(finding(&output, "warn", "segments left out").contains("4-4.seg"));
}

#[test]
fn wrong_variables_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = doctor(directory.path());
    let output = command.env("AISHIM_POOL_SIZE", "1").env("AISHIM_POOL_MIB", "1e3").output().unwrap();
    let lines = stdout(&output);
    assert!(lines.contains("AISHIM_POOL_SIZE is no variable of aishim"), "{lines}");
    assert!(lines.contains("AISHIM_POOL_MIB=1e3 is not taken"), "{lines}");
}

#[test]
fn a_process_is_judged_by_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    Sample::new(2_000_000_000, 1)
        .hook("cuLaunchKernel", HookKind::Launch, HookState::HandedOut, 5, 0)
        .hook("cuMemFree_v2", HookKind::DeviceMemory, HookState::Known, 0, 0)
        .hook("cuMemcpyBatchAsync", HookKind::Copy, HookState::Absent, 0, 0)
        .unknown("cuLaunchKernel_v9")
        .statistic(Statistic::UnknownLookups, 3)
        .statistic(Statistic::PassThrough, 1)
        .dead(directory.path());
    let output = doctor(directory.path()).arg("2000000000").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    for part in [
        "has ended",
        "5 launches so far",
        "2 functions hooked, 1 of them asked for",
        "1 functions are not in this driver and not hooked: cuMemcpyBatchAsync",
        "3 lookups of hooked names led to functions that are not known: cuLaunchKernel_v9",
        "FAIL  process 2000000000: the library only forwards calls",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn a_process_without_the_library_fails_and_none_at_all_is_exit_code_4() {
    let directory = tempfile::tempdir().unwrap();
    let ourselves = std::process::id().to_string();
    let output = doctor(directory.path()).arg(&ourselves).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = finding(&output, "FAIL", &format!("process {ourselves}: the library is not loaded"));
    assert!(line.contains("aictl run"), "{line}");
    let output = doctor(directory.path()).arg("2147483632").output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("there is no process"), "{output:?}");
}

#[test]
fn a_file_size_limit_below_a_segment_fails() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -f 100; exec \"$0\" doctor", env!("CARGO_BIN_EXE_aictl")])
        .env("AISHIM_DIR", directory.path());
    let output = command.output().unwrap();
    assert!(finding(&output, "FAIL", "file size").contains("ulimit"));
}
