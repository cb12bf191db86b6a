//! Jobs: who is in one, and what follows from it for the rank and the gates of each.

use super::Roster;
use aishim_abi::board::JOB_MAX;
use aishim_abi::message::Job;
use std::collections::BTreeSet;

/// A job and who is in it.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) number: u32,
    pub(super) slots: BTreeSet<usize>,
}

impl Roster {
    pub(super) fn join_job(&mut self, job: &(u32, Job), slot: usize) -> u32 {
        let next = self.jobs_made % JOB_MAX + 1;
        let members = self.jobs.entry(job.clone()).or_insert_with(|| {
            self.jobs_made = next;
            Members { number: next, slots: BTreeSet::new() }
        });
        members.slots.insert(slot);
        members.number
    }

    pub(super) fn leave_job(&mut self, job: &(u32, Job), slot: usize, now_ns: u64) {
        let Some(members) = self.jobs.get_mut(job) else { return };
        members.slots.remove(&slot);
        match members.slots.first() {
            Some(other) => {
                let other = *other;
                self.rank_job_of(other, now_ns);
                self.note_job_of(other);
            }
            None => drop(self.jobs.remove(job)),
        }
    }

    /// Gives all of a client's job the rank of its least important: they wait for each other, so the one that waits longest
    /// sets the pace anyway; and nobody is lifted by the job that they name.
    pub(super) fn rank_job_of(&mut self, slot: usize, now_ns: u64) {
        let Some(members) = self.client(slot).and_then(|client| self.jobs.get(client.job.as_ref()?)) else { return };
        let slots: Vec<usize> = members.slots.iter().copied().collect();
        let priorities = slots.iter().filter_map(|slot| Some(self.client(*slot)?.entry.priority));
        let Some(rank) = priorities.min() else { return };
        for slot in slots {
            let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { continue };
            if client.entry.rank != rank {
                client.entry.rank = rank;
                self.tell_standing(slot, now_ns);
                self.note(slot);
            }
        }
    }

    /// The GPUs on which somebody more important holds the client in `slot` back: those of its whole job, whose processes wait for each other.
    pub(crate) fn gates_of(&self, slot: usize) -> u64 {
        let gpus_of = |slot: usize| self.client(slot).map_or(0, |client| client.entry.gpus);
        let members = self.client(slot).and_then(|client| self.jobs.get(client.job.as_ref()?));
        members.map_or(0, |members| members.slots.iter().fold(0, |gpus, slot| gpus | gpus_of(*slot))) | gpus_of(slot)
    }

    /// Remembers that all of a client's job have to be told of others anew.
    pub(super) fn note_job_of(&mut self, slot: usize) {
        let members = self.client(slot).and_then(|client| self.jobs.get(client.job.as_ref()?));
        self.changed.extend(members.into_iter().flat_map(|members| &members.slots));
    }
}
