//! Whether the process may take memory of its own for a slab.
//!
//! What the driver allocates is the kernel's, and at least some versions charge it to no control group; what we map and
//! touch is charged to the process's. A group at its limit is not refused memory: one of its processes is killed (observed
//! of a touch and of MADV_POPULATE_WRITE alike); above `memory.high` all its threads are made to wait. So a slab is mapped
//! only where every group above the process, and the machine, has room for [`SHARES`] of its size, what the kernel could
//! drop from its file cache counted as free: the ranks of a job, all in one group, make their slabs at the same moment.
//! Elsewhere it is the driver's to allocate.
//!
//! Looking opens files, and for that moment takes the lowest descriptor that is free: a program that has just closed
//! descriptor 0 to open another file in its place would find our file there. So nobody looks but the thread that asks for
//! page-locked memory, in its call ([`look`]); the background thread goes by what was found ([`take`]).
//!
//! The files are those of cgroup v2 and v1 (Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst). A
//! container may see its own group as the root of all; a file that is not there limits nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// As many as share a group, say: a slab is not mapped unless so many of its size would fit.
const SHARES: u64 = 8;

/// The room that was found, less what has been mapped since.
static ROOM: AtomicU64 = AtomicU64::new(0);

/// The files of one version: the limits, what is charged, and the part of it that is file cache nobody has used of late.
struct Files {
    mount: &'static str,
    limits: &'static [&'static str],
    charged: &'static str,
    droppable: &'static str,
}

const V2: Files = Files {
    mount: "sys/fs/cgroup",
    limits: &["memory.max", "memory.high"],
    charged: "memory.current",
    droppable: "inactive_file",
};
const V1: Files = Files {
    mount: "sys/fs/cgroup/memory",
    limits: &["memory.limit_in_bytes"],
    charged: "memory.usage_in_bytes",
    droppable: "total_inactive_file",
};

/// Finds out how much room there is. On a thread of the program's, in a call that may open files.
pub(super) fn look() {
    ROOM.store(room(Path::new("/")), Relaxed);
}

/// Takes room for a slab of `bytes`, if there is enough.
pub(super) fn take(bytes: usize) -> bool {
    let bytes = bytes as u64;
    let less = |room: u64| (room / SHARES >= bytes).then(|| room - bytes);
    ROOM.fetch_update(Relaxed, Relaxed, less).is_ok()
}

/// The least room of all that limit the process, in the system whose root is at `root`.
fn room(root: &Path) -> u64 {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let in_groups = groups.lines().filter_map(group).flat_map(|(files, path)| {
        let mount = root.join(files.mount);
        let leaf = mount.join(path.trim_start_matches('/'));
        let above: Vec<PathBuf> =
            leaf.ancestors().take_while(|group| group.starts_with(&mount)).map(Path::to_owned).collect();
        above.into_iter().filter_map(move |group| room_in(files, &group))
    });
    in_groups.chain(available(root)).min().unwrap_or(u64::MAX)
}

/// What the machine has left, as the kernel estimates it (proc_meminfo(5)).
fn available(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"))?;
    Some(kib.parse::<u64>().ok()?.saturating_mul(1024))
}

/// The memory group of a line "ID:CONTROLLERS:PATH", if it is one; v2 names no controllers.
fn group(line: &str) -> Option<(&'static Files, &str)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    match controllers {
        "" => Some((&V2, path)),
        _ if controllers.split(',').any(|controller| controller == "memory") => Some((&V1, path)),
        _ => None,
    }
}

/// What the group may still be charged; none where it has no limit.
fn room_in(files: &Files, group: &Path) -> Option<u64> {
    let limit = files.limits.iter().filter_map(|limit| number_in(group.join(limit))).min()?;
    let charged = number_in(group.join(files.charged))?;
    let statistics = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let droppable = statistics.lines().find_map(|line| line.strip_prefix(files.droppable)?.trim().parse().ok());
    Some(limit.saturating_sub(charged.saturating_sub(droppable.unwrap_or(0))))
}

