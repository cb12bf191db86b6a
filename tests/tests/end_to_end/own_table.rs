//! The descriptors of the thread that listens to a coordinator, in a table of its own or in the program's: what the program does with its own numbers, and what its children have.

use crate::gate::{company, end, is_client, signal, wait_until};
use aishim_abi::statistics::Statistic;
use aishim_tests::{Coordinator, Program, Sandbox, forbidden};
use std::process::Command;
use std::time::Duration;

#[test]
fn a_program_that_closes_all_descriptors_goes_on() {
    let program = Program::new("descriptors").build();
    for (when, is_apart) in ["late", "early", "streams"].into_iter().flat_map(|when| [(when, false), (when, true)]) {
        let sandbox = Sandbox::new();
        let _coordinator = Coordinator::start(&sandbox.directory());
        let mut command = sandbox.shimmed(&program);
        let outcome = sandbox.run(in_a_table(command.arg(when).arg(sandbox.path("report")), is_apart));
        assert_eq!((outcome.code(), outcome.stderr.as_str()), (Some(5), ""), "{when}, {is_apart}");
        assert_eq!(sandbox.segment(outcome.pid).calls("cuLaunchKernel"), 50);
    }
}

/// The thread that listens has a table of descriptors to itself, as a rule, or the program's.
fn in_a_table(command: &mut Command, is_apart: bool) -> &mut Command {
    if is_apart { command } else { forbidden::close_range(command) }
}

#[test]
fn a_client_without_a_table_of_its_own() {
    let sandbox = Sandbox::new();
    let first = Coordinator::start(&sandbox.directory());
    let mut command = sandbox.shimmed(Program::new("company").build());
    let running = sandbox.start(in_a_table(command.args(["100000", "5", "1000"]), false));
    is_client(&sandbox, &running, 1);
    drop(first);
    let _second = Coordinator::start(&sandbox.directory());
    is_client(&sandbox, &running, 2);
    end(running);
}

/// What the listening thread opened was, for a moment each, the lowest free descriptor of the program, which may count on which that is; and what
/// a program closed that it had not opened was our conversation.
#[test]
fn a_coordinator_that_comes_takes_none_of_the_programs_descriptors() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.shimmed(Program::new("descriptors").build());
    command.arg("lowest").arg(sandbox.path("report")).env("AISHIM_PRIORITY", "5");
    let mut running = sandbox.start(&mut command);
    running.wait_for("watching");
    for round in 1..=3 {
        let coordinator = Coordinator::start(&sandbox.directory());
        is_client(&sandbox, &running, round);
        let peers: Vec<_> = (0..4).map(|_| company(&sandbox, 80, 100, 10, 1_000)).collect();
        std::thread::sleep(Duration::from_millis(800));
        assert!(coordinator.seen(running.child.id()).is_some(), "it stays a client");
        peers.into_iter().for_each(end);
    }
    signal(&running, libc::SIGTERM);
    let outcome = running.wait();
    assert_eq!(sandbox.segment(outcome.pid).statistic(Statistic::Conversations), 3);
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (Some(5), "watching\n0 others\n"));
}

#[test]
fn children_do_not_stand_in_for_their_parent() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let program = Program::new("fork").build();
    for is_apart in [false, true] {
        let file = sandbox.path("child");
        let mut command = sandbox.shimmed(&program);
        let outcome = sandbox.run(in_a_table(command.arg("orphan").arg(&file), is_apart));
        assert_eq!(outcome.code(), Some(0));
        // The child lives on, and has let go of the conversation.
        wait_until("the parent is no client", || coordinator.seen(outcome.pid).is_none());
        let child: i32 = std::fs::read_to_string(&file).expect("a child").parse().expect("a number");
        // SAFETY: kill(2) of the program's own child.
        assert_eq!(unsafe { libc::kill(child, libc::SIGKILL) }, 0, "it lives");
    }
    for how in ["after", "spawn", "vfork", "replaced"] {
        let run = |with_library: bool| {
            let mut command = if with_library { sandbox.shimmed(&program) } else { sandbox.native(&program) };
            sandbox.run(command.arg(how).arg(sandbox.path(how)))
        };
        run(true).assert_same(&run(false));
    }
}
