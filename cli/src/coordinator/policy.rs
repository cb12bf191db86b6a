//! `aictl policy`: which policy is in force, or puts another in force.

use super::Coordinator;
use crate::failure::Failure;
use crate::output;
use aishim_abi::message::{SetPolicy, Version};
use aishim_abi::rank::{PolicyKind, Uuid};
use std::fmt::Write;
use std::process::ExitCode;

/// Shows the policy of each GPU, or puts another in force
///
/// With a NAME, that policy puts the launches on all GPUs in order from now on, also on GPUs that are used later; nothing has to be
/// started anew. That takes root or the user whose coordinator it is.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The policy: off, priority or fair
    name: Option<String>,
}

/// Shows or sets it.
pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut coordinator = Coordinator::find()?;
    let Some(name) = &arguments.name else {
        output::print(&page(&mut coordinator)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    let policy = PolicyKind::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = PolicyKind::ALL.iter().map(|policy| policy.name()).collect();
        Failure::Error(format!("there is no policy `{name}`; there are {}", known.join(", ")))
    })?;
    coordinator.have_done(SetPolicy { version: Version, policy, uuid: Uuid::NONE })?;
    Ok(ExitCode::SUCCESS)
}

fn page(coordinator: &mut Coordinator) -> Result<String, Failure> {
    let (_, board) = coordinator.status()?;
    let mut page = String::new();
    for (_, gpu) in board.gpus(super::status::now_ns()) {
        let _ = writeln!(page, "{}  {}", gpu.uuid, gpu.policy);
    }
    if page.is_empty() {
        page.push_str("No GPU is in use by a client of the coordinator.\n");
    }
    Ok(page)
}