fn number_in(file: PathBuf) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A system with these files.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        root
    }

    /// Twice the size fits.
    fn is_enough(root: &Path, bytes: usize) -> bool {
        room(root) / 2 >= bytes as u64
    }

    #[test]
    fn room_is_taken_slab_by_slab() {
        ROOM.store(SHARES * 16 * MIB as u64, Relaxed);
        assert!(!take(16 * MIB + 1));
        assert!(take(16 * MIB));
        assert!(!take(16 * MIB), "less by one slab, it is not enough for so many more");
        assert!(take(12 * MIB));
    }

    /// One group with so many MiB of limit, charged, and droppable.
    fn is_enough_in(limit: &str, charged_mib: usize, droppable_mib: usize, wanted_mib: usize) -> bool {
        let charged = format!("{}\n", charged_mib * MIB);
        let statistics = format!("anon 4096\ninactive_file {}\n", droppable_mib * MIB);
        let root = system(&[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", limit),
            ("sys/fs/cgroup/memory.current", &charged),
            ("sys/fs/cgroup/memory.stat", &statistics),
        ]);
        is_enough(root.path(), wanted_mib * MIB)
    }

    #[test]
    fn file_cache_does_not_count() {
        let gib = "1073741824\n";
        assert!(is_enough_in(gib, 768, 0, 128));
        assert!(!is_enough_in(gib, 769, 0, 128));
        assert!(is_enough_in(gib, 1024, 256, 128));
        assert!(!is_enough_in(gib, 2000, 0, 1), "charged beyond its limit");
        assert!(is_enough_in("max\n", 769, 0, 128));
    }

    /// Beyond `memory.high` nobody is killed, but every thread of the group that asks for memory is made to wait.
    #[test]
    fn a_limit_that_only_slows_down_is_one_too() {
        let files = |high: &'static str| {
            system(&[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.max", "max\n"),
                ("sys/fs/cgroup/memory.high", high),
                ("sys/fs/cgroup/memory.current", "4096"),
            ])
        };
        assert!(is_enough(files("max\n").path(), 16 * MIB));
        assert!(is_enough(files("33558528\n").path(), 16 * MIB));
        assert!(!is_enough(files("33558527\n").path(), 16 * MIB));
    }

    /// Where nothing limits the group the machine may run short, and its kernel kills as well. The driver asks for memory in
    /// a way that fails instead.
    #[test]
    fn the_machine_itself_must_have_room() {
        let files = |available_kib: &str| system(&[("proc/meminfo", available_kib)]);
        let enough = files("MemTotal:       65536 kB\nMemFree:            0 kB\nMemAvailable:   32768 kB\n");
        assert!(is_enough(enough.path(), 16 * MIB));
        let short = files("MemTotal:       65536 kB\nMemFree:            0 kB\nMemAvailable:   32767 kB\n");
        assert!(!is_enough(short.path(), 16 * MIB));
    }

    #[test]
    fn every_group_above_has_a_say() {
        let files = |limit: &'static str| {
            system(&[
                ("proc/self/cgroup", "0::/pod/job\n"),
                ("sys/fs/cgroup/pod/memory.max", limit),
                ("sys/fs/cgroup/pod/memory.current", "0"),
                ("sys/fs/cgroup/pod/job/memory.max", "max"),
                ("sys/fs/cgroup/pod/job/memory.current", "0"),
            ])
        };
        assert!(is_enough(files("33554432").path(), 16 * MIB));
        assert!(!is_enough(files("33554431").path(), 16 * MIB));
    }

    #[test]
    fn the_older_version_is_known_too() {
        let root = system(&[
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/not/seen/here\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "33554432"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "4096"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 0\ntotal_inactive_file 4096\n"),
        ]);
        assert!(is_enough(root.path(), 16 * MIB));
        assert!(!is_enough(root.path(), 17 * MIB));
    }

    #[test]
    fn where_nothing_is_known_nothing_is_limited() {
        assert!(is_enough(Path::new("/no/such/folder"), usize::MAX / 4));
        assert!(is_enough(system(&[("proc/self/cgroup", "0::/\n1:name=systemd:/\nodd\n")]).path(), MIB));
    }
}
