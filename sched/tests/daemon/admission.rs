//! Who is let in, and how important they may be.

use crate::harness::{Client, Daemon, command, refused, run_to_end};
use aishim_abi::message::{Answer, Reason};
use aishim_abi::rank::{PolicyKind, Uuid};

#[test]
fn a_process_that_says_hello_is_on_the_board() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
    assert_eq!(client.tell("hello 80 - 1"), "welcome 0 80 100");
    let board = daemon.board();
    let (slot, entry) = board.entries().next().unwrap();
    assert_eq!((slot, entry.pid, entry.own_pid), (0, client.process.id(), client.process.id()));
    assert_eq!((entry.priority.number(), entry.gpus, board.clients()), (80, 1, 1));
    let gpus: Vec<_> = board.gpus(0).map(|(place, gpu)| (place, gpu.uuid, gpu.clients, gpu.policy)).collect();
    assert_eq!(gpus, [(0, Uuid([1; 16]), 1, PolicyKind::Priority)]);
}

#[test]
fn a_class_is_a_priority_and_none_is_the_usual_one() {
    let daemon = Daemon::start(&[]);
    for (wish, granted) in [("inference", 80), ("batch", 5), ("auto", 20), ("-", 20)] {
        let answer = daemon.client().tell(&format!("hello {wish} - 1"));
        assert!(answer.ends_with(&format!(" {granted} 100")), "{wish}: {answer}");
    }
}

#[test]
fn a_wish_above_the_limit_is_granted_as_the_limit_and_set_above_it_refused() {
    let uid = rustix::process::geteuid().as_raw();
    let daemon = Daemon::with_config(&format!("[[rule]]\nuser = {uid}\nhighest_priority = 60"));
    let mut client = daemon.client();
    assert_eq!(client.tell("hello 80 - 1"), "welcome 0 60 60");
    assert!(matches!(daemon.set_priority(0, 50), Answer::Done(_)));
    assert_eq!(daemon.board().entry(0).unwrap().priority.number(), 50);
    let Answer::Refused(answer) = daemon.set_priority(0, 61) else { panic!("not refused") };
    assert_eq!((answer.reason, answer.limit), (Reason::AboveLimit, 60));
    assert_eq!(daemon.board().entry(0).unwrap().priority.number(), 50);
}

#[test]
fn class_and_weight_are_set_together_with_a_priority_or_not_at_all() {
    use aishim_abi::message::{SetClient, Version};
    use aishim_abi::rank::{Class, Priority, Weight};
    let uid = rustix::process::geteuid().as_raw();
    let daemon = Daemon::with_config(&format!("[[rule]]\nuser = {uid}\nhighest_priority = 60\nclass = 'batch'"));
    let mut client = daemon.client();
    assert_eq!(client.tell("hello - - 1"), "welcome 0 5 60", "the class of the rule");
    let entry = || daemon.board().entry(0).unwrap();
    let set = |priority: Option<u32>, weight: Option<u32>, class| {
        let (slot, generation) = (0, entry().generation);
        let (priority, weight) = (priority.and_then(Priority::new), weight.and_then(Weight::new));
        daemon.ask(SetClient { version: Version, slot, generation, priority, weight, class })
    };
    let of = |entry: aishim_abi::board::Entry| (entry.priority.number(), entry.weight.number(), entry.class);
    assert_eq!(of(entry()), (5, 100, Class::Batch));
    assert!(matches!(set(Some(50), Some(7), Some(Class::Inference)), Answer::Done(_)));
    assert_eq!(of(entry()), (50, 7, Class::Inference), "the number goes before the class");
    let Answer::Refused(answer) = set(None, Some(9), Some(Class::Inference)) else { panic!("not refused") };
    assert_eq!((answer.reason, answer.limit), (Reason::AboveLimit, 60));
    assert_eq!(of(entry()), (50, 7, Class::Inference), "nothing of it is done");
    assert!(matches!(set(None, Some(9), None), Answer::Done(_)));
    assert!(matches!(set(None, None, Some(Class::Normal)), Answer::Done(_)));
    assert_eq!(of(entry()), (20, 9, Class::Normal));
}

#[test]
fn a_user_whom_the_rules_exclude_is_refused() {
    let uid = rustix::process::geteuid().as_raw();
    let daemon = Daemon::with_config(&format!("[[rule]]\nuser = {uid}\nallow = false"));
    assert_eq!(daemon.client().tell("hello - - 1"), refused(Reason::NotAllowed, 0));
}

