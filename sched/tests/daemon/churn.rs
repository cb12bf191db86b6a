//! Processes that come and go at random, most of them without a word of farewell: what they leave is counted.

use crate::client::Random;
use crate::harness::{Client, Daemon, wait_for};
use std::time::{Duration, Instant};

/// What a daemon holds and its directory has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    clients: usize,
    entries: usize,
    gpus: usize,
    descriptors: usize,
    files: Vec<String>,
}

fn held(daemon: &Daemon) -> Held {
    let board = daemon.board();
    let files = std::fs::read_dir(daemon.directory.path()).unwrap();
    let mut files: Vec<String> = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    Held {
        clients: board.clients(),
        entries: board.entries().count(),
        gpus: board.gpus(0).count(),
        descriptors: daemon.descriptors(),
        files,
    }
}

/// Lets up to `most` processes come and go for so long; how many there were.
fn churn(daemon: &Daemon, most: usize, limit: Duration, seed: u64) -> u64 {
    let mut random = Random(seed | 1);
    let mut there: Vec<Client> = Vec::new();
    let (begun, mut came) = (Instant::now(), 0);
    while begun.elapsed() < limit {
        if there.len() < most && random.below(3) != 0 {
            let mut client = daemon.client();
            let (priority, job, gpu) = (random.below(101), random.below(4), 1 + random.below(3));
            let job = if job == 0 { "-".to_owned() } else { format!("job{job}") };
            client.hello(&format!("{priority} {job} {gpu} 9"));
            came += 1;
            match random.below(4) {
                0 => client.tell_only("want 300"),
                1 => client.tell_only("scribble 5"),
                _ => {}
            }
            there.push(client);
        } else if !there.is_empty() {
            let mut client = there.swap_remove(random.below(there.len()));
            if random.below(4) == 0 {
                // SAFETY: kill(2) of a child that was not waited for yet.
                unsafe { libc::kill(client.process.id().cast_signed(), libc::SIGSTOP) };
            }
            client.kill();
        }
    }
    came
}

fn leaves_nothing(most: usize, limit: Duration) {
    let mut daemon = Daemon::start(&[]);
    // Once, so that what is made with the first client is there.
    churn(&daemon, 2, Duration::from_millis(200), 7);
    let before = wait_for("all to be gone", || Some(held(&daemon)).filter(|held| held.clients == 0));
    let came = churn(&daemon, most, limit, 0x9e37_79b9);
    let mut now = held(&daemon);
    let begun = Instant::now();
    while (&now, now.descriptors <= before.descriptors)
        != (&Held { descriptors: now.descriptors, ..before.clone() }, true)
    {
        assert!(begun.elapsed() < Duration::from_secs(30), "{came} came; before {before:?}, now {now:?}");
        std::thread::sleep(Duration::from_millis(20));
        now = held(&daemon);
    }
    assert_eq!(daemon.process.try_wait().unwrap(), None, "the daemon lives");
    assert_eq!((now.entries, now.gpus), (0, 0));
    println!("{came} processes came and went, {most} at a time at most: {now:?}");
    assert!(came > 50, "{came}");
}

#[test]
fn processes_that_come_and_go_for_fifteen_seconds_leave_nothing() {
    leaves_nothing(24, Duration::from_secs(15));
}

#[test]
#[ignore = "takes ten minutes: part of make soak"]
fn two_hundred_processes_that_come_and_go_for_ten_minutes_leave_nothing() {
    leaves_nothing(200, Duration::from_secs(600));
}
