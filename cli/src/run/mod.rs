//! `aictl run`: starts a program with the library preloaded.
//!
//! Two ways were weighed. Becoming the program, by exec(2), passes every signal on by itself, but a program that a signal
//! ends is then seen by the caller as ended by that signal, and only a shell turns this into 128+n. So the program is a
//! child: aictl waits for it, hands signals on, and exits with its code, or 128+n, whoever asks.

mod child;
pub(crate) mod wishes;

use crate::failure::{Failure, say};
use crate::preload::{self, LD_PRELOAD};
use aishim_abi::variables::{self, Variable};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};
use wishes::Wishes;

/// Exit codes of shells (POSIX, Shell Command Language, 2.8.2).
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
const SIGNALLED: i32 = 128;

/// Programs that start others in places to which LD_PRELOAD does not follow.
const CONTAINER_CLIENTS: &[&str] = &[
    "apptainer",
    "buildah",
    "crictl",
    "ctr",
    "docker",
    "docker-compose",
    "enroot",
    "kubectl",
    "lxc",
    "lxc-attach",
    "nerdctl",
    "podman",
    "podman-compose",
    "singularity",
];

/// Runs a program under aishim
///
/// Sets LD_PRELOAD to libaishim.so, before whatever it holds already, and runs CMD with ARGS. The library is the one that
/// AISHIM_LIB names, else the one beside aictl, in ../lib or in ../lib/aishim of it.
///
/// Signals sent to aictl are passed on to CMD; what the terminal sends reaches CMD by itself. Exit code: that of CMD;
/// 128+n when signal n ended it; 127 when CMD is not found, 126 when it cannot be executed; 1 when the library is missing.
#[derive(clap::Args)]
#[command(
    override_usage = "aictl run [--class CLASS] [--priority N] [--weight N] [--env KEY=VALUE]... -- CMD [ARGS]..."
)]
#[command(after_help = "Example: aictl run --class inference --env AISHIM_POOL_MIB=512 -- python infer.py")]
pub(crate) struct Arguments {
    #[command(flatten)]
    wishes: Wishes,

    /// Sets an environment variable for CMD; may be given more than once
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = assignment)]
    environment: Vec<(String, String)>,

    /// The program and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not of the form KEY=VALUE".to_owned()),
    }
}

/// Runs the program and exits as it does.
pub(crate) fn main(arguments: Arguments) -> Result<ExitCode, Failure> {
    let library = preload::library().map_err(|e| Failure::Error(e.to_string()))?;
    let mut words = arguments.command.into_iter();
    let program = words.next().unwrap_or_default();
    warn_of_containers(&program);
    for (key, value) in &arguments.environment {
        warn_of_unknown(key, value);
    }
    let mut command = Command::new(&program);
    command.args(words);
    arguments.wishes.apply(&mut command);
    command.env(LD_PRELOAD, preload_value(&library, &arguments.environment));
    let others = arguments.environment.iter().filter(|(k, _)| k != LD_PRELOAD);
    command.envs(others.map(|(k, v)| (k, v)));
    Ok(match child::run(command) {
        Ok(status) => ExitCode::from(code_of(status)),
        Err(e) => not_started(&program, &e),
    })
}

fn preload_value(library: &Path, environment: &[(String, String)]) -> OsString {
    let given = environment.iter().rev().find(|(k, _)| k == LD_PRELOAD);
    let existing = match given {
        Some((_, value)) => Some(OsString::from(value)),
        None => std::env::var_os(LD_PRELOAD),
    };
    preload::merged(library, existing.as_deref())
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|s| SIGNALLED + s));
    // A code has eight bits and signals end at 64, so that neither is cut.
    code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1)
}

fn not_started(program: &OsStr, error: &io::Error) -> ExitCode {
    let program = program.to_string_lossy();
    if error.kind() == io::ErrorKind::NotFound {
        say(&format!(
            "{program} is not found: give its path, or a name that is in PATH (of a script: its #! line may name \
             what is not there)"
        ));
        return ExitCode::from(NOT_FOUND);
    }
    say(&format!("{program} cannot be executed: {error}"));
    ExitCode::from(NOT_EXECUTABLE)
}

fn warn_of_containers(program: &OsStr) {
    let name = Path::new(program).file_name().and_then(OsStr::to_str);
    if let Some(name) = name.filter(|n| CONTAINER_CLIENTS.contains(n)) {
        say(&format!(
            "warning: {name} starts programs in containers, which do not inherit LD_PRELOAD: mount the library into \
             the container and set LD_PRELOAD and AISHIM_DIR there, or run aictl inside"
        ));
    }
}

fn warn_of_unknown(key: &str, value: &str) {
    if variables::is_unknown(OsStr::new(key)) {
        let names: Vec<&str> = variables::ALL.iter().map(|v| v.name).collect();
        say(&format!("warning: {key} is no variable of aishim; there are {}", names.join(", ")));
    }
    if let Some(variable) = Variable::named(OsStr::new(key))
        && !variable.accepts(OsStr::new(value))
    {
        let values = variable.values;
        say(&format!("warning: {key}={value} is not taken: it must be {values}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_have_a_key() {
        assert_eq!(assignment("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(assignment("A="), Ok(("A".to_owned(), String::new())));
        assert!(assignment("=b").is_err() && assignment("A").is_err());
    }

    #[test]
    fn a_preload_given_for_the_program_replaces_the_inherited_one() {
        let given = [(LD_PRELOAD.to_owned(), "first.so".to_owned())];
        let value = preload_value(Path::new("/l.so"), &given);
        assert_eq!(value, "/l.so:first.so");
    }

    #[test]
    fn client_names_are_sorted() {
        assert!(CONTAINER_CLIENTS.is_sorted());
    }
}
