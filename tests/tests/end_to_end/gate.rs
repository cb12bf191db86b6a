//! Processes in an order: a stand-in coordinator that decides what the test says, and real programs under the real library.

use crate::coordinator::Daemon;
use aishim_abi::board::Turn;
use aishim_abi::layout::Coordinator as Standing;
use aishim_abi::rank::{PolicyKind, Priority};
use aishim_abi::statistics::Statistic;
pub(crate) use aishim_tests::coordinator::monotonic_ns;
use aishim_tests::sandbox::Running;
use aishim_tests::{Coordinator, Program, Sandbox};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

pub(crate) const LONG: Duration = Duration::from_secs(40);

/// Waits until that holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "it does not come to that: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

/// A program at work under the library: see programs/company.c.
pub(crate) fn company(sandbox: &Sandbox, priority: u32, kernel_us: u64, every: u32, pause_us: u32) -> Running {
    let mut command = sandbox.shimmed(Program::new("company").build());
    command.env("SIMCUDA_COSTS", "h200").env("AISHIM_PRIORITY", priority.to_string()).args([
        (kernel_us * 1000).to_string(),
        every.to_string(),
        pause_us.to_string(),
    ]);
    sandbox.start(&mut command)
}

/// One that waits in the program and not on the GPU, with a second kind of kernel launched after each of the first, if that is not 0.
fn waiting(sandbox: &Sandbox, priority: u32, [kernel_us, other_us]: [u64; 2]) -> Running {
    let mut command = sandbox.shimmed(Program::new("company").build());
    let numbers = [kernel_us * 1000, 0, 0, other_us * 1000];
    command.env("SIMCUDA_COSTS", "h200").env("AISHIM_PRIORITY", priority.to_string()).env("AISHIM_GATE", "wait");
    sandbox.start(command.args(numbers.map(|number| number.to_string())))
}

/// A driver that says that MPS shares its GPU, and a directory in which a client would find its server.
fn under_mps(sandbox: &Sandbox, command: &mut std::process::Command) {
    command.env("SIMCUDA_MPS", "1").env("CUDA_MPS_PIPE_DIRECTORY", sandbox.directory());
}

pub(crate) fn signal(running: &Running, number: i32) {
    // SAFETY: kill(2) of a child that was not waited for yet.
    unsafe { libc::kill(running.child.id() as i32, number) };
}

pub(crate) fn end(running: Running) {
    signal(&running, libc::SIGCONT);
    signal(&running, libc::SIGTERM);
    let outcome = running.wait();
    outcome.assert_success();
    assert_eq!(outcome.stdout, "done\n");
}

pub(crate) fn launches(sandbox: &Sandbox, running: &Running) -> u64 {
    let pid = running.child.id();
    let segments = sandbox.segments();
    segments.iter().find(|segment| segment.copy.pid() == pid).map_or(0, |segment| segment.calls("cuLaunchKernel"))
}

pub(crate) fn statistic(sandbox: &Sandbox, running: &Running, which: Statistic) -> u64 {
    sandbox.segment(running.child.id()).statistic(which)
}

/// Waits until the program has launched so many times more.
#[track_caller]
fn goes_on(sandbox: &Sandbox, running: &Running, more: u64) -> Duration {
    let before = launches(sandbox, running);
    wait_until("it launches", || launches(sandbox, running) >= before + more)
}

#[track_caller]
pub(crate) fn is_client(sandbox: &Sandbox, running: &Running, times: u64) {
    wait_until("it is a client", || {
        let segments = sandbox.segments();
        let own = segments.iter().find(|segment| segment.copy.pid() == running.child.id());
        own.is_some_and(|own| {
            own.statistic(Statistic::Coordinator) == Standing::Client.number()
                && own.statistic(Statistic::Conversations) == times
        })
    });
}

pub(crate) fn threads(running: &Running) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", running.child.id())).expect("a process");
    let name = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).collect()
}

