//! The daemon from its first word to its last.

use crate::admission::Rules;
use crate::clock;
use crate::config::Config;
use crate::cpu::CpuSide;
use crate::gpus::Gpus;
use crate::instance::Instance;
use crate::listener::Listener;
use crate::roster::Roster;
use crate::server::{self, Server};
use crate::telemetry::Telemetry;
use crate::{signals, systemd};
use aishim_abi::board::SLOTS;
use aishim_abi::board_writer::Board;
use aishim_abi::directory;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};
use std::path::{Path, PathBuf};

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether it serves all users.
    pub is_system: bool,
    /// The runtime directory; none: the usual one.
    pub directory: Option<PathBuf>,
    /// The file of settings; none: the usual ones.
    pub config: Option<PathBuf>,
    /// Most clients.
    pub max_clients: usize,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn run(options: &Options) -> Result<(), String> {
    // Before anything else opens a descriptor.
    let activated = systemd::activated()?;
    let signals = signals::endings().map_err(|e| format!("signals cannot be waited for: {e}"))?;
    let (config, path) = Config::load(options.config.as_deref(), options.is_system).map_err(|e| e.to_string())?;
    if let Some(path) = path {
        tracing::info!("settings of {}", path.display());
    }
    let owner = rustix::process::geteuid().as_raw();
    let directory = prepare(options, owner)?;
    let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", directory.display());
    let _instance = Instance::take(&directory).map_err(|e| wrong(&e))?;
    // Before anybody is let in: what an earlier daemon has left is put back first.
    let cpu = CpuSide::new(&directory, config.cpu);
    let max_clients = with_descriptors(options.max_clients)?;
    let roster = roster(max_clients, &config)?;
    let listener = match activated {
        Some(socket) => Listener::activated(socket),
        None => Listener::bind(&directory, options.is_system).map_err(|e| wrong(&e))?,
    };
    let telemetry = Telemetry::start(cpu).map_err(|e| format!("no thread can be made: {e}"))?;
    let rules = Rules::new(config, owner);
    let mut server = Server::new(listener, signals, roster, rules, telemetry).map_err(|e| wrong(&e))?;
    tracing::info!("listening in {}, for {max_clients} clients", directory.display());
    systemd::notify("READY=1");
    let served = server.run();
    systemd::notify("STOPPING=1");
    server.end();
    tracing::info!("ended");
    served.map_err(|e| format!("events cannot be waited for: {e}"))
}

fn roster(max_clients: usize, config: &Config) -> Result<Roster, String> {
    let gpus = Gpus::new(config.policy).ok_or_else(|| format!("this aischedd has no policy `{}`", config.policy))?;
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| format!("no random number: {e}"))?;
    let generation = u64::from_ne_bytes(random).max(1);
    let board = Board::create(max_clients, std::process::id(), generation, clock::unix_ns())
        .map_err(|e| format!("the board cannot be made (it needs Linux 5.1): {e}"))?;
    Ok(Roster::new(board, gpus))
}

/// The runtime directory, made where it is missing; a system's for all to write, since every process keeps its figures there.
fn prepare(options: &Options, uid: u32) -> Result<PathBuf, String> {
    let usual = || match options.is_system {
        true => PathBuf::from(directory::SYSTEM),
        false => directory::path(std::env::var_os(directory::VARIABLE), uid),
    };
    let directory = options.directory.clone().unwrap_or_else(usual);
    // One that was named and is there has the mode that its maker wanted; systemd makes the usual one with 0755.
    let is_ours_to_share = options.is_system && (directory == Path::new(directory::SYSTEM) || !directory.exists());
    let prepared = directory::prepare(&directory, uid).and_then(|()| share(&directory, is_ours_to_share));
    prepared.map_err(|e| format!("{}: {e}", directory.display()))?;
    Ok(directory)
}

fn share(directory: &Path, is_to_be_shared: bool) -> std::io::Result<()> {
    if is_to_be_shared {
        rustix::fs::chmod(directory, Mode::from(0o1777))?;
    }
    Ok(())
}

/// Raises the limit on descriptors as far as it goes; so many clients may there be.
fn with_descriptors(max_clients: usize) -> Result<usize, String> {
    let max_clients = max_clients.min(SLOTS);
    let limits = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
    let now = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limits.maximum,
        Err(_) => limits.current,
    };
    let most = now.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    if most >= server::descriptors(max_clients) {
        return Ok(max_clients);
    }
    let fits = (1..=max_clients).rev().find(|clients| server::descriptors(*clients) <= most);
    let fits = fits.ok_or_else(|| format!("{most} descriptors (ulimit -Hn) are too few"))?;
    tracing::warn!("{most} descriptors (ulimit -Hn) are enough for {fits} clients only, not {max_clients}");
    Ok(fits)
}
