//! Snapshots of directories with living, dead and damaged segments in them.

#[path = "../../abi/tests/sample/mod.rs"]
mod sample;

use aishim_abi::layout::{HookKind, HookState, PassThrough};
use aishim_abi::reader::Which;
use aishim_abi::statistics::Statistic;
use aishim_observe::skipped::Reason;
use aishim_observe::{Options, Snapshot, State};
use sample::Sample;
use sample::pool::PoolSample;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

fn take(directory: &Path) -> Snapshot {
    Snapshot::take(&Options { directory: directory.to_owned(), everybody: false, nvml: None, pools: true })
}

#[test]
fn living_and_ended_processes_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let _running = Sample::new(30, 3).statistic(Statistic::OpenRequests, 1).alive(at);
    let _idle = Sample::new(20, 2).alive(at);
    Sample::new(10, 1).statistic(Statistic::OpenRequests, 1).dead(at);
    let before = SystemTime::now() - Duration::from_secs(1);
    let snapshot = take(at);
    let seen: Vec<_> = snapshot.processes.iter().map(|p| (p.pid, p.state)).collect();
    assert_eq!(seen, [(20, State::Idle), (30, State::Running), (10, State::Ended)]);
    assert!(snapshot.processes[2].ended.unwrap() > before);
    assert_eq!(snapshot.processes[2].file, at.join("10-1.ended"));
    assert_eq!(snapshot.directories, [at]);
    assert!(snapshot.skipped.is_empty() && snapshot.not_under_aishim.is_empty());
    let again = take(at);
    assert_eq!(again.processes[2].state, State::Ended);
}

#[test]
fn a_process_has_what_its_segment_says() {
    let directory = tempfile::tempdir().unwrap();
    let _alive = Sample::new(5, 50)
        .priority(80)
        .command("python serve.py")
        .device(*b"\x01\x23\x45\x67\x89\xab\xcd\xef\x00\x11\x22\x33\x44\x55\x66\x77")
        .unknown("cuNew")
        .hook("cuLaunchKernel", HookKind::Launch, HookState::HandedOut, 10, 2)
        .hook("cuGraphLaunch", HookKind::Launch, HookState::HandedOut, 5, 0)
        .hook("cuMemFree_v2", HookKind::DeviceMemory, HookState::Absent, 0, 0)
        .statistic(Statistic::PassThrough, 2)
        .statistic(Statistic::GpuTime, 9)
        .record(Which::Launch, 3_000, 14)
        .record(Which::Launch, 5_000_000, 1)
        .alive(directory.path());
    let snapshot = take(directory.path());
    let process = &snapshot.processes[0];
    assert_eq!((process.priority, process.launches), (80, 15));
    assert_eq!(process.command, "python serve.py");
    assert_eq!(process.uid, rustix::process::geteuid().as_raw());
    assert_eq!(process.devices, ["GPU-01234567-89ab-cdef-0011-223344556677"]);
    assert_eq!(process.unknown_names, ["cuNew"]);
    assert_eq!(process.pass_through(), PassThrough::Fork);
    assert_eq!(process.gpu_time_ns(), None, "nothing was measured");
    assert_eq!(process.launch.count, 15);
    let figures = process.launch.figures.unwrap();
    assert_eq!(figures.max_ns, 5_000_000);
    assert!((2_990..=3_030).contains(&figures.p50_ns), "{figures:?}");
    assert!(process.gpu.figures.is_none() && process.request.figures.is_none());
    assert!(!process.hooks[2].present);
}

#[test]
fn what_is_no_segment_is_skipped_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let _alive = Sample::new(1, 1).alive(at);
    let _newer = Sample::new(2, 2).version(7).alive(at);
    std::fs::write(at.join("3-3.seg"), &Sample::new(3, 3).bytes[..5000]).unwrap();
    std::fs::write(at.join("4-4.ended"), "something else altogether").unwrap();
    std::fs::write(at.join("5-5.seg"), "").unwrap();
    let _mad = Sample::new(6, 6).priority(1000).alive(at);
    std::fs::create_dir(at.join("7-7.seg")).unwrap();
    std::fs::write(at.join("notes.txt"), "not ours at all").unwrap();
    let snapshot = take(at);
    assert_eq!(snapshot.processes.len(), 1);
    let reason = |pid| snapshot.skipped.iter().find(|s| s.is_of(pid)).unwrap().reason;
    assert_eq!(reason(2), Reason::OtherVersion);
    assert_eq!(reason(3), Reason::Truncated);
    assert_eq!(reason(4), Reason::NotASegment);
    assert_eq!(reason(5), Reason::Truncated);
    assert_eq!(reason(6), Reason::Corrupt);
    assert_eq!(reason(7), Reason::Unreadable);
    assert_eq!(snapshot.skipped.len(), 6);
}