#[test]
fn without_a_coordinator_there_is_no_thread_and_one_that_comes_later_is_found() {
    let sandbox = Sandbox::new();
    let running = company(&sandbox, 5, 100, 10, 0);
    goes_on(&sandbox, &running, 50);
    assert!(!threads(&running).iter().any(|name| name.starts_with("aishim-gate")), "{:?}", threads(&running));
    let coordinator = Coordinator::start(&sandbox.directory());
    is_client(&sandbox, &running, 1);
    let hello = coordinator.hello(running.child.id()).expect("a client");
    assert_eq!(hello.priority, Priority::new(5));
    assert_eq!(hello.gpus.iter().count(), 1);
    goes_on(&sandbox, &running, 50);
    end(running);
}

#[test]
fn the_less_important_waits_for_the_more_important() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let important = company(&sandbox, 80, 1_000, 5, 3_000);
    goes_on(&sandbox, &important, 100);
    let other = company(&sandbox, 5, 100, 0, 0);
    is_client(&sandbox, &other, 1);
    let waits = |which| coordinator.seen(other.child.id()).map_or(0, |seen| which_of(seen.figures, which));
    wait_until("it waits", || waits("waits") > 20);
    goes_on(&sandbox, &other, 100);
    goes_on(&sandbox, &important, 100);
    let figures = coordinator.seen(other.child.id()).expect("a client").figures;
    assert!(figures.gated_ns > 0 && figures.gate_timeouts == 0, "{figures:?}");
    assert!(statistic(&sandbox, &other, Statistic::GateWaits) > 20);
    let its = coordinator.seen(important.child.id()).expect("a client");
    assert!(its.figures.gate_waits == 0 && its.figures.used_ns > 0, "{its:?}");
    end(important);
    goes_on(&sandbox, &other, 200);
    end(other);
}

fn which_of(figures: aishim_abi::client_page::Figures, which: &str) -> u64 {
    match which {
        "waits" => figures.gate_waits,
        "timeouts" => figures.gate_timeouts,
        _ => figures.openings,
    }
}

/// The other is let on as soon as nothing is heard of the important one any more.
#[test]
fn one_that_is_killed_or_stopped_holds_nobody_back() {
    for end_of_it in [libc::SIGKILL, libc::SIGSTOP] {
        let sandbox = Sandbox::new();
        let coordinator = Coordinator::start(&sandbox.directory());
        let important = learnt(&sandbox);
        let other = company(&sandbox, 5, 100, 0, 0);
        is_client(&sandbox, &other, 1);
        let seen = || coordinator.seen(other.child.id());
        wait_until("it waits", || seen().is_some_and(|seen| seen.figures.gate_waits > 0 && seen.is_waiting == 1));
        signal(&important, end_of_it);
        let waited = goes_on(&sandbox, &other, 20);
        println!("20 launches came {waited:?} after signal {end_of_it}");
        // 100 ms, and what a busy machine takes.
        assert!(waited < Duration::from_secs(5), "it was held back for {waited:?}");
        if end_of_it == libc::SIGSTOP {
            end(important);
        }
        end(other);
    }
}

/// An important program whose kernels take 300 ms, which is learnt first, while nobody else is there.
fn learnt(sandbox: &Sandbox) -> Running {
    let important = company(sandbox, 80, 300_000, 1, 0);
    wait_until("it is sampled", || {
        launches(sandbox, &important) > 4 && statistic(sandbox, &important, Statistic::GpuSamples) > 3
    });
    important
}

/// Its page is renewed while it waits for a kernel that takes longer than a page is believed.
#[test]
fn an_honest_long_kernel_keeps_its_turn() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let important = learnt(&sandbox);
    let other = company(&sandbox, 5, 100, 0, 0);
    is_client(&sandbox, &other, 1);
    wait_until("it waits", || coordinator.seen(other.child.id()).is_some_and(|seen| seen.figures.gate_waits > 0));
    let (before, before_important) = (launches(&sandbox, &other), launches(&sandbox, &important));
    wait_until("five kernels later", || launches(&sandbox, &important) >= before_important + 5);
    let came = launches(&sandbox, &other) - before;
    // In 1.5 s it would launch 15,000 times alone, and 10,000 times if the page went stale after 100 ms.
    assert!(came < 2_000, "{came} launches came in between");
    assert_eq!(coordinator.seen(other.child.id()).map(|seen| seen.figures.gate_timeouts), Some(0));
    end(important);
    goes_on(&sandbox, &other, 200);
    end(other);
}

