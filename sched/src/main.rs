//! `aischedd`, the coordinator; the library says what it does. Exit codes: 0 ended in order, 1 error, 2 usage.

use aischedd::daemon::{self, Options};
use clap::Parser;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing::Level;

/// Puts the launches of all processes on a GPU in one order.
///
/// Programs under aishim (`aictl run -- CMD`) find it by the runtime directory: AISHIM_DIR where it is set, else
/// /run/aishim where it may be written, else /dev/shm/aishim-UID. It can be stopped and started at any time; programs
/// run on without order meanwhile. `aictl daemon status` shows who is there.
#[derive(Parser)]
#[command(name = "aischedd", version, after_help = "Exit codes: 0 ended in order (SIGTERM, SIGINT), 1 error, 2 usage.")]
struct Arguments {
    /// Serves all users, in /run/aishim; rules say who may what
    #[arg(long)]
    system: bool,

    /// The runtime directory
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,

    /// The file of settings and rules, in the place of /etc/aishim/aischedd.toml and a user's own
    /// $XDG_CONFIG_HOME/aishim/aischedd.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Most clients; whoever comes then is refused, and runs without order
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_clients: u32,

    /// What is written to stderr: error, warn, info or debug
    #[arg(long, value_name = "LEVEL", default_value_t = Level::INFO)]
    log: Level,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // To complain on stderr about stderr would be a panic where that is closed.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(arguments.log)
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .init();
    let options = Options {
        is_system: arguments.system,
        directory: arguments.dir,
        config: arguments.config,
        max_clients: arguments.max_clients as usize,
    };
    match daemon::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            let _ = writeln!(std::io::stderr(), "aischedd: {sentence}");
            ExitCode::FAILURE
        }
    }
}