#[test]
fn without_a_directory_or_nvml_there_is_an_answer_all_the_same() {
    let snapshot = Snapshot::take(&Options {
        directory: PathBuf::from("/nowhere/at/all"),
        everybody: false,
        nvml: Some(PathBuf::from("libno-such-nvml.so.1")),
        pools: false,
    });
    assert!(snapshot.processes.is_empty() && snapshot.directories.is_empty());
    assert!(snapshot.board.unwrap_err().contains("cannot be loaded"));
}

#[test]
fn a_pools_map_is_read_with_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let _with = Sample::new(1, 1).alive(at);
    let mut map = PoolSample::new(1, 1, 200).slab(0, 0x10_0000, 1, 100);
    let age = |process: &aishim_observe::Process| {
        process.pool_map.as_ref().unwrap().as_ref().unwrap().age(Duration::from_secs(2))
    };
    let monotonic: u64 = std::fs::read_to_string("/proc/uptime").unwrap().split('.').next().unwrap().parse().unwrap();
    // created_monotonic_ns; the uptime counts suspended time too, so it is at most that long ago.
    map.u64(56, monotonic.saturating_sub(100) * 1_000_000_000);
    map.file(at);
    let _without = Sample::new(2, 2).alive(at);
    let _damaged = Sample::new(3, 3).alive(at);
    PoolSample::new(3, 3, 200).slab(0, 0x10_0000, 0, 100).file(at);
    // Of an earlier life of the same process.
    let _other = Sample::new(4, 4).alive(at);
    let mut earlier = PoolSample::new(4, 4, 200);
    earlier.u64(24, 1);
    earlier.file(at);
    // Ended 1000 s after the map was made.
    Sample::new(5, 5).ended_unix_ns(unix_ns_ago(60)).dead(at);
    let mut ended = PoolSample::new(5, 5, 200).slab(0, 0x10_0000, 1, 100);
    ended.u64(48, unix_ns_ago(1060));
    ended.file(at);
    let snapshot = take(at);
    let processes = &snapshot.processes;
    assert_eq!(processes[0].pool_map.as_ref().unwrap().as_ref().unwrap().totals.free_blocks, 100);
    assert!(age(&processes[0]) <= Duration::from_secs(3600), "{:?}", age(&processes[0]));
    assert!(processes[1].pool_map.is_none());
    assert_eq!(processes[2].pool_map.as_ref().unwrap().as_ref().unwrap_err().reason, Reason::Corrupt);
    assert!(processes[3].pool_map.is_none());
    assert_eq!(age(&processes[4]).as_secs(), 998);
}

fn unix_ns_ago(seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    (now.as_secs() - seconds) * 1_000_000_000
}

#[test]
fn what_ended_long_ago_is_only_counted() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    Sample::new(1, 1).ended_unix_ns(1_600_000_000_000_000_000).dead(at);
    Sample::new(2, 2).dead(at);
    let snapshot = take(at);
    assert_eq!((snapshot.processes.len(), snapshot.expired), (1, 1));
    assert_eq!(snapshot.processes[0].pid, 2);
}

/// No measurement, but a guard against a mistake that makes it a hundred times slower.
#[test]
fn many_processes_are_read_in_a_moment() {
    let directory = tempfile::tempdir().unwrap();
    let sample = |n: u32| Sample::new(n, 1).record(Which::Launch, u64::from(n) * 100, 1000);
    let _alive: Vec<_> = (1..=64).map(|n| sample(n).alive(directory.path())).collect();
    let start = Instant::now();
    assert_eq!(take(directory.path()).processes.len(), 64);
    let took = start.elapsed();
    println!("64 segments in {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
