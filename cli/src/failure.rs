//! Why aictl gives up, and the exit code that says so.

use std::io::{self, Write};
use std::process::ExitCode;

/// Why aictl gives up; each text is a sentence that names cause and cure.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something is wrong: exit code 1.
    Error(String),
    /// The process asked for is not there, not under aishim, or not ours to read: exit code 4.
    NoSuchProcess(String),
    /// Whoever read our output has gone (`aictl stats | head`): nothing is wrong, nothing is said.
    OutputClosed,
}

impl Failure {
    /// Says it on stderr and turns it into an exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (sentence, code) = match self {
            Self::Error(sentence) => (sentence, 1),
            Self::NoSuchProcess(sentence) => (sentence, 4),
            Self::OutputClosed => return ExitCode::SUCCESS,
        };
        say(&sentence);
        ExitCode::from(code)
    }
}

/// One line on stderr; where that is closed there is nobody to tell.
pub(crate) fn say(sentence: &str) {
    let _ = writeln!(io::stderr(), "aictl: {sentence}");
}
