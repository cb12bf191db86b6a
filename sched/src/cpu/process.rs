//! The threads of one process: how each was, and what it has from us.
//!
//! A thread is known by its id and its start time, and what was changed is put back only where it is still as we left it: somebody who has
//! given it another nice value since (renice(1)) is not contradicted, then or later.
//!
//! A thread, and a child process, begins with the nice value of the thread that made it, which may be ours. So one that is new to us, began after we
//! first changed something of the process, and has a nice value that we have given there, is taken to have had what its maker had
//! before. Children are put back as soon as they are seen: they are no clients.

use super::journal::Record;
use super::tasks::{self, Task};
use super::{Changed, niceness};
use aishim_observe::procfs;
use std::collections::BTreeMap;
use std::io;

/// How often all threads are gone through until none is new. One that makes threads faster than that is left to the next time.
const PASSES: usize = 8;

/// Every so many times each thread is looked at, and children are; in between it is only seen whether there are as many as before, which
/// the process's own stat tells together with its start time. A thread's stat costs some 10 us, and a list of them some 20 us and more;
/// one that was born in the place of another began with the nice value of its maker, and is written down with the next full look.
pub(super) const FULL_EVERY: u32 = 4;

/// What we know of a thread.
#[derive(Clone, Copy, Debug)]
struct Held {
    start: u64,
    before: i32,
    set: i32,
    /// Somebody else has changed it since.
    is_others: bool,
}

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) start: u64,
    threads: BTreeMap<u32, Held>,
    /// What each nice value that we have given here was before.
    given: BTreeMap<i32, i32>,
    /// When we first changed something, in clock ticks since boot.
    since: Option<u64>,
    /// The offset that all had at the last look, and how often it was not looked closely since.
    settled: Option<i32>,
    glances: u32,
    /// Whether it made threads faster than they were gone through.
    is_restless: bool,
}

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// We could not put it back.
    NoRight,
    /// It could not be written down, or done.
    Io(io::Error),
}

impl Process {
    pub(super) fn new(pid: u32, start: u64) -> Self {
        Self {
            pid,
            start,
            threads: BTreeMap::new(),
            given: BTreeMap::new(),
            since: None,
            settled: None,
            glances: 0,
            is_restless: false,
        }
    }

    /// What an earlier daemon has left of it.
    pub(super) fn recorded(records: &[Record]) -> Vec<Self> {
        let mut processes: BTreeMap<(u32, u64), Self> = BTreeMap::new();
        for record in records {
            let Record::Thread { pid, process_start, tid, thread_start, before, set } = *record else { continue };
            let process = processes.entry((pid, process_start)).or_insert_with(|| Self::new(pid, process_start));
            // What was born since and is not written down began after all that is.
            process.since = Some(process.since.unwrap_or(0).max(thread_start));
            process.given.insert(set, before);
            let held = Held { start: thread_start, before, set, is_others: false };
            let held = process.threads.entry(tid).or_insert(held);
            // Each of several lines of a thread has one value that may be ours.
            if tasks::task(pid, tid).is_some_and(|task| task.nice == set) {
                held.set = set;
            }
        }
        processes.into_values().collect()
    }

    /// Whether it is still there, and not another one of its number.
    pub(super) fn lives(&self) -> bool {
        procfs::start_ticks(self.pid) == Some(self.start)
    }

    /// Whether something of it is other than it was.
    pub(super) fn is_changed(&self) -> bool {
        self.is_restless || self.threads.values().any(|held| held.set != held.before && !held.is_others)
    }

    /// Whether all of it is as it was, and was so still when it was looked at again.
    pub(super) fn is_at_rest(&self) -> bool {
        self.settled == Some(0) && self.glances > 0 && !self.is_changed()
    }

    /// What its threads had before that were given `set`.
    pub(super) fn before(&self, set: i32) -> Option<i32> {
        self.given.get(&set).copied()
    }

    /// Takes over what its parent's threads had: it is a client by now, and began with a nice value of ours.
    pub(super) fn descends_from(&mut self, parent: &Self) {
        if parent.since.is_some_and(|since| self.start >= since) {
            self.given.clone_from(&parent.given);
            self.since = Some(self.start);
        }
    }

    /// Gives all its threads `offset` more than they had, those born meanwhile too.
    pub(super) fn adjust(&mut self, offset: i32, changed: &mut Changed<'_>) -> Result<(), Obstacle> {
        if self.settled == Some(offset) && self.glances + 1 < FULL_EVERY && self.is_as_known() {
            self.glances += 1;
            return Ok(());
        }
        (self.settled, self.glances, self.is_restless) = (None, 0, false);
        for _ in 0..PASSES {
            if !self.lives() {
                self.threads.clear();
                return Ok(());
            }
            let before: Vec<u32> = self.threads.keys().copied().collect();
            let (wanted, inherited) = self.look(offset);
            if !inherited.is_empty() {
                changed.journal.append(&inherited).map_err(Obstacle::Io)?;
            }
            // A list that is read while threads come and go may miss one whose maker ends meanwhile: it counts if none have, or if it is then the same
            // twice.
            let is_as_before = || self.threads.keys().eq(&before) && self.is_as_known();
            if wanted.is_empty() && (is_as_before() || self.is_complete() && self.is_complete()) {
                self.settled = Some(offset);
                break;
            }
            self.change(&wanted, changed)?;
        }
        self.is_restless = self.settled.is_none();
        self.put_children_back(changed);
        Ok(())
    }

