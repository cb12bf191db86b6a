//! What cannot be obeyed or had is said once, on one line that names cause and cure, and the program runs on.

use aishim_abi::statistics::Statistic;
use aishim_tests::program::fakecuda;
use aishim_tests::sandbox::end_of;
use aishim_tests::{Outcome, Program, Sandbox};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

fn run(sandbox: &Sandbox, prepare: impl Fn(&mut Command)) -> Outcome {
    let mut command = sandbox.shimmed(Program::new("bounds").build());
    prepare(&mut command);
    let outcome = sandbox.run(&mut command);
    assert_eq!(outcome.code(), Some(6), "{outcome:?}");
    outcome
}

/// One line from the library that holds all of `words`.
#[track_caller]
fn assert_one_line(outcome: &Outcome, words: &[&str]) {
    let said = &outcome.stderr;
    let is_one_line = said.matches('\n').count() == 1 && said.ends_with('\n');
    assert!(is_one_line && said.starts_with("aishim: "), "{said:?}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
}

fn with_variable(name: &str, value: &str) -> (Sandbox, Outcome) {
    let sandbox = Sandbox::new();
    let outcome = run(&sandbox, |c| {
        c.env(name, value);
    });
    (sandbox, outcome)
}

#[test]
fn an_unknown_variable() {
    let (_, outcome) = with_variable("AISHIM_POOL_MB", "64");
    assert_one_line(&outcome, &["AISHIM_POOL_MB", "no variable", "aictl doctor"]);
}

#[test]
fn variables_that_only_look_like_ours() {
    let (_, outcome) = with_variable("AISHIMMER", "64");
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_pool_size_that_is_no_number_or_too_large() {
    for value in ["lots", "-1", "+5", "1.5", "4096", "99999999999999999999", "0x10", " 16"] {
        let (sandbox, outcome) = with_variable("AISHIM_POOL_MIB", value);
        assert_one_line(&outcome, &["AISHIM_POOL_MIB", value, "0 to 4095", "256"]);
        let capacity = sandbox.segment(outcome.pid).statistic(Statistic::PoolCapacity);
        assert_eq!(capacity, 256 << 20, "{value}");
    }
}

#[test]
fn pool_settings_that_cannot_be() {
    let cases = [
        ("AISHIM_POOL", "always", "lazy, eager, off"),
        ("AISHIM_POOL_MAX_MIB", "0", "1 to 4095"),
        ("AISHIM_POOL_MAX_MIB", "4096", "1 to 4095"),
        ("AISHIM_POOL_IDLE_S", "86401", "0 to 86400"),
        ("AISHIM_POOL_IDLE_S", "soon", "0 to 86400"),
        ("AISHIM_POOL_ZERO", "2", "0 to 1"),
        ("AISHIM_POOL_ZERO", "yes", "0 to 1"),
    ];
    for (name, value, allowed) in cases {
        let (sandbox, outcome) = with_variable(name, value);
        assert_one_line(&outcome, &[&format!("{name}={value}"), allowed]);
        let segment = sandbox.segment(outcome.pid);
        assert_eq!(segment.statistic(Statistic::PoolCapacity), 256 << 20, "{name}={value}");
        assert!(segment.statistic(Statistic::PoolHits) > 0, "{name}={value}");
    }
}

#[test]
fn values_that_other_variables_do_not_take() {
    for (name, value) in [
        ("AISHIM_COPY", "no"),
        ("AISHIM_PRIORITY", "101"),
        ("AISHIM_SAMPLE", "no"),
        ("AISHIM_LOG", "loud"),
        ("AISHIM", "maybe"),
    ] {
        let (sandbox, outcome) = with_variable(name, value);
        assert_one_line(&outcome, &[name, value]);
        assert_eq!(sandbox.segment(outcome.pid).copy.priority(), 20);
    }
}

#[test]
fn empty_values_count_as_unset() {
    for name in [
        "AISHIM",
        "AISHIM_COPY",
        "AISHIM_POOL",
        "AISHIM_POOL_IDLE_S",
        "AISHIM_POOL_MAX_MIB",
        "AISHIM_POOL_MIB",
        "AISHIM_POOL_ZERO",
        "AISHIM_PRIORITY",
        "AISHIM_SAMPLE",
        "AISHIM_LOG",
    ] {
        let (_, outcome) = with_variable(name, "");
        assert_eq!(outcome.stderr, "", "{name}");
    }
}

#[test]
fn a_value_of_bytes_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    let outcome = run(&sandbox, |c| {
        c.env("AISHIM_POOL_MIB", std::ffi::OsStr::from_bytes(b"\xff\x1b[31m\n"));
    });
    assert_one_line(&outcome, &["AISHIM_POOL_MIB"]);
    assert!(!outcome.stderr.contains('\x1b'));
}

#[test]
fn a_very_long_value() {
    let (_, outcome) = with_variable("AISHIM_POOL_MIB", &"9".repeat(100_000));
    assert_one_line(&outcome, &["AISHIM_POOL_MIB"]);
}

#[test]
fn a_log_that_is_off_says_nothing() {
    let sandbox = Sandbox::new();
    let outcome = run(&sandbox, |c| {
        c.env("AISHIM_POOL_MIB", "lots").env("AISHIM_LOG", "off");
    });
    assert_eq!(outcome.stderr, "");
}

/// A program that never writes to its stderr does not notice that nobody reads it any more.
#[test]
fn a_stderr_that_is_a_broken_or_a_full_pipe() {
    for is_full in [false, true] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        if is_full {
            fill(&writer);
        }
        let keep = is_full.then_some(reader);
        let sandbox = Sandbox::new();
        let mut command = sandbox.shimmed(Program::new("bounds").build());
        let mut child = command.env("AISHIM_POOL_MIB", "lots").stderr(writer).spawn().expect("a child");
        let status = end_of(&mut child).expect("it hangs");
        assert_eq!(status.code(), Some(6), "{status}");
        drop(keep);
    }
}

