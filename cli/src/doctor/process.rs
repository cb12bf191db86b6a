//! A process: whether the library is loaded in it, what it publishes, what was hooked and what was missed.

use super::{Finding, some_of};
use crate::failure::Failure;
use crate::preload::{self, LD_PRELOAD, LIBRARY};
use crate::select;
use crate::stats::why_pass_through;
use aishim_abi::layout::Coordinator;
use aishim_abi::message::Reason;
use aishim_abi::reader::Hook;
use aishim_abi::statistics::Statistic;
use aishim_observe::{Process, Snapshot, procfs};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const DRIVER: &str = "libcuda.so.1";

/// What the maps and the environment of a living process say.
struct Living {
    library: bool,
    library_removed: bool,
    driver: bool,
    preload: Option<Vec<u8>>,
    switched_off: bool,
}

/// Checks process `pid`. Fails where there is no such process, or it is not ours to read.
pub(super) fn check(snapshot: &Snapshot, pid: u32) -> Result<Vec<Finding>, Failure> {
    let selected = select::process(snapshot, pid);
    if let Ok(process) = &selected
        && process.has_ended()
    {
        let mut findings = vec![Finding::ok(format!("process {pid}: has ended; these are its final figures"))];
        findings.extend(published(process));
        return Ok(findings);
    }
    let Some(living) = Living::of(pid) else {
        return match selected {
            // It lives where we cannot look at it, in a container perhaps, and yet we may read what it publishes.
            Ok(process) => Ok(published(process)),
            Err(failure) => Err(hidden(pid, failure)),
        };
    };
    let mut findings = vec![living.loaded(pid)];
    match selected {
        Ok(process) => findings.extend(published(process)),
        Err(Failure::Error(sentence)) => findings.push(Finding::fail(
            format!("process {pid}: {sentence}"),
            "restart the program with the library of this release",
        )),
        Err(_) => findings.extend(living.unpublished(pid)),
    }
    Ok(findings)
}

fn hidden(pid: u32, failure: Failure) -> Failure {
    if procfs::exists(pid) {
        return Failure::NoSuchProcess(format!("process {pid} is not yours to read: ask as its user or as root"));
    }
    failure
}

impl Living {
    fn of(pid: u32) -> Option<Self> {
        let maps = std::fs::read(format!("/proc/{pid}/maps")).ok()?;
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let lines = || maps.split(|b| *b == b'\n');
        let variable = |name: &str| {
            let mut pairs = environment.split(|b| *b == 0);
            let value = |pair: &[u8]| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
            pairs.find_map(value)
        };
        let ours = || lines().filter(|l| preload::maps_library(l, LIBRARY));
        Some(Self {
            library: ours().next().is_some(),
            library_removed: ours().any(|l| l.ends_with(b" (deleted)")),
            // The file behind the name may carry the driver's version: libcuda.so.580.159.04.
            driver: lines().any(|l| contains(l, b"/libcuda.so.")),
            preload: variable(LD_PRELOAD),
            switched_off: variable("AISHIM").as_deref() == Some(b"off"),
        })
    }

    fn loaded(&self, pid: u32) -> Finding {
        let what = format!("process {pid}: the library is");
        if self.library_removed {
            return Finding::warn(
                format!("{what} loaded, and its file was removed or replaced since"),
                "restart the program to use the new one",
            );
        }
        if self.library {
            return Finding::ok(format!("{what} loaded"));
        }
        let preload = self.preload.as_deref().unwrap_or_default();
        if contains(preload, LIBRARY.as_bytes()) {
            let preload = OsStr::from_bytes(preload).to_string_lossy();
            return Finding::fail(
                format!(
                    "{what} not loaded, though LD_PRELOAD={preload} was set: it may be a static or set-user-ID program"
                ),
                "start a dynamically linked program without the set-user-ID bit; check the library with `aictl doctor`",
            );
        }
        Finding::fail(
            format!("{what} not loaded: it was started without it"),
            "start the program with `aictl run -- CMD`",
        )
    }

