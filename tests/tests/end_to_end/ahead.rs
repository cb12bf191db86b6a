//! The GPU waits and the program runs ahead: work that has to give way is queued, and comes when it may, whatever becomes of its process.

use crate::gate::{LONG, is_client, launches, monotonic_ns, threads, wait_until};
use aishim_abi::board::Turn;
use aishim_abi::client_page::STALE_NS;
use aishim_abi::rank::Priority;
use aishim_tests::sandbox::Running;
use aishim_tests::{Coordinator, Program, Sandbox};
use std::time::{Duration, Instant};

/// Of rank 20, as another that does nothing but be there.
fn program(sandbox: &Sandbox, source: &'static str, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
    let mut command = sandbox.shimmed(Program::new(source).build());
    command.env("SIMCUDA_COSTS", "h200").env("AISHIM_PRIORITY", "20").args(arguments).envs(variables.iter().copied());
    sandbox.start(&mut command)
}

/// Gives the turn to whoever holds `slot`, for as long as a turn may be.
fn give_turn(coordinator: &Coordinator, slot: usize) {
    coordinator.give_turn(Priority::NORMAL, Turn::Client(slot as u32), monotonic_ns() + STALE_NS - 1_000_000);
}

/// A program that leaves work behind, which waits for the turn of another, until `what` of it is done.
fn leaves(how: &str, variables: &[(&str, &str)], what: impl FnOnce(&Sandbox, &Coordinator, usize, &mut Running)) {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let other = program(&sandbox, "company", &["100000", "1", "1000"], &[]);
    is_client(&sandbox, &other, 1);
    let mut running = program(&sandbox, "leaves", &[how], variables);
    running.wait_for("ready");
    is_client(&sandbox, &running, 1);
    let slot = coordinator.seen(other.child.id()).expect("a client").slot as usize;
    // It reads the board every 100 ms while it is alone, and begins to obey it then.
    wait_until("it is in company", || {
        let is_ahead = threads(&running).iter().any(|name| name.starts_with("aishim-ahead"));
        is_ahead || variables.contains(&("AISHIM_GATE", "wait"))
    });
    give_turn(&coordinator, slot);
    // SAFETY: kill(2) of a child that was not waited for yet.
    unsafe { libc::kill(running.child.id() as i32, libc::SIGUSR1) };
    what(&sandbox, &coordinator, slot, &mut running);
    drop(other);
}

/// It queues all of its 300 launches within a turn of another's, of which it would get none through while it waits in the program.
#[test]
fn a_program_runs_ahead_of_what_has_to_wait() {
    leaves("waits", &[], |sandbox, coordinator, slot, running| {
        running.wait_for("queued");
        give_turn(coordinator, slot);
        let seen = coordinator.seen(running.child.id()).expect("a client");
        assert!(seen.is_waiting == 1 && launches(sandbox, running) == 301, "{seen:?}");
        coordinator.give_turn(Priority::NORMAL, Turn::Everybody, u64::MAX);
        running.wait_for("done");
    });
}

/// Asked to wait in the program it does.
#[test]
fn it_can_be_told_not_to() {
    leaves("waits", &[("AISHIM_GATE", "wait")], |sandbox, coordinator, slot, running| {
        wait_until("it waits", || {
            give_turn(coordinator, slot);
            coordinator.seen(running.child.id()).is_some_and(|seen| seen.is_waiting == 1)
        });
        assert!(launches(sandbox, running) < 301);
        coordinator.give_turn(Priority::NORMAL, Turn::Everybody, u64::MAX);
        running.wait_for("done");
    });
}

/// The same where the driver cannot wait for memory: refused by the call, or there is no memory that both see.
#[test]
fn where_the_driver_cannot_the_program_waits() {
    for fault in ["cuStreamBatchMemOp_v2:801", "cuMemHostRegister_v2:801", "cuMemHostGetDevicePointer_v2:801"] {
        leaves("waits", &[("SIMCUDA_FAIL", fault)], |_, coordinator, slot, running| {
            wait_until("it waits", || {
                give_turn(coordinator, slot);
                coordinator.seen(running.child.id()).is_some_and(|seen| seen.is_waiting == 1)
            });
            coordinator.give_turn(Priority::NORMAL, Turn::Everybody, u64::MAX);
            running.wait_for("done");
        });
    }
}

/// What it leaves behind is in nobody's way: the process ends while another has its turn for ever.
#[test]
fn a_process_ends_though_its_work_waits() {
    for how in ["exits", "stream"] {
        leaves(how, &[], |_, coordinator, slot, running| {
            running.wait_for("done");
            let begun = Instant::now();
            while running.child.try_wait().expect("a child").is_none() {
                give_turn(coordinator, slot);
                assert!(begun.elapsed() < LONG, "{how}: it does not end");
                std::thread::sleep(Duration::from_millis(10));
            }
        });
    }
}

/// A context that is reset ends with its work, or waits for it, as the driver has it; the next one is gated as well.
#[test]
fn a_context_ends_though_its_work_waits() {
    leaves("destroys", &[], |_, coordinator, slot, running| {
        running.wait_for("queued");
        give_turn(coordinator, slot);
        std::thread::sleep(Duration::from_millis(50));
        coordinator.give_turn(Priority::NORMAL, Turn::Everybody, u64::MAX);
        running.wait_for("done");
    });
}

/// What waits does so in its stream's own context, whichever is current: that one's end is nothing to it.
#[test]
fn another_context_ends_while_work_waits() {
    leaves("other", &[], |_, coordinator, slot, running| {
        running.wait_for("queued");
        give_turn(coordinator, slot);
        running.wait_for("done");
    });
}

/// Killed in the midst of it, and the other goes on.
#[test]
fn one_that_is_killed_while_its_work_waits_is_gone() {
    leaves("waits", &[], |_, coordinator, slot, running| {
        running.wait_for("queued");
        give_turn(coordinator, slot);
        running.child.kill().expect("a child");
        let begun = Instant::now();
        running.child.wait().expect("a child");
        assert!(begun.elapsed() < LONG);
    });
}

/// The child has nothing of it: not the memory in which the GPU is told, nor the thread that tells it.
#[test]
fn a_child_exits_while_its_parents_work_waits() {
    leaves("forks", &[], |_, coordinator, slot, running| {
        running.wait_for("queued");
        give_turn(coordinator, slot);
        running.wait_for("forked");
        coordinator.give_turn(Priority::NORMAL, Turn::Everybody, u64::MAX);
        running.wait_for("done");
    });
}

/// The demo's programs, with a real coordinator: the service's requests are served and the others get on.
#[test]
fn a_service_and_work_share_a_gpu() {
    let sandbox = Sandbox::new();
    let _daemon = crate::coordinator::Daemon::start(&sandbox, &[]);
    let start = |role: &str, priority: &str| {
        let mut command = sandbox.shimmed(aishim_tests::dist::file("examples/neighbours"));
        sandbox.start(command.args([role, "--seconds", "2"]).env("AISHIM_PRIORITY", priority))
    };
    let (work, service) = (start("work", "5"), start("service", "80"));
    let (work, service) = (work.wait(), service.wait());
    work.assert_success();
    service.assert_success();
    let done = work.stdout.strip_prefix("kernels a second: ").and_then(|number| number.trim().parse::<u32>().ok());
    assert!(done.is_some_and(|done| done > 0), "{}", work.stdout);
    assert!(service.stdout.starts_with("requests 1") && service.stdout.contains("p99"), "{}", service.stdout);
}
