//! Many processes at once: each leaves one file, and what ended long ago is swept away by the next that starts.

use aishim_tests::{Program, Sandbox, dist};
use std::fs::File;
use std::time::{Duration, SystemTime};

const PROCESSES: usize = 20;

#[test]
fn twenty_that_begin_and_end_together() {
    let program = Program::new("forms").build();
    let sandbox = Sandbox::new();
    let start = |_| sandbox.start(sandbox.shimmed(&program).args(["1", "10"]));
    let running: Vec<_> = (0..PROCESSES).map(start).collect();
    let outcomes: Vec<_> = running.into_iter().map(aishim_tests::sandbox::Running::wait).collect();
    for outcome in &outcomes {
        outcome.assert_success();
        assert_eq!(outcome.stdout, "right\n");
        assert_eq!(sandbox.segment(outcome.pid).calls("cuLaunchKernelEx"), 10);
    }
    assert_eq!(sandbox.files().len(), PROCESSES);

    let stats = sandbox.succeed(sandbox.native(dist::aictl()).args(["stats", "--json"]));
    let document: serde_json::Value = serde_json::from_str(&stats.stdout).expect("a JSON document");
    let processes = document["processes"].as_array().expect("an array");
    assert_eq!(processes.len(), PROCESSES);
    for process in processes {
        assert_eq!(process["state"], "ended");
        assert_eq!(process["launches"], 40 + 3);
    }
    swept_after_ten_minutes(&sandbox, &program);
}

fn swept_after_ten_minutes(sandbox: &Sandbox, program: &std::path::Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(601);
    for (number, segment) in sandbox.segments().iter().enumerate() {
        if number % 2 == 0 {
            let file = File::options().write(true).open(&segment.path).expect("a segment's file");
            file.set_modified(long_ago).expect("another time");
        }
    }
    let last = sandbox.succeed(&mut sandbox.shimmed(program));
    assert_eq!(sandbox.files().len(), PROCESSES / 2 + 1);
    assert!(sandbox.segment(last.pid).is_ended());
}

/// Some are killed while they make their segment or work; none of that keeps anybody else from anything.
#[test]
fn some_that_are_killed_at_any_moment() {
    let program = Program::new("forms").build();
    let sandbox = Sandbox::new();
    for round in 0..10_u64 {
        let mut running: Vec<_> = (0..4).map(|_| sandbox.start(sandbox.shimmed(&program).args(["2", "200"]))).collect();
        std::thread::sleep(Duration::from_millis(4 * round));
        let mut survivor = running.pop().expect("one of four");
        for one in &mut running {
            one.child.kill().expect("our own child");
        }
        running.into_iter().for_each(|one| drop(one.wait()));
        survivor.wait_for("right");
        survivor.wait().assert_success();
    }
    assert!(sandbox.segments().iter().all(aishim_tests::sandbox::Segment::is_ended));
}
