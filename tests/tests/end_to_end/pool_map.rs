//! The map of the pool, as `aictl pool` shows it of real programs: alive, ended, killed, forked.

use crate::aictl::aictl;
use aishim_abi::statistics::Statistic;
use aishim_tests::{Program, Sandbox};
use serde_json::Value;
use std::process::Command;

fn map_of(sandbox: &Sandbox, pid: u32) -> Value {
    let outcome = aictl(sandbox, &["pool", &pid.to_string(), "--json"]);
    outcome.assert_success();
    let document: Value = serde_json::from_str(&outcome.stdout).expect("a document");
    document["processes"][0]["map"].clone()
}

fn number(map: &Value, key: &str) -> u64 {
    map[key].as_u64().unwrap_or_else(|| panic!("{key} in {map}"))
}

/// Sizes in bytes of the allocated extents, and whether they are their process's.
fn allocated(map: &Value, pid: u32) -> Vec<u64> {
    let slabs = map["slabs"].as_array().expect("slabs").iter();
    let extents = slabs.flat_map(|slab| slab["extents"].as_array().expect("extents"));
    let held = extents.filter(|e| e["state"] == "allocated");
    held.map(|e| {
        assert!(e["owner_pid"] == pid && e["requested_bytes"] == e["bytes"] && e["age_ns"].is_u64(), "{e}");
        number(e, "bytes")
    })
    .collect()
}

fn slabs(sandbox: &Sandbox, steps: &[&str]) -> Command {
    let mut command = sandbox.shimmed(Program::new("slabs").build());
    command.args(steps);
    command
}

#[test]
fn a_living_program_is_seen_as_it_is() {
    let sandbox = Sandbox::new();
    let path = |name: &str| sandbox.path(name).display().to_string();
    let (first, second) = (path("1"), path("2"));
    let steps = ["take", "3", "say", "three", "wait", &first, "give", "say", "none", "wait", &second];
    // The first slab alone.
    let mut running = sandbox.start(slabs(&sandbox, &steps).env("AISHIM_POOL_MIB", "4"));
    let pid = running.child.id();
    running.wait_for("three");
    let map = map_of(&sandbox, pid);
    assert_eq!(allocated(&map, pid), [1 << 20; 3]);
    assert_eq!(number(&map, "total_blocks"), 1024);
    let lines = aictl(&sandbox, &["pool", &pid.to_string(), "--blocks"]);
    assert_eq!(lines.stdout.matches(&format!("[ALLOCATED: PID {pid}]\n")).count(), 3, "{}", lines.stdout);
    assert!(lines.stdout.ends_with("[FREE]\n"));
    let page = aictl(&sandbox, &["pool"]);
    page.assert_success();
    assert!(page.stdout.starts_with("SIMULATED GPU\n") && page.stdout.contains("\n  ###"), "{}", page.stdout);
    std::fs::write(sandbox.path("1"), "").expect("a file");
    running.wait_for("none");
    let map = map_of(&sandbox, pid);
    assert_eq!((number(&map, "allocated_blocks"), allocated(&map, pid).len()), (0, 0));
    std::fs::write(sandbox.path("2"), "").expect("a file");
    running.wait().assert_success();
}

#[test]
fn what_a_killed_program_held_is_seen_afterwards() {
    let sandbox = Sandbox::new();
    let never = sandbox.path("never").display().to_string();
    let mut running = sandbox.start(&mut slabs(&sandbox, &["take", "3", "say", "three", "wait", &never]));
    let pid = running.child.id();
    running.wait_for("three");
    running.child.kill().expect("a child to kill");
    assert_eq!(running.wait().signal(), Some(9));
    assert_eq!(allocated(&map_of(&sandbox, pid), pid), [1 << 20; 3]);
    assert!(aictl(&sandbox, &["pool"]).stdout.contains("ended"), "it is shown as ended");
}

#[test]
fn blocks_of_a_busy_gpu_wait_and_come_back() {
    let sandbox = Sandbox::new();
    let stop = sandbox.path("stop").display().to_string();
    let mut command = slabs(&sandbox, &["take", "1", "hold", "give", "say", "given", "wait", &stop]);
    let mut running = sandbox.start(&mut command);
    let pid = running.child.id();
    running.wait_for("given");
    assert_eq!(number(&map_of(&sandbox, pid), "waiting_for_gpu_blocks"), 256);
    std::fs::write(sandbox.path("stop"), "").expect("a file");
    running.wait().assert_success();
}

/// The child of a process that uses the GPU has the parent's mapping for a moment; what it does is not the parent's.
#[test]
fn a_forked_child_writes_nothing_into_its_parents_map() {
    let sandbox = Sandbox::new();
    let stop = sandbox.path("stop").display().to_string();
    let steps = ["take", "2", "fork", "say", "forked", "wait", &stop, "give"];
    let mut running = sandbox.start(&mut slabs(&sandbox, &steps));
    let pid = running.child.id();
    running.wait_for("forked");
    assert_eq!(allocated(&map_of(&sandbox, pid), pid), [1 << 20; 2]);
    std::fs::write(sandbox.path("stop"), "").expect("a file");
    running.wait().assert_success();
    assert_eq!(sandbox.segments().len(), 1);
}

/// A pool belongs to a context; the next one's is shown in the same file.
#[test]
fn the_next_contexts_pool_is_shown_in_the_place_of_the_last() {
    let sandbox = Sandbox::new();
    let stop = sandbox.path("stop").display().to_string();
    let steps = ["take", "4", "leave", "take", "1", "say", "one", "wait", &stop];
    let mut running = sandbox.start(&mut slabs(&sandbox, &steps));
    let pid = running.child.id();
    running.wait_for("one");
    assert_eq!(allocated(&map_of(&sandbox, pid), pid), [1 << 20]);
    let maps = sandbox.files().into_iter().filter(|name| name.ends_with(".pool")).count();
    assert_eq!(maps, 1);
    std::fs::write(sandbox.path("stop"), "").expect("a file");
    running.wait().assert_success();
}

#[test]
fn a_program_that_pins_nothing_has_no_map() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&mut slabs(&sandbox, &[])).assert_success();
    assert!(sandbox.files().iter().all(|name| !name.ends_with(".pool")));
}

/// Where there is room for the segment and none for the map, the program runs unseen in that.
#[test]
fn a_map_that_cannot_be_made_is_done_without() {
    let sandbox = Sandbox::new();
    let program = slabs(&sandbox, &["take", "3", "give"]);
    let mut limited = Command::new("sh");
    // Blocks of 512 bytes: more than a segment of 448 KiB, less than a map of 520 KiB.
    limited.args(["-c", "ulimit -f 1000; exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let outcome = sandbox.run(&mut limited);
    outcome.assert_success();
    let segment = sandbox.segment(outcome.pid);
    assert_eq!(segment.statistic(Statistic::PoolHits), 3);
    assert!(sandbox.files().iter().all(|name| !name.ends_with(".pool")));
}
