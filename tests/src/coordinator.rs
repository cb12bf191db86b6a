//! A coordinator for tests: it speaks the messages and writes a board, and decides only what a test tells it. All clients use
//! the same GPU; the more important are told to the less.

use aishim_abi::board::{Entry, Turn};
use aishim_abi::board_writer::Board;
use aishim_abi::channel::{Channel, Received};
use aishim_abi::client_page::{Figures, PageView};
use aishim_abi::directory;
use aishim_abi::message::{Answer, Hello, Peer, PeerGone, Request, Version, Welcome};
use aishim_abi::rank::{PolicyKind, Priority, Uuid, Weight};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Clients that it takes.
const SLOTS: usize = 64;

/// A coordinator at work; when it is dropped it dies as if by SIGKILL: no word, no farewell on the board.
pub struct Coordinator {
    state: Arc<Mutex<State>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    board: Board,
    clients: Vec<Option<Client>>,
    generations: u64,
    /// It hears nobody, as if by SIGSTOP.
    is_stopped: bool,
    /// Connections that have not said who they are.
    strangers: Vec<Channel>,
}

struct Client {
    channel: Channel,
    hello: Hello,
    page: PageView,
    generation: u64,
    priority: Priority,
    /// Who it was told of: slot and generation.
    told: Vec<(usize, u64)>,
}

/// What is seen of a client.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its slot.
    pub slot: u32,
    /// What its page counts.
    pub figures: Figures,
    /// Launches that wait at its gate.
    pub is_waiting: u32,
    /// Estimated GPU time of all it has launched, in nanoseconds.
    pub launched_ns: u64,
    /// Between which times it says it will launch again.
    pub due_ns: Option<(u64, u64)>,
    /// Before when nobody waits for what it has launched, as it says.
    pub urgent_ns: u64,
}

