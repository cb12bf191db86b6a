//! Who has to know of whom: each client of those that are more important, use a GPU that it or another of its job uses, and are not of its job.
//!
//! What is sent is the difference between what a client was told and what is so, computed when the socket takes it. A queue
//! of messages would grow with a client that does not read; this does not, and whoever reads again after a while is told what is so
//! then.

use crate::connection::{Connection, Told};
use crate::roster::{Client, Roster};
use aishim_abi::channel::ChannelError;
use aishim_abi::message::{Answer, Peer, PeerGone};

/// Remembers that something about `changed` is perhaps to be told to the client in `slot`.
pub(crate) fn note(connection: &mut Connection, roster: &Roster, slot: usize, changed: usize) {
    if slot == changed {
        // Its own place among the others has changed: all may be news.
        connection.pending.extend(roster.iter().map(|(other, _)| other).filter(|other| *other != slot));
        connection.pending.extend(connection.told.keys());
    } else if connection.told.contains_key(&changed) || due(roster, slot, changed).is_some() {
        connection.pending.insert(changed);
    }
}

/// Sends what is to be told, as much as the socket takes.
pub(crate) fn send(connection: &mut Connection, roster: &Roster, slot: usize) -> Result<(), ChannelError> {
    // An answer comes first: nobody is told of others before they are welcome.
    while connection.answer.is_none() && !connection.is_full && !connection.is_to_retry {
        let Some(other) = connection.pending.first().copied() else { break };
        if send_about(connection, roster, slot, other)? {
            connection.pending.remove(&other);
        }
    }
    Ok(())
}

/// Says one message about another client, if there is one to say; whether there is nothing more to say about it.
fn send_about(connection: &mut Connection, roster: &Roster, slot: usize, other: usize) -> Result<bool, ChannelError> {
    let (told, due) = (connection.told.get(&other).copied(), due(roster, slot, other));
    if told == due {
        return Ok(true);
    }
    match (told, due) {
        // Gone, or another one has its slot, which is told next.
        (Some(before), now) if now.is_none_or(|now| now.generation != before.generation) => {
            let gone = PeerGone { slot: other as u32, generation: before.generation };
            let sent = connection.channel.send(&Answer::from(gone), None)?;
            if connection.note(sent) {
                connection.told.remove(&other);
                return Ok(now.is_none());
            }
        }
        (_, Some(now)) => {
            let Some(client) = roster.client(other) else { return Ok(true) };
            let peer = peer(client, other);
            let sent = connection.channel.send(&Answer::from(peer), client.page.descriptor())?;
            if connection.note(sent) {
                connection.told.insert(other, now);
                return Ok(true);
            }
        }
        (_, None) => return Ok(true),
    }
    Ok(false)
}

/// What the client in `slot` has to know of `other`; none where it is none of its business.
fn due(roster: &Roster, slot: usize, other: usize) -> Option<Told> {
    let (own, its) = (&roster.client(slot)?.entry, &roster.client(other)?.entry);
    let is_of_its_job = own.job != 0 && own.job == its.job;
    let counts = slot != other && its.rank > own.rank && its.gpus & roster.gates_of(slot) != 0 && !is_of_its_job;
    counts.then(|| Told { generation: its.generation, rank: its.rank.number(), gpus: its.gpus })
}

fn peer(client: &Client, slot: usize) -> Peer {
    let entry = &client.entry;
    Peer { slot: slot as u32, priority: entry.rank, generation: entry.generation, gpus: entry.gpus }
}