#[test]
fn a_coordinator_that_dies_or_stops_holds_nobody_back_and_its_successor_is_found() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let important = company(&sandbox, 80, 500, 5, 2_000);
    let other = company(&sandbox, 5, 100, 0, 0);
    is_client(&sandbox, &important, 1);
    is_client(&sandbox, &other, 1);
    coordinator.stop(true);
    goes_on(&sandbox, &other, 50);
    goes_on(&sandbox, &important, 50);
    drop(coordinator);
    for conversations in 2..4 {
        goes_on(&sandbox, &other, 50);
        let _successor = Coordinator::start(&sandbox.directory());
        is_client(&sandbox, &other, conversations);
        is_client(&sandbox, &important, conversations);
        goes_on(&sandbox, &other, 50);
    }
    end(important);
    end(other);
}

#[test]
fn the_turn_of_another_is_waited_for_until_it_ends_or_all_gates_open() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let one = company(&sandbox, 20, 100, 0, 0);
    let two = company(&sandbox, 20, 100, 0, 0);
    is_client(&sandbox, &one, 1);
    is_client(&sandbox, &two, 1);
    let slot = |running: &Running| coordinator.seen(running.child.id()).expect("a client").slot;
    let waits = |running: &Running| coordinator.seen(running.child.id()).map_or(0, |seen| seen.is_waiting) == 1;
    let turn = |running: &Running| {
        coordinator.give_turn(Priority::NORMAL, Turn::Client(slot(running)), monotonic_ns() + 99_000_000);
    };
    // A turn is 99 ms at most, so it is given again and again.
    wait_until("the one waits", || {
        turn(&two);
        waits(&one)
    });
    wait_until("the other waits, and the one goes on", || {
        turn(&one);
        waits(&two) && !waits(&one)
    });
    coordinator.give_turn(Priority::NORMAL, Turn::Everybody, u64::MAX);
    goes_on(&sandbox, &one, 50);
    goes_on(&sandbox, &two, 50);
    wait_until("the one waits", || {
        turn(&two);
        waits(&one)
    });
    coordinator.open(monotonic_ns() + 60_000_000_000);
    goes_on(&sandbox, &one, 50);
    coordinator.open(0);
    wait_until("the one waits", || {
        turn(&two);
        waits(&one)
    });
    coordinator.set_policy(PolicyKind::Off);
    goes_on(&sandbox, &one, 50);
    end(one);
    end(two);
}

#[test]
fn little_is_queued_while_somebody_more_important_is_there() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let important = company(&sandbox, 80, 100, 1, 50_000);
    is_client(&sandbox, &important, 1);
    let other = waiting(&sandbox, 5, [200, 0]);
    is_client(&sandbox, &other, 1);
    wait_until("it waits for its own work", || statistic(&sandbox, &other, Statistic::BacklogWaits) > 20);
    goes_on(&sandbox, &other, 100);
    assert_eq!(coordinator.seen(other.child.id()).map(|seen| seen.figures.gate_timeouts), Some(0));
    end(other);
    // Kernels that do not end within 5 ms may be waiting for others.
    let long = waiting(&sandbox, 5, [30_000, 0]);
    is_client(&sandbox, &long, 1);
    wait_until("the bound opens", || {
        coordinator.seen(long.child.id()).map_or(0, |seen| which_of(seen.figures, "openings")) > 0
    });
    signal(&long, libc::SIGKILL);
    end(important);
}