/// Another user of a system's daemon: needs root, to become one.
#[test]
fn other_users_have_the_limits_of_others() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::start(&["--system", "--max-clients", "8"]);
    let socket = daemon.directory.path().join("aischedd.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666);
    // The folder is the test's own, and closed to others.
    std::fs::set_permissions(daemon.directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut of_root = daemon.client();
    let slot = of_root.hello("90 - 1");
    let as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut client = Client::start(daemon.directory.path(), &as_nobody);
    assert_eq!(client.tell("hello 80 - 1"), "welcome 1 20 20");
    assert_eq!(client.tell("next 10000"), format!("peer {slot} 90"));
    assert_eq!(daemon.board().entry(1).unwrap().uid, 65534);
}

/// A container knows its processes by other numbers: needs root, to make one.
#[test]
fn a_process_in_a_pid_namespace_is_known_by_both_its_numbers() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut client = Client::start(daemon.directory.path(), &container);
    assert_eq!(client.hello("80 - 1"), 0);
    let entry = daemon.board().entry(0).unwrap();
    assert_eq!(entry.own_pid, 1);
    assert_ne!(entry.pid, 1);
    // By its own number somebody else is meant here.
    assert_eq!(daemon.client().tell("claim 1"), refused(Reason::NotYou, 0));
}

#[test]
fn a_users_own_daemon_lets_nobody_else_in() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start(&[]);
    let socket = daemon.directory.path().join("aischedd.sock");
    assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn whoever_claims_to_be_another_process_is_refused() {
    let daemon = Daemon::start(&[]);
    let other = daemon.client();
    let mut liar = daemon.client();
    assert_eq!(liar.tell(&format!("claim {}", other.process.id())), refused(Reason::NotYou, 0));
    assert_eq!(liar.tell("claim 1"), refused(Reason::NotYou, 0));
    assert_eq!(liar.tell("bad-page"), refused(Reason::BadPage, 0));
    assert_eq!(daemon.board().clients(), 0);
    assert_eq!(daemon.board().refused(), 3);
    // It may still come as itself.
    assert_eq!(liar.hello("- - 1"), 0);
    assert_eq!(liar.tell("hello - - 1"), refused(Reason::AlreadyThere, 1));
}

#[test]
fn more_clients_than_there_may_be_are_refused_until_one_has_gone() {
    let daemon = Daemon::start(&["--max-clients", "3"]);
    let mut clients: Vec<Client> = (0..3).map(|_| daemon.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.hello("- - 1"), number as u32);
    }
    let mut late = daemon.client();
    assert_eq!(late.tell("hello - - 1"), refused(Reason::Full, 3));
    let before = daemon.board().entry(1).unwrap().generation;
    clients[1].kill();
    let slot = crate::harness::wait_for("a slot", || {
        late.tell("hello - - 1").strip_prefix("welcome ").map(|rest| rest[..1].to_owned())
    });
    assert_eq!(slot, "1");
    assert!(daemon.board().entry(1).unwrap().generation > before, "the same slot is another client");
}

#[test]
fn settings_that_are_wrong_are_named_with_their_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wrong.toml");
    for (text, words) in [
        ("policy = 'off'\nprioritty = 3\n", ["line 2", "prioritty"]),
        ("\n\n[[rule]]\nuser = 'no such user'\n", ["line 4", "no such user"]),
        ("policy = 'best'", ["line 1", "best"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let mut command = command(directory.path());
        command.arg("--config").arg(&file);
        let (said, code) = run_to_end(command);
        assert_eq!(code, Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)) && said.contains("wrong.toml"), "{said}");
    }
    let mut command = command(directory.path());
    command.args(["--config", "/nowhere/at/all.toml"]);
    let (said, code) = run_to_end(command);
    assert!(code == Some(1) && said.contains("/nowhere/at/all.toml"), "{said}");
}

#[test]
fn a_users_own_settings_are_found() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("aishim")).unwrap();
    std::fs::write(directory.path().join("aishim/aischedd.toml"), "x = 1").unwrap();
    // The harness sets XDG_CONFIG_HOME to the directory.
    let (said, code) = run_to_end(command(directory.path()));
    assert!(code == Some(1) && said.contains("aishim/aischedd.toml") && said.contains("line 1"), "{said}");
}
