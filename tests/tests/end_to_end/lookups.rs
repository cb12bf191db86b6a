//! Symbol lookups: what a program finds is what it would find without the library, or the library's own function for it.

use aishim_tests::program::fakecuda;
use aishim_tests::{Program, Sandbox, Via, dist};
use std::path::{Path, PathBuf};
use std::process::Command;

fn lookups() -> Program {
    Program::new("lookups").via(Via::Itself).flag("-rdynamic")
}

/// Runs natively and under the library; both must find the same.
fn same(sandbox: &Sandbox, program: &Path, arguments: &[&str], edit: impl Fn(&mut Command)) -> aishim_tests::Outcome {
    let run = |mut command: Command| {
        command.args(arguments);
        edit(&mut command);
        sandbox.run(&mut command)
    };
    let native = run(sandbox.native(program));
    native.assert_success();
    let shimmed = run(sandbox.shimmed(program));
    shimmed.assert_same(&native);
    shimmed
}

fn as_without(which: &str) {
    let sandbox = Sandbox::new();
    let _ = same(&sandbox, &lookups().build(), &[which], |_| ());
    assert_eq!(sandbox.files(), Vec::<String>::new());
}

#[test]
fn where_no_driver_is_loaded_nothing_is_found() {
    as_without("without");
}

#[test]
fn a_null_name_ends_as_in_glibc() {
    as_without("fatal");
}

#[test]
fn in_the_global_scope() {
    as_without("with");
}

#[test]
fn a_function_of_the_programs_own_comes_first() {
    let program = lookups().flag("-DOWN_LAUNCH").build();
    let outcome = same(&Sandbox::new(), &program, &["own"], |_| ());
    assert_eq!(outcome.stdout, "1234\n1234\n1234\n3 of its own\n");
}

fn plugin() -> PathBuf {
    let folder = dist::simulator();
    Program::new("plugin")
        .shared("libplugin.so")
        .flag(format!("-L{}", folder.display()))
        .flag("-l:libcuda.so.1")
        .build_as("libplugin.so")
}

#[test]
fn a_plugin_finds_the_driver_in_a_scope_of_its_own() {
    let sandbox = Sandbox::new();
    let path = plugin().display().to_string();
    let outcome = same(&sandbox, &lookups().build(), &["local", &path], |_| ());
    assert!(outcome.stdout.starts_with("plugin: 42\n"), "{}", outcome.stdout);
    assert_eq!(sandbox.segment(outcome.pid).calls("cuLaunchKernel"), 10);
}

/// Not hooked, as is known of RTLD_DEEPBIND; but it must work.
#[test]
fn a_plugin_that_binds_deeply_works() {
    let sandbox = Sandbox::new();
    let path = plugin().display().to_string();
    let outcome = same(&sandbox, &lookups().build(), &["deepbind", &path], |_| ());
    assert!(outcome.stdout.starts_with("plugin: 42\n"), "{}", outcome.stdout);
}

#[test]
fn a_driver_that_is_closed_and_opened_again() {
    let folder = fakecuda();
    let sandbox = Sandbox::new();
    let program = lookups().build();
    let _ = same(&sandbox, &program, &["reopened"], |c| {
        c.env("LD_LIBRARY_PATH", &folder);
    });
    // Also the second time the functions handed out are ours.
    let mut command = sandbox.shimmed(&program);
    command.args(["reopened", "libaishim.so"]).env("LD_LIBRARY_PATH", &folder);
    let outcome = sandbox.succeed(&mut command);
    assert_eq!(outcome.stdout, "init 0, count 0, 1 devices\n".repeat(4));
}

#[test]
fn a_second_copy_of_the_driver_stays_apart() {
    let fake = fakecuda().join("libcuda.so.1");
    let program = Program::new("second_copy").build();
    let sandbox = Sandbox::new();
    for how in ["dlmopen", "path"] {
        let path = fake.display().to_string();
        let _ = same(&sandbox, &program, &[how, &path], |_| ());
    }
}

fn wrapper(flags: &[&str]) -> PathBuf {
    let mut program = Program::new("wrapper").shared("libwrapper.so").flag("-fno-builtin");
    for flag in flags {
        program = program.flag(*flag);
    }
    program.build_as("libwrapper.so")
}

/// The wrapper before the library, after it, and linked to the program.
fn under_wrapper(flags: &[&str], wrapped_launches: [u64; 3]) {
    let wrapper = wrapper(flags);
    let shim = dist::shim();
    let folder = wrapper.parent().expect("a folder");
    let plain = Program::new("wrapped").build();
    let linked = Program::new("wrapped")
        .via(Via::Itself)
        .flag("-Wl,--no-as-needed")
        .flag(format!("-L{}", folder.display()))
        .flag("-l:libwrapper.so")
        .flag(format!("-Wl,-rpath,{}", folder.display()))
        .flag(format!("-L{}", dist::simulator().display()))
        .flag("-l:libcuda.so.1")
        .build();
    let before = format!("{}:{}", wrapper.display(), shim.display());
    let after = format!("{}:{}", shim.display(), wrapper.display());
    let alone = shim.display().to_string();
    let cases = [(&plain, before), (&plain, after), (&linked, alone)];
    for ((program, preload), wrapped) in cases.into_iter().zip(wrapped_launches) {
        let sandbox = Sandbox::new();
        let outcome = sandbox.succeed(sandbox.shimmed(program).env("LD_PRELOAD", &preload));
        assert_eq!(outcome.stdout, format!("right, {wrapped} launches wrapped\n"), "{preload}");
        let segment = sandbox.segment(outcome.pid);
        assert_eq!(segment.calls("cuLaunchKernel"), 8 * 40, "{preload}");
    }
}

#[test]
fn a_library_that_wraps_libc_and_asks_for_the_next_one_in_every_call() {
    under_wrapper(&[], [0, 0, 0]);
}

#[test]
fn a_library_that_wraps_a_launch_too() {
    under_wrapper(&["-DWRAPS_DRIVER"], [320, 320, 320]);
}
