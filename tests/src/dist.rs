//! Where the libraries under test are: `AISHIM_DIST`, or `dist/` of the workspace.

use std::path::{Path, PathBuf};

/// The library that is preloaded.
#[must_use]
pub fn shim() -> PathBuf {
    file("libaishim.so")
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
