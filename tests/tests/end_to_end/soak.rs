//! What takes long: everything at once, at random, in many processes, some of which are killed.

use aishim_tests::{Program, Sandbox};
use std::time::{Duration, Instant};

/// `AISHIM_SOAK_SECONDS`, two minutes by default.
fn soak_time() -> Duration {
    let asked = std::env::var("AISHIM_SOAK_SECONDS").ok();
    Duration::from_secs(asked.and_then(|s| s.parse().ok()).unwrap_or(120))
}

fn own_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[test]
#[ignore = "takes long: make soak"]
fn everything_at_random() {
    let program = Program::new("soak").build();
    let sandbox = Sandbox::new();
    let begun = Instant::now();
    let (mut seed, mut started) = (1, 0);
    let descriptors = own_descriptors();
    while begun.elapsed() < soak_time() {
        let mut running: Vec<_> = (0..4)
            .map(|i| {
                let arguments = [(seed * 100 + i).to_string(), (1 + seed % 5).to_string()];
                sandbox.start(sandbox.shimmed(&program).args(arguments))
            })
            .collect();
        started += running.len();
        std::thread::sleep(Duration::from_millis(seed * 397 % 2000));
        let mut killed = running.pop().expect("one of four");
        killed.child.kill().expect("our own child");
        drop(killed.wait());
        for one in running {
            let outcome = one.wait();
            outcome.assert_success();
            assert!(sandbox.segment(outcome.pid).calls("cuLaunchKernel") > 0);
        }
        seed += 1;
        // The one that was killed may have been killed before it had a segment, or while it made one.
        let files = sandbox.files();
        assert!(files.len() <= started, "{files:?}");
        assert!(sandbox.segments().iter().all(aishim_tests::sandbox::Segment::is_ended));
    }
    assert!(own_descriptors() <= descriptors + 1);
    println!("{started} processes");
}