fn fill(pipe: &std::io::PipeWriter) {
    use std::os::fd::AsRawFd;
    let descriptor = pipe.as_raw_fd();
    // SAFETY: fcntl(2) and write(2) on an open descriptor, with a buffer of that size.
    unsafe {
        let flags = libc::fcntl(descriptor, libc::F_GETFL);
        libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK);
        while libc::write(descriptor, [0_u8; 4096].as_ptr().cast(), 4096) > 0 {}
        libc::fcntl(descriptor, libc::F_SETFL, flags);
    }
}

#[test]
fn no_pool() {
    let (sandbox, outcome) = with_variable("AISHIM_POOL_MIB", "0");
    assert_eq!(outcome.stderr, "");
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.statistic(Statistic::PoolHits), 0);
    assert_eq!(segment.statistic(Statistic::PoolReserved), 0);
    assert_eq!(segment.statistic(Statistic::PinnedPeakBytes), 40 << 20);
}

#[test]
fn a_pool_of_which_the_driver_gives_nothing() {
    let (_, outcome) = with_variable("SIMCUDA_FAIL", "cuMemHostAlloc:2:times=1");
    assert_one_line(&outcome, &["page-locked", "pool"]);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn a_pool_of_which_the_driver_gives_only_a_part() {
    let (sandbox, outcome) = with_variable("SIMCUDA_FAIL", "cuMemHostAlloc:2:after=1,cuMemHostRegister_v2:2");
    assert_one_line(&outcome, &["page-locked", " 4 MiB", "AISHIM_POOL_MIB"]);
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.statistic(Statistic::PoolReserved), 4 << 20);
    assert!(segment.statistic(Statistic::PoolHits) > 0);
}

#[test]
fn a_record_that_cannot_be_written() {
    let (_, outcome) = with_variable("AISHIM_TRACE", "/no/such/folder/record");
    assert_one_line(&outcome, &["No such file", "AISHIM_TRACE", "/no/such/folder/record"]);
}

/// Root may write everywhere, so the program becomes another user.
fn as_nobody(directory: &Path) -> Option<Outcome> {
    // SAFETY: geteuid(2) cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let sandbox = Sandbox::new();
    for path in [sandbox.directory(), sandbox.path("")] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("a mode");
    }
    Some(run(&sandbox, |c| {
        c.args(["uid", "65534"]).env("AISHIM_DIR", directory);
    }))
}

#[test]
fn a_runtime_directory_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    let directory = sandbox.directory();
    std::fs::set_permissions(sandbox.path(""), PermissionsExt::from_mode(0o755)).expect("a mode");
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o555)).expect("a mode");
    let outcome = as_nobody(&directory).unwrap_or_else(|| run(&sandbox, |_| ()));
    assert_one_line(&outcome, &["ermission denied", "AISHIM_DIR", &directory.display().to_string()]);
    assert_eq!(sandbox.files(), Vec::<String>::new());
}

