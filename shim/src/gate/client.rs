//! Finding a coordinator, and the thread that listens to it.
//!
//! A coordinator is looked for when the process makes its first context, and again when the program has waited for the GPU, at most once
//! in [`AGAIN_NS`]; only once there is a socket is there a thread. The thread connects, says who we are, keeps up what is known of others
//! ([`situation`](super::situation)), and renews our page. When the conversation ends it forgets all, looks for
//! a coordinator some more times, and rests until it is to look again: our page's memory lies in its table of descriptors, which would end with it
//! ([`own_table`]).
//!
//! Where that is the program's table, the program may close descriptors that it has not opened (closefrom(3)) and get the same number for a file of
//! its own. So before the thread touches its socket it makes sure that it still is the one; the rest of the conversation is given up then, not closed.

use super::{activity, ahead, backlog, mps, own_table, shown, situation};
use crate::behaviour::{self, Behaviour};
use crate::clock;
use crate::config::Config;
use crate::fence::fenced;
use crate::life;
use crate::mode;
use crate::segment::{self, segment};
use aishim_abi::board::SLOTS;
use aishim_abi::channel::{Channel, ChannelError, Received, Sent};
use aishim_abi::client_page::Identity;
use aishim_abi::layout::Coordinator;
use aishim_abi::message::{Answer, Gpus, Hello, Job, MessageError, Reason, Request, UsesGpu, Version, Welcome};
use aishim_abi::rank::{Class, Priority, Uuid, Weight};
use aishim_abi::statistics::Statistic;
use aishim_abi::{SharedError, directory};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::thread::Thread;
use std::time::Duration;

/// How often a coordinator is looked for while there is none.
const AGAIN_NS: u64 = 2_000_000_000;

/// The same after one has refused us: it will hardly change its mind at once.
const AFTER_REFUSAL_NS: u64 = 30_000_000_000;

/// How long the thread waits for messages in company, where it also renews the page and reads the board, and how long alone.
const ROUND: Duration = Duration::from_millis(25);
const ROUND_ALONE: Duration = Duration::from_millis(100);

/// How long after the end of a conversation, and how often, the thread looks for another coordinator.
const RETRY: Duration = Duration::from_millis(500);
const RETRIES: u32 = 20;

/// What we ask for, once the process has come to life.
static WISHES: Mutex<Option<Wishes>> = Mutex::new(None);

/// The thread listens, or is about to.
static IS_ATTENDED: AtomicBool = AtomicBool::new(false);

/// The thread, once there is one.
static THREAD: OnceLock<Thread> = OnceLock::new();

/// It is to look for a coordinator.
static IS_WANTED: AtomicBool = AtomicBool::new(false);

/// By time stamps in nanoseconds, when to look again; `u64::MAX` while there is no need.
static LOOK_AGAIN_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// The socket, for a forked child, which has to let go of it where it has got a copy: its number, and its inode.
static SOCKET: AtomicI32 = AtomicI32::new(-1);
static SOCKET_INODE: AtomicU64 = AtomicU64::new(0);

#[derive(Clone)]
struct Wishes {
    directory: PathBuf,
    class: Class,
    priority: Option<Priority>,
    weight: Option<Weight>,
    job: Job,
}

/// Notes what is to be asked for.
pub(crate) fn configure(config: &Config) {
    // SAFETY: geteuid(2) always succeeds.
    let uid = unsafe { libc::geteuid() };
    let directory = directory::path(config.directory.clone(), uid);
    ahead::configure(config.is_gate_on_gpu);
    situation::configure(config.is_job_gated);
    let priority = config.priority_wished.and_then(Priority::new);
    let weight = config.weight_wished.and_then(Weight::new);
    behaviour::attend(false);
    *WISHES.lock() = Some(Wishes { directory, class: config.class, priority, weight, job: Job::new(&config.job) });
}

/// The process has its first context, or another, on a device.
pub(crate) fn first_context(device: i32) {
    mps::note(device);
    look();
}

/// The program has waited: looks for a coordinator, where that is due. One load else.
#[inline]
pub(crate) fn look_again() {
    let due_ns = LOOK_AGAIN_NS.load(Relaxed);
    if due_ns != u64::MAX && clock::ns(clock::now()) >= due_ns {
        look();
    }
}

