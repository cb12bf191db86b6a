//! The loop: one thread, one epoll, everything non-blocking, and for each round a bounded amount of work for each connection. So
//! nobody is held back by what another says, does not say, or does not read.

use crate::admission::{Rules, Visitor};
use crate::clock;
use crate::connection::{Connection, With};
use crate::listener::Listener;
use crate::peers;
use crate::roster::Roster;
use crate::telemetry::Telemetry;
use aishim_abi::channel::{Channel, ChannelError, Received};
use aishim_abi::message::{self, Answer, Reason, Refused, Request};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Connections accepted in a round.
const ACCEPTS: usize = 16;

/// Messages of one connection that are heard in a round.
const MESSAGES: usize = 8;

/// Events taken from epoll in a round.
const EVENTS: usize = 128;

/// How long a connection may be nobody's.
const NOBODYS_NS: u64 = 5_000_000_000;

/// Connections that one process, one user, and all together may have that are nobody's.
const NOBODYS_OF_PROCESS: usize = 8;
const NOBODYS_OF_USER: usize = 64;
const NOBODYS: usize = 256;

/// Descriptors that the daemon may need: for each client its connection, process and page; for each other connection two; and some.
pub(crate) const fn descriptors(max_clients: usize) -> usize {
    3 * max_clients + 2 * NOBODYS + 64
}

/// How often what depends on time is looked at, while there is something of the kind.
const HOUSEKEEPING_NS: u64 = 50_000_000;

/// Size of a connection's send buffer: some messages. A client that does not read keeps few descriptors on the way, of which
/// the daemon's user may have only so many.
const SEND_BYTES: usize = 16 * 1024;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
/// Connection N has the tokens `FIRST` + 2 N and, for its process, the one after that.
const FIRST: u64 = 2;

/// The daemon at work.
pub(crate) struct Server {
    epoll: OwnedFd,
    listener: Listener,
    signals: OwnedFd,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) roster: Roster,
    pub(crate) rules: Rules,
    pub(crate) telemetry: Telemetry,
    next: u64,
    /// Connections of which there is more to read than was heard in their round.
    unheard: BTreeSet<u64>,
    /// Whether accepting has stopped because no descriptor was left.
    is_deaf: bool,
    /// Whether there is something that only time brings, as of the last round in which anything happened on connections.
    has_house: bool,
    kept_house_ns: u64,
}

