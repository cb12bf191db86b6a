//! Who is told of whom.

use crate::harness::{Daemon, refused, wait_for};
use aishim_abi::board::Turn;
use aishim_abi::message::{Answer, Reason};
use aishim_abi::rank::{PolicyKind, Priority, Uuid};

/// `CLOCK_MONOTONIC`, by which the board's times are meant.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec * 1_000_000_000 + now.tv_nsec).cast_unsigned()
}

#[test]
fn clients_are_told_of_more_important_ones_on_their_gpus() {
    let daemon = Daemon::start(&[]);
    let (mut low, mut high, mut elsewhere) = (daemon.client(), daemon.client(), daemon.client());
    let low_slot = low.hello("5 - 1");
    let elsewhere_slot = elsewhere.hello("90 - 2");
    let high_slot = high.hello("80 - 1");
    assert_eq!(low.tell("next 20000"), format!("peer {high_slot} 80"));
    assert_eq!(high.tell("next 50"), "nothing");
    assert_eq!(elsewhere.tell("next 50"), "nothing");
    // Another GPU brings others in the way.
    high.tell("gpu 2");
    assert_eq!(high.tell("next 20000"), format!("peer {elsewhere_slot} 90"));
    // What was told is told anew when it changes, and untold when it is so no longer.
    assert_eq!(low.tell("next 20000"), format!("peer {high_slot} 80"), "it uses another GPU now");
    assert!(matches!(daemon.set_priority(high_slot, 70), Answer::Done(_)));
    assert_eq!(low.tell("next 20000"), format!("peer {high_slot} 70"));
    assert!(matches!(daemon.set_priority(low_slot, 70), Answer::Done(_)));
    assert_eq!(low.tell("next 20000"), format!("gone {high_slot}"));
    assert!(matches!(daemon.set_priority(low_slot, 71), Answer::Done(_)));
    assert_eq!(high.tell("next 20000"), format!("peer {low_slot} 71"));
    elsewhere.kill();
    assert_eq!(high.tell("next 20000"), format!("gone {elsewhere_slot}"));
    low.kill();
    assert_eq!(high.tell("next 20000"), format!("gone {low_slot}"));
    let gpus: Vec<_> = daemon.board().gpus(0).map(|(_, gpu)| gpu.clients).collect();
    assert_eq!(gpus, [1, 1]);
}

#[test]
fn a_job_has_the_rank_of_its_least_important() {
    let daemon = Daemon::start(&[]);
    let (mut one, mut two, mut other) = (daemon.client(), daemon.client(), daemon.client());
    let one_slot = one.hello("80 train 1");
    other.hello("50 - 1");
    assert_eq!(other.tell("next 20000"), format!("peer {one_slot} 80"));
    let two_slot = two.hello("30 train 1");
    assert_eq!(other.tell("next 20000"), format!("gone {one_slot}"));
    let entry = |slot: u32| daemon.board().entry(slot as usize).unwrap();
    assert_eq!((entry(one_slot).rank.number(), entry(one_slot).priority.number()), (30, 80));
    assert_eq!(entry(one_slot).job, entry(two_slot).job);
    assert_ne!(entry(one_slot).job, 0);
    two.kill();
    assert_eq!(other.tell("next 20000"), format!("peer {one_slot} 80"));
}

/// Its processes wait for each other, so one that goes on alone while another has to wait would keep its GPU busy with waiting.
#[test]
fn a_job_is_held_back_as_one_on_all_of_its_gpus() {
    let daemon = Daemon::start(&[]);
    let (mut one, mut two, mut other, mut high) = (daemon.client(), daemon.client(), daemon.client(), daemon.client());
    one.hello("20 train 1");
    other.hello("20 - 1");
    let high_slot = high.hello("80 - 2");
    assert_eq!(one.tell("next 50"), "nothing");
    two.hello("20 train 2");
    assert_eq!(two.tell("next 20000"), format!("peer {high_slot} 80"));
    assert_eq!(one.tell("next 20000"), format!("peer {high_slot} 80"), "on the other's GPU");
    assert_eq!(other.tell("next 50"), "nothing", "it is of no job");
    assert_eq!(high.tell("next 50"), "nothing");
    two.kill();
    assert_eq!(one.tell("next 20000"), format!("gone {high_slot}"));
    // Somebody of the job uses another GPU.
    let mut three = daemon.client();
    three.hello("20 train 1");
    three.tell("gpu 2");
    assert_eq!(three.tell("next 20000"), format!("peer {high_slot} 80"));
    assert_eq!(one.tell("next 20000"), format!("peer {high_slot} 80"));
}

