//! Runs traces on a model of a GPU, in virtual time, and prints latency and throughput of each class:
//!
//! ```text
//! cargo run --release -p aischedd --example virtual_clock -- sched/traces/*.trace
//! cargo run --release -p aischedd --example virtual_clock -- generate crowd 1
//! cargo run --release -p aischedd --example virtual_clock -- backlog_ns=100000 sched/traces/crowd.trace
//! ```
//!
//! What it prints is a model's result, not a measurement: see `aischedd::virtual_clock`.

use std::{env, error::Error, fs};

use aischedd::{
    policy::Kind,
    virtual_clock::{ClassResult, Model, Outcome, Trace, recipes, run, table},
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["generate", name, seed] => generate(name, seed.parse()?),
        [] | ["generate", ..] => {
            Err("usage: virtual_clock [ASSUMPTION=NUMBER]... TRACE... | generate NAME SEED".into())
        }
        words => {
            let (settings, files): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.contains('='));
            let model = settings.into_iter().try_fold(Model::default(), set)?;
            files.into_iter().try_for_each(|file| show(file, model))
        }
    }
}

/// The model with another assumption.
fn set(mut model: Model, setting: &str) -> Result<Model, Box<dyn Error>> {
    let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
    if setting == "sync_is_busy=true" {
        model.sync_is_busy = true;
        return Ok(model);
    }
    let field = match name {
        "slice_ns" => &mut model.slice_ns,
        "switch_ns" => &mut model.switch_ns,
        "wake_ns" => &mut model.wake_ns,
        "look_every_ns" => &mut model.look_every_ns,
        "lately_ns" => &mut model.lately_ns,
        "backlog_ns" => &mut model.backlog_ns,
        _ => return Err(format!("the model assumes nothing of {name:?}").into()),
    };
    *field = value.parse().map_err(|_| format!("{value:?} where a number is expected"))?;
    Ok(model)
}

fn generate(name: &str, seed: u64) -> Result<(), Box<dyn Error>> {
    let known = recipes().iter().find(|recipe| recipe.name == name);
    let recipe = known.ok_or_else(|| {
        format!("no such trace; there are {:?}", recipes().iter().map(|r| r.name).collect::<Vec<_>>())
    })?;
    print!("{}", recipe.make(seed));
    Ok(())
}

fn show(file: &str, model: Model) -> Result<(), Box<dyn Error>> {
    let trace: Trace = fs::read_to_string(file)?.parse().map_err(|bad| format!("{file}: {bad}"))?;
    let off = Kind::named("off").ok_or("no policy is called off")?;
    let mut runs: Vec<(String, Vec<ClassResult>)> = Vec::new();
    for class in classes(&trace) {
        runs.push(("alone".into(), run(&trace.only(|client| client.class == class), off, model).classes));
    }
    let mut times = String::new();
    for kind in Kind::all() {
        let Outcome { classes, took_ns } = run(&trace, kind, model);
        times.push_str(&format!(" {} {}", kind.name(), decisions(&took_ns)));
        runs.push((kind.name().into(), classes));
    }
    println!("{file}: {}", trace.about);
    println!("MODEL of a GPU in virtual time, not a measurement:\n");
    println!("{}", table(runs.iter().map(|(name, classes)| (name.as_str(), classes.as_slice()))));
    println!("Decisions, timed on this machine:{times}\n");
    Ok(())
}

fn classes(trace: &Trace) -> Vec<String> {
    let mut classes: Vec<String> = trace.clients.iter().map(|client| client.class.clone()).collect();
    classes.dedup();
    classes
}

fn decisions(took_ns: &[u64]) -> String {
    let at = |percent: usize| took_ns.get(took_ns.len() * percent / 100).copied().unwrap_or(0);
    format!("{}: p50 {} ns, p99 {} ns;", took_ns.len(), at(50), at(99))
}
