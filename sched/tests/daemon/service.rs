//! What the system sees of the daemon: one a directory, sockets of systemd's, and what it is told.

use crate::harness::{Daemon, command, run_to_end, wait_for};
use aishim_abi::channel::Channel;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_second_daemon_says_who_has_the_directory_and_ends() {
    let daemon = Daemon::start(&[]);
    let (said, code) = run_to_end(command(daemon.directory.path()));
    assert_eq!(code, Some(1));
    let last = said.lines().last().unwrap();
    assert!(last.contains(&daemon.pid().to_string()), "{said}");
    assert!(last.contains(daemon.directory.path().to_str().unwrap()), "{said}");
    assert_eq!(daemon.board().clients(), 0, "the first is still there");
}

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut child = command(directory.path()).env("NOTIFY_SOCKET", &path).stderr(Stdio::null()).spawn().unwrap();
    let told = || {
        let mut text = [0; 64];
        let bytes = systemd.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..bytes]).into_owned()
    };
    assert_eq!(told(), "READY=1");
    Channel::connect(directory.path()).unwrap();
    // SAFETY: a child of ours that has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    assert_eq!(told(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_socket_that_systemd_passes_is_listened_on_and_left_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("aischedd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // Not under the number that it is to have: dup2(2) of one to itself does not keep it open over exec.
    let listener = rustix::io::fcntl_dupfd_cloexec(&listener, 100).unwrap();
    let number = listener.as_raw_fd();
    let command = command(directory.path());
    // LISTEN_PID is the process's own, known only there: a shell says it and becomes the daemon.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.env("LISTEN_FDS", "1").env("XDG_CONFIG_HOME", directory.path());
    // SAFETY: between fork and exec nothing is called but dup2(2).
    unsafe {
        shell.pre_exec(move || match libc::dup2(number, 3) {
            3 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut child = shell.spawn().unwrap();
    let ask =
        aishim_abi::message::Request::from(aishim_abi::message::AskStatus { version: aishim_abi::message::Version });
    wait_for("an answer", || Channel::connect(directory.path()).ok()?.ask(&ask, None, Duration::from_secs(30)).ok());
    // SAFETY: a child of ours that has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    assert!(child.wait().unwrap().success());
    assert!(path.exists(), "it is systemd's");
}

#[test]
fn what_an_earlier_daemon_left_behind_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("aischedd.sock"), "").unwrap();
    std::fs::write(directory.path().join("aischedd.lock"), "4711\n").unwrap();
    let mut child = command(directory.path()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the daemon to listen", || Channel::connect(directory.path()).ok());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_closed_stderr_does_not_end_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = command(directory.path()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    for _ in 0..3 {
        wait_for("the daemon to listen", || Channel::connect(directory.path()).ok());
    }
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}
