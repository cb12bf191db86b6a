//! What the daemon costs. The figures that count are those of the release build:
//! `AISHIM_DIST=$PWD/dist cargo test -p aischedd --test daemon cost -- --ignored --nocapture --test-threads 1`.

use crate::harness::{Client, Daemon, wait_for};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The daemon's share of a core over that time, in percent.
fn share(daemon: &Daemon, time: Duration) -> f64 {
    let (begun, before) = (Instant::now(), daemon.ticks());
    std::thread::sleep(time);
    (daemon.ticks() - before) as f64 / begun.elapsed().as_secs_f64()
}

/// Processor time and wake-ups of a thread of the daemon.
#[derive(Clone, Copy, Default)]
struct Spent {
    on_cpu_ns: u64,
    wakes: u64,
}

/// Each thread's, by name; the first is `aischedd`.
fn spent(daemon: &Daemon) -> BTreeMap<String, Spent> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let read = |name: &str| std::fs::read_to_string(task.as_ref().unwrap().path().join(name)).unwrap();
        let on_cpu_ns = read("schedstat").split(' ').next().unwrap().parse().unwrap();
        let status = read("status");
        let wakes = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        (read("comm").trim().to_owned(), Spent { on_cpu_ns, wakes: wakes.trim().parse().unwrap() })
    };
    tasks.map(of).collect()
}

/// Tells what each of its threads has cost over that time.
fn tell_cost(daemon: &Daemon, state: &str, time: Duration) {
    let (begun, before) = (Instant::now(), spent(daemon));
    std::thread::sleep(time);
    let (took, after) = (begun.elapsed(), spent(daemon));
    let mut all_ns = 0;
    let threads = after.iter().map(|(name, now)| {
        let before = before.get(name).copied().unwrap_or_default();
        let spent_ns = now.on_cpu_ns - before.on_cpu_ns;
        all_ns += spent_ns;
        let percent = spent_ns as f64 / took.as_nanos() as f64 * 100.0;
        let wakes = (now.wakes - before.wakes) as f64 / took.as_secs_f64();
        format!("{name} {percent:.2} % ({wakes:.0} wake-ups/s)")
    });
    let threads: Vec<String> = threads.collect();
    let percent = all_ns as f64 / took.as_nanos() as f64 * 100.0;
    println!("{state}: {percent:.2} % of a core; {}", threads.join(", "));
    assert!(percent < 50.0);
}

/// 64 clients of these ranks, in turn, on one GPU.
fn sixty_four(daemon: &Daemon, ranks: &[u32]) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..64).map(|_| daemon.client()).collect();
    for (client, rank) in clients.iter_mut().zip(ranks.iter().cycle()) {
        client.hello(&format!("{rank} - 1"));
    }
    clients
}

/// Whatever each client is told to do for 10 s, the daemon is looked at for 8 s of these.
fn while_they(daemon: &Daemon, clients: &mut [Client], state: &str, what: impl Fn(usize) -> &'static str) {
    clients.iter_mut().enumerate().for_each(|(number, client)| client.tell_only(&format!("{} 10000", what(number))));
    std::thread::sleep(Duration::from_secs(1));
    tell_cost(daemon, state, Duration::from_secs(8));
    let told: Vec<String> = clients.iter_mut().map(Client::answer).collect();
    let turns: Vec<u32> = told.iter().filter_map(|told| told.strip_prefix("turns ")?.parse().ok()).collect();
    if let (Some(least), Some(most)) = (turns.iter().min(), turns.iter().max()) {
        println!("  turns had: {least} to {most} each, {} in all", turns.iter().sum::<u32>());
    }
}

/// `want` is a client that wants throughout, whatever it is told; `take-turns` one that works while it has the turn and sleeps at the
/// board while it has not, as the library's gate does.
#[test]
#[ignore = "takes long, and is a matter of figures"]
fn sixty_four_clients() {
    let daemon = Daemon::start(&[]);
    let mut clients = sixty_four(&daemon, &[20, 5, 80, 20]);
    tell_cost(&daemon, "64 of three ranks, idle", Duration::from_secs(5));
    while_they(&daemon, &mut clients, "64 of three ranks, all want", |_| "want");
    while_they(&daemon, &mut clients, "64 of three ranks, all take turns", |_| "take-turns");
    drop((clients, daemon));
    let daemon = Daemon::start(&[]);
    let mut clients = sixty_four(&daemon, &[20]);
    while_they(&daemon, &mut clients, "64 of one rank, all want", |_| "want");
    while_they(&daemon, &mut clients, "64 of one rank, all take turns", |_| "take-turns");
    clients[0] = daemon.client();
    clients[0].hello("80 - 1");
    while_they(&daemon, &mut clients, "1 important and 63 of one rank, all want", |_| "want");
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
