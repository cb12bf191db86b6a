//! The library that is preloaded, and the C library it needs.

use super::Finding;
use crate::preload::{self, LD_PRELOAD};
use aishim_abi::variables::PREFIX;
use aishim_abi::versions::numbers;
use std::ffi::CStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// The oldest glibc that a release needs.
const OLDEST_GLIBC: (u32, u32) = (2, 28);

pub(super) fn check() -> Vec<Finding> {
    let library = match preload::library() {
        Ok(path) => loadable(&path),
        Err(e) => Finding::fail(format!("library: {}", e.cause), e.cure),
    };
    vec![library, glibc()]
}

/// Starts this very program with the library preloaded: it must do its work and nobody must say a word.
fn loadable(path: &Path) -> Finding {
    let shown = path.display();
    let cure = "install the library of this release, built for this machine's C library";
    let tried = std::env::current_exe().and_then(|program| {
        let mut command = Command::new(program);
        command.arg("--version").env(LD_PRELOAD, path);
        for (name, _) in std::env::vars_os() {
            // What the library may say at its users' wish does not count.
            if name.to_string_lossy().starts_with(PREFIX) {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).output()
    });
    match tried {
        Err(e) => Finding::warn(format!("library: {shown} found, not tried: {e}"), "make aictl executable"),
        Ok(done) if done.status.success() && done.stderr.is_empty() => Finding::ok(format!("library: {shown}, loads")),
        Ok(done) => {
            let words = String::from_utf8_lossy(&done.stderr);
            let words = words.lines().next().unwrap_or("no words").trim();
            let status = done.status;
            Finding::fail(format!("library: {shown} does not load well ({status}): {words}"), cure)
        }
    }
}

fn glibc() -> Finding {
    // SAFETY: takes nothing and returns a constant, zero-terminated text (gnu_get_libc_version(3)).
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    let version = version.to_string_lossy();
    let (oldest_major, oldest_minor) = OLDEST_GLIBC;
    match numbers(&version) {
        Some(numbers) if numbers < OLDEST_GLIBC => Finding::fail(
            format!("C library: glibc {version} is older than {oldest_major}.{oldest_minor}"),
            "use a newer distribution or container image",
        ),
        _ => Finding::ok(format!("C library: glibc {version}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(numbers("2.39"), Some((2, 39)));
        assert_eq!(numbers("2.4-distribution"), Some((2, 4)));
        assert!(numbers("2.4").unwrap() < OLDEST_GLIBC && numbers("2.100").unwrap() > OLDEST_GLIBC);
    }
}
