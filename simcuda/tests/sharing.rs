//! Several processes on one simulated GPU: what they share, and what is left of one that dies.

mod common;

use common::{Driver, ROLE, call, child, installed, wait_for_line};
use std::ffi::{c_int, c_uint, c_void};
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

const GIB: usize = 1 << 30;
const MS: u64 = 1_000_000;

/// What a child process does; not a test in itself.
#[test]
fn part() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    match role.as_str() {
        "holds memory" => {
            let driver = Driver::with_context();
            driver.allocate(2 * GIB).expect("there is room");
            say_and_wait("ready");
        }
        "tells free memory" => {
            let driver = Driver::with_context();
            println!("free {}", driver.free_bytes());
        }
        "works for long" => {
            let driver = Driver::with_context();
            assert_eq!(driver.spin(driver.kernel(c"spin"), 3_600_000 * MS), 0);
            say_and_wait("ready");
        }
        "leaves work behind" => {
            let driver = Driver::with_context();
            assert_eq!(driver.spin(driver.kernel(c"spin"), 3_600_000 * MS), 0);
        }
        "works shortly" => {
            let driver = Driver::with_context();
            let spin = driver.kernel(c"spin");
            say_and_wait("ready");
            let start = Instant::now();
            (0..120).for_each(|_| assert_eq!(driver.spin(spin, 5 * MS), 0));
            assert_eq!(driver.synchronize(), 0);
            println!("took {}", start.elapsed().as_millis());
        }
        "computes" => computes(),
        "meets faults" => meets_faults(),
        "reads pageable memory" => reads_pageable_memory(),
        other => panic!("no such role: {other}"),
    }
}

fn say_and_wait(text: &str) {
    println!("{text}");
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn computes() {
    let driver = Driver::with_context();
    let reduce = driver.kernel(c"reduce_sum");
    let (mut x, mut out) = (driver.allocate(4000).expect("room"), driver.allocate(4).expect("room"));
    let (values, mut sum): (Vec<f32>, f32) = ((1..=1000u16).map(f32::from).collect(), 0.0);
    let copied = call!(driver, cuMemcpyHtoD_v2(x => u64, values.as_ptr() => *const f32, 4000 => usize));
    let cleared = call!(driver, cuMemsetD8_v2(out => u64, 0 => u8, 4 => usize));
    let mut count: c_int = 1000;
    let parameters = &mut [(&raw mut x).cast(), (&raw mut out).cast(), (&raw mut count).cast()];
    let launched = driver.launch(reduce, 32, parameters);
    let fetched = call!(driver, cuMemcpyDtoH_v2(&raw mut sum => *mut f32, out => u64, 4 => usize));
    assert_eq!([copied, cleared, launched, fetched], [0; 4]);
    println!("sum {sum}");
}

fn meets_faults() {
    let driver = Driver::with_context();
    let mut pointer: *mut c_void = std::ptr::null_mut();
    let mut results = Vec::new();
    for _ in 0..4 {
        results.push(call!(driver, cuMemHostAlloc(&raw mut pointer => *mut *mut c_void, 64 => usize, 0 => c_uint)));
    }
    println!("results {results:?}");
}

fn reads_pageable_memory() {
    let driver = Driver::with_context();
    let bytes = 16 << 20;
    let address = driver.allocate(bytes).expect("room");
    let mut source: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
    let expected = source.clone();
    let null: *mut c_void = std::ptr::null_mut();
    let copied = call!(driver, cuMemcpyHtoDAsync_v2(
        address => u64, source.as_ptr() => *const u8, bytes => usize, null => *mut c_void));
    source.fill(0);
    let fetched = call!(driver, cuMemcpyDtoH_v2(source.as_mut_ptr() => *mut u8, address => u64, bytes => usize));
    println!("copied {copied} {fetched} {}", source == expected);
}

fn start(folder: &Path, role: &str) -> Child {
    child(folder, "part", role).spawn().expect("the test can start itself")
}

fn answer(folder: &Path, role: &str, text: &str) -> String {
    let mut process = start(folder, role);
    let line = wait_for_line(&mut process, text);
    let _ = process.wait();
    line
}

fn free_bytes(folder: &Path) -> usize {
    let line = answer(folder, "tells free memory", "free ");
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

fn nvml(folder: &Path) -> nvml_wrapper::Nvml {
    installed(folder);
    let library = folder.join("libnvidia-ml.so.1");
    nvml_wrapper::Nvml::builder().lib_path(library.as_os_str()).init().expect("NVML starts")
}

#[test]
fn memory_of_a_killed_process_is_free_again() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut holder = start(folder.path(), "holds memory");
    wait_for_line(&mut holder, "ready");
    let during = free_bytes(folder.path());
    holder.kill().expect("it runs");
    holder.wait().expect("it ends");
    let after = free_bytes(folder.path());
    assert!(after >= during + 2 * GIB, "{during} then {after}");
}

#[test]
fn a_process_killed_at_work_leaves_the_engine_free() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut worker = start(folder.path(), "works for long");
    wait_for_line(&mut worker, "ready");
    let mut other = start(folder.path(), "works shortly");
    wait_for_line(&mut other, "ready");
    worker.kill().expect("it runs");
    let _ = other.stdin.take().map(|mut input| input.write_all(b"\n"));
    wait_for_line(&mut other, "took");
    assert!(other.wait().expect("it ends").success());
    let _ = worker.wait();
}