#[test]
fn a_priority_is_never_set_for_a_successor() {
    use aishim_abi::message::{SetClient, Version};
    use aishim_abi::rank::Priority;
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
    let slot = client.hello("5 - 1");
    let generation = daemon.board().entry(slot as usize).unwrap().generation + 1;
    let set =
        SetClient { version: Version, slot, generation, priority: Some(Priority::HIGHEST), weight: None, class: None };
    let Answer::Refused(answer) = daemon.ask(set) else { panic!("not refused") };
    assert_eq!(answer.reason, Reason::NoSuchClient);
}

#[test]
fn a_policy_is_put_in_force_on_one_gpu_or_on_all() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
    client.hello("5 - 1 2");
    let policies = || daemon.board().gpus(0).map(|(_, gpu)| (gpu.policy, gpu.is_by_rank)).collect::<Vec<_>>();
    assert_eq!(policies(), [(PolicyKind::Priority, true); 2]);
    assert!(matches!(daemon.set_policy(PolicyKind::Fair, Uuid([2; 16])), Answer::Done(_)));
    assert_eq!(policies(), [(PolicyKind::Priority, true), (PolicyKind::Fair, false)]);
    assert!(matches!(daemon.set_policy(PolicyKind::Off, Uuid::NONE), Answer::Done(_)));
    client.tell("gpu 3");
    wait_for("the third GPU", || (policies() == [(PolicyKind::Off, false); 3]).then_some(()));
    let Answer::Refused(answer) = daemon.set_policy(PolicyKind::Off, Uuid([9; 16])) else { panic!("not refused") };
    assert_eq!(answer.reason, Reason::NoSuchGpu);
}

/// What the policies promise is tested where they are; here that it reaches the board, and goes away again.
#[test]
fn equals_that_want_take_turns_on_the_board() {
    let daemon = Daemon::start(&[]);
    for policy in [PolicyKind::Priority, PolicyKind::Fair] {
        assert!(matches!(daemon.set_policy(policy, Uuid::NONE), Answer::Done(_)));
        let mut clients = [daemon.client(), daemon.client()];
        let slots = clients.each_mut().map(|client| client.hello("20 - 1"));
        let board = daemon.board();
        let turn = || board.turn(0, Priority::NORMAL, now_ns()).0;
        assert_eq!(turn(), Turn::Everybody);
        clients.iter_mut().for_each(|client| client.tell_only("want 1500"));
        for slot in slots {
            wait_for("its turn", || (turn() == Turn::Client(slot)).then_some(()));
        }
        clients.iter_mut().for_each(|client| assert_eq!(client.answer(), "wanted"));
        wait_for("nobody to want", || (turn() == Turn::Everybody).then_some(()));
        // One that is killed in its turn does not keep it.
        clients.iter_mut().for_each(|client| client.tell_only("want 20000"));
        wait_for("its turn", || (turn() == Turn::Client(slots[0])).then_some(()));
        clients[0].kill();
        let until = std::time::Instant::now() + std::time::Duration::from_millis(200);
        wait_for("its entry to go", || board.entry(slots[0] as usize).is_none().then_some(()));
        wait_for("the turn to pass", || (turn() != Turn::Client(slots[0])).then_some(()));
        while std::time::Instant::now() < until {
            assert_ne!(turn(), Turn::Client(slots[0]));
        }
    }
}

#[test]
fn one_client_takes_sixteen_gpus_and_no_more() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
    client.hello("5 - 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15");
    client.tell("gpu 16");
    client.tell("gpu 16");
    assert_eq!(client.tell("next 50"), "nothing");
    client.tell("gpu 17");
    assert_eq!(client.tell("next 20000"), refused(Reason::TooManyGpus, 16));
    assert_eq!(daemon.board().entry(0).unwrap().gpus.count_ones(), 16);
}
