//! `aictl run`: environment, exit codes, signals, warnings.

mod aictl;

use aictl::{aictl, harmless_library, stderr, stdout};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn run(arguments: &[&str]) -> Command {
    let mut command = aictl(Path::new("/nowhere"));
    command.env("AISHIM_LIB", harmless_library()).arg("run").args(arguments);
    command
}

fn code(arguments: &[&str]) -> Option<i32> {
    run(arguments).output().unwrap().status.code()
}

#[test]
fn the_exit_code_is_that_of_the_program() {
    assert_eq!(code(&["--", "true"]), Some(0));
    assert_eq!(code(&["--", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["--", "sh", "-c", "exit 255"]), Some(255));
    // Without the dashes too, options of the program included.
    assert_eq!(code(&["sh", "-c", "exit 3"]), Some(3));
}

#[test]
fn a_program_that_a_signal_ended_gives_128_and_the_signal() {
    assert_eq!(code(&["--", "sh", "-c", "kill -KILL $$"]), Some(137));
    assert_eq!(code(&["--", "sh", "-c", "kill -SEGV $$"]), Some(139));
    assert_eq!(code(&["--", "sh", "-c", "kill -TERM $$"]), Some(143));
}

#[test]
fn a_program_that_cannot_be_started_gives_127_or_126() {
    let output = run(&["--", "no-such-program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(stderr(&output).contains("no-such-program is not found"), "{output:?}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data");
    std::fs::write(&file, "no program").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = run(&["--", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(126));
    assert!(stderr(&output).contains("cannot be executed"), "{output:?}");
    assert_eq!(code(&["--", directory.path().to_str().unwrap()]), Some(126));
}

#[test]
fn the_library_is_preloaded_before_what_was_there() {
    let library = harmless_library();
    let library = library.canonicalize().unwrap();
    let library = library.to_str().unwrap();
    let print = ["--", "sh", "-c", "echo $LD_PRELOAD"];
    let output = run(&print).output().unwrap();
    assert_eq!(stdout(&output).trim(), library);
    // Another that is there on every system; the loader takes names as well as paths.
    let output = run(&print).env("LD_PRELOAD", "libm.so.6").output().unwrap();
    assert_eq!(stdout(&output).trim(), format!("{library}:libm.so.6"));
    let print = ["--env", "LD_PRELOAD=libdl.so.2", "--", "sh", "-c", "echo $LD_PRELOAD"];
    let output = run(&print).env("LD_PRELOAD", "libm.so.6").output().unwrap();
    assert_eq!(stdout(&output).trim(), format!("{library}:libdl.so.2"));
}

#[test]
fn variables_are_set_for_the_program() {
    let arguments = ["--env", "A=1", "--env", "B=x=y z", "--", "sh", "-c", "echo $A,$B"];
    let output = run(&arguments).output().unwrap();
    assert_eq!(stdout(&output).trim(), "1,x=y z");
    assert!(output.stderr.is_empty(), "{output:?}");
    let output = run(&["--env", "=1", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_wrong_variable_is_named_and_the_program_runs_on() {
    let arguments = ["--env", "AISHIM_POOL_SIZE=1", "--env", "AISHIM_POOL_MIB=lots", "--", "sh", "-c", "exit 5"];
    let output = run(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr(&output).contains("AISHIM_POOL_SIZE is no variable"), "{output:?}");
    assert!(stderr(&output).contains("a number from 0 to 4095"), "{output:?}");
}

#[test]
fn container_clients_are_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let docker = directory.path().join("docker");
    std::os::unix::fs::symlink("/bin/true", &docker).unwrap();
    let output = run(&["--", docker.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("do not inherit LD_PRELOAD"), "{output:?}");
}

#[test]
fn a_missing_or_unusable_library_is_one_sentence_and_exit_1() {
    let directory = tempfile::tempdir().unwrap();
    let blank = directory.path().join("a b.so");
    std::fs::copy(harmless_library(), &blank).unwrap();
    let text = directory.path().join("text.so");
    std::fs::write(&text, "this is no library, but it is long enough").unwrap();
    let gone = directory.path().join("gone.so");
    for (library, words) in [(&gone, "cannot be found"), (&blank, "LD_PRELOAD cannot carry"), (&text, "no ELF file")] {
        let output = run(&["--", "echo", "ran"]).env("AISHIM_LIB", library).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty(), "the program must not run");
        let said = stderr(&output);
        assert!(said.contains(words) && said.contains("AISHIM_LIB"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn no_program_is_a_mistake_of_usage() {
    assert_eq!(run(&[]).output().unwrap().status.code(), Some(2));
    assert_eq!(run(&["--env", "A", "--", "true"]).output().unwrap().status.code(), Some(2));
}

/// A shell script under aictl that has said that it is ready.
struct Script {
    aictl: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Script {
    fn start(script: &str) -> Self {
        let mut aictl = run(&["--", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(aictl.stdout.take().unwrap()).lines();
        Self { aictl, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn signal(&self, signal: &str) {
        kill(signal, self.aictl.id());
    }
}

fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn signals_reach_the_program() {
    for signal in ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH", "ALRM"] {
        // The shell reads, so that the trap runs at once and not when a child ends.
        let mut script =
            Script::start(&format!("trap 'echo got; exit 9' {signal}; echo ready; while :; do sleep 0.02; done"));
        assert_eq!(script.line(), "ready");
        script.signal(&format!("-{signal}"));
        assert_eq!(script.line(), "got", "{signal}");
        assert_eq!(script.aictl.wait().unwrap().code(), Some(9), "{signal}");
    }
}

#[test]
fn a_signal_that_the_program_does_not_handle_ends_it_and_us() {
    let mut script = Script::start("echo ready; exec sleep 60");
    assert_eq!(script.line(), "ready");
    script.signal("-TERM");
    assert_eq!(script.aictl.wait().unwrap().code(), Some(143));
}

#[test]
fn the_program_ends_when_aictl_is_killed() {
    let mut script = Script::start("echo $$; exec sleep 60");
    let pid: u32 = script.line().parse().unwrap();
    script.signal("-KILL");
    script.aictl.wait().unwrap();
    // Its end closes the pipe, without which this would wait a minute.
    assert!(script.lines.next().is_none());
    // The pipe closes a little before the process is gone.
    let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_gone = |stat: &str| stat.is_empty() || stat.contains(") Z") || stat.contains(") X");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_gone(&stat()) {
        assert!(Instant::now() < deadline, "{}", stat());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_program_stopped_and_continued_goes_on() {
    let mut script = Script::start("echo $$; read line; echo got $line");
    let pid: u32 = script.line().parse().unwrap();
    kill("-STOP", pid);
    kill("-CONT", pid);
    let mut stdin = script.aictl.stdin.take().unwrap();
    stdin.write_all(b"this\n").unwrap();
    assert_eq!(script.line(), "got this");
    assert!(script.aictl.wait().unwrap().success());
}

#[test]
fn the_program_starts_with_the_signal_mask_it_would_have_had() {
    let mask = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let native = Command::new("sh").args(["-c", mask]).output().unwrap();
    let under = run(&["--", "sh", "-c", mask]).output().unwrap();
    assert_eq!(stdout(&native), stdout(&under));
}
