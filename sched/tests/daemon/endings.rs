//! Clients and daemons that end, in order or not.

use crate::harness::{Client, Daemon, wait_for};
use std::time::{Duration, Instant};

/// The promise is 100 ms, on a machine that does nothing else; here the fastest of some rounds must keep it.
#[test]
fn a_client_that_is_killed_is_gone_from_the_board_within_100_ms() {
    let daemon = Daemon::start(&[]);
    let board = daemon.board();
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let mut client = daemon.client();
        let slot = client.hello("80 - 1") as usize;
        assert!(board.entry(slot).is_some());
        let begun = Instant::now();
        client.process.kill().unwrap();
        wait_for("the slot to be free", || board.entry(slot).is_none().then_some(()));
        fastest = fastest.min(begun.elapsed());
    }
    println!("killed and gone from the board: {fastest:?} at best");
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
    assert_eq!((board.clients(), board.gpus(0).count()), (0, 0));
}

/// A fork inherits the connection, so its end alone would never come.
#[test]
fn a_client_whose_child_keeps_the_connection_is_gone_all_the_same() {
    let daemon = Daemon::start(&[]);
    let board = daemon.board();
    let mut client = daemon.client();
    let slot = client.hello("80 - 1") as usize;
    let child: i32 = client.tell("fork").strip_prefix("child ").unwrap().parse().unwrap();
    client.process.kill().unwrap();
    wait_for("the slot to be free", || board.entry(slot).is_none().then_some(()));
    // SAFETY: it is the client's child, asleep, and ends by itself otherwise.
    unsafe { libc::kill(child, libc::SIGKILL) };
}

#[test]
fn clients_come_and_go_without_leaving_anything() {
    let daemon = Daemon::start(&[]);
    let board = daemon.board();
    let nothing = || wait_for("all to be gone", || (board.clients() == 0).then_some(()));
    let round = |clients: usize| {
        let mut all: Vec<Client> = (0..clients).map(|_| daemon.client()).collect();
        for (number, client) in all.iter_mut().enumerate() {
            client.hello(&format!("{} job{} 1 {}", number, number % 3, 2 + number % 4));
        }
        for (number, client) in all.iter_mut().enumerate() {
            if number % 2 == 0 {
                client.kill();
            }
        }
        drop(all);
        nothing();
    };
    round(3);
    let before = wait_for("connections to close", || Some(daemon.descriptors()));
    for _ in 0..3 {
        round(9);
    }
    wait_for("descriptors to be closed", || (daemon.descriptors() <= before).then_some(()));
    assert_eq!((board.entries().count(), board.gpus(0).count()), (0, 0));
}

#[test]
fn a_daemon_that_was_killed_is_followed_by_another() {
    let mut daemon = Daemon::start(&[]);
    let mut client = daemon.client();
    client.hello("80 - 1");
    let before = daemon.board();
    daemon.restart();
    assert_eq!(client.tell("next 20000"), "ended");
    assert!(!before.has_ended(), "it had no time to say so");
    assert_eq!(daemon.board().clients(), 0);
    assert_ne!(daemon.board().about().generation, before.about().generation);
    client.hello("80 - 1");
    assert_eq!(daemon.board().clients(), 1);
}

#[test]
fn a_daemon_that_ends_in_order_opens_all_gates_and_leaves_no_socket() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut daemon = Daemon::start(&[]);
        let mut client = daemon.client();
        client.hello("80 - 1");
        let board = daemon.board();
        daemon.signal(signal);
        assert_eq!(daemon.process.wait().unwrap().code(), Some(0));
        assert!(board.has_ended());
        assert_eq!(client.tell("next 20000"), "ended");
        assert!(!daemon.directory.path().join("aischedd.sock").exists());
    }
}

#[test]
fn a_daemon_that_is_stopped_keeps_nobody_from_connecting_or_ending() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
    client.hello("80 - 1");
    let board = daemon.board();
    daemon.signal(libc::SIGSTOP);
    // Neither waits: the socket takes the connection, and the board is still there.
    drop(daemon.connect());
    client.kill();
    assert_eq!(board.clients(), 1);
    daemon.signal(libc::SIGCONT);
    wait_for("the client to be gone", || (board.clients() == 0).then_some(()));
}