impl Coordinator {
    /// Begins to listen in a runtime directory, in the place of any before it.
    ///
    /// # Panics
    /// Where it cannot.
    #[must_use]
    pub fn start(runtime: &Path) -> Self {
        let socket = directory::socket(runtime);
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let mut board = Board::create(SLOTS, std::process::id(), 1, 1).expect("a board");
        board.set_policy(0, PolicyKind::Priority, true);
        let clients = (0..SLOTS).map(|_| None).collect();
        let state = State { board, clients, generations: 0, is_stopped: false, strangers: Vec::new() };
        let (state, ends) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (its_state, its_ends) = (Arc::clone(&state), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            while !its_ends.load(SeqCst) {
                lock(&its_state).round(&listener);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { state, ends, thread: Some(thread) }
    }

    /// What is seen of a process; none while it is no client.
    #[must_use]
    pub fn seen(&self, pid: u32) -> Option<Seen> {
        let state = lock(&self.state);
        let (slot, client) = state.clients.iter().enumerate().find_map(|(slot, client)| {
            client.as_ref().filter(|client| client.hello.pid == pid).map(|client| (slot, client))
        })?;
        let page = &client.page;
        let (figures, is_waiting, launched_ns) = (page.figures(), page.is_waiting(monotonic_ns()), page.launched_ns());
        let (due_ns, urgent_ns) = (page.due_ns(), page.urgent_ns());
        Some(Seen { slot: slot as u32, figures, is_waiting, launched_ns, due_ns, urgent_ns })
    }

    /// What a process said of itself.
    #[must_use]
    pub fn hello(&self, pid: u32) -> Option<Hello> {
        let state = lock(&self.state);
        state.clients.iter().flatten().find(|client| client.hello.pid == pid).map(|client| client.hello.clone())
    }

    /// Gives a turn among those of a rank, until then.
    pub fn give_turn(&self, rank: Priority, turn: Turn, until_ns: u64) {
        lock(&self.state).board.set_turn(0, rank.number() as usize, turn, until_ns);
    }

    /// Opens all gates until then.
    pub fn open(&self, until_ns: u64) {
        lock(&self.state).board.set_open(0, until_ns);
    }

    /// Puts a policy in force.
    pub fn set_policy(&self, policy: PolicyKind) {
        lock(&self.state).board.set_policy(0, policy, policy == PolicyKind::Priority);
    }

    /// Hears nobody from now on, or does so again.
    pub fn stop(&self, is_stopped: bool) {
        lock(&self.state).is_stopped = is_stopped;
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.ends.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `CLOCK_MONOTONIC`, by which pages and boards tell time.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn round(&mut self, listener: &UnixListener) {
        if self.is_stopped {
            return;
        }
        while let Ok((stream, _)) = listener.accept() {
            self.strangers.push(Channel::accepted(stream.into()).expect("a connection"));
        }
        for mut channel in std::mem::take(&mut self.strangers) {
            match channel.receive() {
                Ok(Received::End) | Err(_) => continue,
                Ok(_) => {}
            }
            match channel.read::<Request>() {
                Ok(Some((Request::Hello(hello), Some(page)))) => self.welcome(channel, hello, page),
                Ok(None) => self.strangers.push(channel),
                _ => {}
            }
        }
        for slot in 0..SLOTS {
            let Some(client) = &mut self.clients[slot] else { continue };
            let ended = matches!(client.channel.receive(), Ok(Received::End) | Err(_));
            while let Ok(Some(_)) = client.channel.read::<Request>() {}
            if ended {
                self.clients[slot] = None;
                self.board.clear_entry(slot);
                self.count();
            }
        }
        self.tell();
    }

    fn welcome(&mut self, mut channel: Channel, hello: Hello, page: OwnedFd) {
        let page = PageView::open(page).expect("a page");
        let slot = self.clients.iter().position(Option::is_none).expect("a free slot");
        self.generations += 1;
        let priority = hello.priority.unwrap_or(Priority::NORMAL);
        let entry = Entry {
            generation: self.generations,
            pid: hello.pid,
            own_pid: hello.pid,
            uid: 1,
            start_ticks: hello.start_ticks,
            gpus: 1,
            job: 0,
            priority,
            rank: priority,
            limit: Priority::HIGHEST,
            weight: hello.weight.unwrap_or(Weight::NORMAL),
            class: hello.class,
        };
        if let Some(uuid) = hello.gpus.iter().find(|uuid| *uuid != Uuid::NONE) {
            self.board.set_gpu(0, uuid);
        }
        self.board.set_entry(slot, &entry);
        let (limit, generation) = (Priority::HIGHEST, self.generations);
        let welcome = Welcome { version: Version, slot: slot as u32, generation, priority, limit };
        // First: it reads the board as soon as it is welcome, and the next time only 100 ms later if it finds itself alone there.
        let count = 1 + self.clients.iter().flatten().count();
        self.board.set_clients(count);
        self.board.set_gpu_clients(0, count);
        // Whoever has gone by now is noticed in the next round.
        let _ = channel.send(&Answer::from(welcome), self.board.descriptor());
        self.clients[slot] = Some(Client { channel, hello, page, generation, priority, told: Vec::new() });
    }

    fn count(&mut self) {
        let count = self.clients.iter().flatten().count();
        self.board.set_clients(count);
        self.board.set_gpu_clients(0, count);
    }

    /// Tells each client who is more important.
    fn tell(&mut self) {
        for slot in 0..SLOTS {
            let Some(mut client) = self.clients[slot].take() else { continue };
            let (told, mut gone) = (std::mem::take(&mut client.told), Vec::new());
            for (other, generation) in told {
                let is_there = self.clients[other].as_ref().is_some_and(|entry| entry.generation == generation);
                if is_there { client.told.push((other, generation)) } else { gone.push((other, generation)) }
            }
            for (other, generation) in gone {
                let _ = client.channel.send(&Answer::from(PeerGone { slot: other as u32, generation }), None);
            }
            for (other, entry) in self.clients.iter().enumerate() {
                let Some(entry) = entry.as_ref().filter(|entry| entry.priority > client.priority) else { continue };
                let (slot, priority, generation) = (other as u32, entry.priority, entry.generation);
                if !client.told.contains(&(other, generation)) {
                    let peer = Peer { slot, priority, generation, gpus: 1 };
                    let _ = client.channel.send(&Answer::from(peer), entry.page.descriptor());
                    client.told.push((other, generation));
                }
            }
            self.clients[slot] = Some(client);
        }
    }
}