/// A service that rests 10 ms after each request says so; one whose requests follow at once says that it may be back at once.
#[test]
fn an_idle_process_says_when_it_will_be_back() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let regular = company(&sandbox, 80, 500, 1, 10_000);
    let eager = company(&sandbox, 80, 500, 1, 0);
    is_client(&sandbox, &regular, 1);
    is_client(&sandbox, &eager, 1);
    let rest_ns = |running: &Running| {
        let (from_ns, to_ns) = coordinator.seen(running.child.id())?.due_ns?;
        Some((from_ns.saturating_sub(monotonic_ns()), to_ns.saturating_sub(from_ns)))
    };
    // Just after it fell idle; a rest is never shorter than it asks for, but the processors of this machine may make it longer.
    wait_until("it rests for 10 ms", || {
        rest_ns(&regular).is_some_and(|(rest_ns, more_ns)| rest_ns > 8_000_000 && more_ns <= 50_000_000)
    });
    wait_until("it rests for next to nothing", || {
        coordinator.seen(eager.child.id()).is_some_and(|seen| seen.due_ns.is_some())
    });
    for _ in 0..100 {
        assert!(rest_ns(&eager).is_none_or(|(rest_ns, _)| rest_ns < 5_000_000), "{:?}", rest_ns(&eager));
    }
    end(regular);
    end(eager);
}

/// A service whose requests begin with a copy to the device and end with two results, each of which is waited for. The second result was taken for a request of its own, a moment after
/// the first, so that the service seemed to be back at any moment.
#[test]
fn a_request_with_copies_at_its_ends_is_one() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let mut command = sandbox.shimmed(Program::new("company").build());
    command.env("SIMCUDA_COSTS", "h200").env("AISHIM_PRIORITY", "80");
    let service = sandbox.start(command.args(["500000", "1", "10000", "0", "0", "1048576", "2"]));
    // Else nobody is in company, and says nothing.
    let other = company(&sandbox, 5, 100, 1, 1_000);
    is_client(&sandbox, &service, 1);
    is_client(&sandbox, &other, 1);
    let launched = || coordinator.seen(service.child.id()).map_or(0, |seen| seen.launched_ns);
    wait_until("it is known", || launched() > 100 * 500_000);
    wait_until("it rests for 10 ms", || {
        let due_ns = coordinator.seen(service.child.id()).and_then(|seen| seen.due_ns);
        due_ns.is_some_and(|(from_ns, _)| from_ns.saturating_sub(monotonic_ns()) > 8_000_000)
    });
    end(other);
    end(service);
}

/// A program that launches for a while before it waits does not have the GPU until then, unless somebody waits for it after all.
#[test]
fn nobody_waits_for_a_request_before_its_program_does() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let mut command = sandbox.shimmed(Program::new("company").build());
    command.env("SIMCUDA_COSTS", "h200").env("AISHIM_PRIORITY", "80").args(["20000", "20", "10000", "0", "500"]);
    let eager = sandbox.start(&mut command);
    let graph = company(&sandbox, 80, 500, 1, 10_000);
    is_client(&sandbox, &eager, 1);
    is_client(&sandbox, &graph, 1);
    let left_ns = |running: &Running| {
        coordinator.seen(running.child.id()).map_or(0, |seen| seen.urgent_ns.saturating_sub(monotonic_ns()))
    };
    // 20 launches with half a millisecond after each are at least 10 ms, and 0.4 of it is work.
    wait_until("it gives most of 10 ms away", || left_ns(&eager) > 4_000_000);
    let other = company(&sandbox, 5, 100, 0, 0);
    is_client(&sandbox, &other, 1);
    let waits = || coordinator.seen(other.child.id()).map_or(0, |seen| which_of(seen.figures, "waits"));
    let before = waits();
    wait_until("and others stop in the end", || waits() > before + 20);
    assert_eq!(left_ns(&graph), 0, "one that waits at once has no time to give away");
    end(other);
    end(graph);
    end(eager);
}

