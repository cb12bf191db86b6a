//! Programs that close descriptors, standard ones too, and one whose descriptor 2 is a file of data.

use aishim_tests::{Program, Sandbox};
use std::os::unix::process::CommandExt;
use std::process::Command;

fn closes(when: &str, prepare: impl Fn(&mut Command)) {
    let program = Program::new("descriptors").build();
    let sandbox = Sandbox::new();
    let file = sandbox.path("report");
    let run = |mut command: Command| {
        command.arg(when).arg(&file);
        prepare(&mut command);
        let outcome = sandbox.run(&mut command);
        let report = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(&file);
        (outcome, report)
    };
    let (native, native_report) = run(sandbox.native(&program));
    let (shimmed, report) = run(sandbox.shimmed(&program));
    assert_eq!(native.code(), Some(5));
    shimmed.assert_same(&native);
    assert_eq!(report, native_report, "{when}");
    assert_eq!(sandbox.segment(shimmed.pid).calls("cuLaunchKernel"), 50);
}

#[test]
fn all_but_the_standard_ones_after_the_context() {
    closes("late", |_| ());
}

#[test]
fn all_but_the_standard_ones_before_the_context() {
    closes("early", |_| ());
}

#[test]
fn the_standard_ones_after_the_context() {
    closes("streams", |_| ());
}

#[test]
fn the_standard_ones_before_the_context() {
    closes("streams early", |_| ());
}

#[test]
fn a_program_started_without_standard_streams() {
    closes("none", |command| {
        // SAFETY: close(2) is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                (0..3).for_each(|stream| {
                    libc::close(stream);
                });
                Ok(())
            });
        }
    });
}

#[test]
fn no_word_of_ours_lands_in_a_file_that_became_descriptor_2() {
    let program = Program::new("descriptors").build();
    let sandbox = Sandbox::new();
    let data = sandbox.path("data");
    let mut command = sandbox.shimmed(&program);
    command.arg("data").arg(sandbox.path("report")).arg(&data);
    // Something to say: neither of the two can be obeyed.
    command.env("AISHIM_POOL_MIB", "lots").env("AISHIM_NONSENSE", "1");
    let outcome = sandbox.run(&mut command);
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (Some(5), ""));
    assert_eq!(std::fs::read_to_string(data).expect("the data"), "data");
}
