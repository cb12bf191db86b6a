//! Memsets and copies in an order: programs that launch nothing are held back, and hold others back, as those that launch.

use crate::gate::{end, is_client, monotonic_ns, statistic, threads, wait_until};
use aishim_abi::board::Turn;
use aishim_abi::client_page::STALE_NS;
use aishim_abi::rank::Priority;
use aishim_abi::statistics::Statistic;
use aishim_tests::sandbox::Running;
use aishim_tests::{Coordinator, Program, Sandbox};
use std::time::Duration;

/// Where the GPU waits, and where the program does.
const BOTH_WAYS: [&[(&str, &str)]; 2] = [&[], &[("AISHIM_GATE", "wait")]];

/// What `programs/moves.c` calls, by what it is told to do.
const HOOKS: [(&str, &str); 6] = [
    ("set", "cuMemsetD32Async"),
    ("copy", "cuMemcpyDtoDAsync_v2"),
    ("to", "cuMemcpyHtoDAsync_v2"),
    ("from", "cuMemcpyDtoHAsync_v2"),
    ("to_now", "cuMemcpyHtoD_v2"),
    ("from_now", "cuMemcpyDtoH_v2"),
];

fn program(
    sandbox: &Sandbox,
    source: &'static str,
    priority: u32,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Running {
    let mut command = sandbox.shimmed(Program::new(source).build());
    command.env("SIMCUDA_COSTS", "h200").env("AISHIM_PRIORITY", priority.to_string()).args(arguments);
    sandbox.start(command.envs(variables.iter().copied()))
}

/// Operations on memory, on a GPU that sets 1 MiB in a millisecond and copies it in two.
fn moves(sandbox: &Sandbox, priority: u32, arguments: [&str; 4], variables: &[(&str, &str)]) -> Running {
    let variables: Vec<_> = [("SIMCUDA_DEVICE_GBPS", "1")].iter().chain(variables).copied().collect();
    program(sandbox, "moves", priority, &arguments, &variables)
}

fn calls(sandbox: &Sandbox, running: &Running, what: &str) -> u64 {
    let hook = HOOKS.iter().find(|(name, _)| *name == what).expect("something it does").1;
    let segments = sandbox.segments();
    let own = segments.iter().find(|segment| segment.copy.pid() == running.child.id());
    own.map_or(0, |segment| segment.calls(hook))
}

#[track_caller]
fn goes_on(sandbox: &Sandbox, running: &Running, what: &str, more: u64) {
    let before = calls(sandbox, running, what);
    wait_until("it goes on", || calls(sandbox, running, what) >= before + more);
}

/// A best-effort program that did nothing but set or copy memory had the GPU as if nobody else were there: its memsets and copies looked at no gate.
#[test]
fn what_only_sets_or_copies_memory_waits_for_the_more_important() {
    for (what, variables) in ["set", "copy"].iter().flat_map(|what| BOTH_WAYS.map(|variables| (*what, variables))) {
        let sandbox = Sandbox::new();
        let coordinator = Coordinator::start(&sandbox.directory());
        let important = program(&sandbox, "company", 80, &["1000000", "5", "3000"], &[]);
        is_client(&sandbox, &important, 1);
        let other = moves(&sandbox, 5, [what, "256", "0", "0"], variables);
        is_client(&sandbox, &other, 1);
        wait_until("it waits", || statistic(&sandbox, &other, Statistic::GateWaits) > 20);
        let seen = coordinator.seen(other.child.id()).expect("a client");
        assert!(seen.figures.gated_ns > 0 && seen.figures.gate_timeouts == 0 && seen.launched_ns > 0, "{seen:?}");
        goes_on(&sandbox, &other, what, 20);
        let its = coordinator.seen(important.child.id()).expect("a client");
        assert_eq!(its.figures.gate_waits, 0);
        end(important);
        goes_on(&sandbox, &other, what, 20);
        end(other);
    }
}

/// One whose requests are memsets or copies of device memory was never seen active.
#[test]
fn an_important_one_that_only_sets_or_copies_memory_holds_others_back() {
    for what in ["set", "copy", "to", "from"] {
        let sandbox = Sandbox::new();
        let _coordinator = Coordinator::start(&sandbox.directory());
        let important = moves(&sandbox, 80, [what, "1024", "2", "3000"], &[]);
        is_client(&sandbox, &important, 1);
        let other = program(&sandbox, "company", 5, &["100000", "0", "0"], &[]);
        is_client(&sandbox, &other, 1);
        wait_until("the other waits", || statistic(&sandbox, &other, Statistic::GateWaits) > 20);
        assert_eq!(statistic(&sandbox, &important, Statistic::GateWaits), 0);
        end(important);
        end(other);
    }
}

/// A memset of a size that the driver refuses was told of for 100 ms, which others waited for, and charged.
#[test]
fn what_the_driver_refuses_is_not_charged() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let refused = moves(&sandbox, 80, ["refused", "1024", "1", "3000"], &[]);
    is_client(&sandbox, &refused, 1);
    let other = program(&sandbox, "company", 5, &["100000", "0", "0"], &[]);
    is_client(&sandbox, &other, 1);
    goes_on(&sandbox, &refused, "set", 100);
    // One may be at it.
    let launched_ns = coordinator.seen(refused.child.id()).map_or(u64::MAX, |seen| seen.launched_ns);
    assert!(launched_ns <= 100_000_000, "{launched_ns}");
    end(refused);
    end(other);
}