#[test]
fn two_processes_share_the_engine() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut both = [start(folder.path(), "works shortly"), start(folder.path(), "works shortly")];
    both.iter_mut().for_each(|process| drop(wait_for_line(process, "ready")));
    let began = Instant::now();
    for process in &mut both {
        let _ = process.stdin.take().map(|mut input| input.write_all(b"\n"));
    }
    let times = both.each_mut().map(|process| wait_for_line(process, "took"));
    // Each works for 600 ms; whoever ends last has waited for the other.
    assert!(began.elapsed() >= Duration::from_millis(1190), "{times:?}");
    let milliseconds = times.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number"));
    assert!(milliseconds.iter().all(|ms| *ms >= 700), "in turns, not one after the other: {milliseconds:?}");
    both.iter_mut().for_each(|process| assert!(process.wait().expect("it ends").success()));
}

#[test]
fn a_process_with_work_in_flight_ends() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let began = Instant::now();
    let mut process = start(folder.path(), "leaves work behind");
    assert!(process.wait().expect("it ends").success());
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn kernels_compute_and_pageable_sources_are_copied_whole() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    assert!(answer(folder.path(), "computes", "sum ").ends_with("sum 500500"));
    assert!(answer(folder.path(), "reads pageable memory", "copied ").ends_with("copied 0 0 true"));
}

#[test]
fn faults_are_injected() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut command = child(folder.path(), "part", "meets faults");
    let mut process = command.env("SIMCUDA_FAIL", "cuMemHostAlloc:2:after=1:times=2").spawn().expect("it starts");
    assert!(wait_for_line(&mut process, "results ").contains("[0, 2, 2, 0]"));
    let _ = process.wait();
}

#[test]
fn nvml_shows_the_processes_and_the_device() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    // SAFETY: no other test of this file reads the environment through the library in this process.
    unsafe { std::env::set_var("SIMCUDA_DIR", folder.path()) };
    let nvml = nvml(folder.path());
    let device = nvml.device_by_index(0).expect("there is one device");
    assert_eq!((nvml.device_count().ok(), device.name().ok()), (Some(1), Some("aishim simulated GPU".to_owned())));
    assert!(nvml.sys_driver_version().expect("a version").contains("simulated"));
    let uuid = device.uuid().expect("a UUID");
    assert!(uuid.starts_with("GPU-") && nvml.device_by_uuid(uuid.as_str()).is_ok(), "{uuid}");

    let mut holder = start(folder.path(), "holds memory");
    wait_for_line(&mut holder, "ready");
    let processes = device.running_compute_processes().expect("a list");
    let entry = processes.iter().find(|process| process.pid == holder.id()).expect("the child is listed");
    assert!(
        matches!(entry.used_gpu_memory, nvml_wrapper::enums::device::UsedGpuMemory::Used(bytes) if bytes >= 2 << 30)
    );
    let memory = device.memory_info().expect("memory");
    assert!(memory.used >= 2 << 30 && memory.used + memory.free == memory.total);
    assert!(device.utilization_rates().is_ok() && device.power_usage().is_ok());
    holder.kill().expect("it runs");
    let _ = holder.wait();
    assert!(device.running_compute_processes().expect("a list").iter().all(|process| process.pid != holder.id()));
}
