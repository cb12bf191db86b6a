//! aictl as its users start it, in an environment that is known.

#![allow(dead_code, reason = "shared by several test programs, none of which uses all of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A command line of aictl that looks into `directory` alone.
pub(crate) fn aictl(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aictl"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AISHIM") {
            command.env_remove(name);
        }
    }
    command.env_remove("LD_PRELOAD").env("AISHIM_DIR", directory);
    command
}

/// What it says on stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What it says on stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A library that does no harm when it is preloaded: the C library, which every program has anyway.
pub(crate) fn harmless_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|l| l.contains("libc.so") || l.contains("libc-2"));
    PathBuf::from(line.unwrap().split_whitespace().last().unwrap())
}
