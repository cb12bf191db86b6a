//! What /proc says about threads, autogroups and limits (proc(5)), and the system's calls that change them.

use aishim_observe::procfs::read_line;
use rustix::process::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::io;

/// A thread, as its stat tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) tid: u32,
    /// In clock ticks since boot.
    pub(super) start: u64,
    pub(super) nice: i32,
    /// Whether its nice value means anything: it has not ended, and has none of the real-time or idle policies (sched(7)).
    pub(super) is_ordinary: bool,
}

/// The thread `tid` of process `pid`; none where it is gone.
pub(super) fn task(pid: u32, tid: u32) -> Option<Task> {
    parse(tid, &read_line(&format!("/proc/{pid}/task/{tid}/stat"))?)
}

fn parse(tid: u32, stat: &[u8]) -> Option<Task> {
    // The second field is the name in brackets and may itself hold brackets and blanks; the third is the first of these.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3);
    // One that has ended and that its process still has, such as a first thread that left the others.
    let has_ended = matches!(*field(3)?, "Z" | "X");
    let policy: i32 = field(41)?.parse().ok()?;
    Some(Task {
        tid,
        start: field(22)?.parse().ok()?,
        nice: field(19)?.parse().ok()?,
        is_ordinary: !has_ended && (policy == libc::SCHED_OTHER || policy == libc::SCHED_BATCH),
    })
}

/// When process `pid` began, in clock ticks since boot, and how many threads it has; none where it is gone.
pub(super) fn started(pid: u32) -> Option<(u64, usize)> {
    let stat = read_line(&format!("/proc/{pid}/stat"))?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    // Fields 20 and 22; the first behind the name is the third.
    let mut fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace().skip(17);
    let threads = fields.next()?.parse().ok()?;
    Some((fields.nth(1)?.parse().ok()?, threads))
}

/// All threads of process `pid`; none where it is gone.
pub(super) fn tasks(pid: u32) -> Vec<Task> {
    tids(pid).filter_map(|tid| task(pid, tid)).collect()
}

/// The ids of all threads of process `pid`.
pub(super) fn tids(pid: u32) -> impl Iterator<Item = u32> {
    numbers(&format!("/proc/{pid}/task"))
}

/// Those children of process `pid` that its thread `tid` has made.
pub(super) fn children(pid: u32, tid: u32) -> BTreeSet<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The parent of process `pid`.
pub(super) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// All processes.
pub(super) fn processes() -> impl Iterator<Item = u32> {
    numbers("/proc")
}

fn numbers(folder: &str) -> impl Iterator<Item = u32> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Gives a thread another nice value. Between the look at its start time and this call it could end and its number be given to another:
/// that takes all numbers to have been given in some microseconds.
pub(super) fn set_nice(tid: u32, nice: i32) -> io::Result<()> {
    let tid = Pid::from_raw(tid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::setpriority_process(Some(tid), nice)?)
}

/// The nice value to which a process may raise itself, or be raised by its user (getrlimit(2), RLIMIT_NICE); 20 for none.
pub(super) fn lowest_nice(pid: u32) -> i32 {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max nice priority"));
    match line.and_then(|line| line.split_ascii_whitespace().next()) {
        Some("unlimited") => -20,
        Some(word) => 20 - word.parse::<i32>().unwrap_or(0).clamp(0, 40),
        None => 20,
    }
}

/// Whether we may give any thread any nice value: CAP_SYS_NICE, and not one that a user namespace gave us, which is none here
/// (user_namespaces(7)); so it is tried, on a thread that ends with the trial.
pub(super) fn may_set_any() -> bool {
    if capabilities(std::process::id(), "CapEff:").is_none_or(|effective| effective >> CAP_SYS_NICE & 1 == 0) {
        return false;
    }
    let tried = std::thread::spawn(|| {
        let own = rustix::thread::gettid();
        rustix::process::setpriority_process(Some(own), -20).is_ok()
    });
    tried.join().unwrap_or(false)
}

/// Whether a process has a capability that we do not: without CAP_SYS_NICE its nice values are then not ours to change, whoever's it is.
pub(super) fn is_above_us(pid: u32) -> bool {
    let permitted = |pid| capabilities(pid, "CapPrm:");
    let (own, its) = (permitted(std::process::id()), permitted(pid));
    !matches!((own, its), (Some(own), Some(its)) if its & !own == 0)
}

fn capabilities(pid: u32, set: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    u64::from_str_radix(status.lines().find_map(|line| line.strip_prefix(set))?.trim(), 16).ok()
}

/// The number of the capability (capabilities(7)).
const CAP_SYS_NICE: u32 = 23;

/// Whether the system puts each session into a group of its own (sched(7)).
pub(super) fn has_autogroups() -> bool {
    fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled").is_ok_and(|text| text.trim() == "1")
}

/// The autogroup of a process and its nice value; none where it has none.
pub(super) fn autogroup(pid: u32) -> Option<(u64, i32)> {
    let line = read_line(&format!("/proc/{pid}/autogroup"))?;
    let (id, nice) = std::str::from_utf8(&line).ok()?.trim().strip_prefix("/autogroup-")?.split_once(" nice ")?;
    Some((id.parse().ok()?, nice.parse().ok()?))
}

/// Gives the autogroup of a process another nice value. The system takes few such changes in a second from whoever is not root
/// (EAGAIN).
pub(super) fn set_autogroup(pid: u32, nice: i32) -> io::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/autogroup"))?;
    file.write_all(format!("{nice}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_threads_are_seen() {
        let pid = std::process::id();
        let own = tasks(pid).into_iter().find(|task| task.tid == pid).unwrap();
        assert_eq!(Some(own.start), aishim_observe::procfs::start_ticks(pid));
        assert!(own.is_ordinary && (-20..=19).contains(&own.nice));
        assert!((-20..=20).contains(&lowest_nice(pid)));
        assert_eq!(parent(pid), Some(std::os::unix::process::parent_id()));
        let (start, threads) = started(pid).unwrap();
        assert!(start == own.start && threads > 0);
        assert_eq!(started(0x7fff_fff0), None);
        assert_eq!(tasks(0x7fff_fff0), []);
    }

    #[test]
    fn fields_are_counted_behind_the_name() {
        let numbers = (4..=52).map(|n| if n == 41 { "1".to_owned() } else { n.to_string() }).collect::<Vec<_>>();
        let stat = format!("9 (a) b (c) S {}", numbers.join(" "));
        let expected = Task { tid: 9, start: 22, nice: 19, is_ordinary: false };
        assert_eq!(parse(9, stat.as_bytes()), Some(expected));
        let ended = stat.replace(" S ", " Z ").replace(" 41 ", " 0 ").replace(" 40 1 ", " 40 0 ");
        assert_eq!(parse(9, ended.as_bytes()), Some(expected));
        assert_eq!(parse(9, b"9 (a) S 1"), None);
    }
}