/// Looks for a coordinator, without waiting for it.
#[cold]
fn look() {
    if is_over() || IS_ATTENDED.swap(true, SeqCst) {
        return;
    }
    LOOK_AGAIN_NS.store(u64::MAX, Relaxed);
    let Some(wishes) = WISHES.try_lock().and_then(|wishes| wishes.clone()) else { return again_after(AGAIN_NS) };
    // Without a descriptor: whether anybody listens there, the thread finds out.
    if !directory::socket(&wishes.directory).exists() {
        stands(Coordinator::None);
        return again_after(AGAIN_NS);
    }
    IS_WANTED.store(true, Release);
    match THREAD.get() {
        Some(thread) => thread.unpark(),
        None if life::spawn("aishim-gate", move || listen(&wishes)) => {}
        None => again_after(AGAIN_NS),
    }
}

/// The thread's life.
fn listen(wishes: &Wishes) -> ! {
    own_table::take();
    // Before it is attended to no more: who looks then finds it.
    let _ = THREAD.set(std::thread::current());
    loop {
        // Pairs with the release in `look`.
        while !IS_WANTED.swap(false, Acquire) {
            std::thread::park();
        }
        let after_ns = fenced(|| attend(wishes));
        again_after(after_ns.max(AGAIN_NS));
    }
}

fn again_after(ns: u64) {
    LOOK_AGAIN_NS.store(clock::ns(clock::now()).saturating_add(ns), Relaxed);
    IS_ATTENDED.store(false, SeqCst);
}

/// One conversation after the other; returns after how many nanoseconds a coordinator is to be looked for again.
fn attend(wishes: &Wishes) -> u64 {
    let mut next = Channel::connect(&wishes.directory).inspect_err(|error| stands(reason(error))).ok();
    let mut left = RETRIES;
    while let Some(channel) = next.take() {
        let (was_client, ended) = converse(channel, wishes);
        if was_client {
            left = RETRIES;
        }
        stands(ended.standing());
        if ended.is_final() {
            return AFTER_REFUSAL_NS;
        }
        while next.is_none() && left > 0 && !is_over() {
            std::thread::sleep(RETRY);
            left -= 1;
            next = Channel::connect(&wishes.directory).ok();
        }
    }
    AGAIN_NS
}

/// Whether we became a client, and why we are none any more.
fn converse(channel: Channel, wishes: &Wishes) -> (bool, Ended) {
    match Conversation::new(channel) {
        Ok(mut conversation) => {
            let ended = conversation.hold(wishes).err().unwrap_or(Ended::Gone);
            (conversation.welcome.is_some(), ended)
        }
        Err(ended) => (false, ended),
    }
}

fn is_over() -> bool {
    mode::mode() & (mode::EXITING | mode::PASS_THROUGH) != 0
}

fn stands(how: Coordinator) {
    segment::set(Statistic::Coordinator, how.number());
}

/// Why a conversation has ended.
#[derive(Debug)]
enum Ended {
    /// The coordinator has gone, or our end of the socket has; or the process ends.
    Gone,
    /// There is no page that could be shown.
    NoPage,
    /// It said something that cannot be.
    Nonsense,
    /// It is of another version.
    OtherVersion,
    /// It does not want us.
    Refused(u32),
}

impl Ended {
    fn standing(&self) -> Coordinator {
        match self {
            Self::Gone => Coordinator::None,
            Self::NoPage => Coordinator::NoPage,
            Self::Nonsense => Coordinator::Nonsense,
            Self::OtherVersion => Coordinator::OtherVersion,
            Self::Refused(reason) => Coordinator::Refused(*reason),
        }
    }

    /// Whether the same is to be expected of another attempt.
    fn is_final(&self) -> bool {
        /// That we are there already may be said while our last conversation is still ending.
        const PASSING: [Reason; 4] = [Reason::Full, Reason::TooManyConnections, Reason::AlreadyThere, Reason::TooSlow];
        match self {
            Self::Gone => false,
            Self::Refused(reason) => !PASSING.iter().any(|passing| passing.number() == *reason),
            Self::NoPage | Self::Nonsense | Self::OtherVersion => true,
        }
    }
}

impl From<ChannelError> for Ended {
    fn from(error: ChannelError) -> Self {
        match reason(&error) {
            Coordinator::OtherVersion => Self::OtherVersion,
            Coordinator::Nonsense => Self::Nonsense,
            _ => Self::Gone,
        }
    }
}

impl From<MessageError> for Ended {
    fn from(error: MessageError) -> Self {
        ChannelError::from(error).into()
    }
}

