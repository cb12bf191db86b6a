//! The CPU side of the order: nice values of clients' threads (setpriority(2)), by their rank and by how busy the GPU is.
//!
//! While the GPU waits for launches, whoever launches for somebody who waits should have a processor: the threads of clients
//! above normal are raised. While it is saturated, a best-effort client's threads only fill its queue: they are lowered. Both by
//! an offset to what each thread had, and only for as long as that is so; [`niceness`] has the rule.
//!
//! What was weighed:
//! * *only what can be put back.* An unprivileged process can lower but never raise again (EPERM), so a client would
//!   stay lowered after the coordinator has gone. Needed is CAP_SYS_NICE, or that the client's own RLIMIT_NICE lets its user do it and that it has no capability that we lack. Else nothing is
//!   touched, and that is said once;
//! * *always put back:* when the client leaves, when the daemon ends, and after a kill -9 by the next one, since each change is
//!   written down before it is made ([`journal`]);
//! * *threads are looked for every [`PERIOD`],* not announced: the library would have to hook their creation, and the C library's own
//!   and the driver's threads would be missing; as a rule only their numbers are read;
//! * *not cgroups:* `cpu.weight` would be the better tool, but a client's cgroup is systemd's or the container's, not ours;
//! * *autogroups* ([`groups`]): where the system has them, a session's group is changed as well.

mod groups;
pub mod journal;
pub mod niceness;
mod process;
mod tasks;

use groups::Groups;
use journal::Journal;
use niceness::Settings;
use process::{Obstacle, Process};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// How often threads are looked for, while there are clients.
pub(crate) const PERIOD: Duration = Duration::from_millis(500);

/// Lines of the journal beyond those that are needed, from which on it is written anew.
const SPARE_LINES: usize = 4096;

/// How often putting back is tried at the end: a group can be changed ten times in a second only, by whoever is not root.
const ATTEMPTS: usize = 5;

/// A client, as far as its threads are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Its process id as we see it.
    pub(crate) pid: u32,
    /// Start time of its process, in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// What is to be added to the nice values of its threads.
    pub(crate) offset: i32,
}

/// What changes need: the journal, the right, and who else is there.
#[derive(Debug)]
struct Changed<'a> {
    journal: &'a mut Journal,
    may_set_any: bool,
    /// Clients.
    others: &'a BTreeSet<u32>,
}

impl Changed<'_> {
    /// Whether a thread of that process can be given this nice value.
    fn may_set(&self, pid: u32, nice: i32) -> bool {
        let is_its_user = || aishim_observe::procfs::owner(pid) == Some(rustix::process::geteuid().as_raw());
        self.may_set_any || is_its_user() && !tasks::is_above_us(pid) && nice >= tasks::lowest_nice(pid)
    }
}

/// All that was changed.
#[derive(Debug)]
pub(crate) struct CpuSide {
    settings: Settings,
    journal: Journal,
    may_set_any: bool,
    processes: BTreeMap<(u32, u64), Process>,
    groups: Groups,
    /// That nothing is touched, and that something failed, are said once each.
    has_said: (bool, bool),
}

impl CpuSide {
    /// That of a runtime directory, whose lock the caller holds. What an earlier daemon has left is put back.
    pub(crate) fn new(directory: &Path, settings: Settings) -> Self {
        let (journal, left) = Journal::open(directory);
        let left = left.unwrap_or_else(|error| {
            tracing::warn!("nice values that an earlier daemon may have left stay as they are: {error}");
            Vec::new()
        });
        let processes = Process::recorded(&left).into_iter().map(|process| ((process.pid, process.start), process));
        let (processes, groups) = (processes.collect(), Groups::recorded(&left));
        let may_set_any = tasks::may_set_any();
        let mut side = Self { settings, journal, may_set_any, processes, groups, has_said: (false, false) };
        if !left.is_empty() {
            tracing::info!("nice values that an earlier daemon has left are put back");
        }
        side.end();
        // Anew in any case: what cannot be put back stays written down, and what makes no sense goes.
        if let Err(error) = side.journal.rewrite(&side.records()) {
            side.complain(0, &Obstacle::Io(error));
        }
        side
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings
    }

