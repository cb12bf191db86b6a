//! Who is there: the clients by their slots, their jobs and GPUs, and the board kept up with all of it.
//!
//! Nothing here knows of sockets. Whatever changes about a client is noted in [`Roster::take_changed`]; the
//! server then tells those whom it concerns. Whose page is looked at when is in `looks`, what a job means for its members in `jobs`.

mod jobs;
mod looks;

use crate::gpus::Gpus;
use crate::order::{ClientId, Event, Standing};
use crate::telemetry::Present;
use crate::watch::Watched;
use aishim_abi::board::Entry;
use aishim_abi::board_writer::Board;
use aishim_abi::client_page::PageView;
use aishim_abi::message::{Gpus as NamedGpus, Job, Reason};
use aishim_abi::rank::{Class, ClassReason, PolicyKind, Priority, Uuid, Weight};
use jobs::Members;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most GPUs that one client may use.
const GPUS_PER_CLIENT: u32 = 16;

/// How often it is looked at what the behaviour of those suggests who follow that. So often at most does such a one change its rank,
/// whatever it writes.
const SUGGESTION_NS: u64 = 250_000_000;

/// Why something is not done, and the limit that was reached, where it is one.
pub(crate) type Refusal = (Reason, u32);

/// A process that is to become a client; all of it has been checked.
#[derive(Debug)]
pub(crate) struct Newcomer {
    /// Process id as we see it.
    pub(crate) pid: u32,
    /// Process id as it sees itself.
    pub(crate) own_pid: u32,
    /// User id.
    pub(crate) uid: u32,
    /// Start time, field 22 of /proc/PID/stat, in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// As granted.
    pub(crate) priority: Priority,
    /// The highest that its user may give it.
    pub(crate) limit: Priority,
    /// Its share.
    pub(crate) weight: Weight,
    /// What kind of work it does, as was said.
    pub(crate) class: Class,
    /// Whether its priority is to be what its behaviour suggests.
    pub(crate) follows: bool,
    /// The job it is part of.
    pub(crate) job: Job,
    /// The GPUs it uses.
    pub(crate) gpus: NamedGpus,
    /// Its page.
    pub(crate) page: PageView,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) entry: Entry,
    pub(crate) page: Arc<PageView>,
    job: Option<(u32, Job)>,
    watched: Watched,
    /// Its priority is what its behaviour suggests.
    follows: bool,
}

impl Client {
    fn id(&self, slot: usize) -> ClientId {
        ClientId { slot: slot as u32, generation: self.entry.generation }
    }

    /// Whether its priority is what its behaviour suggests.
    pub(crate) fn follows(&self) -> bool {
        self.follows
    }

    fn standing(&self) -> Standing {
        Standing { rank: self.entry.rank, weight: self.entry.weight, job: self.entry.job }
    }

    /// The places of the GPUs it uses.
    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let gpus = self.entry.gpus;
        (0..u64::BITS as usize).filter(move |place| gpus >> place & 1 != 0)
    }
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Roster {
    board: Board,
    gpus: Gpus,
    clients: Vec<Option<Client>>,
    /// The slots that are taken, in order.
    taken: Vec<usize>,
    /// Those whose turn it is, and when somebody else is to be looked at: 0 for now.
    holders: Vec<usize>,
    look_ns: u64,
    /// The jobs, by user and name: nobody gets into another user's.
    jobs: BTreeMap<(u32, Job), Members>,
    jobs_made: u32,
    generations: u64,
    changed: BTreeSet<usize>,
    /// How many follow what is suggested, and when it was last looked at that.
    followers: usize,
    suggested_ns: u64,
}

impl Roster {
    pub(crate) fn new(board: Board, gpus: Gpus) -> Self {
        let clients = (0..board.slots()).map(|_| None).collect();
        let (jobs, changed) = (BTreeMap::new(), BTreeSet::new());
        Self {
            board,
            gpus,
            clients,
            taken: Vec::new(),
            holders: Vec::new(),
            look_ns: 0,
            jobs,
            jobs_made: 0,
            generations: 0,
            changed,
            followers: 0,
            suggested_ns: 0,
        }
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    pub(crate) fn board_mut(&mut self) -> &mut Board {
        &mut self.board
    }

    pub(crate) fn client(&self, slot: usize) -> Option<&Client> {
        self.clients.get(slot)?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Client)> {
        self.taken.iter().filter_map(|slot| Some((*slot, self.client(*slot)?)))
    }

    /// All clients, as whoever looks after their threads has to know them.
    pub(crate) fn present(&self) -> Vec<Present> {
        let present = |(_, client): (usize, &Client)| Present {
            pid: client.entry.pid,
            start_ticks: client.entry.start_ticks,
            rank: client.entry.rank,
            gpus: client.places().filter_map(|place| self.gpus.uuid_of(place)).collect(),
            page: Arc::clone(&client.page),
        };
        self.iter().map(present).collect()
    }

    /// Whether a client uses that GPU.
    pub(crate) fn has_gpu(&self, uuid: Uuid) -> bool {
        self.gpus.place_of(uuid).is_some()
    }

    /// The slots about which something has changed since this was last asked.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.changed)
    }

