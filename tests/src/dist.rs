//! Where the libraries under test are: `AISHIM_DIST`, or `dist/` of the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library that is preloaded.
#[must_use]
pub fn shim() -> PathBuf {
    file("libaishim.so")
}

/// The library built with its feature `panic-injection`: `AISHIM_PANIC_LIB`, or built here and now, beside the tests.
///
/// # Panics
/// Where it cannot be built.
#[must_use]
pub fn panicking_shim() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| std::env::var_os("AISHIM_PANIC_LIB").map_or_else(build_panicking, PathBuf::from)).clone()
}

fn build_panicking() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let target = test.ancestors().nth(3).expect("the target folder").join("panic-injection");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--offline", "-p", "aishim", "--features", "panic-injection", "--target-dir"])
        .arg(&target)
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("debug/libaishim.so")
}

/// The command `aictl`.
#[must_use]
pub fn aictl() -> PathBuf {
    file("aictl")
}

/// The folder that holds the simulator as `libcuda.so.1` and `libnvidia-ml.so.1`.
#[must_use]
pub fn simulator() -> PathBuf {
    let library = file("sim/libcuda.so.1");
    library.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// A file that `make build` places.
///
/// # Panics
/// Where it is not there: without it no test can say anything.
#[must_use]
pub fn file(name: &str) -> PathBuf {
    let folder = match std::env::var_os("AISHIM_DIST") {
        Some(folder) => PathBuf::from(folder),
        None => workspace().join("dist"),
    };
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make build` first, or name another folder in AISHIM_DIST",
        path.display()
    );
    path
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
