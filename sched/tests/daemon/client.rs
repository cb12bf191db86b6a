//! A client process: this test program, started anew, which does what it is told on its standard input.

use aishim_abi::board::Turn;
use aishim_abi::board_reader::BoardView;
use aishim_abi::channel::{Channel, ChannelError};
use aishim_abi::client_page::{Identity, OwnPage};
use aishim_abi::message::{Answer, AskStatus, Gpus, Hello, Job, Request, UsesGpu, Version};
use aishim_abi::rank::{Class, Priority, Uuid, Weight};
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    directory: PathBuf,
    channel: Option<Channel>,
    page: Option<OwnPage>,
    /// The board, and our slot there.
    board: Option<(BoardView, u32)>,
    idle: Vec<Channel>,
}

/// No test: the client that others start.
#[test]
fn is_one_when_asked() {
    let Some(directory) = std::env::var_os("AISCHEDD_TEST_CLIENT") else { return };
    let mut state = State { directory: directory.into(), ..State::default() };
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = state.obey(&words);
        let mut out = std::io::stdout().lock();
        writeln!(out, "@{answer}").unwrap();
        out.flush().unwrap();
    }
}

impl State {
    fn obey(&mut self, words: &[&str]) -> String {
        match words {
            ["hello", priority, job, gpus @ ..] => self.hello(std::process::id(), priority, job, gpus),
            ["claim", pid] => self.hello(pid.parse().unwrap(), "-", "-", &["1"]),
            ["bad-page"] => {
                self.page = Some(page(std::process::id() + 1));
                self.say_hello(std::process::id(), "-", "-", &["1"])
            }
            ["gpu", number] => {
                let uses = UsesGpu { uuid: uuid(number) };
                let sent = self.channel.as_mut().unwrap().send(&Request::from(uses), None);
                format!("{sent:?}")
            }
            ["next", limit_ms] => self.next(Duration::from_millis(limit_ms.parse().unwrap())),
            ["connections", count] => self.open(count.parse().unwrap()),
            ["flood"] => self.flood(),
            ["random", seed] => self.say_nonsense(seed.parse().unwrap()),
            ["scribble", seed] => self.scribble(seed.parse().unwrap()),
            ["want", limit_ms] => self.want(Duration::from_millis(limit_ms.parse().unwrap())),
            ["take-turns", limit_ms] => self.take_turns(Duration::from_millis(limit_ms.parse().unwrap())),
            ["fork"] => self.leave_to_child(),
            ["thread"] => begin_thread(),
            ["churn", limit_ms] => {
                let until = Instant::now() + Duration::from_millis(limit_ms.parse().unwrap());
                (0..4).for_each(|_| drop(std::thread::spawn(move || beget(until))));
                "churning".to_owned()
            }
            ["leave"] => {
                self.channel = None;
                "left".to_owned()
            }
            ["use", limit_ms] => self.use_gpu(Duration::from_millis(limit_ms.parse().unwrap())),
            other => panic!("{other:?}"),
        }
    }

    fn hello(&mut self, pid: u32, priority: &str, job: &str, gpus: &[&str]) -> String {
        self.page = Some(page(pid));
        self.say_hello(pid, priority, job, gpus)
    }

    fn say_hello(&mut self, pid: u32, priority: &str, job: &str, gpus: &[&str]) -> String {
        let hello = Hello {
            version: Version,
            pid,
            start_ticks: start_ticks(),
            generation: 7,
            class: Class::from_name(priority).unwrap_or(Class::Unclassified),
            priority: priority.parse().ok().and_then(Priority::new),
            weight: Some(Weight::NORMAL),
            job: Job::new(job.trim_matches('-')),
            gpus: Gpus::new(gpus.iter().map(|number| uuid(number))),
        };
        let mut channel = match Channel::connect(&self.directory) {
            Ok(channel) => channel,
            Err(e) => return format!("error {e}"),
        };
        let descriptor = self.page.as_ref().unwrap().descriptor();
        let mut answer = channel.ask(&Request::from(hello), descriptor, LIMIT);
        self.channel = Some(channel);
        if let Ok((Answer::Welcome(welcome), Some(board))) = &mut answer {
            self.board = Some((BoardView::open(board.try_clone().unwrap()).unwrap(), welcome.slot));
        }
        told(answer)
    }

