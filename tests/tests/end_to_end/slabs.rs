//! When the pool's slabs come and when they go: lazily, eagerly or never, beyond the ordinary size for who misses, and
//! back to the driver when nobody has needed them for a while.

use aishim_abi::statistics::Statistic;
use aishim_abi::trace::{self, What};
use aishim_tests::sandbox::Running;
use aishim_tests::{Program, Sandbox, Via};
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// The first two slabs, which come without need and stay.
const KEPT: u64 = 16 * MIB;

/// Page-locked so far, once it is what is waited for.
#[track_caller]
fn wait_for_reserved(sandbox: &Sandbox, running: &Running, is_it: impl Fn(u64) -> bool) -> u64 {
    let begun = Instant::now();
    loop {
        let reserved = reserved(sandbox, running);
        if is_it(reserved) {
            return reserved;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{} MiB are reserved", reserved / MIB);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn reserved(sandbox: &Sandbox, running: &Running) -> u64 {
    sandbox.segment(running.child.id()).statistic(Statistic::PoolReserved)
}

fn program(sandbox: &Sandbox, settings: &[(&str, &str)], steps: &[&str]) -> Command {
    let mut command = sandbox.shimmed(Program::new("slabs").build());
    command.envs(settings.iter().copied()).args(steps);
    command
}

fn path(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).display().to_string()
}

fn go_on(sandbox: &Sandbox, name: &str) {
    std::fs::write(sandbox.path(name), "").expect("a file");
}

/// What is reserved, and the pool's hits, in a process that makes a context, takes nothing, and then one block.
fn before_and_after_the_first_request(settings: &[(&str, &str)], expected: u64) -> (u64, u64) {
    let sandbox = Sandbox::new();
    let (first, second) = (path(&sandbox, "1"), path(&sandbox, "2"));
    let steps = ["say", "begun", "wait", &first, "take", "1", "give", "say", "taken", "wait", &second];
    let mut running = sandbox.start(&mut program(&sandbox, settings, &steps));
    running.wait_for("begun");
    let before = wait_for_reserved(&sandbox, &running, |reserved| reserved == expected);
    go_on(&sandbox, "1");
    running.wait_for("taken");
    let segment = sandbox.segment(running.child.id());
    go_on(&sandbox, "2");
    running.wait().assert_success();
    (before, segment.statistic(Statistic::PoolHits))
}

#[test]
fn lazily_nothing_is_reserved_before_it_is_asked_for() {
    assert_eq!(before_and_after_the_first_request(&[], 0), (0, 1));
    assert_eq!(before_and_after_the_first_request(&[("AISHIM_POOL", "lazy")], 0), (0, 1));
}

#[test]
fn the_second_slab_comes_behind_the_first_request_and_stays() {
    let sandbox = Sandbox::new();
    let done = path(&sandbox, "done");
    let steps = ["take", "1", "give", "say", "given", "churn", &done];
    let mut running = sandbox.start(&mut program(&sandbox, &SHORT, &steps));
    running.wait_for("given");
    wait_for_reserved(&sandbox, &running, |reserved| reserved == KEPT);
    // What does not happen can only be watched for a while.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(reserved(&sandbox, &running), KEPT);
    go_on(&sandbox, "done");
    let outcome = running.wait();
    outcome.assert_success();
    assert_eq!(sandbox.segment(outcome.pid).statistic(Statistic::PoolMissNotReady), 0);
}

#[test]
fn eagerly_all_of_it_is_reserved_in_the_background() {
    let settings = [("AISHIM_POOL", "eager"), ("AISHIM_POOL_MIB", "40"), ("AISHIM_POOL_MAX_MIB", "100")];
    assert_eq!(before_and_after_the_first_request(&settings, 40 * MIB), (40 * MIB, 1));
}

#[test]
fn off_there_is_none() {
    for settings in [[("AISHIM_POOL", "off")], [("AISHIM_POOL_MIB", "0")]] {
        assert_eq!(before_and_after_the_first_request(&settings, 0), (0, 0));
    }
}

#[test]
fn beyond_its_ordinary_size_it_grows_for_who_would_miss_and_no_further_than_its_limit() {
    let sandbox = Sandbox::new();
    let (there, done) = (path(&sandbox, "there"), path(&sandbox, "done"));
    let settings = [("AISHIM_POOL", "eager"), ("AISHIM_POOL_MIB", "16"), ("AISHIM_POOL_MAX_MIB", "40")];
    // Half full is no reason to grow beyond the ordinary size; the block that does not fit is.
    let middle = path(&sandbox, "middle");
    let again = path(&sandbox, "again");
    let steps = [
        "say", "begun", "wait", &there, "take", "12", "say", "half", "wait", &middle, "take", "5", "say", "missed",
        "wait", &again, "take", "24", "say", "full", "wait", &done, "give",
    ];
    let mut running = sandbox.start(&mut program(&sandbox, &settings, &steps));
    running.wait_for("begun");
    wait_for_reserved(&sandbox, &running, |reserved| reserved == 16 * MIB);
    go_on(&sandbox, "there");
    running.wait_for("half");
    assert_eq!(reserved(&sandbox, &running), 16 * MIB);
    go_on(&sandbox, "middle");
    running.wait_for("missed");
    wait_for_reserved(&sandbox, &running, |reserved| reserved == 32 * MIB);
    go_on(&sandbox, "again");
    running.wait_for("full");
    wait_for_reserved(&sandbox, &running, |reserved| reserved == 40 * MIB);
    assert_eq!(sandbox.segment(running.child.id()).statistic(Statistic::PoolCapacity), 40 * MIB);
    go_on(&sandbox, "done");
    running.wait().assert_success();
}

/// Takes enough that slabs come, gives all back, and goes on with `meanwhile` until it is told to stop; then takes as
/// much again.
fn idle(meanwhile: &str, settings: &[(&str, &str)], check: impl Fn(&Sandbox, &mut Running)) {
    let sandbox = Sandbox::new();
    let [there, grown, stop] = ["there", "grown", "stop"].map(|name| path(&sandbox, name));
    let steps = [
        "take", "1", "say", "begun", "wait", &there, "take", "39", "say", "taken", "wait", &grown, "give", "say",
        "given", meanwhile, &stop, "take", "40", "give",
    ];
    let mut running = sandbox.start(&mut program(&sandbox, settings, &steps));
    running.wait_for("begun");
    wait_for_reserved(&sandbox, &running, |reserved| reserved == KEPT);
    go_on(&sandbox, "there");
    running.wait_for("taken");
    // All of the first slabs is taken, so the next ones come.
    wait_for_reserved(&sandbox, &running, |reserved| reserved > KEPT);
    go_on(&sandbox, "grown");
    running.wait_for("given");
    check(&sandbox, &mut running);
    go_on(&sandbox, "stop");
    let outcome = running.wait();
    outcome.assert_success();
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.statistic(Statistic::PinnedBytes), 0);
    assert_eq!(segment.statistic(Statistic::PoolAllocated), 0);
}