    /// Whether it has as many threads as we know.
    fn is_as_known(&self) -> bool {
        tasks::started(self.pid) == Some((self.start, self.threads.len()))
    }

    /// Whether its threads are those that we know, and no others.
    fn is_complete(&self) -> bool {
        let mut tids: Vec<u32> = tasks::tids(self.pid).collect();
        tids.sort_unstable();
        self.threads.keys().copied().eq(tids)
    }

    /// All that is to be written down of it.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let changed = self.threads.iter().filter(|(_, held)| held.set != held.before && !held.is_others);
        changed.map(|(tid, held)| self.record(*tid, held, held.set))
    }

    fn record(&self, tid: u32, held: &Held, set: i32) -> Record {
        let Held { start: thread_start, before, .. } = *held;
        Record::Thread { pid: self.pid, process_start: self.start, tid, thread_start, before, set }
    }

    /// The threads that are to have another nice value, and which; and those that were born with one of ours.
    fn look(&mut self, offset: i32) -> (Vec<(u32, i32)>, Vec<Record>) {
        let tasks = tasks::tasks(self.pid);
        let before: BTreeMap<u32, Held> = std::mem::take(&mut self.threads);
        let (mut wanted, mut inherited) = (Vec::new(), Vec::new());
        for task in tasks {
            let known = before.get(&task.tid).filter(|held| held.start == task.start);
            let mut held = known.copied().unwrap_or_else(|| self.first_seen(&task));
            if known.is_none() && held.set != held.before {
                inherited.push(self.record(task.tid, &held, held.set));
            }
            held.is_others |= task.nice != held.set || !task.is_ordinary;
            let nice = niceness::nice(held.before, offset);
            if nice != held.set && !held.is_others {
                wanted.push((task.tid, nice));
            }
            self.threads.insert(task.tid, held);
        }
        (wanted, inherited)
    }

    fn first_seen(&self, task: &Task) -> Held {
        let is_younger = self.since.is_some_and(|since| task.start >= since);
        let before = self.before(task.nice).filter(|_| is_younger).unwrap_or(task.nice);
        Held { start: task.start, before, set: task.nice, is_others: false }
    }

    fn change(&mut self, wanted: &[(u32, i32)], changed: &mut Changed<'_>) -> Result<(), Obstacle> {
        let held = |tid: &u32| self.threads.get(tid);
        let lowest = wanted.iter().filter_map(|(tid, nice)| Some((*nice).min(held(tid)?.before))).min();
        if lowest.is_some_and(|lowest| !changed.may_set(self.pid, lowest)) {
            return Err(Obstacle::NoRight);
        }
        let news =
            |(tid, nice): &(u32, i32)| held(tid).filter(|h| *nice != h.before).map(|h| self.record(*tid, h, *nice));
        let records: Vec<Record> = wanted.iter().filter_map(news).collect();
        if !records.is_empty() {
            changed.journal.append(&records).map_err(Obstacle::Io)?;
            self.since = self.since.or_else(|| Some(super::now_ticks()));
        }
        for (tid, nice) in wanted {
            let Some(held) = self.threads.get_mut(tid) else { continue };
            if tasks::task(self.pid, *tid).is_none_or(|task| task.start != held.start) {
                continue;
            }
            match tasks::set_nice(*tid, *nice) {
                Ok(()) => {
                    held.set = *nice;
                    if held.set != held.before {
                        self.given.insert(held.set, held.before);
                    }
                }
                // It has ended, or that is not to be known.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                Err(e) => return Err(Obstacle::Io(e)),
            }
        }
        Ok(())
    }

    /// Gives children back what their maker had; they are no clients, or would not be among `changed.others`.
    fn put_children_back(&self, changed: &Changed<'_>) {
        let Some(since) = self.since else { return };
        let children = self.threads.keys().flat_map(|tid| tasks::children(self.pid, *tid));
        for child in children.filter(|child| !changed.others.contains(child)) {
            if procfs::start_ticks(child).is_none_or(|start| start < since) {
                continue;
            }
            for task in tasks::tasks(child) {
                if let Some(before) = self.before(task.nice).filter(|before| *before != task.nice) {
                    let _ = tasks::set_nice(task.tid, before);
                }
            }
        }
    }
}
