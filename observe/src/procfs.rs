//! What /proc says about a process (proc(5)). All of it is none where the process is gone or hidden from us.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

/// What tells a process from every other in any PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its PID as it sees itself: in the innermost of its PID namespaces.
    pub innermost_pid: u32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
}

impl Identity {
    /// The identity of the process that we know as `pid`.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let pids = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
        Some(Self { innermost_pid: pids.split_whitespace().next_back()?.parse().ok()?, start_ticks: start_ticks(pid)? })
    }
}

/// Groups of the process that we know as `pid`, its own and the supplementary ones.
#[must_use]
pub fn groups(pid: u32) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().split_whitespace();
    // Real, effective, saved, of the file system: the second is what the kernel checks.
    let own = numbers("Gid:").nth(1);
    Some(own.into_iter().chain(numbers("Groups:")).filter_map(|n| n.parse().ok()).collect())
}

/// Whether there is such a process, be it visible only as a number.
#[must_use]
pub fn exists(pid: u32) -> bool {
    fs::symlink_metadata(format!("/proc/{pid}")).is_ok()
}

/// A file of /proc of one line, of at most a KiB. `fs::read` does not know how long such a file is, and asks eight times.
#[must_use]
pub fn read_line(path: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1024];
    let read = fs::File::open(path).ok()?.read(&mut bytes).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

/// Start time of a process, field 22 of its stat, in clock ticks since boot.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = read_line(&format!("/proc/{pid}/stat"))?;
    // The second field is the name in brackets and may itself hold brackets, blanks and bytes that are no text.
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// User id of a process.
#[must_use]
pub fn owner(pid: u32) -> Option<u32> {
    Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

/// Command line, blanks between arguments; characters that control a terminal are replaced. A kernel thread has none.
#[must_use]
pub fn command(pid: u32) -> Option<String> {
    let mut line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    while line.last() == Some(&0) {
        line.pop();
    }
    for byte in line.iter_mut().filter(|b| **b == 0) {
        *byte = b' ';
    }
    (!line.is_empty()).then(|| aishim_abi::layout::text_of(&line))
}

/// Name of the program by its own account: its first argument without folders.
#[must_use]
pub fn program(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = line.split(|byte| *byte == 0).next()?;
    let name = first.rsplit(|byte| *byte == b'/').next()?;
    (!name.is_empty()).then(|| aishim_abi::layout::text_of(name))
}

/// Control group of a process (cgroups(7)): its path in the unified hierarchy, or where that is not in use those in the others.
#[must_use]
pub fn cgroups(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let unified = text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| *path != "/");
    let others = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    Some(match unified {
        Some(path) => vec![path.to_owned()],
        None => others().map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known() {
        let pid = std::process::id();
        assert!(exists(pid));
        let identity = Identity::of(pid).unwrap();
        assert_eq!(Some(identity.start_ticks), start_ticks(pid));
        assert_eq!(owner(pid), Some(rustix::process::geteuid().as_raw()));
        assert!(groups(pid).unwrap().contains(&rustix::process::getegid().as_raw()));
        assert!(command(pid).unwrap().contains("observe"));
    }

    #[test]
    fn a_process_that_is_not_there_is_none() {
        let nobody = 0x7fff_fff0;
        assert!(!exists(nobody));
        assert_eq!(Identity::of(nobody), None);
        assert_eq!((owner(nobody), command(nobody)), (None, None));
    }
}