    fn next(&mut self, limit: Duration) -> String {
        let channel = self.channel.as_mut().unwrap();
        told(channel.answer(Instant::now() + limit))
    }

    /// Opens so many connections and keeps those that it may; how many it may not.
    fn open(&mut self, count: usize) -> String {
        let mut refused = 0;
        for _ in 0..count {
            let opened = loop {
                match Channel::connect(&self.directory) {
                    Err(ChannelError::Io(rustix::io::Errno::AGAIN)) => std::thread::sleep(Duration::from_millis(1)),
                    other => break other,
                }
            };
            let Ok(mut channel) = opened else { return "error".to_owned() };
            match channel.ask(&Request::from(AskStatus { version: Version }), None, LIMIT) {
                Ok((Answer::Status(_), _)) => self.idle.push(channel),
                _ => refused += 1,
            }
        }
        format!("refused {refused}")
    }

    /// Asks for ever and never reads.
    fn flood(&mut self) -> String {
        let mut channel = Channel::connect(&self.directory).unwrap();
        println!("@flooding");
        loop {
            match channel.send(&Request::from(AskStatus { version: Version }), None) {
                Ok(_) => {}
                Err(_) => channel = Channel::connect(&self.directory).unwrap(),
            }
        }
    }

    /// Sends random bytes, and messages that begin well, over many connections; until it is told to end.
    fn say_nonsense(&self, seed: u64) -> String {
        let mut random = Random(seed | 1);
        for _ in 0..300 {
            let Ok(channel) = Channel::connect(&self.directory) else { continue };
            for _ in 0..random.below(6) {
                let code = [1, 2, 16, 17, 18, 32, 99][random.below(7)];
                let bytes = [360, 16, 4, 24, 20, 500, 60_000][random.below(7)];
                let mut message: Vec<u8> =
                    [u32::to_le_bytes(code), u32::to_le_bytes(bytes), 1_u32.to_le_bytes()].concat();
                message.extend((0..random.below(600)).map(|_| random.next() as u8));
                let begin = if random.below(3) == 0 { 12 } else { 0 };
                let _ = rustix::net::send(
                    &channel,
                    &message[begin..],
                    rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT,
                );
            }
        }
        "said".to_owned()
    }

