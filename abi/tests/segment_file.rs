//! A segment's life as a file, with processes that really die.

mod sample;

use aishim_abi::layout::{Header, MAGIC, SEGMENT_BYTES, Segment, VERSION};
use aishim_abi::reader::SegmentCopy;
use aishim_abi::segment_file::{self, Entry, KEEP_ENDED};
use sample::Sample;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// Tells [`child`] that it was started by a test, and where to publish.
const DIRECTORY: &str = "SEGMENT_FILE_TEST_DIRECTORY";

const CHILD_TICKS: u64 = 77;

/// Not a test: the process that publishes and then dies as its parent wants it to.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let segment = filled_segment(std::process::id());
    // SAFETY: the segment was allocated for this and is never freed; this process has no other thread that touches it.
    let published = unsafe { segment_file::publish(segment, Path::new(&directory), std::process::id(), CHILD_TICKS) };
    // SAFETY: as above; whether or not it was published, its memory is mapped.
    let header = unsafe { &(*segment).header };
    match published {
        Ok(path) => say(&format!("published {}", path.display())),
        // What was counted before must still be there, and counting must go on.
        Err(e) => {
            header.priority.fetch_add(1, Relaxed);
            say(&format!("{:?} {}", e.raw_os_error(), header.priority.load(Relaxed)));
        }
    }
    let mut order = [0];
    while std::io::stdin().read_exact(&mut order).is_ok() {
        match order[0] {
            b'+' => drop(header.priority.fetch_add(1, Relaxed)),
            b'e' => header.ended_unix_ns.store(1_600_000_000_000_000_000, Relaxed),
            // SAFETY: as above.
            b'd' => unsafe { segment_file::disown(segment).unwrap() },
            _ => std::process::abort(),
        }
        say(&format!("done {}", header.priority.load(Relaxed)));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n>{line}").unwrap();
    out.flush().unwrap();
}

fn filled_segment(pid: u32) -> *mut Segment {
    let layout = std::alloc::Layout::new::<Segment>();
    // SAFETY: the layout has a size.
    let segment = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<Segment>();
    assert!(!segment.is_null());
    // SAFETY: allocated above with this layout, nobody else has it, and zeros are a valid segment.
    let header: &mut Header = unsafe { &mut (*segment).header };
    header.magic = MAGIC;
    header.version.store(VERSION, Relaxed);
    header.segment_bytes.store(SEGMENT_BYTES as u64, Relaxed);
    header.pid.store(pid, Relaxed);
    header.priority.store(20, Relaxed);
    segment
}

/// A child that has published (or failed to).
struct Publisher {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
    first: String,
}

impl Publisher {
    fn start(directory: &Path) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), directory)
    }

    fn start_by(mut command: Command, directory: &Path) -> Self {
        let mut child = command
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let first = answer(&mut answers);
        Self { child, answers, first }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(self.first.strip_prefix("published ").expect(&self.first))
    }

    fn order(&mut self, what: u8) -> String {
        self.child.stdin.as_mut().unwrap().write_all(&[what]).unwrap();
        answer(&mut self.answers)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(from: &mut BufReader<std::process::ChildStdout>) -> String {
    let lines = from.lines().map_while(Result::ok);
    let mut ours = lines.filter_map(|l| l.strip_prefix('>').map(str::to_owned));
    ours.next().unwrap_or_default()
}

fn read(path: &Path) -> SegmentCopy {
    SegmentCopy::read(segment_file::open(path).unwrap()).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn set_modified(path: &Path, when: SystemTime) {
    std::fs::File::options().append(true).open(path).unwrap().set_modified(when).unwrap();
}

#[test]
fn what_a_living_process_counts_is_seen_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::start(directory.path());
    let path = publisher.path();
    assert_eq!(segment_file::probe(&path).unwrap().0, Entry::Alive);
    assert_eq!(read(&path).priority(), 20);
    publisher.order(b'+');
    assert_eq!(read(&path).priority(), 21);
    let listed = segment_file::list(directory.path()).unwrap();
    assert_eq!(listed, std::slice::from_ref(&path));
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // A tmpfs that fills up later must not matter: every page has its room already.
    let rooms = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) * 512;
    assert!(rooms >= SEGMENT_BYTES as u64);
}

