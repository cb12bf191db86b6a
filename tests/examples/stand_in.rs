//! A coordinator that decides nothing, with idle clients of its own, to measure what a launch costs in company:
//! `stand_in DIRECTORY CLIENTS PRIORITY` listens until it is killed.

use aishim_abi::channel::Channel;
use aishim_abi::client_page::{Identity, OwnPage};
use aishim_abi::message::{Gpus, Hello, Job, Request, Version};
use aishim_abi::rank::{Class, Priority, Uuid, Weight};
use aishim_tests::Coordinator;
use std::path::Path;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, clients, priority] = arguments.as_slice() else {
        eprintln!("usage: stand_in DIRECTORY CLIENTS PRIORITY");
        std::process::exit(2);
    };
    let directory = Path::new(directory);
    let _coordinator = Coordinator::start(directory);
    let priority = priority.parse().ok().and_then(Priority::new);
    let clients = clients.parse().unwrap_or(1);
    let _clients: Vec<_> = (1..=clients).map(|number| join(directory, number, priority)).collect();
    println!("listening");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn join(directory: &Path, number: u32, priority: Option<Priority>) -> (Channel, OwnPage) {
    let identity = Identity { pid: number, start_ticks: 1, generation: 7 };
    let page = OwnPage::create(&identity).expect("a page");
    let hello = Hello {
        version: Version,
        pid: number,
        start_ticks: 1,
        generation: 7,
        class: Class::Unclassified,
        priority,
        weight: Some(Weight::NORMAL),
        job: Job::new(""),
        gpus: Gpus::new([Uuid([1; 16])]),
    };
    let mut channel = Channel::connect(directory).expect("a coordinator");
    channel.ask(&Request::from(hello), page.descriptor(), Duration::from_secs(5)).expect("a welcome");
    (channel, page)
}