    /// Takes in a client; its slot.
    pub(crate) fn admit(
        &mut self,
        newcomer: Newcomer,
        most_of_user: Option<usize>,
        now_ns: u64,
    ) -> Result<usize, Refusal> {
        self.is_welcome(&newcomer, most_of_user)?;
        let all = self.clients.len() as u32;
        let slot = self.clients.iter().position(Option::is_none).ok_or((Reason::Full, all))?;
        let gpus = self.enter_gpus(newcomer.gpus.iter())?;
        self.generations += 1;
        let job = (!newcomer.job.is_empty()).then(|| (newcomer.uid, newcomer.job.clone()));
        let number = job.as_ref().map_or(0, |job| self.join_job(job, slot));
        let entry = Entry {
            generation: self.generations,
            pid: newcomer.pid,
            own_pid: newcomer.own_pid,
            uid: newcomer.uid,
            start_ticks: newcomer.start_ticks,
            gpus,
            job: number,
            priority: newcomer.priority,
            rank: newcomer.priority,
            limit: newcomer.limit,
            weight: newcomer.weight,
            class: newcomer.class,
        };
        let watched = Watched::default();
        let client = Client { entry, page: Arc::new(newcomer.page), job, watched, follows: newcomer.follows };
        let (id, standing, places) = (client.id(slot), client.standing(), client.places());
        if let Some(place) = self.clients.get_mut(slot) {
            *place = Some(client);
        }
        self.recount();
        for place in places {
            self.gpus.tell(place, Event::Joined(id, standing), now_ns, &mut self.board);
        }
        self.note(slot);
        self.rank_job_of(slot, now_ns);
        self.note_job_of(slot);
        Ok(slot)
    }