#[test]
fn a_killed_process_is_found_dead_and_noted() {
    let directory = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::start(directory.path());
    publisher.order(b'+');
    publisher.kill();
    let path = publisher.path();
    let before = SystemTime::now();
    let (entry, at) = segment_file::probe(&path).unwrap();
    assert_eq!(at, path.with_extension("ended"));
    let Entry::Ended(when) = entry else { panic!("{entry:?}") };
    assert!(when >= before && when <= SystemTime::now());
    assert_eq!(read(&at).priority(), 21, "the final figures stay");
    // Asked again it answers the same moment (which the file system may keep less finely).
    let (again, _) = segment_file::probe(&at).unwrap();
    let Entry::Ended(noted) = again else { panic!("{again:?}") };
    assert!(when.duration_since(noted).unwrap() < Duration::from_millis(20));
}

#[test]
fn an_orderly_end_keeps_its_moment() {
    let directory = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::start(directory.path());
    publisher.order(b'e');
    assert_eq!(segment_file::probe(&publisher.path()).unwrap().0, Entry::Alive, "it still runs");
    publisher.kill();
    let (entry, at) = segment_file::probe(&publisher.path()).unwrap();
    let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    assert_eq!(entry, Entry::Ended(moment));
    assert_eq!(at.metadata().unwrap().modified().unwrap(), moment);
}

#[test]
fn a_process_that_let_go_counts_for_itself_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::start(directory.path());
    assert_eq!(publisher.order(b'd'), "done 0");
    assert_eq!(publisher.order(b'+'), "done 1");
    let (entry, at) = segment_file::probe(&publisher.path()).unwrap();
    assert!(matches!(entry, Entry::Ended(_)));
    assert_eq!(read(&at).priority(), 20);
}

#[test]
fn a_sweep_removes_what_ended_ten_minutes_ago_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let now = SystemTime::now();
    let alive = Sample::new(1, 1).alive(at);
    set_modified(&alive.path, now - 2 * KEEP_ENDED);
    Sample::new(2, 2).dead(at);
    let ended_at = |age: Duration| (now - age).duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let late = ended_at(KEEP_ENDED - Duration::from_secs(60)).as_nanos() as u64;
    let early = ended_at(KEEP_ENDED + Duration::from_secs(60)).as_nanos() as u64;
    Sample::new(3, 3).ended_unix_ns(late).dead(at);
    Sample::new(4, 4).ended_unix_ns(early).dead(at);
    std::fs::write(at.join("notes.txt"), "not ours").unwrap();
    set_modified(&at.join("notes.txt"), now - 2 * KEEP_ENDED);
    assert_eq!(segment_file::sweep(at, now), 1);
    let mut left = names(at);
    left.sort();
    assert_eq!(left, ["1-1.seg", "2-2.ended", "3-3.ended", "notes.txt"]);
    assert_eq!(segment_file::sweep(at, now + KEEP_ENDED + Duration::from_secs(60)), 2);
}

#[test]
fn moments_to_come_do_not_keep_a_file_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let path = Sample::new(5, 5).ended_unix_ns(u64::MAX).dead(directory.path());
    let (entry, at) = segment_file::probe(&path).unwrap();
    let Entry::Ended(when) = entry else { panic!("{entry:?}") };
    assert!(when <= SystemTime::now());
    set_modified(&at, now + 10 * KEEP_ENDED);
    assert_eq!(segment_file::sweep(directory.path(), now), 1);
}

