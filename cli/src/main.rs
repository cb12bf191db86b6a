//! `aictl`: starts programs under aishim, shows their figures, and says why something does not work.
//!
//! Exit codes: 0 ok, 1 error, 2 usage, 4 no such process; `aictl run` exits as the program it runs.

mod coordinator;
mod doctor;
mod failure;
mod output;
mod pool;
mod preload;
mod run;
mod select;
mod stats;
mod units;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Shows and starts programs whose use of the GPU aishim times and helps.
///
/// A program under aishim is one that was started with `aictl run -- CMD`, or with libaishim.so in LD_PRELOAD. It
/// publishes its figures in the runtime directory: AISHIM_DIR where it is set, else /run/aishim where it may be written,
/// else /dev/shm/aishim-UID. aictl reads them there and disturbs no program. Where a coordinator, aischedd, listens in the
/// same directory, it can be asked who its clients are and told what is to be in force.
#[derive(Parser)]
#[command(name = "aictl", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 ok, 1 error, 2 usage, 4 no such process; `aictl run` exits as its program does.";

#[derive(Subcommand)]
enum Command {
    Run(run::Arguments),
    Stats(stats::Arguments),
    Pool(pool::Arguments),
    Daemon(coordinator::status::Arguments),
    Policy(coordinator::policy::Arguments),
    Set(coordinator::set::Arguments),
    Doctor(doctor::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run::main(arguments),
        Command::Stats(arguments) => stats::main(&arguments),
        Command::Pool(arguments) => pool::main(&arguments),
        Command::Daemon(arguments) => coordinator::status::main(&arguments),
        Command::Policy(arguments) => coordinator::policy::main(&arguments),
        Command::Set(arguments) => coordinator::set::main(&arguments),
        Command::Doctor(arguments) => doctor::main(&arguments),
    };
    done.unwrap_or_else(failure::Failure::report)
}
