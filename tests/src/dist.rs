//! Where the libraries under test are: `AISHIM_DIST`, or `dist/` of the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

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
    BUILT.get_or_init(|| given_or_built("AISHIM_PANIC_LIB", "panic-injection")).clone()
}

/// The same with its feature `poison`: `AISHIM_POISON_LIB`, or built here and now.
///
/// # Panics
/// Where it cannot be built.
#[must_use]
pub fn poisoning_shim() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| given_or_built("AISHIM_POISON_LIB", "poison")).clone()
}

fn given_or_built(variable: &str, feature: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| build_with(feature), PathBuf::from)
}

/// Both features are built in one folder, so that what they have in common is built once; hence one after the other,
/// each moved to a folder of its own.
fn build_with(feature: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let test = std::env::current_exe().expect("the test's own path");
    let target = test.ancestors().nth(3).expect("the target folder").join("test-builds");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--offline", "-p", "aishim", "--features", feature, "--target-dir"])
        .arg(&target)
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let library = target.join(feature).join("libaishim.so");
    // Copied and renamed: a program of an earlier run may still have it mapped.
    let fresh = library.with_extension(std::process::id().to_string());
    std::fs::create_dir_all(target.join(feature)).expect("a folder beside the build");
    std::fs::copy(target.join("debug/libaishim.so"), &fresh).expect("the library that was built");
    std::fs::rename(&fresh, &library).expect("a rename within a folder");
    library
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