/// Under MPS those of equal rank have the GPU at the same time; where turns are all the order there is, they hold there too.
#[test]
fn under_mps_only_the_less_important_wait() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let start = |priority: u32| {
        let mut command = sandbox.shimmed(Program::new("company").build());
        command.env("SIMCUDA_COSTS", "h200").env("AISHIM_PRIORITY", priority.to_string());
        under_mps(&sandbox, &mut command);
        sandbox.start(command.args(["100000", "0", "0"]))
    };
    let (one, two) = (start(20), start(20));
    is_client(&sandbox, &one, 1);
    is_client(&sandbox, &two, 1);
    let slot = coordinator.seen(two.child.id()).expect("a client").slot;
    let turn = |rank| coordinator.give_turn(rank, Turn::Client(slot), monotonic_ns() + 99_000_000);
    let figures = || coordinator.seen(one.child.id()).expect("a client").figures;
    turn(Priority::NORMAL);
    goes_on(&sandbox, &one, 50);
    turn(Priority::NORMAL);
    goes_on(&sandbox, &one, 50);
    assert_eq!(figures().gate_waits, 0, "it is not its turn, and that is nothing to it");
    let important = start(80);
    is_client(&sandbox, &important, 1);
    wait_until("it waits for the more important one", || figures().gate_waits > 0);
    end(important);
    goes_on(&sandbox, &one, 50);
    coordinator.set_policy(PolicyKind::Fair);
    wait_until("it waits for its turn", || {
        turn(Priority::LOWEST);
        coordinator.seen(one.child.id()).is_some_and(|seen| seen.is_waiting == 1)
    });
    end(one);
    end(two);
}

/// What is out waits for what is kept back until it is done: nothing completes, and the bound has to open there too.
#[test]
fn streams_that_wait_for_each_other_go_on_under_mps() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let mut command = sandbox.shimmed(Program::new("streams_meet").build());
    command.env("SIMCUDA_COSTS", "h200").env("AISHIM_PRIORITY", "20");
    under_mps(&sandbox, &mut command);
    let meeting = sandbox.start(&mut command);
    let other = company(&sandbox, 20, 100, 0, 0);
    let important = company(&sandbox, 80, 100, 1, 50_000);
    for running in [&meeting, &other, &important] {
        is_client(&sandbox, running, 1);
    }
    let slot = coordinator.seen(other.child.id()).expect("a client").slot;
    let launched = || coordinator.seen(meeting.child.id()).map_or(0, |seen| seen.launched_ns);
    let before = launched();
    wait_until("it goes on while others of its rank have the turn", || {
        coordinator.give_turn(Priority::NORMAL, Turn::Client(slot), monotonic_ns() + 99_000_000);
        launched() > before + 200 * 100_000
    });
    end(important);
    end(other);
    end(meeting);
}

/// A kernel that fits only where nothing else is queued, behind one that is too short for a mark of its own. The bound widened where nothing was seen done for
/// 5 ms, what came through made the queue longer, and so on: 149 and more of 200 waits ended like that.
#[test]
fn a_kernel_that_fits_only_by_itself_waits_for_no_more_than_what_is_before_it() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let important = company(&sandbox, 80, 100, 1, 50_000);
    is_client(&sandbox, &important, 1);
    let other = waiting(&sandbox, 5, [20, 400]);
    is_client(&sandbox, &other, 1);
    let waits = || statistic(&sandbox, &other, Statistic::BacklogWaits);
    let openings = || coordinator.seen(other.child.id()).map_or(u64::MAX, |seen| which_of(seen.figures, "openings"));
    wait_until("it waits for its own work", || waits() > 20);
    // The best of five: where the processors are taken, the simulated GPU stands still for 5 ms by itself now and then.
    let opened = (0..5).map(|_| {
        let before = (waits(), openings());
        wait_until("it waits again and again", || waits() > before.0 + 200);
        openings() - before.1
    });
    let fewest = opened.min();
    assert!(fewest.is_some_and(|fewest| fewest < 5), "{fewest:?} of 200 pairs waited 5 ms for nothing");
    end(other);
    end(important);
}

