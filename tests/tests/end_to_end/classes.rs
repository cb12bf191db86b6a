//! What kind of work a process does: as it was asked for with aictl run, as its behaviour suggests, as the coordinator applies it.

use crate::aictl::aictl;
use crate::coordinator::Daemon;
use aishim_abi::rank::{Class, Priority, Weight};
use aishim_tests::sandbox::Running;
use aishim_tests::{Coordinator, Program, Sandbox, dist};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

/// Five kernels of a millisecond, waited for, and then a pause: a server that is asked some 25 times a second.
const SERVES: [&str; 3] = ["1000000", "5", "35000"];

/// Thirty kernels of a millisecond, waited for, without a pause: a training job that looks at its loss.
const TRAINS: [&str; 3] = ["1000000", "30", "0"];

/// Kernels without end, never waited for.
const NEVER_WAITS: [&str; 3] = ["1000000", "0", "0"];

fn start(sandbox: &Sandbox, class: &str, arguments: [&str; 3]) -> Running {
    let mut command = sandbox.shimmed(Program::new("company").build());
    command.env("SIMCUDA_COSTS", "h200").env("AISHIM_CLASS", class).args(arguments);
    sandbox.start(&mut command)
}

fn process(sandbox: &Sandbox, pid: u32) -> Option<Value> {
    let outcome = aictl(sandbox, &["stats", "--json", &pid.to_string()]);
    let document: Value = serde_json::from_str(&outcome.stdout).ok()?;
    document["processes"].get(0).cloned()
}