/// What it takes is measured and not only reckoned: this GPU is a thousand times slower than the one it is reckoned for.
#[test]
fn what_a_memset_takes_is_learnt() {
    let ways = BOTH_WAYS.iter().flat_map(|variables| ["0", "1"].map(|every| (*variables, every)));
    for (what, (variables, every)) in ["set", "copy"].iter().flat_map(|what| ways.clone().map(|way| (*what, way))) {
        let sandbox = Sandbox::new();
        let coordinator = Coordinator::start(&sandbox.directory());
        let idle = program(&sandbox, "company", 80, &["100000", "1", "50000"], &[]);
        is_client(&sandbox, &idle, 1);
        let running = moves(&sandbox, 5, [what, "1024", every, "0"], variables);
        is_client(&sandbox, &running, 1);
        let so_far = || {
            let launched_ns = coordinator.seen(running.child.id()).map_or(0, |seen| seen.launched_ns);
            (launched_ns, calls(&sandbox, &running, what))
        };
        wait_until("it takes some half a millisecond at least", || {
            let before = so_far();
            std::thread::sleep(Duration::from_millis(200));
            let after = so_far();
            after.0 - before.0 > (after.1 - before.1) * 500_000 && after.1 > before.1
        });
        end(running);
        end(idle);
    }
}

/// Gives the turn to `other` again and again, which is 99 ms at most, until that holds.
#[track_caller]
fn while_it_is_the_turn_of(coordinator: &Coordinator, other: &Running, what: &str, mut holds: impl FnMut() -> bool) {
    let slot = coordinator.seen(other.child.id()).expect("a client").slot;
    wait_until(what, || {
        coordinator.give_turn(Priority::NORMAL, Turn::Client(slot), monotonic_ns() + STALE_NS - 1_000_000);
        holds()
    });
}

/// Operations of every kind, those on the device of a kibibyte, with calls that wait in the driver behind work that waits on the GPU, and with those that are staged: held
/// back for the turn of another, and let through when that is over.
#[test]
fn every_kind_comes_to_a_stand_and_goes_on() {
    for (what, kib) in
        [("set", "1"), ("copy", "1"), ("to", "1024"), ("from", "1024"), ("to_now", "16384"), ("from_now", "32768")]
    {
        for variables in BOTH_WAYS {
            let sandbox = Sandbox::new();
            let coordinator = Coordinator::start(&sandbox.directory());
            let other = program(&sandbox, "company", 20, &["100000", "1", "1000"], &[]);
            is_client(&sandbox, &other, 1);
            let running = program(&sandbox, "moves", 20, &[what, kib, "1", "0"], variables);
            is_client(&sandbox, &running, 1);
            goes_on(&sandbox, &running, what, 5);
            let came_in_another_s_turn = || {
                let is_waiting = || coordinator.seen(running.child.id()).is_some_and(|seen| seen.is_waiting == 1);
                while_it_is_the_turn_of(&coordinator, &other, "it waits", is_waiting);
                let (before, begun) = (calls(&sandbox, &running, what), monotonic_ns());
                while_it_is_the_turn_of(&coordinator, &other, "a while", || monotonic_ns() - begun > 50_000_000);
                let came = calls(&sandbox, &running, what) - before;
                coordinator.give_turn(Priority::NORMAL, Turn::Everybody, u64::MAX);
                goes_on(&sandbox, &running, what, 5);
                came
            };
            // The fewest of some: where the processors are taken, a turn is over before it is given again.
            let came: Vec<u64> = (0..4).map(|_| came_in_another_s_turn()).collect();
            assert!(came.iter().any(|came| *came <= 1), "{what}: {came:?} came in the turn of another");
            assert!(statistic(&sandbox, &running, Statistic::GateWaits) >= 3);
            end(running);
            end(other);
        }
    }
}

