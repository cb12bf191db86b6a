//! Processes that make no context pay nothing but the load: no thread, no file, no word.

use aishim_tests::{Program, Sandbox, Via};

fn assert_untouched(sandbox: &Sandbox) {
    assert_eq!(sandbox.files(), Vec::<String>::new(), "in the runtime directory");
}

fn same_as_without(argument: &str, via: Via) {
    let program = Program::new("quiet").via(via).build();
    let sandbox = Sandbox::new();
    let native = sandbox.run(sandbox.native(&program).arg(argument));
    let shimmed = sandbox.run(sandbox.shimmed(&program).arg(argument));
    assert_eq!(native.code(), Some(7));
    shimmed.assert_same(&native);
    assert_untouched(&sandbox);
}

#[test]
fn a_program_without_cuda() {
    same_as_without("nothing", Via::Dlsym);
}

#[test]
fn a_program_that_only_counts_devices() {
    for via in [Via::Link, Via::Dlsym, Via::Proc(0)] {
        same_as_without("count", via);
    }
}

#[test]
fn a_shell_script_with_hundreds_of_children() {
    const SCRIPT: &str = r#"
        i=0
        while [ $i -lt 150 ]; do
            env | grep -c '^AISHIM_DIR=' >/dev/null || echo "env is wrong"
            (exit $i); echo "$i gave $?"
            i=$((i + 1))
        done
        sh -c 'kill -9 $$'; echo "killed: $?"
        grep nothing /dev/null; echo "grep: $?"
        /no/such/program 2>/dev/null; echo "missing: $?"
        printf 'b\na\n' | sort | tr '\n' ' '
        exit 42
    "#;
    let sandbox = Sandbox::new();
    let native = sandbox.run(sandbox.native("sh").args(["-c", SCRIPT]));
    let shimmed = sandbox.run(sandbox.shimmed("sh").args(["-c", SCRIPT]));
    assert_eq!(native.code(), Some(42));
    shimmed.assert_same(&native);
    assert_untouched(&sandbox);
}

#[test]
fn switched_off_it_forwards_everything_and_leaves_nothing() {
    let program = Program::new("forms").build();
    let sandbox = Sandbox::new();
    let native = sandbox.run(&mut sandbox.native(&program));
    let off = sandbox.run(sandbox.shimmed(&program).env("AISHIM", "off"));
    off.assert_same(&native);
    assert_eq!(off.stdout, "right\n");
    assert_untouched(&sandbox);
}
