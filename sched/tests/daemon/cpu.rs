//! Nice values of clients' threads: changed by rank and load, and put back in whatever way it ends. All of it needs the right to
//! put them back (root), but for the test of what happens without.

use crate::harness::{Client, Daemon, LONG, wait_for};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Whether we may raise again what we have lowered; else there is nothing to be tested.
fn may_put_back() -> bool {
    let tried = std::thread::spawn(|| rustix::process::setpriority_process(Some(rustix::thread::gettid()), -1).is_ok());
    tried.join().unwrap()
}

/// The nice values of a process's threads.
fn nices(pid: u32) -> BTreeMap<u32, i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let nice = |tid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()
    };
    let tids = tasks.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    tids.filter_map(|tid| Some((tid, nice(tid)?))).collect()
}

fn own_nice() -> i32 {
    rustix::process::getpriority_process(None).unwrap()
}

/// Waits until all threads of a process have that nice value.
fn wait_for_nice(what: &str, pid: u32, nice: i32) {
    wait_for(what, || nices(pid).values().all(|one| *one == nice).then_some(()));
}

fn thread(client: &mut Client) -> u32 {
    client.tell("thread").strip_prefix("thread ").unwrap().parse().unwrap()
}

/// A client above normal, whose threads are raised since its GPU does nothing.
fn raised(daemon: &Daemon) -> Client {
    let mut client = daemon.client();
    let first = thread(&mut client);
    client.hello("80 - 1");
    wait_for_nice("threads to be raised", client.process.id(), own_nice() - 5);
    assert!(nices(client.process.id()).contains_key(&first));
    client
}

fn journal(daemon: &Daemon) -> bool {
    daemon.directory.path().join("aischedd.nice").exists()
}

#[test]
fn threads_are_raised_while_the_gpu_waits_also_those_born_later() {
    if !may_put_back() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let mut client = raised(&daemon);
    let pid = client.process.id();
    assert!(journal(&daemon));
    let later = thread(&mut client);
    // It began with the nice value of the thread that made it; what was before is known all the same.
    assert_eq!(nices(pid)[&later], own_nice() - 5);
    let mut normal = daemon.client();
    normal.hello("20 - 1");
    client.tell("leave");
    wait_for_nice("threads to be as they were", pid, own_nice());
    wait_for("the journal to go", || (!journal(&daemon)).then_some(()));
    assert!(nices(normal.process.id()).values().all(|nice| *nice == own_nice()), "normal is left alone");
}

#[test]
fn best_effort_is_lowered_while_the_gpu_is_saturated() {
    if !may_put_back() {
        return;
    }
    let daemon = Daemon::with_config("[cpu]\nbest_effort = 7");
    let mut client = daemon.client();
    client.hello("5 - 1");
    let pid = client.process.id();
    client.tell_only("use 8000");
    wait_for_nice("threads to be lowered", pid, own_nice() + 7);
    assert_eq!(client.answer(), "used");
    wait_for_nice("threads to be as they were", pid, own_nice());
}

#[test]
fn a_daemon_that_ends_puts_everything_back() {
    if !may_put_back() {
        return;
    }
    let mut daemon = Daemon::start(&[]);
    let client = raised(&daemon);
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.process.wait().unwrap().code(), Some(0));
    assert!(nices(client.process.id()).values().all(|nice| *nice == own_nice()));
    assert!(!journal(&daemon));
}

#[test]
fn what_a_daemon_that_was_killed_has_left_is_put_back_by_the_next() {
    if !may_put_back() {
        return;
    }
    let mut daemon = Daemon::start(&[]);
    let mut client = raised(&daemon);
    let pid = client.process.id();
    daemon.process.kill().unwrap();
    daemon.process.wait().unwrap();
    // Nobody has written this one down.
    let later = thread(&mut client);
    assert_eq!(nices(pid)[&later], own_nice() - 5);
    daemon.restart();
    assert!(nices(pid).values().all(|nice| *nice == own_nice()), "{:?}", nices(pid));
    assert!(!journal(&daemon));
}

#[test]
fn what_somebody_else_has_set_is_left_alone() {
    if !may_put_back() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let mut client = raised(&daemon);
    let pid = client.process.id();
    // One that the daemon has raised.
    let tid = *nices(pid).keys().next_back().unwrap();
    let other = rustix::process::Pid::from_raw(tid.cast_signed());
    rustix::process::setpriority_process(other, 11).unwrap();
    client.tell("leave");
    wait_for("the other threads to be as they were", || {
        nices(pid).iter().all(|(one, nice)| *one == tid || *nice == own_nice()).then_some(())
    });
    wait_for("the journal to go", || (!journal(&daemon)).then_some(()));
    assert_eq!(nices(pid)[&tid], 11);
}

