//! The real CUDA runtime, 12 and 13, dynamic and static: whatever it finds of the driver, it finds through the library.
//! Without a GPU it does not come further than that.

use aishim_tests::{Program, Sandbox, Via, dist};
use std::collections::HashSet;
use std::path::PathBuf;

/// A file that `scripts/fetch-cudart.sh` has fetched.
fn fetched(file: &str) -> PathBuf {
    let path = dist::workspace().join("target/cudart").join(file);
    assert!(path.exists(), "{} is missing: run scripts/fetch-cudart.sh first", path.display());
    path
}

/// Names of all hooks the simulator has functions for.
fn hooked(sandbox: &Sandbox) -> HashSet<String> {
    let outcome = sandbox.succeed(&mut sandbox.shimmed(Program::new("forms").build()));
    let segment = sandbox.segment(outcome.pid);
    segment.copy.hooks().filter(|h| h.present).map(|h| h.name).collect()
}

/// Which functions it holds, as (library, name); and what it said before.
fn functions(said: &str) -> (Vec<(&str, &str)>, Vec<&str>) {
    let of_driver = |line: &&str| line.starts_with("lib");
    let (functions, words): (Vec<_>, Vec<_>) = said.lines().partition(of_driver);
    let mut functions: Vec<_> = functions.iter().filter_map(|l| l.split_once(' ')).collect();
    functions.sort_unstable_by_key(|(_, name)| *name);
    (functions, words)
}

fn holds_ours(program: &Program, arguments: &[PathBuf], version: &str) {
    let program = program.build_as("cudart");
    let sandbox = Sandbox::new();
    let hooked = hooked(&sandbox);
    let native = sandbox.succeed(sandbox.native(&program).args(arguments));
    let shimmed = sandbox.succeed(sandbox.shimmed(&program).args(arguments));
    let (plain, said) = functions(&native.stdout);
    let (through, also_said) = functions(&shimmed.stdout);
    assert_eq!(also_said, said);
    assert_eq!(said[0], format!("runtime version: 0 {version}"));
    assert!(plain.len() > 300, "{} functions", plain.len());
    let expected: Vec<_> = plain
        .iter()
        .map(|(_, name)| if hooked.contains(*name) { ("libaishim.so", *name) } else { ("libcuda.so.1", *name) })
        .collect();
    assert_eq!(through, expected);
    assert!(through.iter().filter(|(library, _)| *library == "libaishim.so").count() > 150);
}

#[test]
fn dynamic_12() {
    let program = Program::new("cudart").via(Via::Itself);
    holds_ours(&program, &[fetched("12/lib/libcudart.so.12")], "12080");
}

#[test]
fn dynamic_13() {
    let program = Program::new("cudart").via(Via::Itself);
    holds_ours(&program, &[fetched("13/lib/libcudart.so.13")], "13000");
}

#[test]
fn static_13() {
    let archive = fetched("13/lib/libcudart_static.a");
    let program =
        Program::new("cudart").via(Via::Itself).flag("-DSTATIC").flag(archive.display().to_string()).flag("-lrt");
    holds_ours(&program, &[], "13000");
}
