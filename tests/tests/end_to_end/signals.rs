//! Timers that interrupt everything, and whose threads the program's signals reach.

use aishim_tests::{Program, Sandbox};

fn storm(interval_us: &str) {
    let program = Program::new("signals").build();
    let sandbox = Sandbox::new();
    for _ in 0..5 {
        let outcome = sandbox
            .succeed(sandbox.shimmed(&program).arg(interval_us).env("SIMCUDA_COSTS", "h200").env("SIMCUDA_SPEED", "5"));
        let said = "signals taken by others: 0, handled elsewhere: 0\n";
        assert_eq!(outcome.stdout, said);
        assert!(sandbox.segment(outcome.pid).calls("cuLaunchKernel") >= 3000);
    }
}

#[test]
fn a_thousand_timer_signals_a_second() {
    storm("1000");
}

/// So many that allocating the segment's file is interrupted as a rule.
#[test]
fn ten_thousand_timer_signals_a_second() {
    storm("100");
}