/// What listens there says something that is no message, or that it is of another version, or nothing at all.
#[test]
fn a_coordinator_that_makes_no_sense_is_left_alone() {
    let refusal = |version: u32| {
        let words = [33, 12, version, 3, 0];
        words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect::<Vec<u8>>()
    };
    let mut welcome: Vec<u8> = [32_u32, 24, 2].iter().flat_map(|word| word.to_le_bytes()).collect();
    welcome.resize(32, 0);
    let cases = [
        (vec![0xff; 64], Standing::Nonsense),
        (refusal(2), Standing::Refused(3)),
        (welcome, Standing::OtherVersion),
        (Vec::new(), Standing::None),
    ];
    for (words, standing) in cases {
        let sandbox = Sandbox::new();
        let socket = aishim_abi::directory::socket(&sandbox.directory());
        let listener = UnixListener::bind(socket).expect("a socket");
        let running = company(&sandbox, 5, 100, 10, 0);
        let (mut stream, _) = listener.accept().expect("a client");
        let mut hello = [0; 368];
        stream.read_exact(&mut hello).expect("a hello");
        stream.write_all(&words).expect("a client that listens");
        wait_until("it knows how it stands", || {
            statistic(&sandbox, &running, Statistic::Coordinator) == standing.number()
        });
        goes_on(&sandbox, &running, 100);
        end(running);
    }
}

/// Under the real coordinator: one that is stopped while it waits for its turn gets none, and its equal has the GPU to itself.
#[test]
fn one_that_is_stopped_while_it_waits_has_no_turns() {
    let sandbox = Sandbox::new();
    let _daemon = Daemon::start(&sandbox, &[]);
    let [one, two] = [(); 2].map(|()| company(&sandbox, 20, 100, 0, 0));
    is_client(&sandbox, &one, 1);
    is_client(&sandbox, &two, 1);
    let waited_ns = |running: &Running| statistic(&sandbox, running, Statistic::GatedTime);
    wait_until("they take turns", || waited_ns(&one) > 50_000_000 && waited_ns(&two) > 50_000_000);
    // It waits half of the time, so four times in eight it is stopped while it does.
    let more_ms = (0..8).map(|round| {
        signal(&two, libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(200));
        let before = waited_ns(&one);
        std::thread::sleep(Duration::from_millis(200));
        let more_ns = waited_ns(&one) - before;
        signal(&two, libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(23 + 7 * round));
        more_ns / 1_000_000
    });
    let more_ms: Vec<u64> = more_ms.collect();
    println!("of 200 ms it waited for {more_ms:?}");
    assert!(more_ms.iter().all(|more_ms| *more_ms < 20), "{more_ms:?}");
    end(two);
    end(one);
}

/// Under the real coordinator, which is killed, stopped and started again while all work.
#[test]
fn aischedd_may_come_and_go_under_load() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let important = company(&sandbox, 80, 500, 5, 2_000);
    let others = [company(&sandbox, 20, 100, 0, 0), company(&sandbox, 20, 100, 0, 0)];
    for running in others.iter().chain([&important]) {
        is_client(&sandbox, running, 1);
    }
    let all_go_on = || {
        for running in others.iter().chain([&important]) {
            goes_on(&sandbox, running, 100);
        }
    };
    all_go_on();
    for running in &others {
        wait_until("it waits", || statistic(&sandbox, running, Statistic::GateWaits) > 20);
    }
    let waited_out: u64 = others.iter().map(|running| statistic(&sandbox, running, Statistic::GateTimeouts)).sum();
    println!("waits that ended by their time limit: {waited_out}");
    // SAFETY: kill(2) of a child that was not waited for yet.
    unsafe { libc::kill(daemon.0.id() as i32, libc::SIGSTOP) };
    all_go_on();
    // Killed, by Drop.
    drop(daemon);
    all_go_on();
    let _successor = Daemon::start(&sandbox, &[]);
    for running in others.iter().chain([&important]) {
        is_client(&sandbox, running, 2);
    }
    all_go_on();
    for running in others {
        end(running);
    }
    end(important);
}