/// Waits until something is known of a process; it, and how long that took.
fn wait_for(sandbox: &Sandbox, pid: u32, known: impl Fn(&Value) -> bool) -> (Value, Duration) {
    let begun = Instant::now();
    loop {
        let process = process(sandbox, pid).unwrap_or_default();
        if known(&process) {
            return (process, begun.elapsed());
        }
        assert!(begun.elapsed() < LONG, "{process}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The promise is two seconds, which the pure function's own test holds it to; here the machine may be busy.
#[test]
fn a_server_and_training_jobs_are_told_apart() {
    let sandbox = Sandbox::new();
    let _daemon = Daemon::start(&sandbox, &[]);
    told_apart(&sandbox);
}

/// There is no thread of ours then.
#[test]
fn they_are_without_a_coordinator_too() {
    told_apart(&Sandbox::new());
}

fn told_apart(sandbox: &Sandbox) {
    for (what, arguments, class, reason) in [
        ("serves", SERVES, "inference", "short requests with idle time between them"),
        ("trains", TRAINS, "batch", "work on the GPU nearly all of the time"),
        ("never waits", NEVER_WAITS, "batch", "launches without end, and never waits for them"),
    ] {
        let running = start(sandbox, "", arguments);
        let pid = running.child.id();
        let (process, after) = wait_for(sandbox, pid, |process| process["class_suggested"] == class);
        println!("{what}: {class} after {after:?}");
        assert_eq!(process["class_reason"], reason);
        assert_eq!(process["class"], Value::Null, "nobody has asked for one");
        let page = aictl(sandbox, &["stats", &pid.to_string()]).stdout;
        assert!(page.contains(&format!("its behaviour suggests {class}: {reason}")), "{page}");
        assert_eq!(process["priority"], 20, "what is suggested is not applied unasked");
    }
}

#[test]
fn with_auto_it_is_applied_up_to_the_limit() {
    let sandbox = Sandbox::new();
    let settings = sandbox.directory().join("settings.toml");
    // SAFETY: geteuid(2) cannot fail.
    let uid = unsafe { libc::geteuid() };
    std::fs::write(&settings, format!("[[rule]]\nuser = {uid}\nhighest_priority = 70\n")).expect("settings");
    let _daemon = Daemon::start(&sandbox, &["--config", &settings.display().to_string()]);
    let (serves, trains) = (start(&sandbox, "auto", SERVES), start(&sandbox, "auto", TRAINS));
    let (process, after) = wait_for(&sandbox, serves.child.id(), |process| process["priority"] == 70);
    println!("applied after {after:?}");
    assert_eq!((&process["class"], &process["class_suggested"]), (&"auto".into(), &"inference".into()));
    wait_for(&sandbox, trains.child.id(), |process| process["priority"] == 5);
    // A number that is set goes before what is suggested from then on.
    let pid = trains.child.id().to_string();
    aictl(&sandbox, &["set", &pid, "--priority", "33", "--weight", "7"]).assert_success();
    let is_set = |process: &Value| (&process["priority"], &process["weight"]) == (&33.into(), &7.into());
    wait_for(&sandbox, trains.child.id(), is_set);
    std::thread::sleep(Duration::from_millis(600));
    assert!(is_set(&process_of(&sandbox, &trains)));
    aictl(&sandbox, &["set", &pid, "--class", "auto"]).assert_success();
    wait_for(&sandbox, trains.child.id(), |process| process["priority"] == 5);
    let outcome = aictl(&sandbox, &["set", &pid, "--class", "inference"]);
    assert!(outcome.code() == Some(1) && outcome.stderr.contains("70"), "{}", outcome.stderr);
    assert_eq!(aictl(&sandbox, &["set", &pid]).code(), Some(2), "nothing is to be set");
}

fn process_of(sandbox: &Sandbox, running: &Running) -> Value {
    process(sandbox, running.child.id()).expect("a process")
}

#[test]
fn rules_over_commands_give_a_class_to_those_that_wish_none() {
    let sandbox = Sandbox::new();
    let settings = sandbox.directory().join("settings.toml");
    let rules = "[[rule]]\ncommand = \"company*\"\nclass = \"batch\"\nweight = 50\n";
    std::fs::write(&settings, rules).expect("settings");
    let _daemon = Daemon::start(&sandbox, &["--config", &settings.display().to_string()]);
    let (silent, asks) = (start(&sandbox, "", SERVES), start(&sandbox, "normal", SERVES));
    let of = |class, priority| move |p: &Value| (&p["class"], &p["priority"]) == (&Value::from(class), &priority);
    let (process, _) = wait_for(&sandbox, silent.child.id(), of("batch", 5.into()));
    assert_eq!(process["weight"], 50);
    wait_for(&sandbox, asks.child.id(), of("normal", 20.into()));
    let pid = asks.child.id().to_string();
    aictl(&sandbox, &["set", &pid, "--weight", "50"]).assert_success();
}

/// Who waits, for whom, and how much of the time.
#[test]
fn a_process_that_is_held_back_is_shown_as_gated() {
    let sandbox = Sandbox::new();
    let _daemon = Daemon::start(&sandbox, &[]);
    let serves = start(&sandbox, "inference", ["20000000", "4", "1000"]);
    let waits = start(&sandbox, "batch", NEVER_WAITS);
    let by = Value::from(serves.child.id());
    let (process, _) = wait_for(&sandbox, waits.child.id(), |process| process["gated_by_pid"] == by);
    assert_eq!((&process["is_gated"], &process["priority"]), (&true.into(), &5.into()));
    wait_for(&sandbox, waits.child.id(), |process| {
        process["gated_share_per_mille"].as_u64().is_some_and(|share| share > 300)
    });
    let said = |pid: u32| aictl(&sandbox, &["stats", &pid.to_string()]).stdout;
    let begun = Instant::now();
    while !said(waits.child.id()).contains(&format!("gated by {}", serves.child.id())) {
        assert!(begun.elapsed() < LONG, "{}", said(waits.child.id()));
    }
}

#[test]
fn aictl_run_says_what_was_wished() {
    let sandbox = Sandbox::new();
    let coordinator = Coordinator::start(&sandbox.directory());
    let mut command: Command = sandbox.native(dist::file("aictl"));
    command.env("AISHIM_PRIORITY", "90").env("SIMCUDA_COSTS", "h200");
    command.args(["run", "--class", "batch", "--weight", "300", "--"]).arg(Program::new("company").build());
    let running = sandbox.start(command.args(SERVES));
    let begun = Instant::now();
    let hello = loop {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.child.id()));
        let child = children.ok().and_then(|pids| pids.split_whitespace().next()?.parse().ok());
        if let Some(hello) = child.and_then(|pid: u32| coordinator.hello(pid)) {
            break hello;
        }
        assert!(begun.elapsed() < LONG, "it says nothing");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!((hello.class, hello.priority), (Class::Batch, None::<Priority>), "not what the environment held");
    assert_eq!(hello.weight.map(Weight::number), Some(300));
    let environment = std::fs::read(format!("/proc/{}/environ", hello.pid)).expect("procfs");
    assert!(environment.split(|b| *b == 0).any(|line| line == b"CUDA_MPS_CLIENT_PRIORITY=1"));
}
