//! aictl beside the simulated GPU, where the workspace's build has left one beside aictl.

#[path = "../../abi/tests/sample/mod.rs"]
mod sample;

mod aictl;

use aictl::{aictl, harmless_library, stdout};
use sample::Sample;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A folder in which the simulator goes by the names of the driver's libraries; none where it was not built.
fn simulator() -> Option<tempfile::TempDir> {
    let built = Path::new(env!("CARGO_BIN_EXE_aictl")).with_file_name("libsimcuda.so");
    if !built.exists() {
        eprintln!("skipped: there is no {}", built.display());
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        std::os::unix::fs::symlink(&built, folder.path().join(name)).unwrap();
    }
    Some(folder)
}

fn beside(simulator: &Path, directory: &Path) -> Command {
    let mut command = aictl(directory);
    command
        .env("LD_LIBRARY_PATH", simulator)
        .env("SIMCUDA_DIR", simulator.join("gpu"))
        .env("AISHIM_LIB", harmless_library());
    command
}

#[test]
fn figures_of_a_simulated_gpu_are_headed_so() {
    let Some(simulator) = simulator() else { return };
    let directory = tempfile::tempdir().unwrap();
    let _alive = Sample::new(1, 1).alive(directory.path());
    for arguments in [&["stats"][..], &["stats", "1"], &["doctor"]] {
        let mut command = beside(simulator.path(), directory.path());
        let output = command.args(arguments).output().unwrap();
        let text = stdout(&output);
        assert!(text.starts_with("SIMULATED GPU\n"), "{arguments:?}: {output:?}");
        assert!(text.contains("GPU 0: "), "{text}");
    }
}

#[test]
fn the_document_has_the_gpu() {
    let Some(simulator) = simulator() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut command = beside(simulator.path(), directory.path());
    let output = command.args(["stats", "--json"]).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["simulated"], true);
    assert_eq!(document["nvml"]["available"], true, "{document:#}");
    let gpu = &document["gpus"][0];
    assert!(gpu["uuid"].as_str().unwrap().starts_with("GPU-"), "{gpu}");
    assert!(gpu["memory_total_bytes"].as_u64().unwrap() > 1 << 30, "{gpu}");
    assert_eq!(gpu["available"], true);
    assert!(gpu["unavailable_reason"].is_null());
}

#[test]
fn doctor_finds_driver_and_gpu_well() {
    let Some(simulator) = simulator() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut command = beside(simulator.path(), directory.path());
    let output = command.arg("doctor").output().unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("ok    driver: CUDA 13.0"), "{text}");
}
