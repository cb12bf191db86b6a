//! Clients that misbehave: nobody else is held back, and the daemon lives.

use crate::harness::{Client, Daemon, LONG};
use aishim_abi::channel::ChannelError;
use aishim_abi::message::{Answer, AskStatus, Reason, Request, Version};
use std::time::{Duration, Instant};

/// The longest that a stranger waits for an answer, of some questions; the median is what is judged, since the machine is busy.
fn patience(daemon: &Daemon) -> Duration {
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let begun = Instant::now();
            let answer = daemon.connect().ask(&Request::from(AskStatus { version: Version }), None, LONG);
            assert!(matches!(answer, Ok((Answer::Status(_), _))), "{answer:?}");
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("answers after {:?} to {:?}, median {:?}", times[0], times[14], times[7]);
    times[7]
}

#[test]
fn two_thousand_connections_of_one_process_keep_nobody_out() {
    let daemon = Daemon::start(&[]);
    let mut greedy = daemon.client();
    let answer = greedy.tell("connections 2000");
    let refused: usize = answer.strip_prefix("refused ").unwrap().parse().unwrap();
    // It may have eight, and again eight whenever those have been hung up on.
    assert!((1000..=1992).contains(&refused), "{answer}");
    assert_eq!(daemon.client().hello("80 - 1"), 0);
    assert!(patience(&daemon) < Duration::from_millis(100));
}

#[test]
fn connections_that_say_nothing_are_hung_up_on() {
    let daemon = Daemon::start(&[]);
    let mut silent = daemon.connect();
    let (answer, _) = silent.answer(Instant::now() + LONG).unwrap();
    let Answer::Refused(refused) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.reason, Reason::TooSlow);
    assert!(matches!(silent.answer(Instant::now() + LONG), Err(ChannelError::Ended)));
}

#[test]
fn floods_hold_nobody_back() {
    let daemon = Daemon::start(&[]);
    let mut floods: Vec<Client> = (0..3).map(|_| daemon.client()).collect();
    for flood in &mut floods {
        assert_eq!(flood.tell("flood"), "flooding");
    }
    assert!(patience(&daemon) < Duration::from_millis(100));
    assert_eq!(daemon.client().hello("80 - 1"), 0);
    drop(floods);
    assert!(patience(&daemon) < Duration::from_millis(100));
}

#[test]
fn nonsense_harms_nobody() {
    let mut daemon = Daemon::start(&[]);
    let mut honest = daemon.client();
    honest.hello("80 - 1");
    let mut others: Vec<Client> = (0..2).map(|_| daemon.client()).collect();
    for (seed, client) in others.iter_mut().enumerate() {
        client.tell_only(&format!("random {}", 77 + seed));
    }
    assert!(patience(&daemon) < Duration::from_millis(100));
    for client in &mut others {
        assert_eq!(client.answer(), "said");
    }
    assert_eq!(daemon.process.try_wait().unwrap(), None, "the daemon lives");
    assert_eq!(daemon.board().entries().count(), 1);
    assert!(daemon.board().refused() > 100);
    assert_eq!(honest.tell("next 10"), "nothing");
}

#[test]
fn a_page_that_is_scribbled_over_harms_nobody() {
    let mut daemon = Daemon::start(&[]);
    let (mut scribbler, mut other) = (daemon.client(), daemon.client());
    let slot = scribbler.hello("80 - 1");
    other.hello("5 - 1");
    assert_eq!(other.tell("next 20000"), format!("peer {slot} 80"));
    assert_eq!(scribbler.tell("scribble 9"), "scribbled");
    assert_eq!(daemon.process.try_wait().unwrap(), None, "the daemon lives");
    assert_eq!(daemon.board().clients(), 2);
    scribbler.kill();
    assert_eq!(other.tell("next 20000"), format!("gone {slot}"));
}

/// One that never reads is owed a bounded amount, and told what is so when it reads at last.
#[test]
fn a_client_that_does_not_read_costs_nothing_and_is_right_afterwards() {
    let daemon = Daemon::start(&[]);
    let (mut deaf, mut busy) = (daemon.client(), daemon.client());
    deaf.hello("5 - 1");
    let slot = busy.hello("50 - 1");
    let mut channel = daemon.connect();
    let generation = daemon.board().entry(slot as usize).unwrap().generation;
    for round in 0..300 {
        let priority = aishim_abi::rank::Priority::new(51 + round % 20).unwrap();
        let set = aishim_abi::message::SetClient {
            version: Version,
            slot,
            generation,
            priority: Some(priority),
            weight: None,
            class: None,
        };
        let answer = channel.ask(&Request::from(set), None, LONG).unwrap().0;
        assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    }
    let mut heard = 0;
    let last = loop {
        let told = deaf.tell("next 20000");
        heard += 1;
        if told == format!("peer {slot} 70") && daemon.board().entry(slot as usize).unwrap().rank.number() == 70 {
            // 51 + 299 % 20 is 70, the last; but it may have been so before.
            let more = deaf.tell("next 200");
            if more == "nothing" {
                break told;
            }
            heard += 1;
        }
        assert!(heard < 302);
    };
    assert!(last.ends_with(" 70"));
    println!("300 changes, {heard} messages");
    assert!(heard < 250, "what was superseded is not told: {heard}");
}
