//! The conformance program on the simulator: it answers as a real driver does, but for what is known.

mod common;

use std::path::Path;
use std::process::Command;

/// Where the simulator is known to differ; each case has a note in the program that says why.
const DIFFERENCES: [&str; 9] = [
    "export_table_unknown",
    "proc_alloc_2000",
    "attribute_copy_engines",
    "context_destroyed_set_current",
    "capture_alloc_async",
    "two_devices_flags",
    "two_devices_ordinal",
    "two_devices_range",
    "two_devices_free",
];

#[test]
fn the_simulator_answers_as_a_driver_does() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    common::installed(folder.path());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/conformance.c");
    let program = folder.path().join("conformance");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-O1", "-o"])
        .arg(&program)
        .arg(source)
        .args(["-ldl", "-lpthread"])
        .status();
    assert!(compiled.expect("a C compiler is installed").success());

    let run = Command::new(program)
        .env("LD_LIBRARY_PATH", folder.path())
        .env("SIMCUDA_DIR", folder.path())
        .output()
        .expect("the program runs");
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{output}{}", String::from_utf8_lossy(&run.stderr));
    let differing = output.lines().filter(|line| line.contains("<-")).filter_map(|line| line.split(' ').next());
    assert_eq!(differing.collect::<Vec<_>>(), DIFFERENCES, "{output}");
}