    /// Takes out a client that has gone.
    pub(crate) fn remove(&mut self, slot: usize, now_ns: u64) {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::take) else { return };
        self.board.clear_entry(slot);
        self.recount();
        for place in client.places() {
            self.gpus.tell(place, Event::Left(client.id(slot)), now_ns, &mut self.board);
            self.gpus.leave(place, &mut self.board);
        }
        self.changed.insert(slot);
        if let Some(job) = client.job {
            self.leave_job(&job, slot, now_ns);
        }
    }

    /// Notes that a client uses another GPU.
    pub(crate) fn use_gpu(&mut self, slot: usize, uuid: Uuid, now_ns: u64) -> Result<(), Refusal> {
        let used = self.client(slot).map_or(0, |client| client.entry.gpus);
        if uuid == Uuid::NONE || self.gpus.place_of(uuid).is_some_and(|place| used >> place & 1 != 0) {
            return Ok(());
        }
        if used.count_ones() >= GPUS_PER_CLIENT {
            return Err((Reason::TooManyGpus, GPUS_PER_CLIENT));
        }
        let added = self.enter_gpus([uuid].into_iter())?;
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { return Ok(()) };
        // All of them are told anew what it wants, and those it used before keep no word of it.
        let (before, id) = (client.places(), client.id(slot));
        client.entry.gpus |= added;
        client.watched = Watched::default();
        self.look_ns = 0;
        for place in before {
            self.gpus.tell(place, Event::Idle(id), now_ns, &mut self.board);
        }
        let Some(client) = self.client(slot) else { return Ok(()) };
        let joined = Event::Joined(client.id(slot), client.standing());
        self.gpus.tell(added.trailing_zeros() as usize, joined, now_ns, &mut self.board);
        self.note(slot);
        self.note_job_of(slot);
        Ok(())
    }

    /// Gives a client another class, priority, limit or weight, and says whether its priority is to be what its behaviour suggests.
    pub(crate) fn set(&mut self, slot: usize, to: &Entry, follows: bool, now_ns: u64) {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { return };
        let Entry { priority, limit, weight, class, .. } = *to;
        self.followers = self.followers + usize::from(follows) - usize::from(client.follows);
        client.follows = follows;
        client.entry = Entry { priority, limit, weight, class, ..client.entry };
        if client.job.is_none() {
            client.entry.rank = priority;
        }
        self.tell_standing(slot, now_ns);
        self.note(slot);
        self.rank_job_of(slot, now_ns);
    }

    /// Puts another policy in force, on one GPU or on all, and then also on those that come later.
    pub(crate) fn set_policy(&mut self, uuid: Uuid, policy: PolicyKind, now_ns: u64) -> Result<(), Refusal> {
        let places = match uuid {
            Uuid::NONE => self.gpus.all(),
            uuid => vec![self.gpus.place_of(uuid).ok_or((Reason::NoSuchGpu, 0))?],
        };
        if !self.gpus.switch(&places, policy, &mut self.board) {
            return Err((Reason::NoSuchPolicy, 0));
        }
        if uuid == Uuid::NONE {
            self.gpus.set_usual_policy(policy);
        }
        for (slot, client) in self.clients.iter_mut().enumerate() {
            let Some(client) = client else { continue };
            for place in client.places().filter(|place| places.contains(place)) {
                let joined = Event::Joined(client.id(slot), client.standing());
                self.gpus.tell(place, joined, now_ns, &mut self.board);
                client.watched = Watched::default();
            }
        }
        self.look_ns = 0;
        Ok(())
    }

    /// Notes which slots are taken, after a change, and that all are to be looked at.
    fn recount(&mut self) {
        let taken = self.clients.iter().enumerate().filter_map(|(slot, client)| client.as_ref().map(|_| slot));
        self.taken = taken.collect();
        self.followers = self.iter().filter(|(_, client)| client.follows).count();
        self.board.set_clients(self.taken.len());
        self.look_ns = 0;
    }

    /// Gives those who follow it the priority of the class that their behaviour suggests, their limit permitting.
    fn follow_suggestions(&mut self, now_ns: u64) {
        for place in 0..self.taken.len() {
            let Some(slot) = self.taken.get(place).copied() else { break };
            let Some(client) = self.client(slot).filter(|client| client.follows) else { continue };
            let figures = client.page.figures();
            let class = figures.class_suggested.filter(|_| client.page.check().is_ok());
            let Some((class, priority)) = class.and_then(|class| Some((class, class.priority()?))) else { continue };
            let entry = Entry { priority: priority.min(client.entry.limit), ..client.entry };
            if entry.priority != client.entry.priority {
                let why = ClassReason::from_number(figures.class_reason).unwrap_or(ClassReason::Unseen);
                tracing::info!("process {} looks like {class} ({why}): priority {}", entry.pid, entry.priority);
                self.set(slot, &entry, true, now_ns);
            }
        }
    }

    fn is_welcome(&self, newcomer: &Newcomer, most_of_user: Option<usize>) -> Result<(), Refusal> {
        if self.iter().any(|(_, client)| client.entry.pid == newcomer.pid) {
            return Err((Reason::AlreadyThere, 1));
        }
        let of_user = self.iter().filter(|(_, client)| client.entry.uid == newcomer.uid).count();
        match most_of_user {
            Some(most) if of_user >= most => Err((Reason::Full, most as u32)),
            _ => Ok(()),
        }
    }

    /// Gives places to GPUs, all of them or none; they as bits.
    fn enter_gpus(&mut self, uuids: impl Iterator<Item = Uuid>) -> Result<u64, Refusal> {
        let mut bits = 0;
        for uuid in uuids {
            let Some(place) = self.gpus.enter(uuid, &mut self.board) else {
                let entered = (0..u64::BITS as usize).filter(|place| bits >> place & 1 != 0);
                entered.for_each(|place| self.gpus.leave(place, &mut self.board));
                return Err((Reason::TooManyGpus, aishim_abi::board::GPUS as u32));
            };
            bits |= 1_u64 << place;
        }
        Ok(bits)
    }

    fn tell_standing(&mut self, slot: usize, now_ns: u64) {
        let Some(client) = self.clients.get(slot).and_then(Option::as_ref) else { return };
        for place in client.places() {
            let changed = Event::Changed(client.id(slot), client.standing());
            self.gpus.tell(place, changed, now_ns, &mut self.board);
        }
    }

    /// Writes a client's entry and remembers that others may have to be told.
    fn note(&mut self, slot: usize) {
        if let Some(client) = self.clients.get(slot).and_then(Option::as_ref) {
            self.board.set_entry(slot, &client.entry);
            self.changed.insert(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Decision, Order};
    use aishim_abi::board::Turn;
    use aishim_abi::board_reader::BoardView;
    use aishim_abi::client_page::{Identity, OwnPage};
    use std::sync::atomic::Ordering::Relaxed;

    const MS: u64 = 1_000_000;

    /// A policy that gives the turn of rank 20 to whoever wants last, opens all gates for whoever leaves, and wakes at 50 ms.
    #[derive(Debug, Default)]
    struct LastWins {
        there: BTreeSet<ClientId>,
        woken: bool,
    }

    impl Order for LastWins {
        fn decide(&mut self, now_ns: u64, event: Event, decisions: &mut Vec<Decision>) {
            let turn = |turn| Decision::Turn { rank: Priority::NORMAL, turn, until_ns: now_ns + 10 * MS };
            match event {
                Event::Joined(client, _) => assert!(self.there.insert(client), "joins once"),
                Event::Left(client) => {
                    assert!(self.there.remove(&client), "leaves once");
                    decisions.push(Decision::Open { until_ns: now_ns + 5 * MS });
                }
                Event::Wanting(client) => decisions.push(turn(Turn::Client(client.slot))),
                Event::Idle(_) => decisions.push(turn(Turn::Everybody)),
                Event::TimePassed => {
                    self.woken = true;
                    decisions.push(turn(Turn::Job(9)));
                }
                Event::Changed(..) | Event::Used(..) => {}
            }
        }

        fn wake_ns(&self) -> Option<u64> {
            (!self.woken).then_some(50 * MS)
        }

        fn is_by_rank(&self) -> bool {
            true
        }

        fn looks(&self) -> bool {
            true
        }
    }

    pub(super) fn roster() -> (Roster, BoardView) {
        let board = Board::create(4, 1, 1, 1).unwrap();
        let seen = rustix::io::fcntl_dupfd_cloexec(board.descriptor().unwrap(), 3).unwrap();
        let start = |kind| match kind {
            PolicyKind::Fair => None,
            _ => Some(Box::<LastWins>::default() as Box<dyn Order>),
        };
        let gpus = Gpus::with(PolicyKind::Priority, start).unwrap();
        (Roster::new(board, gpus), BoardView::open(seen).unwrap())
    }

    fn uuid(number: u8) -> Uuid {
        Uuid([number; 16])
    }

    pub(super) fn newcomer(pid: u32, gpus: &[u8]) -> (Newcomer, OwnPage) {
        let own = OwnPage::create(&Identity { pid, start_ticks: 1, generation: 1 }).unwrap();
        let passed = rustix::io::fcntl_dupfd_cloexec(own.descriptor().unwrap(), 3).unwrap();
        let newcomer = Newcomer {
            pid,
            own_pid: pid,
            uid: 1,
            start_ticks: 1,
            priority: Priority::NORMAL,
            limit: Priority::HIGHEST,
            weight: Weight::NORMAL,
            class: Class::Unclassified,
            follows: false,
            job: Job::new(""),
            gpus: NamedGpus::new(gpus.iter().map(|number| uuid(*number))),
            page: PageView::open(passed).unwrap(),
        };
        (newcomer, own)
    }

    #[test]
    fn what_a_policy_decides_stands_on_the_board() {
        let (mut roster, seen) = roster();
        let (one, one_page) = newcomer(11, &[1]);
        let (two, _two_page) = newcomer(12, &[1]);
        roster.admit(one, None, 0).unwrap();
        assert_eq!(roster.wake_ns(0), Some(50 * MS), "one alone is not looked at");
        roster.admit(two, None, 0).unwrap();
        assert_eq!(roster.wake_ns(0), Some(0), "two are");
        roster.tick(0);
        assert_eq!(roster.wake_ns(0), Some(20 * MS));
        let turn = |now_ns| seen.turn(0, Priority::NORMAL, now_ns).0;
        assert_eq!(turn(0), Turn::Everybody);

        let page = one_page.page().unwrap();
        page.renewed_ns.store(20 * MS, Relaxed);
        page.busy_until_ns.store(30 * MS, Relaxed);
        roster.tick(20 * MS);
        assert_eq!(turn(20 * MS), Turn::Client(0));
        assert_eq!(roster.wake_ns(20 * MS), Some(20 * MS + 1_800_000), "whose turn it is is looked at more often");
        roster.tick(50 * MS);
        assert_eq!(turn(50 * MS), Turn::Job(9), "the policy was woken");
        roster.remove(1, 60 * MS);
        assert!(seen.gpu(0, 64 * MS).unwrap().is_open && !seen.gpu(0, 65 * MS).unwrap().is_open);
        roster.remove(0, 61 * MS);
        assert_eq!((seen.gpus(0).count(), seen.entries().count(), seen.clients()), (0, 0, 0));
        assert_eq!(roster.wake_ns(62 * MS), None);
    }

    #[test]
    fn a_policy_that_comes_later_is_told_who_is_there() {
        let (mut roster, seen) = roster();
        let (one, _page) = newcomer(11, &[1, 2]);
        roster.admit(one, None, 0).unwrap();
        roster.set_policy(uuid(2), PolicyKind::Off, 0).unwrap();
        let policies = |seen: &BoardView| seen.gpus(0).map(|(_, gpu)| gpu.policy).collect::<Vec<_>>();
        assert_eq!(policies(&seen), [PolicyKind::Priority, PolicyKind::Off]);
        assert_eq!(roster.set_policy(Uuid::NONE, PolicyKind::Fair, 0), Err((Reason::NoSuchPolicy, 0)));
        assert_eq!(roster.set_policy(uuid(3), PolicyKind::Off, 0), Err((Reason::NoSuchGpu, 0)));
        assert_eq!(policies(&seen), [PolicyKind::Priority, PolicyKind::Off], "as it was");
        roster.set_policy(Uuid::NONE, PolicyKind::Off, 0).unwrap();
        roster.use_gpu(0, uuid(3), 0).unwrap();
        assert_eq!(policies(&seen), [PolicyKind::Off; 3]);
        // Each policy was told once of each client, or `LastWins` would not let it leave.
        roster.remove(0, 0);
    }

    #[test]
    fn who_follows_suggestions_has_the_priority_of_the_class_suggested_up_to_its_limit() {
        let (mut roster, seen) = roster();
        let (mut one, page) = newcomer(11, &[1]);
        (one.class, one.follows, one.limit) = (Class::Auto, true, Priority::new(60).unwrap());
        let (two, other) = newcomer(12, &[1]);
        roster.admit(one, None, 0).unwrap();
        roster.admit(two, None, 0).unwrap();
        let suggest = |page: &OwnPage, number| page.page().unwrap().class_suggested.store(number, Relaxed);
        let priorities = |seen: &BoardView| seen.entries().map(|(_, e)| e.priority.number()).collect::<Vec<_>>();
        suggest(&other, Class::Inference.number());
        for (number, expected) in [(Class::Inference.number(), 60), (77, 60), (Class::Batch.number(), 5), (0, 5)] {
            suggest(&page, number);
            let now_ns = roster.wake_ns(0).unwrap().max(roster.suggested_ns + SUGGESTION_NS);
            roster.tick(now_ns);
            assert_eq!(priorities(&seen), [expected, 20], "{number}; the other has not asked for it");
        }
        assert_eq!(seen.entry(0).unwrap().class, Class::Auto);
    }

    #[test]
    fn gpus_beyond_the_board_are_refused_whole() {
        let (mut roster, seen) = roster();
        for pid in 0..3 {
            let gpus: Vec<u8> = (0..16).map(|number| 1 + number + 16 * pid).collect();
            let (client, _page) = newcomer(1 + u32::from(pid), &gpus);
            roster.admit(client, None, 0).unwrap();
        }
        let gpus: Vec<u8> = (100..116).collect();
        let (client, _page) = newcomer(9, &gpus);
        assert_eq!(roster.admit(client, None, 0).err(), Some((Reason::TooManyGpus, 56)));
        assert_eq!((seen.gpus(0).count(), seen.clients()), (48, 3), "nothing of it is left");
        let (client, _page) = newcomer(9, &gpus[..8]);
        assert_eq!(roster.admit(client, None, 0), Ok(3));
        assert_eq!(seen.gpus(0).count(), 56);
    }

    #[test]
    fn a_user_has_no_more_clients_than_are_theirs() {
        let (mut roster, _seen) = roster();
        let (one, two) = (newcomer(11, &[1]), newcomer(12, &[1]));
        roster.admit(one.0, Some(1), 0).unwrap();
        assert_eq!(roster.admit(two.0, Some(1), 0).err(), Some((Reason::Full, 1)));
    }
}
