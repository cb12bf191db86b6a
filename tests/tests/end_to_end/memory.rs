//! The books of device memory, exact to the byte.

use aishim_abi::statistics::Statistic;
use aishim_tests::{Program, Sandbox, Via};

fn books(argument: &str) {
    for via in [Via::Link, Via::Proc(0), Via::Proc(2)] {
        let program = Program::new("memory").via(via).build();
        let sandbox = Sandbox::new();
        let outcome = sandbox.succeed(sandbox.shimmed(&program).arg(argument));
        let segment = sandbox.segment(outcome.pid);
        let ours = [Statistic::DeviceBytes, Statistic::DevicePeakBytes, Statistic::ManagedBytes]
            .map(|s| segment.statistic(s).to_string())
            .join(" ");
        assert_eq!(ours, outcome.stdout.trim(), "device, its peak, managed");
    }
}

#[test]
fn every_kind_in_every_order() {
    books("to the end");
}

#[test]
fn a_reset_gives_everything_back() {
    books("reset");
}
