//! The process that a PID on the command line means.

use crate::failure::Failure;
use crate::preload;
use aishim_observe::procfs::{self, Identity};
use aishim_observe::skipped::{Reason, Skipped};
use aishim_observe::{Process, Snapshot};

/// The process under aishim that we know as `pid`; the one that lives where several had that PID, else the last.
///
/// Fails with a sentence that tells apart: no such process, not under aishim, not ours to read, a damaged segment.
pub(crate) fn process(snapshot: &Snapshot, pid: u32) -> Result<&Process, Failure> {
    find(snapshot, pid).ok_or_else(|| missing(snapshot, pid))
}

fn find(snapshot: &Snapshot, pid: u32) -> Option<&Process> {
    // In a container a process knows itself by another PID than we do.
    let identity = Identity::of(pid);
    let is_it = |p: &&Process| identity.is_some_and(|i| (p.pid, p.start_ticks) == (i.innermost_pid, i.start_ticks));
    let processes = &snapshot.processes;
    let living = processes.iter().find(|p| p.pid == pid && !p.has_ended());
    let ended = processes.iter().filter(|p| p.pid == pid);
    processes.iter().find(is_it).or(living).or_else(|| ended.max_by_key(|p| p.ended))
}

fn missing(snapshot: &Snapshot, pid: u32) -> Failure {
    if let Some(skipped) = snapshot.skipped.iter().find(|s| s.is_of(pid)) {
        return unreadable(skipped, pid);
    }
    let Some(owner) = procfs::owner(pid) else {
        return Failure::NoSuchProcess(format!(
            "there is no process {pid}, and none of that number under aishim ended in the last 10 minutes; \
             `aictl stats` lists those that can be asked about"
        ));
    };
    let us = rustix::process::geteuid().as_raw();
    if us != 0 && owner != us {
        return not_yours(pid);
    }
    Failure::NoSuchProcess(not_under_aishim(pid))
}

fn unreadable(skipped: &Skipped, pid: u32) -> Failure {
    let file = skipped.file.display();
    match skipped.reason {
        Reason::NotYours => not_yours(pid),
        Reason::OtherVersion => Failure::Error(format!(
            "the segment of process {pid} ({file}) {}: use the aictl that came with its library",
            skipped.detail
        )),
        _ => Failure::Error(format!(
            "the segment of process {pid} ({file}) {}: remove the file once the process has ended",
            skipped.detail
        )),
    }
}

fn not_yours(pid: u32) -> Failure {
    Failure::NoSuchProcess(format!(
        "process {pid} belongs to another user and is not yours to read: ask as that user or as root"
    ))
}

fn not_under_aishim(pid: u32) -> String {
    if preload::is_loaded_in(pid).is_some_and(|loaded| loaded) {
        return format!(
            "process {pid} has the library loaded but publishes nothing here: it has made no CUDA context yet, \
             or writes elsewhere (AISHIM_DIR); `aictl doctor {pid}` says more"
        );
    }
    format!("process {pid} exists but is not under aishim: start it with `aictl run -- CMD`")
}
