//! What the daemon costs. The figures that count are those of the release build:
//! `AISHIM_DIST=$PWD/dist cargo test -p aischedd --test daemon cost -- --ignored --nocapture --test-threads 1`.

use crate::harness::{Client, Daemon, wait_for};
use std::time::{Duration, Instant};

/// The daemon's share of a core over that time, in percent.
fn share(daemon: &Daemon, time: Duration) -> f64 {
    let (begun, before) = (Instant::now(), daemon.ticks());
    std::thread::sleep(time);
    (daemon.ticks() - before) as f64 / begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "takes long, and is a matter of figures"]
fn sixty_four_clients() {
    let daemon = Daemon::start(&[]);
    let mut clients: Vec<Client> = (0..64).map(|_| daemon.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.hello(&format!("{} - 1", [20, 5, 80, 20][number % 4]));
    }
    let idle = share(&daemon, Duration::from_secs(5));
    clients.iter_mut().for_each(|client| client.tell_only("want 12000"));
    std::thread::sleep(Duration::from_secs(1));
    let busy = share(&daemon, Duration::from_secs(8));
    println!("64 clients: {idle:.2} % of a core while idle, {busy:.2} % while all want the GPU");
    assert!(idle < 20.0 && busy < 50.0);
}

#[test]
#[ignore = "takes long, and is a matter of figures"]
fn three_floods() {
    let daemon = Daemon::start(&[]);
    let mut floods: Vec<Client> = (0..3).map(|_| daemon.client()).collect();
    floods.iter_mut().for_each(|flood| assert_eq!(flood.tell("flood"), "flooding"));
    println!("3 floods: {:.2} % of a core", share(&daemon, Duration::from_secs(5)));
}

#[test]
#[ignore = "takes long, and is a matter of figures"]
fn a_killed_client() {
    let daemon = Daemon::start(&[]);
    let board = daemon.board();
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let mut client = daemon.client();
            let slot = client.hello("80 - 1") as usize;
            let begun = Instant::now();
            client.process.kill().unwrap();
            while board.entry(slot).is_some() {
                std::thread::yield_now();
            }
            let took = begun.elapsed();
            wait_for("its connection to end", || (board.clients() == 0).then_some(()));
            took
        })
        .collect();
    times.sort_unstable();
    println!("killed and gone from the board, 100 times: median {:?}, longest {:?}", times[50], times[99]);
}
