//! The runtime directory, and what is left over in it.

use super::{Finding, some_of};
use crate::units;
use aishim_abi::layout::SEGMENT_BYTES;
use aishim_observe::{Options, Snapshot};
use rustix::fs::{Access, AtFlags, CWD, StatVfs};
use rustix::process::{Resource, getrlimit};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Fewer segments than this fit: it will not do for long.
const FEW_SEGMENTS: u64 = 16;

pub(super) fn check(options: &Options, snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = vec![directory(&options.directory)];
    findings.extend(leftovers(snapshot));
    findings.extend(limits());
    findings
}

fn directory(path: &Path) -> Finding {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Finding::fail(
            format!("runtime directory: {} is no directory", path.display()),
            "remove it, or set AISHIM_DIR to a directory",
        ),
        Ok(metadata) => existing(path, &metadata),
        Err(e) if e.kind() == io::ErrorKind::NotFound => missing(path),
        Err(e) => Finding::fail(
            format!("runtime directory: {} cannot be reached: {e}", path.display()),
            "set AISHIM_DIR to a directory of your own",
        ),
    }
}

fn existing(path: &Path, metadata: &std::fs::Metadata) -> Finding {
    let shown = path.display();
    if !is_writable(path) {
        return Finding::fail(
            format!("runtime directory: {shown} may not be written by you"),
            "set AISHIM_DIR to a directory of your own, or have its owner open it",
        );
    }
    let us = rustix::process::geteuid().as_raw();
    if path == aishim_abi::directory::of_user(us) && metadata.uid() != us {
        return Finding::fail(
            format!("runtime directory: {shown} belongs to user {}, not to you", metadata.uid()),
            "have it removed, or set AISHIM_DIR to a directory of your own",
        );
    }
    let mode = metadata.permissions().mode() & 0o7777;
    match rustix::fs::statvfs(path) {
        Ok(space) => room(path, mode, &space),
        Err(e) => Finding::warn(
            format!("runtime directory: {shown}, free space unknown: {e}"),
            "set AISHIM_DIR to a directory on a tmpfs",
        ),
    }
}

fn room(path: &Path, mode: u32, space: &StatVfs) -> Finding {
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let fits = free / SEGMENT_BYTES as u64;
    let text = format!("runtime directory: {}, mode {mode:04o}, {} free", path.display(), units::bytes(free));
    let cure = format!(
        "free some space there (a process needs {}), or set AISHIM_DIR to another directory",
        units::bytes(SEGMENT_BYTES as u64)
    );
    match fits {
        0 => Finding::fail(format!("{text}: too little for a process to publish"), cure),
        1..FEW_SEGMENTS => Finding::warn(format!("{text}: enough for {fits} more processes"), cure),
        _ => Finding::ok(text),
    }
}

fn missing(path: &Path) -> Finding {
    let shown = path.display();
    let parent = path.parent().unwrap_or(Path::new("/"));
    if is_writable(parent) {
        return Finding::ok(format!(
            "runtime directory: {shown} is not there yet; the first process under aishim makes it"
        ));
    }
    Finding::fail(
        format!("runtime directory: {shown} is not there and cannot be made in {}", parent.display()),
        "make it, or set AISHIM_DIR to a directory of your own",
    )
}

fn is_writable(directory: &Path) -> bool {
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, directory, access, AtFlags::EACCESS).is_ok()
}

fn leftovers(snapshot: &Snapshot) -> Vec<Finding> {
    let ended = snapshot.processes.iter().filter(|p| p.has_ended()).count();
    let living = snapshot.processes.len() - ended;
    let expired = snapshot.expired;
    let text = format!("segments: {living} of living processes, {ended} of ended ones, {expired} left over");
    let mut findings = vec![match expired {
        0 => Finding::ok(text),
        _ => Finding::warn(
            format!("{text} (ended more than 10 minutes ago)"),
            "none needed: the next program that its user starts under aishim removes them",
        ),
    }];
    let files: Vec<String> = snapshot.skipped.iter().map(|s| format!("{} {}", s.file.display(), s.detail)).collect();
    if !files.is_empty() {
        let names: Vec<&str> = files.iter().map(String::as_str).collect();
        findings.push(Finding::warn(
            format!("segments left out: {}", some_of(&names)),
            "use the aictl of the same release as the library; remove damaged files once their processes have ended",
        ));
    }
    findings
}

fn limits() -> Vec<Finding> {
    let of = |resource| getrlimit(resource).current;
    let locked = of(Resource::Memlock).map_or_else(|| "unlimited".to_owned(), units::bytes);
    let mut findings = vec![Finding::ok(format!(
        "locked memory: limit {locked}; the CUDA driver does not count pinned memory against it"
    ))];
    if let Some(limit) = of(Resource::Fsize).filter(|l| *l < SEGMENT_BYTES as u64) {
        findings.push(Finding::fail(
            format!("file size: limit {} is below that of a segment, so nothing is published", units::bytes(limit)),
            "raise it with `ulimit -f unlimited`",
        ));
    }
    findings
}