    /// Why a process with the library in it may publish nothing.
    fn unpublished(&self, pid: u32) -> Option<Finding> {
        let what = format!("process {pid}: it publishes nothing in the directories looked into:");
        if !self.library {
            return None;
        }
        Some(if self.switched_off {
            Finding::warn(format!("{what} AISHIM=off was set"), "start it without")
        } else if !self.driver {
            Finding::ok(format!("{what} it has not loaded the CUDA driver ({DRIVER}), so there is nothing to tell"))
        } else {
            Finding::warn(
                format!("{what} it has no CUDA context yet, or could not make its segment"),
                "if it has used the GPU already, start it with AISHIM_LOG=warn, which says why; check that it has the same AISHIM_DIR",
            )
        })
    }
}

/// What the segment says.
fn published(process: &Process) -> Vec<Finding> {
    let pid = process.pid;
    let mut findings = vec![Finding::ok(format!(
        "process {pid}: publishes in {}, {} launches so far",
        process.file.display(),
        process.launches
    ))];
    if process.library_version != env!("CARGO_PKG_VERSION") {
        findings.push(Finding::warn(
            format!(
                "process {pid}: its library has version {}, aictl {}",
                process.library_version,
                env!("CARGO_PKG_VERSION")
            ),
            "restart the program with the library of this release",
        ));
    }
    if let Some(reason) = why_pass_through(process) {
        findings.push(Finding::fail(
            format!("process {pid}: the library only forwards calls: {reason}"),
            "restart the program; for a fork, use the start methods spawn or forkserver; report an error inside the library",
        ));
    }
    findings.extend(ordered(process));
    findings.push(hooked(process));
    findings.extend(missed(process));
    findings
}

/// How it stands to a coordinator, where one listened that it could ask.
fn ordered(process: &Process) -> Option<Finding> {
    let pid = process.pid;
    let why = match Coordinator::from_number(process.statistic(Statistic::Coordinator)) {
        Coordinator::None => return None,
        Coordinator::Client => return Some(Finding::ok(format!("process {pid}: is a client of the coordinator"))),
        Coordinator::Stranger => "it is neither root's nor the process's own user's",
        Coordinator::OtherVersion => "it is of another version",
        Coordinator::Nonsense => "it said something that makes no sense",
        Coordinator::NoPage => "the process has no page to show: that needs Linux 5.1, descriptors and memory",
        Coordinator::Refused(reason) => {
            Reason::from_number(reason).map_or("it refused, for a reason that this version does not know", Reason::name)
        }
    };
    Some(Finding::warn(
        format!("process {pid}: runs without order, since its coordinator could not be used: {why}"),
        "see `aictl daemon status`; the process asks again by itself within a minute",
    ))
}

fn hooked(process: &Process) -> Finding {
    let count = |is: fn(&Hook) -> bool| process.hooks.iter().filter(|h| is(h)).count();
    let handed_out = count(|h| h.handed_out);
    let text = format!(
        "process {}: {} functions hooked, {handed_out} of them asked for by the program",
        process.pid,
        count(|h| h.present)
    );
    if handed_out == 0 {
        return Finding::warn(
            format!("{text}: it may have opened the driver in a way that a preload does not see"),
            "do not open libcuda with RTLD_DEEPBIND or dlmopen",
        );
    }
    Finding::ok(text)
}

fn missed(process: &Process) -> Vec<Finding> {
    let pid = process.pid;
    let mut findings = Vec::new();
    let missing: Vec<&str> = process.hooks.iter().filter(|h| !h.present).map(|h| h.name.as_str()).collect();
    if !missing.is_empty() {
        findings.push(Finding::ok(format!(
            "process {pid}: {} functions are not in this driver and not hooked: {}",
            missing.len(),
            some_of(&missing)
        )));
    }
    let unknown: Vec<&str> = process.unknown_names.iter().map(String::as_str).collect();
    let lookups = process.statistic(Statistic::UnknownLookups);
    if lookups > 0 || !unknown.is_empty() {
        findings.push(Finding::warn(
            format!(
                "process {pid}: {lookups} lookups of hooked names led to functions that are not known: {}",
                some_of(&unknown)
            ),
            "calls of these are not counted; report them with the driver's version",
        ));
    }
    findings
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}
