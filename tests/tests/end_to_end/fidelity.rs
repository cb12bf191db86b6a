//! The table of cases of `tests/conformance`, without the library and under it: a program cannot tell the pool's memory
//! from the driver's, but where a case says that ours is better.

use aishim_abi::statistics::Statistic;
use aishim_tests::{Program, Sandbox, Via};
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

/// Both with so many blocks of 1 MiB held meanwhile.
fn columns_agree(held: &str) {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let list = |sandbox: &Sandbox, command: Command| {
        sandbox.succeed(with_costs(command).arg("--list").env("CONFORMANCE_HOLD", held))
    };
    // At the same time, each on a GPU of its own: most of what they do is wait.
    let (native, shimmed) = std::thread::scope(|scope| {
        let native = scope.spawn(|| list(&other, other.native(conformance())));
        let shimmed = list(&sandbox, sandbox.shimmed(conformance()));
        (native.join().unwrap(), shimmed)
    });
    let better = column(&sandbox.succeed(sandbox.native(conformance()).arg("--better")).stdout);
    // It was the pool that answered, and not the driver alone.
    assert!(sandbox.segment(shimmed.pid).statistic(Statistic::PoolHits) > 100);

    let (theirs, ours) = (column(&native.stdout), column(&shimmed.stdout));
    assert!(theirs.len() > 500 && theirs.keys().eq(ours.keys()), "{}", shimmed.stdout);
    for (name, value) in &theirs {
        // Whether a copy is staged is a matter of the machine's processors.
        let may_agree = name.starts_with("copy_") || !better.contains_key(name);
        let is_as_noted = better.get(name) == Some(&ours[name]) || may_agree && ours[name] == *value;
        let agrees = is_as_noted || !better.contains_key(name) && agrees_alone(&sandbox, held, name);
        assert!(agrees, "{name}: {value} without the library, {} under it", ours[name]);
    }
}

#[test]
fn no_identity_comes_twice() {
    let program = Program::new("pinned_identities").build();
    let sandbox = Sandbox::new();
    for command in [&mut sandbox.native(&program), &mut sandbox.shimmed(&program)] {
        assert_eq!(sandbox.succeed(command).stdout, "0 twice\n");
    }
}
