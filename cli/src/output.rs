//! What goes to stdout.

use crate::failure::Failure;
use rustix::termios;
use std::io::{self, IsTerminal, Write};

/// Width where a terminal does not tell its own.
const USUAL_COLUMNS: usize = 120;

/// Writes `text` to stdout.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Error(format!("the output cannot be written: {e}")),
    })
}

/// The columns there are on a terminal; none where stdout is something else, which takes lines of any length.
pub(crate) fn columns() -> Option<usize> {
    if !is_terminal() {
        return None;
    }
    let size = termios::tcgetwinsize(io::stdout()).ok();
    let columns = size.map_or(0, |s| usize::from(s.ws_col));
    Some(if columns == 0 { USUAL_COLUMNS } else { columns })
}

/// Whether stdout is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
