//! Running a program with directories of its own, under the library or without it, and looking at what is left.

use crate::dist;
use aishim_abi::reader::{HistogramCopy, SegmentCopy, Which};
use aishim_abi::segment_file::{self, Entry};
use aishim_abi::statistics::Statistic;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No program of these tests takes nearly as long, on any machine.
const PATIENCE: Duration = Duration::from_secs(45);

/// A runtime directory and a simulated GPU that no other test sees.
pub struct Sandbox {
    root: TempDir,
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// Its process id.
    pub pid: u32,
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote to stdout.
    pub stdout: String,
    /// All it wrote to stderr, and anything the library wrote there.
    pub stderr: String,
}

/// A segment found in the runtime directory.
pub struct Segment {
    /// Its file, by the name it has now.
    pub path: PathBuf,
    /// Whether its process lives.
    pub entry: Entry,
    /// What it says.
    pub copy: SegmentCopy,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// Makes one; in shared memory where there is some, since that is where segments live as a rule.
    ///
    /// # Panics
    /// Where no folder can be made.
    #[must_use]
    pub fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("aishim-test-");
        let root = builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).expect("a temporary folder");
        std::fs::create_dir(root.path().join("run")).expect("a folder in a new folder");
        Self { root }
    }

    /// The runtime directory.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.root.path().join("run")
    }

    /// A path of the sandbox outside of the runtime directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `program` with this sandbox's directories and the simulator as its driver, not under the library. Simulated
    /// work costs no time unless the test says otherwise.
    #[must_use]
    pub fn native(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let ours = |name: &str| name.starts_with("AISHIM") || name.starts_with("SIMCUDA");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(ours) {
                command.env_remove(name);
            }
        }
        command
            .env_remove("LD_PRELOAD")
            .env("LD_LIBRARY_PATH", dist::simulator())
            .env("AISHIM_DIR", self.directory())
            .env("SIMCUDA_DIR", self.path("gpu"))
            .env("SIMCUDA_COSTS", "none");
        command
    }

    /// The same under the library.
    #[must_use]
    pub fn shimmed(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.native(program);
        command.env("LD_PRELOAD", dist::shim());
        command
    }

    /// Starts `command`, its words going to files.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(&self, command: &mut Command) -> Running {
        let words = tempfile::tempdir_in(self.root.path()).expect("a folder for its words");
        let file = |name: &str| File::create(words.path().join(name)).expect("a file for its words");
        let child = command
            .stdin(std::process::Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Running { child, words }
    }

    /// Runs `command` to its end.
    #[must_use]
    pub fn run(&self, command: &mut Command) -> Outcome {
        self.start(command).wait()
    }

    /// Runs it under the library and expects that it succeeds without a word on stderr.
    #[must_use]
    pub fn succeed(&self, command: &mut Command) -> Outcome {
        let outcome = self.run(command);
        outcome.assert_success();
        outcome
    }

    /// All segments, living and ended.
    ///
    /// # Panics
    /// Where one of them cannot be read.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let paths = segment_file::list(&self.directory()).unwrap_or_default();
        paths.iter().map(|path| read(path)).collect()
    }

    /// The one segment of that process.
    ///
    /// # Panics
    /// Where there is none, or more than one.
    #[must_use]
    pub fn segment(&self, pid: u32) -> Segment {
        let mut of_pid: Vec<_> = self.segments().into_iter().filter(|s| s.copy.pid() == pid).collect();
        assert_eq!(of_pid.len(), 1, "segments of process {pid}");
        of_pid.remove(0)
    }

    /// Names of everything in the runtime directory.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory()).into_iter().flatten();
        let name = |e: std::fs::DirEntry| e.file_name().to_string_lossy().into_owned();
        entries.flatten().map(name).collect()
    }
}

fn read(path: &Path) -> Segment {
    let file = segment_file::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let copy = SegmentCopy::read(&file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (entry, path) = segment_file::probe_open(&file, path).expect("the state of an open file");
    Segment { path, entry, copy }
}

/// Waits for a child's end; one that does not end in time is killed.
///
/// # Panics
/// Where it is no child that can be waited for.
pub fn end_of(child: &mut Child) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("a child to wait for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// A program at work.
pub struct Running {
    /// Its process.
    pub child: Child,
    words: TempDir,
}

impl Running {
    /// Waits for its end.
    ///
    /// # Panics
    /// Where it does not end in time; it is then killed.
    #[must_use]
    pub fn wait(mut self) -> Outcome {
        let Some(status) = end_of(&mut self.child) else {
            panic!("it hangs; so far: {}{}", self.said("stdout"), self.said("stderr"));
        };
        Outcome { pid: self.child.id(), status, stdout: self.said("stdout"), stderr: self.said("stderr") }
    }

    /// Waits until it has written a line that holds `text` to stdout.
    ///
    /// # Panics
    /// Where it ends, or takes too long, without.
    pub fn wait_for(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.said("stdout").contains(text) {
            let ended = self.child.try_wait().expect("a child to wait for");
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "it has not said {text:?} ({ended:?}): {}{}",
                self.said("stdout"),
                self.said("stderr")
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn said(&self, stream: &str) -> String {
        let bytes = std::fs::read(self.words.path().join(stream)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A test that fails leaves no program behind, which might wait for good for what the test would have done next.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// Its exit code; none when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Expects exit code 0 and an empty stderr.
    ///
    /// # Panics
    /// Where that is not so.
    #[track_caller]
    pub fn assert_success(&self) {
        assert!(
            self.code() == Some(0) && self.stderr.is_empty(),
            "{}\nstdout: {}\nstderr: {}",
            self.status,
            self.stdout,
            self.stderr
        );
    }

    /// Expects the same end and the same words as of another run.
    ///
    /// # Panics
    /// Where that is not so.
    #[track_caller]
    pub fn assert_same(&self, other: &Self) {
        assert_eq!((&self.status, &self.stdout, &self.stderr), (&other.status, &other.stdout, &other.stderr));
    }
}

impl Segment {
    /// Calls of a hooked function.
    #[must_use]
    pub fn calls(&self, hook: &str) -> u64 {
        self.hook(hook).calls
    }

    /// Calls of it that returned an error.
    #[must_use]
    pub fn errors(&self, hook: &str) -> u64 {
        self.hook(hook).errors
    }

    fn hook(&self, name: &str) -> aishim_abi::reader::Hook {
        self.copy.hooks().find(|h| h.name == name).unwrap_or_else(|| panic!("{name} is not hooked"))
    }

    /// A counter or gauge.
    #[must_use]
    pub fn statistic(&self, which: Statistic) -> u64 {
        self.copy.statistic(which)
    }

    /// A histogram.
    #[must_use]
    pub fn histogram(&self, which: Which) -> HistogramCopy {
        self.copy.histogram(which)
    }

    /// How many values a histogram has.
    #[must_use]
    pub fn count(&self, which: Which) -> u64 {
        self.histogram(which).counts.iter().sum()
    }

    /// Whether its process has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.entry, Entry::Ended(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_waited_for_ends_with_its_test() {
        let sandbox = Sandbox::new();
        let running = sandbox.start(Command::new("sleep").arg("1000"));
        let process = PathBuf::from(format!("/proc/{}", running.child.id()));
        assert!(process.exists());
        drop(running);
        assert!(!process.exists());
    }
}