#[test]
fn a_runtime_directory_without_a_parent() {
    let (sandbox, outcome) = with_variable("AISHIM_DIR", "/no/such/parent/aishim");
    assert_one_line(&outcome, &["No such file", "AISHIM_DIR", "/no/such/parent/aishim"]);
    assert_eq!(sandbox.files(), Vec::<String>::new());
}

#[test]
fn a_runtime_directory_that_is_a_file() {
    let (_, outcome) = with_variable("AISHIM_DIR", "/etc/passwd");
    assert_one_line(&outcome, &["Not a directory", "AISHIM_DIR"]);
}

#[test]
fn a_runtime_directory_that_is_missing_is_made() {
    let sandbox = Sandbox::new();
    std::fs::remove_dir(sandbox.directory()).expect("an empty folder");
    let outcome = run(&sandbox, |_| ());
    assert_eq!(outcome.stderr, "");
    let mode = std::fs::metadata(sandbox.directory()).expect("it was made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(sandbox.segment(outcome.pid).is_ended());
}

/// On the fake driver, which opens no files itself. A limit on file sizes holds for stderr too, unless it is a pipe.
fn under_limit(which: &str, limit: &str, stderr_is_file: bool) -> Outcome {
    let sandbox = Sandbox::new();
    let program = Program::new("bounds").flag("-DBARE").on_fakecuda().build();
    let mut command = sandbox.shimmed(program);
    command.args([which, limit]).env("LD_LIBRARY_PATH", fakecuda());
    let outcome = if stderr_is_file { sandbox.run(&mut command) } else { run_into_pipe(command) };
    assert_eq!(outcome.code(), Some(6), "{outcome:?}");
    assert_eq!(sandbox.files(), Vec::<String>::new());
    outcome
}

fn run_into_pipe(mut command: Command) -> Outcome {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut child = command.stderr(writer).spawn().expect("a child");
    let status = end_of(&mut child).expect("it hangs");
    drop(command);
    let mut stderr = String::new();
    reader.read_to_string(&mut stderr).expect("text");
    Outcome { pid: child.id(), status, stdout: String::new(), stderr }
}

#[test]
fn no_room_for_a_file() {
    for bytes in ["0", "4096", "458751"] {
        let outcome = under_limit("fsize", bytes, false);
        assert_one_line(&outcome, &["File too large", "AISHIM_DIR"]);
    }
    // Nor for our words, and then they are not worth a signal.
    assert_eq!(under_limit("fsize", "0", true).stderr, "");
}

#[test]
fn no_descriptor_left() {
    let outcome = under_limit("nofile", "3", true);
    assert_one_line(&outcome, &["Too many open files"]);
}

#[test]
fn a_full_file_system() {
    let sandbox = Sandbox::new();
    let small = sandbox.path("small");
    std::fs::create_dir(&small).expect("a folder");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&small);
    if !mount.output().is_ok_and(|o| o.status.success()) {
        println!("skipped: a file system of 64 KiB can only be mounted as root");
        return;
    }
    let outcome = run(&sandbox, |c| {
        c.env("AISHIM_DIR", &small);
    });
    let left = std::fs::read_dir(&small).expect("its files").count();
    let unmounted = Command::new("umount").arg(&small).status();
    assert!(unmounted.is_ok_and(|s| s.success()));
    assert_one_line(&outcome, &["No space left", "AISHIM_DIR"]);
    assert_eq!(left, 0);
}

/// The default directory's name lies in a place where anybody may write: a stranger's is not used, and nothing is said
/// since nobody asked for it.
#[test]
fn a_strangers_directory_under_our_name() {
    const UID: u32 = 54_321;
    let directory = format!("/dev/shm/aishim-{UID}");
    // SAFETY: geteuid(2) cannot fail.
    if unsafe { libc::geteuid() } != 0 || Path::new("/run/aishim").exists() || std::fs::create_dir(&directory).is_err()
    {
        println!("skipped: only root can make a stranger's directory");
        return;
    }
    chown(&directory, Some(12_345), None).expect("another owner");
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).expect("a mode");
    let sandbox = Sandbox::new();
    std::fs::set_permissions(sandbox.path(""), PermissionsExt::from_mode(0o777)).expect("a mode");
    let outcome = run(&sandbox, |c| {
        c.args(["uid", &UID.to_string()]).env_remove("AISHIM_DIR");
    });
    let left = std::fs::read_dir(&directory).expect("its files").count();
    std::fs::remove_dir_all(&directory).expect("a folder of ours");
    assert_eq!((left, outcome.stderr.as_str()), (0, ""));
}