    /// Writes random bytes over its page, for 200 ms.
    fn scribble(&self, seed: u64) -> String {
        let page = self.page.as_ref().unwrap().page().unwrap();
        let mut random = Random(seed | 1);
        let words = [&page.magic, &page.generation, &page.busy_until_ns, &page.renewed_ns, &page.used_ns];
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            words[random.below(words.len())].store(random.next(), std::sync::atomic::Ordering::Relaxed);
        }
        "scribbled".to_owned()
    }

    /// Behaves for so long like a process with work on the GPU and more that waits.
    fn want(&self, limit: Duration) -> String {
        use std::sync::atomic::Ordering::Relaxed;
        let page = self.page.as_ref().unwrap().page().unwrap();
        let begun = Instant::now();
        page.is_waiting.store(1, Relaxed);
        while begun.elapsed() < limit {
            let now_ns = monotonic_ns();
            page.renewed_ns.store(now_ns, Relaxed);
            page.busy_until_ns.store(now_ns + 5_000_000, Relaxed);
            page.used_ns.fetch_add(500_000, Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
        page.is_waiting.store(0, Relaxed);
        "wanted".to_owned()
    }

    /// Behaves for so long like a gate: works while it has the turn, and sleeps until the turn changes while it has not.
    fn take_turns(&self, limit: Duration) -> String {
        use std::sync::atomic::Ordering::Relaxed;
        let (Some((board, slot)), Some(page)) = (&self.board, self.page.as_ref().and_then(OwnPage::page)) else {
            return "no client".to_owned();
        };
        let (begun, mut taken, mut had) = (Instant::now(), 0, false);
        while begun.elapsed() < limit {
            let rank = board.entry(*slot as usize).unwrap().rank;
            let seen = board.changes(0, rank);
            let now_ns = monotonic_ns();
            let (turn, until_ns) = board.turn(0, rank, now_ns);
            let has = turn == Turn::Everybody || turn == Turn::of(*slot, 0);
            (taken, had) = (taken + u32::from(has && !had), has);
            page.is_waiting.store((!has).into(), Relaxed);
            page.renewed_ns.store(now_ns, Relaxed);
            if has {
                page.busy_until_ns.store(now_ns + 5_000_000, Relaxed);
                page.launched_ns.fetch_add(500_000, Relaxed);
                page.used_ns.fetch_add(500_000, Relaxed);
                std::thread::sleep(Duration::from_micros(500));
            } else {
                page.busy_until_ns.store(now_ns, Relaxed);
                board.wait(0, rank, Turn::of(*slot, 0), seen, until_ns);
            }
        }
        page.is_waiting.store(0, Relaxed);
        format!("turns {taken}")
    }

    /// Says for so long that it uses all of the GPU.
    fn use_gpu(&self, limit: Duration) -> String {
        let page = self.page.as_ref().unwrap().page().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < limit {
            page.used_ns.store(begun.elapsed().as_nanos() as u64, std::sync::atomic::Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
        "used".to_owned()
    }

    /// Leaves its connection to a child that outlives it, and tells that one's process id.
    fn leave_to_child(&self) -> String {
        // SAFETY: the child calls nothing but sleep and _exit, which are async-signal-safe.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::close(1);
                libc::sleep(20);
                libc::_exit(0);
            }
        }
        format!("child {child}")
    }
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec * 1_000_000_000 + now.tv_nsec).cast_unsigned()
}

/// Begins a thread that does the same, and ends; until then.
fn beget(until: Instant) {
    std::thread::sleep(Duration::from_micros(300));
    if Instant::now() < until {
        std::thread::spawn(move || beget(until));
    }
}

/// Begins a thread that does nothing; its id.
fn begin_thread() -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sender.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
        loop {
            std::thread::park();
        }
    });
    format!("thread {}", receiver.recv().unwrap())
}

fn told(answer: Result<(Answer, Option<OwnedFd>), ChannelError>) -> String {
    match answer {
        Ok((Answer::Welcome(w), board)) => {
            assert!(board.is_some());
            format!("welcome {} {} {}", w.slot, w.priority, w.limit)
        }
        Ok((Answer::Refused(refused), _)) => format!("refused {} {}", refused.reason.number(), refused.limit),
        Ok((Answer::Peer(peer), page)) => {
            aishim_abi::client_page::PageView::open(page.unwrap()).unwrap();
            format!("peer {} {}", peer.slot, peer.priority)
        }
        Ok((Answer::PeerGone(gone), _)) => format!("gone {}", gone.slot),
        Ok((other, _)) => format!("{other:?}"),
        Err(ChannelError::TimedOut) => "nothing".to_owned(),
        Err(ChannelError::Ended) => "ended".to_owned(),
        Err(e) => format!("error {e}"),
    }
}

fn page(pid: u32) -> OwnPage {
    OwnPage::create(&Identity { pid, start_ticks: start_ticks(), generation: 7 }).unwrap()
}

fn start_ticks() -> u64 {
    aishim_observe::procfs::start_ticks(std::process::id()).unwrap()
}

fn uuid(number: &str) -> Uuid {
    Uuid([number.parse().unwrap(); 16])
}

/// Numbers that look random (xorshift), the same for each seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 32) as usize % limit
    }
}