/// Four lines of threads of which each makes the next and ends: some thousands a second, of which most are never seen.
#[test]
fn threads_that_come_and_go_leave_nothing_behind() {
    if !may_put_back() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let mut clients: Vec<Client> = (0..1).map(|_| raised(&daemon)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.tell("churn 20000"), "churning"));
    std::thread::sleep(Duration::from_secs(1));
    for client in &mut clients {
        client.tell("leave");
        wait_for_nice("threads to be as they were", client.process.id(), own_nice());
    }
    wait_for("the journal to go", || (!journal(&daemon)).then_some(()));
    for _ in 0..100 {
        for client in &clients {
            let found = nices(client.process.id());
            assert!(found.values().all(|nice| *nice == own_nice()), "{found:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child begins with the nice value of the thread that made it, and is no client.
#[test]
fn a_child_does_not_keep_what_its_parent_was_given() {
    if !may_put_back() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let mut client = raised(&daemon);
    let child: u32 = client.tell("fork").strip_prefix("child ").unwrap().parse().unwrap();
    wait_for_nice("the child to be as its parent was", child, own_nice());
    assert!(nices(client.process.id()).values().all(|nice| *nice == own_nice() - 5));
    // SAFETY: it is the client's child, asleep, and ends by itself otherwise.
    unsafe { libc::kill(child.cast_signed(), libc::SIGKILL) };
}

/// In a session of its own, where the system groups sessions.
#[test]
fn the_group_of_a_session_is_raised_and_put_back() {
    let group = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/autogroup")).ok()?;
        text.trim().rsplit_once(' ')?.1.parse::<i32>().ok()
    };
    let is_on = std::fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled").is_ok_and(|on| on.trim() == "1");
    if !may_put_back() || !is_on || group(std::process::id()).is_none() {
        return;
    }
    let mut daemon = Daemon::start(&[]);
    let client = |daemon: &Daemon| {
        let mut client = Client::start(daemon.directory.path(), &["setsid"]);
        client.hello("80 - 1");
        let pid = client.process.id();
        wait_for("the group to be raised", || (group(pid) == Some(-5)).then_some(()));
        client
    };
    let mut leaves = client(&daemon);
    leaves.tell("leave");
    wait_for("the group to be as it was", || (group(leaves.process.id()) == Some(0)).then_some(()));
    let stays = client(&daemon);
    daemon.restart();
    assert_eq!(group(stays.process.id()), Some(0), "put back by the next");
    let stays = client(&daemon);
    daemon.signal(libc::SIGTERM);
    daemon.process.wait().unwrap();
    assert_eq!(group(stays.process.id()), Some(0));
}

#[test]
fn without_the_right_nothing_is_touched_and_that_is_said_once() {
    let directory = tempfile::tempdir().unwrap();
    let said = directory.path().join("said");
    // As root, who has the right otherwise; another user cannot give up what they do not have.
    let words: &[&str] =
        if rustix::process::geteuid().is_root() { &["setpriv", "--bounding-set=-sys_nice"] } else { &["env"] };
    let daemon = Daemon::behind(words, &said);
    let sentence = || std::fs::read_to_string(&said).unwrap().matches("could not be put back").count();
    let mut clients = [daemon.client(), daemon.client()];
    for client in &mut clients {
        client.hello("80 - 1");
    }
    wait_for("a sentence", || (sentence() > 0).then_some(()));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2).min(LONG) {
        for client in &clients {
            assert!(nices(client.process.id()).values().all(|nice| *nice == own_nice()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(sentence(), 1);
    assert!(!journal(&daemon));
}

/// As root, who can give others a limit that allows more (CAP_SYS_RESOURCE), and the daemon less than it needs otherwise.
#[test]
fn a_limit_of_the_clients_own_is_right_enough() {
    let limits = std::process::Command::new("prlimit").args(["--nice=25", "true"]).status();
    if !may_put_back() || !rustix::process::geteuid().is_root() || !limits.is_ok_and(|status| status.success()) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::behind(&["setpriv", "--bounding-set=-sys_nice"], &directory.path().join("said"));
    // One that may more than the daemon is not the daemon's to change.
    let start = |limit| {
        let words = ["prlimit", limit, "setpriv", "--bounding-set=-sys_nice"];
        let mut client = Client::start(daemon.directory.path(), &words);
        client.hello("80 - 1");
        client
    };
    // 20 less the nice value: -5 needs 25.
    let (too_little, mut enough) = (start("--nice=24"), start("--nice=25"));
    wait_for_nice("threads to be raised", enough.process.id(), own_nice() - 5);
    enough.tell("leave");
    wait_for_nice("threads to be as they were", enough.process.id(), own_nice());
    assert!(nices(too_little.process.id()).values().all(|nice| *nice == own_nice()));
}

#[test]
fn nothing_is_touched_where_the_settings_say_so() {
    let daemon = Daemon::with_config("[cpu]\nnice = false");
    let mut client = daemon.client();
    client.hello("80 - 1");
    std::thread::sleep(Duration::from_secs(3));
    assert!(nices(client.process.id()).values().all(|nice| *nice == own_nice()));
}

#[test]
fn an_idle_daemon_sleeps() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
    client.hello("80 - 1");
    client.kill();
    wait_for("the client to be gone", || (daemon.board().clients() == 0).then_some(()));
    std::thread::sleep(Duration::from_millis(200));
    let switches = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
        let of = |status: String| {
            status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
        };
        tasks.filter_map(|task| of(std::fs::read_to_string(task.path().join("status")).ok()?)).sum::<u64>()
    };
    let before = switches();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(switches(), before);
}
