//! A daemon in a directory of its own, and processes that are its clients.

use aishim_abi::board_reader::BoardView;
use aishim_abi::channel::Channel;
use aishim_abi::message::{Answer, AskStatus, Reason, Request, SetClient, SetPolicy, Version};
use aishim_abi::rank::{PolicyKind, Priority, Uuid};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// More than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Clients are new processes, which take a while to start on a busy machine; who is told what is not a matter of time.
pub(crate) struct Daemon {
    pub(crate) directory: TempDir,
    pub(crate) process: Child,
}

/// The program under test, in that directory: of this build, or that of the folder AISHIM_DIST.
pub(crate) fn command(directory: &Path) -> Command {
    let built = std::path::PathBuf::from(env!("CARGO_BIN_EXE_aischedd"));
    let program = std::env::var_os("AISHIM_DIST").map_or(built, |folder| Path::new(&folder).join("aischedd"));
    let mut command = Command::new(program);
    command.args(["--log", "debug", "--dir"]).arg(directory).stdin(Stdio::null());
    command.env_remove("AISHIM_DIR").env("XDG_CONFIG_HOME", directory);
    command
}

impl Daemon {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = start_in(directory.path(), arguments);
        Self { directory, process }
    }

    /// With a file of settings.
    pub(crate) fn with_config(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("settings.toml");
        std::fs::write(&file, text).unwrap();
        let process = start_in(directory.path(), &["--config", file.to_str().unwrap()]);
        Self { directory, process }
    }

    /// Ends it at once, and starts another in its place.
    pub(crate) fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = start_in(self.directory.path(), &[]);
    }

    /// Behind these words of a command, writing to a file what it says.
    pub(crate) fn behind(words: &[&str], said: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let daemon = command(directory.path());
        let mut behind = Command::new(words[0]);
        behind.args(&words[1..]).arg(daemon.get_program()).args(daemon.get_args());
        behind.env_remove("AISHIM_DIR").env("XDG_CONFIG_HOME", directory.path());
        let process = behind.stderr(std::fs::File::create(said).unwrap()).spawn().unwrap();
        let _ = wait_for("the daemon to listen", || Channel::connect(directory.path()).ok());
        Self { directory, process }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child of ours that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    pub(crate) fn client(&self) -> Client {
        Client::start(self.directory.path(), &[])
    }

    pub(crate) fn connect(&self) -> Channel {
        Channel::connect(self.directory.path()).unwrap()
    }

    pub(crate) fn ask(&self, request: impl Into<Request>) -> Answer {
        self.connect().ask(&request.into(), None, LONG).unwrap().0
    }

    pub(crate) fn board(&self) -> BoardView {
        let ask = Request::from(AskStatus { version: Version });
        let (answer, board) = self.connect().ask(&ask, None, LONG).unwrap();
        assert!(matches!(answer, Answer::Status(_)), "{answer:?}");
        BoardView::open(board.unwrap()).unwrap()
    }

    pub(crate) fn set_policy(&self, policy: PolicyKind, uuid: Uuid) -> Answer {
        self.ask(SetPolicy { version: Version, policy, uuid })
    }

    /// Sets the priority of the client in a slot as the board shows it.
    pub(crate) fn set_priority(&self, slot: u32, priority: u32) -> Answer {
        let generation = self.board().entry(slot as usize).map_or(0, |entry| entry.generation);
        let priority = Priority::new(priority).unwrap();
        self.ask(SetClient { version: Version, slot, generation, priority: Some(priority), weight: None, class: None })
    }

    /// The processor time it has used, in clock ticks of 10 ms.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    }

    /// How many descriptors it has.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start_in(directory: &Path, arguments: &[&str]) -> Child {
    let child = command(directory).args(arguments).stderr(Stdio::null()).spawn().unwrap();
    let _ = wait_for("the daemon to listen", || Channel::connect(directory).ok());
    child
}

/// Waits until there is something.
pub(crate) fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < LONG, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A process that does what it is told, by the line; see the module `client`.
pub(crate) struct Client {
    pub(crate) process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Client {
    /// Starts one, behind these words of a command where there are any.
    pub(crate) fn start(directory: &Path, before: &[&str]) -> Self {
        let test = std::env::current_exe().unwrap();
        let mut words = before.iter().map(std::ffi::OsStr::new).chain([test.as_os_str()]);
        let mut process = Command::new(words.next().unwrap())
            .args(words)
            .args(["--exact", "client::is_one_when_asked", "--nocapture"])
            .env("AISCHEDD_TEST_CLIENT", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, input, output }
    }

    /// Tells it something and waits for its answer.
    pub(crate) fn tell(&mut self, line: &str) -> String {
        self.tell_only(line);
        self.answer()
    }

    pub(crate) fn tell_only(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the client has ended");
            // The test harness's own words stand before and between.
            if let Some((_, answer)) = line.split_once('@') {
                return answer.trim().to_owned();
            }
        }
    }

    /// Says hello; its slot.
    pub(crate) fn hello(&mut self, words: &str) -> u32 {
        let answer = self.tell(&format!("hello {words}"));
        let slot = answer.strip_prefix("welcome ").and_then(|rest| rest.split(' ').next());
        slot.and_then(|slot| slot.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The answer of a client that was refused.
pub(crate) fn refused(reason: Reason, limit: u32) -> String {
    format!("refused {} {limit}", reason.number())
}

/// Everything that a process that ends writes to stderr, and its exit code.
pub(crate) fn run_to_end(mut command: Command) -> (String, Option<i32>) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (text, child.wait().unwrap().code())
}