impl Server {
    pub(crate) fn new(
        listener: Listener,
        signals: OwnedFd,
        roster: Roster,
        rules: Rules,
        telemetry: Telemetry,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&epoll, &signals, EventData::new_u64(SIGNALS), EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            signals,
            connections: BTreeMap::new(),
            roster,
            rules,
            telemetry,
            next: 0,
            unheard: BTreeSet::new(),
            is_deaf: false,
            has_house: false,
            kept_house_ns: 0,
        })
    }

    /// Serves until a signal says that it is over.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let limit = self.time_limit(clock::monotonic_ns());
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            if events.iter().any(|event: &Event| event.data.u64() == SIGNALS) {
                return Ok(());
            }
            self.round(&events, clock::monotonic_ns());
        }
    }

    /// Takes leave: all gates open, no connection is left, and nice values are as they were.
    pub(crate) fn end(mut self) {
        self.roster.board_mut().end();
        self.connections.clear();
        drop(self.signals);
    }

    fn round(&mut self, events: &[Event], now_ns: u64) {
        let mut is_busy = !events.is_empty() || !self.unheard.is_empty();
        for unheard in std::mem::take(&mut self.unheard) {
            self.hear(unheard, now_ns);
        }
        for event in events {
            match event.data.u64() {
                LISTENER => self.accept(now_ns),
                SIGNALS => {}
                token => self.attend((token - FIRST) / 2, (token - FIRST) % 2 == 1, event.flags, now_ns),
            }
        }
        if self.has_house && now_ns.saturating_sub(self.kept_house_ns) >= HOUSEKEEPING_NS {
            self.kept_house_ns = now_ns;
            self.keep_house(now_ns);
            is_busy = true;
        }
        self.roster.tick(now_ns);
        is_busy |= self.spread(now_ns);
        // Most rounds are turns that end, and a look at all connections is as much as the rest of such a round.
        if is_busy {
            self.has_house = self.has_to_keep_house(now_ns);
        }
    }

    /// How long to wait for something to happen.
    fn time_limit(&self, now_ns: u64) -> Option<Timespec> {
        if !self.unheard.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let house_ns = self.has_house.then(|| self.kept_house_ns.saturating_add(HOUSEKEEPING_NS));
        let due_ns = house_ns.into_iter().chain(self.roster.wake_ns(now_ns)).min()?;
        let left_ns = due_ns.saturating_sub(now_ns);
        Some(Timespec {
            tv_sec: (left_ns / 1_000_000_000).cast_signed(),
            tv_nsec: (left_ns % 1_000_000_000).cast_signed(),
        })
    }

    /// Something has happened on a connection, or with the process behind it.
    fn attend(&mut self, number: u64, is_process: bool, flags: EventFlags, now_ns: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if is_process || flags.contains(EventFlags::ERR) {
            return self.close(number, now_ns);
        }
        if flags.contains(EventFlags::OUT) {
            connection.is_full = false;
            self.send(number, now_ns);
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            self.hear(number, now_ns);
        } else if flags.contains(EventFlags::HUP) {
            // It has gone while nothing was heard from it.
            self.close(number, now_ns);
        }
        self.look_for(number, now_ns);
    }

    /// Reads what has come, and answers so many messages.
    fn hear(&mut self, number: u64, now_ns: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if !connection.listens(now_ns) {
            return;
        }
        let received = match connection.channel.receive() {
            Ok(received) => received,
            Err(ChannelError::Message(_)) => return self.refuse(number, Reason::BadMessage, 0, now_ns),
            Err(_) => return self.close(number, now_ns),
        };
        for _ in 0..MESSAGES {
            let Some(connection) = self.connections.get_mut(&number) else { return };
            if !connection.listens(now_ns) {
                break;
            }
            match connection.channel.read::<Request>() {
                Ok(Some((request, descriptor))) => {
                    connection.may_speak(now_ns);
                    self.answer(number, request, descriptor, now_ns);
                }
                Ok(None) if received == Received::End => return self.close(number, now_ns),
                Ok(None) => return self.look_for(number, now_ns),
                Err(message::MessageError::OtherVersion { .. }) => {
                    return self.refuse(number, Reason::OtherVersion, 0, now_ns);
                }
                Err(_) => return self.refuse(number, Reason::BadMessage, 0, now_ns),
            }
        }
        // There may be more in our own memory, of which epoll knows nothing.
        if self.connections.get(&number).is_some_and(|connection| connection.listens(now_ns)) {
            self.unheard.insert(number);
        }
        self.look_for(number, now_ns);
    }

    fn accept(&mut self, now_ns: u64) {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok(Some(socket)) => self.let_in(socket, now_ns),
                Ok(None) => return,
                Err(error) => {
                    // Whoever waits would wake us again and again.
                    tracing::warn!("no more connections for the moment: {error}");
                    self.is_deaf = true;
                    let _ = epoll::delete(&self.epoll, &self.listener);
                    return;
                }
            }
        }
    }

    fn let_in(&mut self, socket: OwnedFd, now_ns: u64) {
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BYTES);
        let Ok(channel) = Channel::accepted(socket) else { return };
        let Ok(visitor) = Visitor::of(&channel) else { return };
        let nobodys = || self.connections.values().filter(|c| c.slot.is_none());
        let of_process = nobodys().filter(|c| c.visitor.pid == visitor.pid).count();
        let of_user = nobodys().filter(|c| c.visitor.uid == visitor.uid).count();
        let limits = [
            (of_process, NOBODYS_OF_PROCESS),
            (of_user, NOBODYS_OF_USER),
            (self.connections.values().filter(|c| c.slot.is_none()).count(), NOBODYS),
        ];
        let mut connection = Connection::new(channel, visitor, now_ns);
        if let Some((_, limit)) = limits.iter().find(|(count, limit)| count >= limit) {
            self.roster.board_mut().count_refused();
            let refused = refusal(Reason::TooManyConnections, *limit as u32);
            let _ = connection.say(refused, With::Nothing, None);
            return;
        }
        let number = self.next;
        self.next += 1;
        let (token, process) = (FIRST + 2 * number, FIRST + 2 * number + 1);
        connection.looked_for = connection.wanted(now_ns);
        let added = epoll::add(&self.epoll, &connection.channel, EventData::new_u64(token), connection.looked_for);
        let pidfd = connection.visitor.pidfd.as_ref().map(AsFd::as_fd);
        let watched =
            pidfd.map_or(Ok(()), |pidfd| epoll::add(&self.epoll, pidfd, EventData::new_u64(process), EventFlags::IN));
        if added.and(watched).is_ok() {
            self.connections.insert(number, connection);
        }
    }

    /// Tells epoll what to look for on a connection, where that has changed.
    fn look_for(&mut self, number: u64, now_ns: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let wanted = connection.wanted(now_ns);
        if wanted != connection.looked_for {
            connection.looked_for = wanted;
            let token = EventData::new_u64(FIRST + 2 * number);
            let _ = epoll::modify(&self.epoll, &connection.channel, token, wanted);
        }
    }

    /// Sends what a connection is to be told.
    pub(crate) fn send(&mut self, number: u64, now_ns: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        // While an answer waited nothing was read, and something may be left in our own memory.
        if connection.answer.is_some() {
            self.unheard.insert(number);
        }
        let mut sent = connection.send_answer(self.roster.board().descriptor());
        if let (Ok(()), Some(slot)) = (&sent, connection.slot) {
            sent = peers::send(connection, &self.roster, slot);
        }
        match sent {
            Ok(()) => self.look_for(number, now_ns),
            Err(_) => self.close(number, now_ns),
        }
    }

    /// Tells those whom it concerns what has changed about others. One that turns out to have gone when it is told is a change itself, of
    /// which no other event would remind us. Whether there was anything.
    fn spread(&mut self, now_ns: u64) -> bool {
        let mut is_any = false;
        loop {
            let changed = self.roster.take_changed();
            if changed.is_empty() {
                return is_any;
            }
            is_any = true;
            self.spread_changed(&changed, now_ns);
        }
    }

    fn spread_changed(&mut self, changed: &BTreeSet<usize>, now_ns: u64) {
        self.telemetry.set_clients(self.roster.present());
        let mut concerned = Vec::new();
        for (number, connection) in &mut self.connections {
            let Some(slot) = connection.slot else { continue };
            changed.iter().for_each(|other| peers::note(connection, &self.roster, slot, *other));
            if !connection.pending.is_empty() {
                concerned.push(*number);
            }
        }
        concerned.into_iter().for_each(|number| self.send(number, now_ns));
    }

    /// Says why, and hangs up.
    pub(crate) fn refuse(&mut self, number: u64, reason: Reason, limit: u32, now_ns: u64) {
        self.roster.board_mut().count_refused();
        if let Some(connection) = self.connections.get_mut(&number) {
            let (pid, uid) = (connection.visitor.pid.unwrap_or(0), connection.visitor.uid);
            tracing::debug!("process {pid} of user {uid} is refused: {reason}");
            connection.answer = None;
            let _ = connection.say(refusal(reason, limit), With::Nothing, None);
        }
        self.close(number, now_ns);
    }

    /// Ends a connection, and with it the client that it was.
    pub(crate) fn close(&mut self, number: u64, now_ns: u64) {
        let Some(connection) = self.connections.remove(&number) else { return };
        if let Some(slot) = connection.slot {
            tracing::info!("process {} has left slot {slot}", connection.visitor.pid.unwrap_or(0));
            self.roster.remove(slot, now_ns);
        }
    }

    fn has_to_keep_house(&self, now_ns: u64) -> bool {
        let needs = |c: &Connection| c.slot.is_none() || c.is_to_retry || c.is_impatient(now_ns);
        self.is_deaf || self.connections.values().any(needs)
    }

    /// Does what only time brings: hangs up on those who said nothing, hears those again who said too much.
    fn keep_house(&mut self, now_ns: u64) {
        if std::mem::take(&mut self.is_deaf) {
            let added = epoll::add(&self.epoll, &self.listener, EventData::new_u64(LISTENER), EventFlags::IN);
            self.is_deaf = added.is_err();
        }
        let is_late = |c: &Connection| c.slot.is_none() && now_ns.saturating_sub(c.opened_ns) > NOBODYS_NS;
        let late: Vec<u64> = self.connections.iter().filter(|(_, c)| is_late(c)).map(|(number, _)| *number).collect();
        late.into_iter().for_each(|number| self.refuse(number, Reason::TooSlow, 0, now_ns));
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            let was_quiet = !connection.looked_for.contains(EventFlags::IN);
            if std::mem::take(&mut connection.is_to_retry) {
                self.send(number, now_ns);
            }
            // What was left in our own memory when it was no longer heard.
            if was_quiet && self.connections.get(&number).is_some_and(|c| c.listens(now_ns)) {
                self.unheard.insert(number);
            }
            self.look_for(number, now_ns);
        }
    }
}

/// The answer that something is not done.
pub(crate) fn refusal(reason: Reason, limit: u32) -> Answer {
    Refused { version: message::VERSION, reason, limit }.into()
}
