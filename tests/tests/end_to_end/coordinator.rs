//! aictl and the coordinator: who is there, and what is to be in force. The client is this test's own process.

use crate::aictl::aictl;
use aishim_abi::channel::Channel;
use aishim_abi::client_page::{Identity, OwnPage};
use aishim_abi::message::{Answer, Gpus, Hello, Job, Request, Version};
use aishim_abi::rank::{Class, Priority, Uuid, Weight};
use aishim_tests::{Sandbox, dist};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

/// A daemon in the sandbox's runtime directory.
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    pub(crate) fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let command = sandbox.native(dist::file("aischedd"));
        Self::run(command, sandbox, arguments)
    }

    /// Where no NVML can be found.
    fn start_without_nvml(sandbox: &Sandbox) -> Self {
        let mut command = sandbox.native(dist::file("aischedd"));
        command.env("LD_LIBRARY_PATH", sandbox.directory());
        Self::run(command, sandbox, &[])
    }

    fn run(mut command: Command, sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("aischedd");
        let begun = Instant::now();
        while Channel::connect(&sandbox.directory()).is_err() {
            assert!(begun.elapsed() < LONG, "aischedd does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // In order, since it puts back what it gave this process; one that was stopped does not hear of it.
        // SAFETY: a signal to a child of ours that has not been waited for.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        let begun = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This process as a client, for as long as what it returns lives.
fn join(sandbox: &Sandbox, priority: u32) -> (Channel, OwnPage) {
    join_on(sandbox, priority, Uuid([0xab; 16]))
}

/// The same on a GPU of one's choice.
pub(crate) fn join_on(sandbox: &Sandbox, priority: u32, gpu: Uuid) -> (Channel, OwnPage) {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let after_name = stat.rsplit_once(')').expect("a name in brackets").1;
    let start_ticks = after_name.split_whitespace().nth(19).and_then(|field| field.parse().ok()).expect("field 22");
    let identity = Identity { pid: std::process::id(), start_ticks, generation: 7 };
    let page = OwnPage::create(&identity).expect("a page");
    let hello = Hello {
        version: Version,
        pid: identity.pid,
        start_ticks,
        generation: identity.generation,
        class: Class::Unclassified,
        priority: Priority::new(priority),
        weight: Some(Weight::NORMAL),
        job: Job::new("train"),
        gpus: Gpus::new([gpu]),
    };
    let mut channel = Channel::connect(&sandbox.directory()).expect("a coordinator");
    let answer = channel.ask(&Request::from(hello), page.descriptor(), LONG).expect("an answer").0;
    assert!(matches!(answer, Answer::Welcome(_)), "{answer:?}");
    (channel, page)
}

fn status(sandbox: &Sandbox) -> Value {
    let outcome = aictl(sandbox, &["daemon", "status", "--json"]);
    outcome.assert_success();
    serde_json::from_str(&outcome.stdout).expect("a JSON document")
}

#[test]
fn without_a_coordinator_that_is_said() {
    let sandbox = Sandbox::new();
    for arguments in [&["daemon", "status"][..], &["policy"], &["set", "1", "--priority", "3"]] {
        let outcome = aictl(&sandbox, arguments);
        assert_eq!(outcome.code(), Some(1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("no coordinator listens in"), "{}", outcome.stderr);
    }
}

#[test]
fn the_coordinator_and_its_clients_are_shown() {
    let sandbox = Sandbox::new();
    let _daemon = Daemon::start(&sandbox, &["--max-clients", "5"]);
    assert!(aictl(&sandbox, &["policy"]).stdout.contains("No GPU"));
    let _client = join(&sandbox, 60);
    let document = status(&sandbox);
    assert_eq!((&document["clients"], &document["max_clients"]), (&1.into(), &5.into()));
    let client = &document["processes"][0];
    assert_eq!((&client["pid"], &client["priority"]), (&std::process::id().into(), &60.into()));
    assert_eq!((&client["gpus"][0], &client["weight"]), (&0.into(), &100.into()));
    assert!(client["command"].as_str().is_some_and(|command| command.contains("end_to_end")), "{client}");
    let page = aictl(&sandbox, &["daemon", "status"]).stdout;
    for words in ["1 of 5 clients", "abababab-abab-abab-abab-abababababab, policy priority, 1 clients", "PRIORITY"] {
        assert!(page.contains(words), "{page}");
    }
    let policies = aictl(&sandbox, &["policy"]).stdout;
    assert_eq!(policies, "abababab-abab-abab-abab-abababababab  priority\n");
}

/// Waits until the only GPU's utilisation is known; what is shown of it then.
fn gpu_with_utilisation(sandbox: &Sandbox) -> Value {
    let begun = Instant::now();
    loop {
        let gpu = status(sandbox)["gpus"][0].clone();
        if !gpu["utilisation_percent"].is_null() && !gpu["pages_percent"].is_null() {
            return gpu;
        }
        assert!(begun.elapsed() < LONG, "{gpu}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_gpu_does_is_shown_as_nvml_says() {
    let sandbox = Sandbox::new();
    let _daemon = Daemon::start(&sandbox, &[]);
    // The simulated one.
    let _client = join_on(&sandbox, 20, Uuid(*b"\xa1\x54\x1e\x00simcuda-gpu0"));
    let gpu = gpu_with_utilisation(&sandbox);
    assert_eq!((&gpu["source"], &gpu["sm_mhz"], &gpu["power_mw"]), (&"nvml".into(), &1980.into(), &75_000.into()));
    assert!(gpu["memory_total_bytes"].as_u64() > gpu["memory_used_bytes"].as_u64(), "{gpu}");
    let page = aictl(&sandbox, &["daemon", "status"]).stdout;
    for words in ["utilisation 0 % (NVML; its clients' pages: 0 %), memory 0B of ", "SM clock 1980 MHz, power 75 W"] {
        assert!(page.contains(words), "{page}");
    }
}

#[test]
fn what_a_gpu_does_that_nvml_does_not_know_is_known_from_pages() {
    let known = Uuid(*b"\xa1\x54\x1e\x00simcuda-gpu0");
    let without: fn(&Sandbox) -> Daemon = Daemon::start_without_nvml;
    let with: fn(&Sandbox) -> Daemon = |sandbox| Daemon::start(sandbox, &[]);
    for (start, gpu) in [(without, known), (with, Uuid([0xab; 16]))] {
        let sandbox = Sandbox::new();
        let _daemon = start(&sandbox);
        let (_channel, page) = join_on(&sandbox, 20, gpu);
        let used_ns = &page.page().expect("our own page").used_ns;
        let begun = Instant::now();
        loop {
            used_ns.store(begun.elapsed().as_nanos() as u64 / 2, std::sync::atomic::Ordering::Relaxed);
            let gpu = gpu_with_utilisation(&sandbox);
            assert_eq!((&gpu["source"], &gpu["sm_mhz"]), (&"pages".into(), &Value::Null));
            assert_eq!(gpu["utilisation_percent"], gpu["pages_percent"]);
            if gpu["utilisation_percent"].as_u64().is_some_and(|percent| (30..=70).contains(&percent)) {
                break;
            }
            assert!(begun.elapsed() < LONG, "{gpu}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let page = aictl(&sandbox, &["daemon", "status"]).stdout;
        assert!(page.contains("% (its clients' pages), memory - of -, SM clock -, power -"), "{page}");
    }
}

#[test]
fn a_priority_is_set_up_to_the_limit() {
    let sandbox = Sandbox::new();
    let settings = sandbox.directory().join("settings.toml");
    // SAFETY: geteuid(2) cannot fail.
    let uid = unsafe { libc::geteuid() };
    std::fs::write(&settings, format!("[[rule]]\nuser = {uid}\nhighest_priority = 70\n")).expect("settings");
    let _daemon = Daemon::start(&sandbox, &["--config", &settings.display().to_string()]);
    let _client = join(&sandbox, 90);
    let pid = std::process::id().to_string();
    let priority = |sandbox| status(sandbox)["processes"][0]["priority"].clone();
    assert_eq!(priority(&sandbox), 70, "as far as the limit goes");
    aictl(&sandbox, &["set", &pid, "--priority", "10"]).assert_success();
    assert_eq!(priority(&sandbox), 10);
    aictl(&sandbox, &["set", &pid, "--priority", "70"]).assert_success();
    let outcome = aictl(&sandbox, &["set", &pid, "--priority", "71"]);
    assert_eq!(outcome.code(), Some(1));
    assert!(outcome.stderr.contains("70"), "{}", outcome.stderr);
    assert_eq!(priority(&sandbox), 70);
    let outcome = aictl(&sandbox, &["set", "1", "--priority", "7"]);
    assert_eq!(outcome.code(), Some(4), "{}", outcome.stderr);
    assert_eq!(aictl(&sandbox, &["set", &pid, "--priority", "101"]).code(), Some(2));
}

#[test]
fn a_policy_is_put_in_force_by_name() {
    let sandbox = Sandbox::new();
    let _daemon = Daemon::start(&sandbox, &[]);
    let _client = join(&sandbox, 60);
    for policy in ["fair", "off", "priority"] {
        aictl(&sandbox, &["policy", policy]).assert_success();
        assert_eq!(status(&sandbox)["gpus"][0]["policy"], policy);
    }
    let outcome = aictl(&sandbox, &["policy", "best"]);
    assert_eq!(outcome.code(), Some(1));
    assert!(outcome.stderr.contains("off, priority, fair"), "{}", outcome.stderr);
}
