//! aictl and the coordinator: who is there, and what is to be in force. The client is this test's own process.

use crate::aictl::aictl;
use aishim_abi::channel::Channel;
use aishim_abi::client_page::{Identity, OwnPage};
use aishim_abi::message::{Answer, Gpus, Hello, Job, Request, Version};
use aishim_abi::rank::{Class, Priority, Uuid, Weight};
use aishim_tests::{Sandbox, dist};
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

/// A daemon in the sandbox's runtime directory.
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    pub(crate) fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let mut command = sandbox.native(dist::file("aischedd"));
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