impl From<SharedError> for Ended {
    fn from(error: SharedError) -> Self {
        match error {
            SharedError::OtherVersion { .. } => Self::OtherVersion,
            SharedError::Io(_) => Self::NoPage,
            _ => Self::Nonsense,
        }
    }
}

fn reason(error: &ChannelError) -> Coordinator {
    match error {
        ChannelError::Stranger { .. } => Coordinator::Stranger,
        ChannelError::Message(MessageError::OtherVersion { .. }) => Coordinator::OtherVersion,
        ChannelError::Message(_) => Coordinator::Nonsense,
        ChannelError::Io(_) | ChannelError::Ended | ChannelError::TimedOut => Coordinator::None,
    }
}

/// A conversation with a coordinator. When it is dropped, all that was known by it is forgotten.
struct Conversation {
    /// None only once it is dropped.
    channel: Option<Channel>,
    socket: (u64, u64),
    welcome: Option<Welcome>,
    /// Those more important, by slot: the generation and the GPUs of each.
    peers: BTreeMap<usize, (u64, u64)>,
    /// GPUs that were said to be used.
    told: usize,
    behaviour: Behaviour,
}

impl Conversation {
    fn new(channel: Channel) -> Result<Self, Ended> {
        let number = channel.as_fd().as_raw_fd();
        let socket = identity(number).ok_or(Ended::Gone)?;
        behaviour::attend(true);
        if !own_table::is_own() {
            SOCKET_INODE.store(socket.1, Relaxed);
            // Pairs with the acquire in `disown`.
            SOCKET.store(number, Release);
        }
        Ok(Self {
            channel: Some(channel),
            socket,
            welcome: None,
            peers: BTreeMap::new(),
            told: 0,
            behaviour: Behaviour::new(),
        })
    }

    /// The channel, while its descriptor is still the socket that it was.
    fn channel(&mut self) -> Result<&mut Channel, Ended> {
        let socket = self.socket;
        let channel = self.channel.as_mut().filter(|channel| identity(channel.as_fd().as_raw_fd()) == Some(socket));
        channel.ok_or(Ended::Gone)
    }

    /// Talks until the conversation ends.
    fn hold(&mut self, wishes: &Wishes) -> Result<(), Ended> {
        self.say_hello(wishes)?;
        while !is_over() {
            self.wait()?;
            self.hear()?;
            self.look_around()?;
        }
        Ok(())
    }

    fn say_hello(&mut self, wishes: &Wishes) -> Result<(), Ended> {
        situation::reserve().map_err(|_| Ended::NoPage)?;
        activity::set_clock();
        let header = &segment().header;
        let identity = Identity {
            pid: header.pid.load(Relaxed),
            start_ticks: header.start_ticks.load(Relaxed),
            generation: header.generation.load(Relaxed),
        };
        let page = activity::own_page(&identity).map_err(|_| Ended::NoPage)?;
        let gpus = devices();
        self.told = gpus.len();
        let hello = Hello {
            version: Version,
            pid: identity.pid,
            start_ticks: identity.start_ticks,
            generation: identity.generation,
            class: wishes.class,
            priority: wishes.priority,
            weight: wishes.weight,
            job: wishes.job.clone(),
            gpus: Gpus::new(gpus),
        };
        let descriptor = page.descriptor().ok_or(Ended::NoPage)?;
        match self.channel()?.send(&Request::from(hello), Some(descriptor))? {
            Sent::Yes => Ok(()),
            Sent::Full | Sent::TooManyDescriptors => Err(Ended::Gone),
        }
    }

