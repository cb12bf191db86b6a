//! The table of cases of `tests/conformance`, without the library and under it: a program cannot tell the pool's memory
//! from the driver's, but where a case says that ours is better.

use aishim_abi::statistics::Statistic;
use aishim_tests::sandbox::Segment;
use aishim_tests::{Coordinator, Program, Sandbox, Via};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Cases by name.
type Column = BTreeMap<String, i64>;

/// What begins with a name and a number, a line each.
fn column(text: &str) -> Column {
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

fn conformance() -> PathBuf {
    Program::new("../conformance/conformance").via(Via::Itself).build_as("conformance")
}

/// Some cases look at the clock, so what costs time on a GPU has to cost it here too.
fn with_costs(mut command: Command) -> Command {
    command.env("SIMCUDA_COSTS", "h200");
    command
}

/// A busy machine can make a case that looks at the clock miss: it is asked alone, a few times.
fn agrees_alone(sandbox: &Sandbox, held: &str, name: &str) -> bool {
    let ask = |command: Command| {
        sandbox.succeed(with_costs(command).args(["--value", name]).env("CONFORMANCE_HOLD", held)).stdout
    };
    (0..3).any(|_| ask(sandbox.native(conformance())) == ask(sandbox.shimmed(conformance())))
}

#[test]
fn the_columns_agree() {
    columns_agree("0");
}

/// The first slab is the driver's memory, the others are ours and registered.
#[test]
fn the_columns_agree_also_in_later_slabs() {
    columns_agree("16");
}

/// And where launches, memsets and copies give way to somebody more important, which is on a GPU of its own.
#[test]
fn the_columns_agree_in_company() {
    columns_agree_in_company("ahead");
}

/// The same where they wait in the program.
#[test]
fn the_columns_agree_in_company_that_is_waited_for_in_the_program() {
    columns_agree_in_company("wait");
}

fn columns_agree_in_company(gate: &str) {
    let sandbox = Sandbox::new();
    let _coordinator = Coordinator::start(&sandbox.directory());
    let mut important = sandbox.shimmed(Program::new("company").build());
    important.env("SIMCUDA_DIR", sandbox.path("another")).env("SIMCUDA_COSTS", "h200").env("AISHIM_PRIORITY", "80");
    let important = sandbox.start(important.args(["200000", "5", "5000"]));
    crate::gate::is_client(&sandbox, &important, 1);
    let segment = columns_agree_in(&sandbox, "0", &[("AISHIM_PRIORITY", "5"), ("AISHIM_GATE", gate)]);
    assert!(segment.statistic(Statistic::GateWaits) > 20);
}

/// Both with so many blocks of 1 MiB held meanwhile.
fn columns_agree(held: &str) {
    columns_agree_in(&Sandbox::new(), held, &[]);
}

/// Under the library with these variables; its segment.
fn columns_agree_in(sandbox: &Sandbox, held: &str, variables: &[(&str, &str)]) -> Segment {
    let other = Sandbox::new();
    let list = |sandbox: &Sandbox, command: Command| {
        sandbox.succeed(with_costs(command).arg("--list").env("CONFORMANCE_HOLD", held))
    };
    // At the same time, each on a GPU of its own: most of what they do is wait.
    let (native, shimmed) = std::thread::scope(|scope| {
        let native = scope.spawn(|| list(&other, other.native(conformance())));
        let mut command = sandbox.shimmed(conformance());
        command.envs(variables.iter().copied());
        let shimmed = list(sandbox, command);
        (native.join().unwrap(), shimmed)
    });
    let better = column(&sandbox.succeed(sandbox.native(conformance()).arg("--better")).stdout);
    // It was the pool that answered, and not the driver alone.
    let segment = sandbox.segment(shimmed.pid);
    assert!(segment.statistic(Statistic::PoolHits) > 100);

    let (theirs, ours) = (column(&native.stdout), column(&shimmed.stdout));
    assert!(theirs.len() > 500 && theirs.keys().eq(ours.keys()), "{}", shimmed.stdout);
    for (name, value) in &theirs {
        // Whether a copy is staged is a matter of the machine's processors.
        let may_agree = name.starts_with("copy_") || !better.contains_key(name);
        let is_as_noted = better.get(name) == Some(&ours[name]) || may_agree && ours[name] == *value;
        let agrees = is_as_noted || !better.contains_key(name) && agrees_alone(sandbox, held, name);
        assert!(agrees, "{name}: {value} without the library, {} under it", ours[name]);
    }
    segment
}

#[test]
fn no_identity_comes_twice() {
    let program = Program::new("pinned_identities").build();
    let sandbox = Sandbox::new();
    for command in [&mut sandbox.native(&program), &mut sandbox.shimmed(&program)] {
        assert_eq!(sandbox.succeed(command).stdout, "0 twice\n");
    }
}