/// Copies below 64 KiB over the bus are in nobody's way.
#[test]
fn a_small_copy_from_or_to_the_host_waits_for_nobody() {
    for (what, variables) in ["to", "from"].iter().flat_map(|what| BOTH_WAYS.map(|variables| (*what, variables))) {
        let sandbox = Sandbox::new();
        let coordinator = Coordinator::start(&sandbox.directory());
        let other = program(&sandbox, "company", 20, &["100000", "1", "1000"], &[]);
        is_client(&sandbox, &other, 1);
        let running = program(&sandbox, "moves", 20, &[what, "63", "1", "0"], variables);
        is_client(&sandbox, &running, 1);
        let (before, begun) = (calls(&sandbox, &running, what), monotonic_ns());
        // It reads the board every 100 ms while it is alone.
        while_it_is_the_turn_of(&coordinator, &other, "it goes on", || {
            calls(&sandbox, &running, what) > before + 50 && monotonic_ns() - begun > 500_000_000
        });
        assert_eq!(statistic(&sandbox, &running, Statistic::GateWaits), 0);
        end(running);
        end(other);
    }
}

/// What is captured is no work, and waits for nobody's turn; what comes of it is right.
#[test]
fn captures_of_memsets_and_copies_wait_for_nobody() {
    for variables in BOTH_WAYS {
        let sandbox = Sandbox::new();
        let coordinator = Coordinator::start(&sandbox.directory());
        let other = program(&sandbox, "company", 20, &["100000", "1", "1000"], &[]);
        is_client(&sandbox, &other, 1);
        let mut running = program(&sandbox, "moves_captured", 20, &[], variables);
        running.wait_for("ready");
        is_client(&sandbox, &running, 1);
        if variables.is_empty() {
            wait_until("it is in company", || threads(&running).iter().any(|name| name.starts_with("aishim-ahead")));
        } else {
            // It reads the board every 100 ms while it is alone.
            std::thread::sleep(Duration::from_millis(300));
        }
        while_it_is_the_turn_of(&coordinator, &other, "a moment", || true);
        // SAFETY: kill(2) of a child that was not waited for yet.
        unsafe { libc::kill(running.child.id() as i32, libc::SIGUSR1) };
        // All three have come to their end, and the first launch of what was captured waits.
        while_it_is_the_turn_of(&coordinator, &other, "what was captured waits", || {
            let is_waiting = coordinator.seen(running.child.id()).is_some_and(|seen| seen.is_waiting == 1);
            is_waiting && sandbox.segment(running.child.id()).calls("cuStreamEndCapture") == 3
        });
        assert!(sandbox.segment(running.child.id()).calls("cuGraphLaunch") <= 1);
        coordinator.give_turn(Priority::NORMAL, Turn::Everybody, u64::MAX);
        running.wait_for("done");
        let outcome = running.wait();
        outcome.assert_success();
        end(other);
    }
}

/// Staged copies that pause between their chunks while somebody more important works, on a GPU of its own: every byte is right, also where captures begin and end meanwhile.
#[test]
fn staged_copies_pause_for_the_more_important() {
    let cases: [(&[&str], &str); 6] = [
        (&["bytes", "7", "15", "2"], "0 wrong\n"),
        (&["captures", "0"], "0 wrong\n"),
        (&["captures", "2"], "0 wrong\n"),
        (&["behind"], "0 old\n"),
        (&["contexts"], "0 wrong\n"),
        (&["refused"], "right\n"),
    ];
    for variables in BOTH_WAYS {
        let sandbox = Sandbox::new();
        let _coordinator = Coordinator::start(&sandbox.directory());
        let another = sandbox.path("another");
        let elsewhere = [("SIMCUDA_DIR", another.to_str().expect("a path"))];
        let important = program(&sandbox, "company", 80, &["500000", "5", "1000"], &elsewhere);
        is_client(&sandbox, &important, 1);
        for (arguments, said) in cases {
            let outcome = program(&sandbox, "copies", 5, arguments, variables).wait();
            outcome.assert_success();
            assert_eq!(outcome.stdout, said, "{arguments:?}");
            let segment = sandbox.segment(outcome.pid);
            assert!(segment.statistic(Statistic::GateWaits) > 0, "{arguments:?}");
        }
        end(important);
    }
}
