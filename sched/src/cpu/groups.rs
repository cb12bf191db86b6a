//! Autogroups (sched(7)): where the system has them, a nice value counts only within a session, and among sessions that of the
//! session's group does.
//!
//! A session may have several clients, and processes that are none. So its group is changed only while all its clients
//! are to be changed alike, and never where we are in it ourselves. It is put back when that is so no longer, through whatever process
//! is still in it.

use super::Changed;
use super::journal::Record;
use super::process::{FULL_EVERY, Obstacle};
use super::{niceness, tasks};
use std::collections::BTreeMap;
use std::io;

/// How one was and what it has from us, and a process that was in it.
#[derive(Clone, Copy, Debug)]
struct Held {
    before: i32,
    set: i32,
    pid: u32,
}

/// All that were changed.
#[derive(Debug, Default)]
pub(super) struct Groups {
    held: BTreeMap<u64, Held>,
    /// What the processes were to have when all groups had what follows from it, and how often they were not looked at since.
    settled: Option<Vec<(u32, i32)>>,
    glances: u32,
}

impl Groups {
    /// What an earlier daemon has left.
    pub(super) fn recorded(records: &[Record]) -> Self {
        let mut held: BTreeMap<u64, Held> = BTreeMap::new();
        for record in records {
            let Record::Group { id, before, set } = *record else { continue };
            let of_now = member(id, 0).and_then(tasks::autogroup).map(|(_, nice)| nice);
            let held = held.entry(id).or_insert(Held { before, set, pid: 0 });
            if of_now == Some(set) {
                held.set = set;
            }
        }
        Self { held, settled: None, glances: 0 }
    }

    /// Gives the groups of these processes what they are to have, and all others back what they had.
    ///
    /// Where these are as before, that is done every so many times only: each has a file of its own that tells its group.
    pub(super) fn adjust(&mut self, offsets: &[(u32, i32)], changed: &mut Changed<'_>) -> Result<(), Obstacle> {
        if self.settled.as_deref() == Some(offsets) && self.glances + 1 < FULL_EVERY {
            self.glances += 1;
            return Ok(());
        }
        (self.settled, self.glances) = (None, 0);
        if self.adjust_all(offsets, changed)? && !offsets.is_empty() {
            self.settled = Some(offsets.to_vec());
        }
        Ok(())
    }

    /// Whether nothing is left that could not be done at this moment.
    fn adjust_all(&mut self, offsets: &[(u32, i32)], changed: &mut Changed<'_>) -> Result<bool, Obstacle> {
        let mut is_done = true;
        // For each group: a process in it, its nice value, and what all its clients agree on.
        let mut wanted: BTreeMap<u64, (u32, i32, i32)> = BTreeMap::new();
        let is_needed = offsets.iter().any(|(_, offset)| *offset != 0) || !self.held.is_empty();
        if is_needed && tasks::has_autogroups() {
            let own = tasks::autogroup(std::process::id()).map(|(id, _)| id);
            for (pid, offset) in offsets {
                let Some((id, nice)) = tasks::autogroup(*pid).filter(|(id, _)| Some(*id) != own) else { continue };
                let (_, _, agreed) = wanted.entry(id).or_insert((*pid, nice, *offset));
                if *agreed != *offset {
                    *agreed = 0;
                }
            }
        }
        for (id, (pid, nice, offset)) in &wanted {
            if *offset == 0 && !self.held.contains_key(id) {
                continue;
            }
            let held = *self.held.entry(*id).or_insert(Held { before: *nice, set: *nice, pid: *pid });
            is_done &= self.change(*id, *pid, *nice, niceness::nice(held.before, *offset), changed)?;
            if *offset == 0 && self.held.get(id).is_some_and(|held| held.set == held.before) {
                self.held.remove(id);
            }
        }
        let left: Vec<(u64, Held)> = self.held.iter().map(|(id, held)| (*id, *held)).collect();
        for (id, held) in left.into_iter().filter(|(id, _)| !wanted.contains_key(id)) {
            // Where nobody is in it any more there is nothing to put back.
            if held.set != held.before
                && let Some(pid) = member(id, held.pid)
                && let Some((_, nice)) = tasks::autogroup(pid)
            {
                is_done &= self.change(id, pid, nice, held.before, changed)?;
                if self.held.get(&id).is_some_and(|held| held.set != held.before) {
                    continue;
                }
            }
            self.held.remove(&id);
        }
        Ok(is_done)
    }

    pub(super) fn is_changed(&self) -> bool {
        self.held.values().any(|held| held.set != held.before)
    }

    /// All that is to be written down of them.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let changed = self.held.iter().filter(|(_, held)| held.set != held.before);
        changed.map(|(id, held)| Record::Group { id: *id, before: held.before, set: held.set })
    }

    /// Whether that is done, or not to be.
    fn change(&mut self, id: u64, pid: u32, nice: i32, to: i32, changed: &mut Changed<'_>) -> Result<bool, Obstacle> {
        let Some(held) = self.held.get_mut(&id) else { return Ok(true) };
        if nice != held.set {
            // Somebody else has changed it since: it is as they want it.
            (held.before, held.set) = (nice, nice);
            return Ok(true);
        }
        if to == nice {
            return Ok(true);
        }
        if !changed.may_set(pid, to.min(held.before)) {
            return Err(Obstacle::NoRight);
        }
        if to != held.before {
            let record = Record::Group { id, before: held.before, set: to };
            changed.journal.append(&[record]).map_err(Obstacle::Io)?;
        }
        match tasks::set_autogroup(pid, to) {
            Ok(()) => held.set = to,
            // Too many of these at once, or the process has just ended: the next time.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.raw_os_error() == Some(libc::ESRCH) => {
                return Ok(false);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Obstacle::Io(e)),
        }
        Ok(true)
    }
}

/// A process that is in the group, the one that was in it if it still is.
fn member(id: u64, known: u32) -> Option<u32> {
    let is_in = |pid: &u32| tasks::autogroup(*pid).is_some_and(|(of, _)| of == id);
    Some(known).filter(|known| *known != 0 && is_in(known)).or_else(|| tasks::processes().find(is_in))
}
