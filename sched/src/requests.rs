//! What each request does.

use crate::admission::Rights;
use crate::connection::With;
use crate::roster::{Newcomer, Refusal};
use crate::server::{Server, refusal};
use aishim_abi::board::Entry;
use aishim_abi::client_page::{Identity, PageView};
use aishim_abi::message::{
    Answer, AskGpu, AskStatus, Done, Hello, Name, Reason, Request, SetClient, SetPolicy, Status, UsesGpu, Version,
    Welcome,
};
use aishim_abi::rank::{Class, Weight};
use rustix::fd::OwnedFd;

impl Server {
    /// Does what was asked for, or says why not.
    pub(crate) fn answer(&mut self, number: u64, request: Request, descriptor: Option<OwnedFd>, now_ns: u64) {
        let done = match request {
            Request::Hello(hello) => self.hello(number, &hello, descriptor, now_ns).map(Some),
            Request::UsesGpu(UsesGpu { uuid }) => match self.slot(number) {
                Some(slot) => self.roster.use_gpu(slot, uuid, now_ns).map(|()| None),
                None => Err((Reason::BadMessage, 0)),
            },
            Request::AskStatus(AskStatus { version: Version }) => Ok(Some((self.status(), With::Board))),
            Request::AskGpu(AskGpu { version: Version, uuid }) if self.roster.has_gpu(uuid) => {
                Ok(Some((self.telemetry.figures(uuid, now_ns).into(), With::Nothing)))
            }
            Request::AskGpu(_) => Err((Reason::NoSuchGpu, 0)),
            Request::SetPolicy(set) => self.set_policy(number, &set, now_ns).map(Some),
            Request::SetClient(set) => self.set_client(number, &set, now_ns).map(Some),
        };
        match done {
            Ok(Some((answer, with))) => self.say(number, answer, with, now_ns),
            Ok(None) => {}
            // Somebody who is a client, or asks for something, may go on after a refusal; a stranger may not.
            Err((reason, limit)) if self.slot(number).is_some() || is_refused_alone(reason) => {
                self.roster.board_mut().count_refused();
                self.say(number, refusal(reason, limit), With::Nothing, now_ns);
            }
            Err((reason, limit)) => self.refuse(number, reason, limit, now_ns),
        }
    }

    fn say(&mut self, number: u64, answer: Answer, with: With, now_ns: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.say(answer, with, self.roster.board().descriptor()).is_err() {
            self.close(number, now_ns);
        }
    }

    fn slot(&self, number: u64) -> Option<usize> {
        self.connections.get(&number)?.slot
    }

    fn rights(&self, number: u64) -> Result<Rights, Refusal> {
        let visitor = self.connections.get(&number).map(|connection| &connection.visitor);
        visitor.and_then(|visitor| self.rules.rights(visitor.uid, visitor.pid)).ok_or((Reason::NotAllowed, 0))
    }

    fn rights_of_user(&self, number: u64) -> Result<Rights, Refusal> {
        let visitor = self.connections.get(&number).map(|connection| &connection.visitor);
        visitor.and_then(|visitor| self.rules.rights_of_user(visitor.uid, visitor.pid)).ok_or((Reason::NotAllowed, 0))
    }