    /// Gives the threads of these clients what they are to have, and all others back what they had.
    pub(crate) fn adjust(&mut self, wishes: &[Wish]) {
        let others: BTreeSet<u32> = wishes.iter().map(|wish| wish.pid).collect();
        let present: BTreeMap<(u32, u64), i32> = wishes.iter().map(|w| ((w.pid, w.start_ticks), w.offset)).collect();
        for key in present.keys().filter(|key| present.get(key) != Some(&0)) {
            if !self.processes.contains_key(key) {
                let process = self.newcomer(*key);
                self.processes.insert(*key, process);
            }
        }
        let mut changed = Changed { journal: &mut self.journal, may_set_any: self.may_set_any, others: &others };
        let (mut obstacles, mut touched) = (Vec::new(), Vec::new());
        for (key, process) in &mut self.processes {
            let offset = present.get(key).copied().unwrap_or(0);
            match process.adjust(offset, &mut changed) {
                Ok(()) => touched.extend(present.get(key).map(|offset| (key.0, *offset))),
                Err(obstacle) => obstacles.push((key.0, obstacle)),
            }
        }
        // A client that is as it was has a say in what its session is to have.
        touched.extend(wishes.iter().filter(|wish| wish.offset == 0).map(|wish| (wish.pid, 0)));
        if let Err(obstacle) = self.groups.adjust(&touched, &mut changed) {
            obstacles.push((0, obstacle));
        }
        // Of those that have gone, what could not be put back is tried again.
        self.processes.retain(|key, process| match present.get(key) {
            Some(0) => !process.is_at_rest(),
            Some(_) => true,
            None => process.is_changed() && process.lives(),
        });
        obstacles.into_iter().for_each(|(pid, obstacle)| self.complain(pid, &obstacle));
        self.tidy();
    }

    /// Puts everything back.
    pub(crate) fn end(&mut self) {
        for attempt in 0..ATTEMPTS {
            self.adjust(&[]);
            if !self.is_changed() {
                break;
            }
            if attempt + 1 < ATTEMPTS {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn newcomer(&self, (pid, start): (u32, u64)) -> Process {
        let mut process = Process::new(pid, start);
        let parent = tasks::parent(pid);
        if let Some(parent) = self.processes.values().find(|other| Some(other.pid) == parent) {
            process.descends_from(parent);
        }
        process
    }

    /// Keeps of the journal what is still to be put back.
    fn tidy(&mut self) {
        let lines = self.journal.lines();
        if lines == 0 || lines < SPARE_LINES && self.is_changed() {
            return;
        }
        let records = self.records();
        if (records.is_empty() || lines >= 2 * records.len() + SPARE_LINES)
            && let Err(error) = self.journal.rewrite(&records)
        {
            self.complain(0, &Obstacle::Io(error));
        }
    }

    /// Whether something is still to be put back.
    pub(crate) fn is_changed(&self) -> bool {
        self.groups.is_changed() || self.processes.values().any(Process::is_changed)
    }

    /// All that is still to be put back.
    fn records(&self) -> Vec<journal::Record> {
        self.processes.values().flat_map(Process::records).chain(self.groups.records()).collect()
    }

    fn complain(&mut self, pid: u32, obstacle: &Obstacle) {
        match obstacle {
            Obstacle::NoRight if !std::mem::replace(&mut self.has_said.0, true) => tracing::info!(
                "nice values of process {pid} and of others like it are left alone, since they could not be put back: that needs \
                 CAP_SYS_NICE, or an RLIMIT_NICE of the client (ulimit -e)"
            ),
            Obstacle::Io(error) if !std::mem::replace(&mut self.has_said.1, true) => {
                tracing::warn!("nice values of process {pid} cannot be changed: {error}");
            }
            _ => {}
        }
    }
}

/// Clock ticks since boot, as start times are counted.
fn now_ticks() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ticks = rustix::param::clock_ticks_per_second();
    now.tv_sec.cast_unsigned() * ticks + now.tv_nsec.cast_unsigned() * ticks / 1_000_000_000
}
