//! The command beside the library: running a program under it, and looking at what it did.

use aishim_abi::statistics::Statistic;
use aishim_tests::{Outcome, Program, Sandbox, dist};
use serde_json::Value;

pub(crate) fn aictl(sandbox: &Sandbox, arguments: &[&str]) -> Outcome {
    sandbox.run(sandbox.native(dist::aictl()).args(arguments))
}

fn stats(sandbox: &Sandbox, pid: u64) -> Value {
    let outcome = aictl(sandbox, &["stats", &pid.to_string(), "--json"]);
    outcome.assert_success();
    let mut document: Value = serde_json::from_str(&outcome.stdout).expect("a JSON document");
    document["processes"][0].take()
}

fn only_pid(sandbox: &Sandbox) -> u64 {
    let segments = sandbox.segments();
    assert_eq!(segments.len(), 1);
    segments[0].copy.pid().into()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn runs_the_example_and_tells_of_it() {
    let sandbox = Sandbox::new();
    let example = dist::file("examples/vector_add").display().to_string();
    let mut command = sandbox.native(dist::aictl());
    command.args(["run", "--", &example, "--requests", "40", "--elements", "65536"]);
    let outcome = sandbox.succeed(command.env("SIMCUDA_COSTS", "h200"));
    assert!(outcome.stdout.contains("result ok"), "{}", outcome.stdout);

    let process = stats(&sandbox, only_pid(&sandbox));
    assert_eq!(process["state"], "ended");
    assert_eq!(process["launches"], 40);
    assert_eq!(process["calls"]["cuLaunchKernel"], 40);
    assert!(number(&process["pool"]["hits"]) > 0.0);
    assert!(number(&process["launch_p50_ns"]) <= number(&process["launch_p99_ns"]));
    assert!(number(&process["request_p50_ns"]) > 0.0);
    assert_eq!((&process["pinned_bytes"], &process["device_bytes"]), (&0.into(), &0.into()));

    let table = aictl(&sandbox, &["stats"]);
    table.assert_success();
    assert!(table.stdout.contains("SIMULATED GPU") && table.stdout.contains("vector_add"), "{}", table.stdout);
}

/// Kernels of a known duration, waited for one by one or many at once.
#[test]
fn gpu_time_is_what_was_used() {
    let program = Program::new("gpu_time").build();
    for every in ["1", "50"] {
        let sandbox = Sandbox::new();
        let outcome = sandbox.succeed(sandbox.shimmed(&program).args(["400", "1000000", every]));
        let process = stats(&sandbox, outcome.pid.into());
        let ratio = number(&process["gpu_time_ns"]) / 400e6;
        // A busy machine of two cores disturbs the host's side of it; the exact figure is a matter for a real GPU.
        assert!((0.7..1.3).contains(&ratio), "{ratio} of the time used, waiting every {every}");
        let requests = number(&process["histograms"]["request"]["count"]);
        assert!((requests - 400.0 / every.parse::<f64>().expect("a number")).abs() < 1.5, "{requests} requests");
    }
}

/// The same for several kernels on a stream that is idle before each launch, which sampling keeps busy for the moment.
#[test]
fn gpu_time_on_an_idle_stream() {
    let program = Program::new("idle_stream").build();
    let sandbox = Sandbox::new();
    let outcome = sandbox.succeed(sandbox.shimmed(&program).env("SIMCUDA_COSTS", "h200").arg("200"));
    let process = stats(&sandbox, outcome.pid.into());
    let samples = sandbox.segment(outcome.pid).statistic(Statistic::GpuSamples);
    let ratio = number(&process["gpu_time_ns"]) / (200.0 * 1400e3);
    // As above, and a pair whose launch came late on a busy machine shows that.
    assert!(samples > 0 && (0.6..2.0).contains(&ratio), "{ratio} of the time used, from {samples} samples");
}

#[test]
fn passes_the_end_of_a_program_on() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("");
    let cases: [(&[&str], i32); 6] = [
        (&["run", "--", "sh", "-c", "exit 7"], 7),
        (&["run", "--", "sh", "-c", "kill -9 $$"], 137),
        (&["run", "--", "sh", "-c", "kill -15 $$"], 143),
        (&["run", "--", "/no/such/program"], 127),
        (&["run", "--", &folder.display().to_string()], 126),
        (&["run"], 2),
    ];
    for (arguments, code) in cases {
        let outcome = aictl(&sandbox, arguments);
        assert_eq!(outcome.code(), Some(code), "{arguments:?}: {}", outcome.stderr);
    }
}

#[test]
fn names_cause_and_cure() {
    let sandbox = Sandbox::new();
    let missing =
        sandbox.run(sandbox.native(dist::aictl()).args(["run", "--", "true"]).env("AISHIM_LIB", "/no/such.so"));
    assert_eq!(missing.code(), Some(1));
    assert!(missing.stderr.contains("/no/such.so"), "{}", missing.stderr);
    let nobody = aictl(&sandbox, &["stats", "4194303"]);
    assert_eq!(nobody.code(), Some(4));
    assert!(nobody.stderr.contains("4194303"), "{}", nobody.stderr);
    let stranger = aictl(&sandbox, &["stats", &std::process::id().to_string()]);
    assert_eq!(stranger.code(), Some(4), "{}", stranger.stderr);
    assert_eq!(aictl(&sandbox, &["stats", "--no-such-option"]).code(), Some(2));
}

#[test]
fn doctor_knows_a_process_under_the_library() {
    let sandbox = Sandbox::new();
    let program = Program::new("fork").build();
    let mut running = sandbox.start(sandbox.shimmed(&program).arg("wait"));
    running.wait_for("waiting");
    let outcome = aictl(&sandbox, &["doctor", &running.child.id().to_string()]);
    let stats = stats(&sandbox, running.child.id().into());
    running.child.kill().expect("our own child");
    assert_eq!(running.wait().signal(), Some(9));
    assert_eq!(outcome.code(), Some(0), "{}{}", outcome.stdout, outcome.stderr);
    assert!(!outcome.stdout.contains("FAIL"), "{}", outcome.stdout);
    assert_eq!(stats["state"], "idle");
}
