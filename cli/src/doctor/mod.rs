//! `aictl doctor`: says what is well, what is odd and what is broken, and how to mend it.

mod driver;
mod environment;
mod library;
mod process;
mod runtime;

use crate::failure::Failure;
use crate::output;
use crate::stats::SIMULATED;
use aishim_observe::{Board, Options, Snapshot};
use std::fmt::Write;
use std::process::ExitCode;

/// Checks the installation, and a process under it
///
/// Prints a line for each check: ok, warn or FAIL, the last two with their cure. Checked are the driver and its version,
/// the library (found, and loadable without a word), the C library, the runtime directory and what is left over in it,
/// the limit for locked memory, other preloaded libraries, and the AISHIM_ variables of the environment. With PID, also
/// whether the library is loaded in that process, what it publishes, what was hooked and what was missed.
///
/// Exit code: 1 when a line says FAIL; 4 when there is no process PID, or it is not yours to read.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Checks this process as well
    pid: Option<u32>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// What one check found.
#[derive(Debug)]
struct Finding {
    level: Level,
    text: String,
    cure: Option<String>,
}

impl Finding {
    fn ok(text: impl Into<String>) -> Self {
        Self::new(Level::Ok, text.into(), None)
    }

    fn warn(text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Level::Warn, text.into(), Some(cure.into()))
    }

    fn fail(text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Level::Fail, text.into(), Some(cure.into()))
    }

    fn new(level: Level, text: String, cure: Option<String>) -> Self {
        Self { level, text, cure }
    }
}

/// Runs all checks and prints what they found.
pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let options = Options::of_environment();
    let snapshot = Snapshot::take(&options);
    // First, since it may turn out that there is nothing to check.
    let of_process = match arguments.pid {
        Some(pid) => process::check(&snapshot, pid)?,
        None => Vec::new(),
    };
    let mut findings = driver::check(&snapshot.board);
    findings.extend(library::check());
    findings.extend(runtime::check(&options, &snapshot));
    findings.extend(environment::check());
    findings.extend(of_process);
    let simulated = snapshot.board.as_ref().is_ok_and(Board::is_simulated);
    output::print(&page(&findings, simulated))?;
    let failed = findings.iter().any(|f| f.level == Level::Fail);
    Ok(ExitCode::from(u8::from(failed)))
}

fn page(findings: &[Finding], simulated: bool) -> String {
    let mut page = String::new();
    if simulated {
        let _ = writeln!(page, "{SIMULATED}");
    }
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let _ = writeln!(page, "{mark:<5} {}", finding.text);
        if let Some(cure) = &finding.cure {
            let _ = writeln!(page, "      cure: {cure}");
        }
    }
    page
}

/// The first few of `names`, and how many more there are.
fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_their_level_and_end_with_a_cure() {
        let findings = [Finding::ok("all well"), Finding::fail("broken", "mend it")];
        assert_eq!(page(&findings, false), "ok    all well\nFAIL  broken\n      cure: mend it\n");
        assert!(page(&[], true).starts_with("SIMULATED GPU\n"));
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some_of(&["a", "b"]), "a, b");
        assert!(some_of(&["x"; 10]).ends_with("and 2 more"));
    }
}