#[test]
fn unfinished_files_go_when_nobody_is_making_them() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let now = SystemTime::now();
    let unfinished = at.join(".9-9.new");
    std::fs::write(&unfinished, "").unwrap();
    assert_eq!(segment_file::sweep(at, now), 0, "it may be in the making");
    set_modified(&unfinished, now - Duration::from_secs(120));
    let maker = std::fs::File::open(&unfinished).unwrap();
    rustix::fs::flock(&maker, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(segment_file::sweep(at, now), 0, "somebody holds it");
    // Not by closing it alone: a process that another test starts at this moment has a copy until it calls exec.
    rustix::fs::flock(&maker, rustix::fs::FlockOperation::Unlock).unwrap();
    drop(maker);
    assert_eq!(segment_file::sweep(at, now), 1);
    assert!(names(at).is_empty());
}

#[test]
fn a_living_process_under_the_name_of_a_dead_one_lives() {
    let directory = tempfile::tempdir().unwrap();
    let alive = Sample::new(6, 6).alive(directory.path());
    let renamed = alive.path.with_extension("ended");
    std::fs::rename(&alive.path, &renamed).unwrap();
    set_modified(&renamed, SystemTime::now() - 2 * KEEP_ENDED);
    assert_eq!(segment_file::probe(&renamed).unwrap().0, Entry::Alive);
    assert_eq!(segment_file::sweep(directory.path(), SystemTime::now()), 0);
}

#[test]
fn what_is_not_ours_is_neither_renamed_nor_removed() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let long_ago = SystemTime::now() - 10 * KEEP_ENDED;
    let foreign = ["1-1.seg", "2-2.ended", "lecture.seg", "a-1.ended", "x.new", "3-.seg", "-3.ended"];
    for name in foreign {
        std::fs::write(at.join(name), "somebody's data, of some length").unwrap();
        set_modified(&at.join(name), long_ago);
    }
    // Ours by its content, but not by its name.
    let renamed = at.join("copy-of-5-5.seg");
    std::fs::rename(Sample::new(5, 5).dead(at), &renamed).unwrap();
    set_modified(&renamed, long_ago);
    for path in segment_file::list(at).unwrap() {
        segment_file::probe(&path).unwrap();
    }
    assert_eq!(segment_file::sweep(at, SystemTime::now()), 0);
    assert_eq!(names(at).len(), foreign.len() + 1);
    assert!(foreign.iter().all(|name| at.join(name).exists()));
}

#[test]
fn what_is_no_file_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let fifo = at.join("1-1.seg");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let link = at.join("2-2.seg");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    let folder = at.join("3-3.seg");
    std::fs::create_dir(&folder).unwrap();
    for path in [&fifo, &link, &folder] {
        assert!(segment_file::probe(path).is_err(), "{}", path.display());
    }
    assert_eq!(segment_file::sweep(at, SystemTime::now() + 2 * KEEP_ENDED), 0);
    assert_eq!(names(at).len(), 3);
}

#[test]
fn a_file_size_limit_is_an_error_and_no_signal() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    let program = std::env::current_exe().unwrap();
    // Blocks of 512 bytes by POSIX, of 1024 in bash: below a segment either way.
    command.args(["-c", "ulimit -f 100; exec \"$0\" \"$@\""]).arg(program);
    let publisher = Publisher::start_by(command, directory.path());
    let too_large = rustix::io::Errno::FBIG.raw_os_error();
    assert_eq!(publisher.first, format!("Some({too_large}) 21"));
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_full_file_system_leaves_everything_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    let mount = "mount -t tmpfs -o size=128k none \"$SEGMENT_FILE_TEST_DIRECTORY\" || exit 99; exec \"$0\" \"$@\"";
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]);
    command.arg(std::env::current_exe().unwrap()).stderr(Stdio::null());
    let mut publisher = Publisher::start_by(command, directory.path());
    if publisher.first.is_empty() {
        let status = publisher.child.wait().unwrap();
        eprintln!("skipped: no tmpfs can be mounted in a user namespace here ({status})");
        return;
    }
    let no_space = rustix::io::Errno::NOSPC.raw_os_error();
    assert_eq!(publisher.first, format!("Some({no_space}) 21"));
    assert_eq!(publisher.order(b'+'), "done 22");
}

#[test]
fn a_directory_that_is_missing_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let publisher = Publisher::start(&directory.path().join("missing"));
    assert_eq!(publisher.first, "Some(2) 21");
}