    /// Waits for something to read, one round at most.
    fn wait(&mut self) -> Result<(), Ended> {
        let round = if mode::mode() & mode::IN_COMPANY != 0 { ROUND } else { ROUND_ALONE };
        let channel = self.channel()?;
        channel.flush()?;
        let mut socket = libc::pollfd { fd: channel.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: poll(2) of one descriptor, which need not be open any more.
        unsafe { libc::poll(&raw mut socket, 1, round.as_millis() as libc::c_int) };
        Ok(())
    }

    fn hear(&mut self) -> Result<(), Ended> {
        loop {
            let received = self.channel()?.receive()?;
            while let Some((answer, descriptor)) = self.channel()?.read::<Answer>()? {
                self.heed(answer, descriptor)?;
            }
            match received {
                Received::Some => {}
                Received::Nothing => return Ok(()),
                Received::End => return Err(Ended::Gone),
            }
        }
    }

    fn heed(&mut self, answer: Answer, descriptor: Option<OwnedFd>) -> Result<(), Ended> {
        match (answer, descriptor) {
            (Answer::Welcome(welcome), Some(board)) => {
                situation::reserve().map_err(|_| Ended::NoPage)?.board.lay(&board)?;
                self.welcome = Some(welcome);
                stands(Coordinator::Client);
                segment::add(Statistic::Conversations, 1);
            }
            (Answer::Peer(peer), Some(page)) => {
                let slot = peer.slot as usize;
                if slot >= SLOTS {
                    return Err(Ended::Nonsense);
                }
                situation::reserve().map_err(|_| Ended::NoPage)?.peers.lay(slot, &page)?;
                self.peers.insert(slot, (peer.generation, peer.gpus));
                self.list();
            }
            (Answer::PeerGone(gone), _) => {
                let slot = gone.slot as usize;
                if self.peers.get(&slot).is_some_and(|(generation, _)| *generation == gone.generation) {
                    self.peers.remove(&slot);
                    self.list();
                    if let Some(places) = situation::places() {
                        let _ = places.peers.clear(slot);
                    }
                }
            }
            // Of another GPU than the first, say: the conversation goes on.
            (Answer::Refused(refused), _) if self.welcome.is_none() => {
                return Err(Ended::Refused(refused.reason.number()));
            }
            _ => {}
        }
        Ok(())
    }

    fn list(&self) {
        situation::list(self.peers.iter().map(|(slot, (_, gpus))| (*slot, *gpus)));
    }

    /// What is to be done at least once a round: our page, the board, GPUs that have come.
    fn look_around(&mut self) -> Result<(), Ended> {
        activity::set_clock();
        let now_ns = clock::monotonic_ns();
        activity::keep_fresh(now_ns);
        shown::round(&mut self.behaviour, self.welcome.as_ref(), now_ns);
        let Some(welcome) = &self.welcome else { return Ok(()) };
        let is_in_company = situation::read_own(welcome.slot as usize, welcome.generation, now_ns);
        if is_in_company != (mode::mode() & mode::IN_COMPANY != 0) {
            let change = if is_in_company { mode::set } else { mode::clear };
            backlog::unbind();
            change(mode::IN_COMPANY);
            if is_in_company {
                ahead::begin_company();
            }
        }
        let gpus = devices();
        while let Some(uuid) = gpus.get(self.told) {
            if self.channel()?.send(&Request::from(UsesGpu { uuid: *uuid }), None)? != Sent::Yes {
                break;
            }
            self.told += 1;
        }
        Ok(())
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        mode::clear(mode::IN_COMPANY);
        backlog::unbind();
        shown::end();
        behaviour::attend(false);
        situation::forget(self.peers.keys().copied());
        ahead::end_company();
        if let Some(channel) = self.channel.take()
            && identity(channel.as_fd().as_raw_fd()) != Some(self.socket)
        {
            // The number is another file's by now, which is not ours to close.
            std::mem::forget(channel);
        }
        SOCKET.store(-1, Relaxed);
    }
}

/// The GPUs on which the process has contexts.
fn devices() -> Vec<Uuid> {
    let header = &segment().header;
    // An entry is written before the count is raised, by a thread that holds a lock (`segment::device_used`).
    let count = (header.device_count.load(Acquire) as usize).min(header.devices.len());
    header.devices.iter().take(count).map(|uuid| Uuid(*uuid)).collect()
}

/// Which file a descriptor is: device and inode.
fn identity(descriptor: RawFd) -> Option<(u64, u64)> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: fstat(2) fills the structure where it succeeds; zeroes are a value too.
    let status = unsafe { (libc::fstat(descriptor, status.as_mut_ptr()) == 0).then(|| status.assume_init()) };
    status.map(|status| (status.st_dev, status.st_ino))
}

/// In a forked child, which is no client: lets go of the page and of the socket. Async-signal-safe.
pub(crate) fn disown() {
    ahead::disown();
    if let Some(page) = activity::shown() {
        let _ = page.disown();
    }
    // Pairs with the release in `Conversation::new`.
    let socket = SOCKET.swap(-1, Acquire);
    if socket >= 0 && identity(socket).is_some_and(|(_, inode)| inode == SOCKET_INODE.load(Relaxed)) {
        // SAFETY: the child's copy of our socket; nobody in the child uses it.
        unsafe { libc::close(socket) };
    }
}

/// The process ends: nobody need wait for it.
pub(crate) fn process_ends() {
    activity::fall_idle();
    ahead::process_ends();
}