    fn hello(
        &mut self,
        number: u64,
        hello: &Hello,
        page: Option<OwnedFd>,
        now_ns: u64,
    ) -> Result<(Answer, With), Refusal> {
        if self.slot(number).is_some() {
            return Err((Reason::AlreadyThere, 1));
        }
        let claim = Identity { pid: hello.pid, start_ticks: hello.start_ticks, generation: hello.generation };
        let visitor = self.connections.get(&number).map(|connection| &connection.visitor);
        let visitor = visitor.filter(|visitor| visitor.is(&claim)).ok_or((Reason::NotYou, 0))?;
        let (Some(pid), uid) = (visitor.pid, visitor.uid) else { return Err((Reason::NotYou, 0)) };
        let rights = self.rights(number)?;
        let page = page.and_then(|page| PageView::open(page).ok()).filter(|page| page.identity() == claim);
        let page = page.ok_or((Reason::BadPage, 0))?;
        let says_nothing = hello.priority.is_none() && hello.class == Class::Unclassified;
        let class = rights.class.filter(|_| says_nothing).unwrap_or(hello.class);
        let wished = hello.priority.or(class.priority()).unwrap_or(self.rules.config().default_priority);
        let usual = rights.weight.unwrap_or(Weight::NORMAL);
        let weight = hello.weight.unwrap_or(usual).min(rights.weight.unwrap_or(Weight::HIGHEST));
        let priority = wished.min(rights.limit);
        let newcomer = Newcomer {
            pid,
            own_pid: hello.pid,
            uid,
            start_ticks: hello.start_ticks,
            priority,
            limit: rights.limit,
            weight,
            class,
            follows: class == Class::Auto && hello.priority.is_none(),
            job: hello.job.clone(),
            gpus: hello.gpus.clone(),
            page,
        };
        let slot = self.roster.admit(newcomer, rights.clients, now_ns)?;
        let generation = self.roster.client(slot).map_or(0, |client| client.entry.generation);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.slot = Some(slot);
        }
        tracing::info!("process {pid} of user {uid} has slot {slot}, priority {priority}");
        let slot = slot as u32;
        Ok((Welcome { version: Version, slot, generation, priority, limit: rights.limit }.into(), With::Board))
    }

    fn status(&self) -> Answer {
        Status {
            version: Version,
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            max_clients: self.roster.board().slots() as u32,
            program: Name::new(concat!("aischedd ", env!("CARGO_PKG_VERSION"))),
        }
        .into()
    }

    fn set_policy(&mut self, number: u64, set: &SetPolicy, now_ns: u64) -> Result<(Answer, With), Refusal> {
        if !self.rights_of_user(number)?.is_master {
            return Err((Reason::NotYours, 0));
        }
        self.roster.set_policy(set.uuid, set.policy, now_ns)?;
        tracing::info!("policy {} is in force", set.policy);
        Ok((Done {}.into(), With::Nothing))
    }

    /// A user lowers what is theirs freely, and raises it to their own limit; root and the daemon's user do so with all.
    fn set_client(&mut self, number: u64, set: &SetClient, now_ns: u64) -> Result<(Answer, With), Refusal> {
        let rights = self.rights_of_user(number)?;
        let uid = self.connections.get(&number).map(|connection| connection.visitor.uid);
        let slot = set.slot as usize;
        let client = self.roster.client(slot).filter(|client| client.entry.generation == set.generation);
        let client = client.ok_or((Reason::NoSuchClient, 0))?;
        let (entry, client_follows) = (client.entry, client.follows());
        if uid != Some(entry.uid) && !rights.is_master {
            return Err((Reason::NotYours, 0));
        }
        // What rules allow a process may be more than its user's other processes may, or less.
        let limit = if rights.is_master { rights.limit.max(entry.limit) } else { entry.limit };
        let priority = set.priority.or(set.class.and_then(Class::priority)).unwrap_or(entry.priority);
        if priority > limit {
            return Err((Reason::AboveLimit, limit.number()));
        }
        let follows = match (set.priority, set.class) {
            (Some(_), _) => false,
            (None, Some(class)) => class == Class::Auto,
            (None, None) => client_follows,
        };
        let (class, weight) = (set.class.unwrap_or(entry.class), set.weight.unwrap_or(entry.weight));
        let heaviest = self.rules.rights(entry.uid, Some(entry.pid)).and_then(|its| its.weight);
        if let Some(heaviest) =
            heaviest.filter(|heaviest| weight > *heaviest && set.weight.is_some() && !rights.is_master)
        {
            return Err((Reason::WeightAboveLimit, heaviest.number()));
        }
        let changed = Entry { priority, class, weight, limit: entry.limit.max(priority), ..entry };
        self.roster.set(slot, &changed, follows, now_ns);
        let weight = weight.number();
        tracing::info!("process {} has class {class}, priority {priority}, weight {weight}", entry.pid);
        Ok((Done {}.into(), With::Nothing))
    }
}

/// Refusals after which the conversation may go on: it was understood, and is simply not done.
fn is_refused_alone(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AboveLimit
            | Reason::WeightAboveLimit
            | Reason::NotYours
            | Reason::NoSuchClient
            | Reason::NoSuchPolicy
            | Reason::NoSuchGpu
    )
}