#[test]
fn what_a_program_does_with_pinned_memory_is_recorded() {
    let sandbox = Sandbox::new();
    let record = path(&sandbox, "record");
    let steps = ["take", "3", "give", "fork", "take", "200", "give", "leave"];
    // Also what finds no room in the pool is the program's.
    let settings = [("AISHIM_TRACE", record.as_str()), ("AISHIM_POOL_MIB", "16")];
    let outcome = sandbox.succeed(&mut program(&sandbox, &settings, &steps));
    let text = std::fs::read_to_string(format!("{record}.{}", outcome.pid)).expect("a record");
    let events = trace::parse(&text).expect("events");
    let count = |is_it: &dyn Fn(&What) -> bool| events.iter().filter(|event| is_it(&event.what)).count();
    assert_eq!(count(&|what| matches!(what, What::Alloc { bytes: 1_048_576, .. })), 203);
    assert_eq!(count(&|what| matches!(what, What::Free { .. })), 203);
    assert!(events.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
    assert_eq!(std::fs::read_dir(sandbox.path("")).expect("a folder").count(), 3, "run, gpu and one record");
}

const SHORT: [(&str, &str); 1] = [("AISHIM_POOL_IDLE_S", "1")];

#[test]
fn idle_slabs_go_back_but_the_first_two() {
    idle("wait", &SHORT, |sandbox, running| {
        wait_for_reserved(sandbox, running, |reserved| reserved == KEPT);
    });
}

#[test]
fn idle_slabs_go_back_beside_a_program_that_needs_little() {
    idle("churn", &SHORT, |sandbox, running| {
        wait_for_reserved(sandbox, running, |reserved| reserved == KEPT);
    });
}

/// What does not happen can only be watched for a while: several times as long as the slabs would have needed.
fn nothing_goes(sandbox: &Sandbox, running: &mut Running) {
    std::thread::sleep(Duration::from_secs(4));
    assert!(reserved(sandbox, running) > KEPT);
}

#[test]
fn no_slab_goes_during_a_capture() {
    idle("capture", &SHORT, nothing_goes);
}

#[test]
fn no_slab_goes_while_the_gpu_has_work() {
    idle("busy", &SHORT, nothing_goes);
}

#[test]
fn no_slab_goes_where_none_is_to_go() {
    idle("wait", &[("AISHIM_POOL_IDLE_S", "0")], nothing_goes);
}

/// The thread that looks for idle slabs sleeps most of the time, and a process that ends does not wait for that.
#[test]
fn a_process_ends_at_once_while_the_background_thread_sleeps() {
    let sandbox = Sandbox::new();
    let steps = ["take", "40", "give"];
    let time_of = |command: &dyn Fn() -> Command| {
        let begun = Instant::now();
        (0..10).for_each(|_| sandbox.run(&mut command()).assert_success());
        begun.elapsed()
    };
    let native = time_of(&|| {
        let mut command = sandbox.native(Program::new("slabs").build());
        command.args(steps);
        command
    });
    let shimmed = time_of(&|| program(&sandbox, &[("AISHIM_POOL_IDLE_S", "3600")], &steps));
    // Each would wait half a second.
    assert!(shimmed < native + Duration::from_secs(5), "{shimmed:?}, natively {native:?}");
}

/// Does `meanwhile` until all of an eager pool of `mib` MiB is reserved, and then the rest; what was said of it, and the
/// pool's hits.
fn with_all_reserved(mib: u64, settings: &[(&str, &str)], meanwhile: &str, rest: &[&str]) -> (String, u64) {
    let sandbox = Sandbox::new();
    let (size, stop) = (mib.to_string(), path(&sandbox, "stop"));
    let mut steps = vec!["say", "begun", meanwhile, &stop];
    steps.extend(rest);
    let eager = [("AISHIM_POOL", "eager"), ("AISHIM_POOL_MIB", &size)];
    let mut running = sandbox.start(program(&sandbox, &eager, &steps).envs(settings.iter().copied()));
    running.wait_for("begun");
    wait_for_reserved(&sandbox, &running, |reserved| reserved == mib * MIB);
    go_on(&sandbox, "stop");
    let outcome = running.wait();
    outcome.assert_success();
    let hits = sandbox.segment(outcome.pid).statistic(Statistic::PoolHits);
    (outcome.stdout, hits)
}

/// As of a simulated driver that takes 1.1 s to allocate each of the last slabs, in which launches wait, but 0.2 s to
/// register it.
#[test]
fn launches_wait_no_longer_than_it_takes_to_register_a_slab() {
    let slow = [("SIMCUDA_COSTS", "h200"), ("SIMCUDA_SPEED", "0.02")];
    let (stdout, _) = with_all_reserved(256, &slow, "launch", &[]);
    let longest_us: f64 = stdout.trim().rsplit(' ').next().expect("a line").parse().expect("a number");
    assert!(longest_us < 700_000.0, "a launch waited for {longest_us} us");
}

#[test]
fn blocks_in_every_slab_are_told_to_be_allocated() {
    with_all_reserved(128, &[], "wait", &["take", "120", "ask", "fork", "give", "take", "120", "ask", "give"]);
}

/// The driver refuses a copy that reaches from one registration into the next. 64 MiB are the most that is served.
#[test]
fn a_block_as_large_as_its_slab_is_copied_at_once() {
    let copies = ["copy", "4", "copy", "12", "copy", "16", "copy", "32", "copy", "64", "copy", "65"];
    let (_, hits) = with_all_reserved(256, &[], "wait", &copies);
    assert_eq!(hits, 5);
}

#[test]
fn slabs_are_allocated_where_they_cannot_be_registered() {
    for fault in ["cuMemHostRegister_v2:801", "cuMemHostRegister_v2:2:after=3"] {
        with_all_reserved(128, &[("SIMCUDA_FAIL", fault)], "wait", &["take", "120", "give"]);
    }
}

/// The memory of registered slabs is the process's own, and no context's end takes it away by itself.
#[test]
fn slabs_of_contexts_that_have_ended_take_no_memory() {
    let sandbox = Sandbox::new();
    let stop = path(&sandbox, "stop");
    let mut steps = Vec::new();
    for _ in 0..10 {
        steps.extend(["take", "40", "leave"]);
    }
    steps.extend(["say", "left", "wait", &stop]);
    let mut running = sandbox.start(&mut program(&sandbox, &[("AISHIM_POOL", "eager")], &steps));
    running.wait_for("left");
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id())).expect("its status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident set");
    let resident_kib: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    go_on(&sandbox, "stop");
    running.wait().assert_success();
    assert!(resident_kib < 600 << 10, "{resident_kib} KiB");
}

/// The program that compares ways of page-locking on a GPU: here only that it runs.
#[test]
fn ways_of_page_locking_are_compared() {
    let sandbox = Sandbox::new();
    let json = path(&sandbox, "ways.json");
    let program = Program::new("../../benches/gpu/slab_ways").via(Via::Itself).build_as("slab_ways");
    let outcome = sandbox.succeed(sandbox.native(program).args([json.as_str(), "1", "register 16"]));
    let rows = outcome.stdout.lines().filter(|line| line.starts_with("register 16")).count();
    assert_eq!(rows, 5, "{}", outcome.stdout);
    assert!(std::fs::read_to_string(&json).expect("the figures").ends_with("}}\n"));
}
