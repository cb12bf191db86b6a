//! The thread that asks NVML.

use super::{Common, NVML_PERIOD, Said};
use aishim_abi::rank::Uuid;
use aishim_observe::meter::{Meter, MeteredGpu};
use aishim_observe::snapshot::NVML;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Memory is asked for every so many times.
const MEMORY_EVERY: u64 = 10;

/// What has been said, and is not said again.
#[derive(Debug, Default)]
struct SaidOnce {
    no_nvml: bool,
    no_gpu: bool,
    no_utilisation: bool,
    no_processes: bool,
}

/// Asks while there are clients, until all is over.
pub(super) fn watch(common: &Common) {
    let mut said = SaidOnce::default();
    while common.pause(NVML_PERIOD, 0, false, false) {
        match Meter::open(Path::new(NVML)) {
            Ok(meter) => {
                if !watch_clients(common, &meter, &mut said) {
                    return;
                }
            }
            Err(reason) => {
                once(&mut said.no_nvml, || format!("what GPUs do is known from their clients' pages alone: {reason}"));
                if !wait_until_nobody(common) {
                    return;
                }
            }
        }
    }
}

/// Asks until there are no clients any more; false once all is over.
fn watch_clients(common: &Common, meter: &Meter, said: &mut SaidOnce) -> bool {
    let mut gpus: BTreeMap<Uuid, Option<MeteredGpu<'_>>> = BTreeMap::new();
    let mut memory = BTreeMap::new();
    for round in 0_u64.. {
        let shared = common.lock();
        let (seen, is_idle) = (shared.changes, shared.clients.is_empty());
        let wanted: BTreeSet<Uuid> = shared.clients.iter().flat_map(|client| client.gpus.iter().copied()).collect();
        drop(shared);
        if is_idle {
            return true;
        }
        gpus.retain(|uuid, _| wanted.contains(uuid));
        for uuid in wanted {
            let gpu = gpus.entry(uuid).or_insert_with(|| find(meter, uuid, said));
            let Some(gpu) = gpu else { continue };
            let activity = gpu.activity();
            let processes = gpu.processes();
            if round % MEMORY_EVERY == 0 || !memory.contains_key(&uuid) {
                memory.insert(uuid, gpu.memory_bytes());
            }
            if activity.utilisation_percent.is_none() {
                once(&mut said.no_utilisation, || {
                    format!("GPU {uuid}: NVML tells no utilisation; its clients' pages do")
                });
            }
            if processes.is_none() {
                once(&mut said.no_processes, || {
                    format!("GPU {uuid}: NVML tells nothing of processes; their pages are not compared with it")
                });
            }
            let memory_bytes = memory.get(&uuid).copied().flatten();
            let of_now = Said { at_ns: crate::clock::monotonic_ns(), activity, memory_bytes };
            let mut shared = common.lock();
            if shared.clients.iter().any(|client| client.gpus.contains(&uuid)) {
                shared.nvml.insert(uuid, of_now);
                shared.nvml_processes.extend(processes.unwrap_or_default());
            }
        }
        if !common.pause(NVML_PERIOD, seen, true, false) {
            return false;
        }
    }
    true
}

fn find<'m>(meter: &'m Meter, uuid: Uuid, said: &mut SaidOnce) -> Option<MeteredGpu<'m>> {
    let found = meter.gpu(&uuid.0);
    if let Err(reason) = &found {
        once(&mut said.no_gpu, || format!("GPU {uuid} is known from its clients' pages alone: {reason}"));
    }
    found.ok()
}

/// Waits until the clients that are there have gone: a library that was not found is not looked for ten times in a second.
fn wait_until_nobody(common: &Common) -> bool {
    loop {
        let seen = common.lock().changes;
        if common.lock().clients.is_empty() {
            return true;
        }
        if !common.pause(std::time::Duration::from_secs(3600), seen, true, false) {
            return false;
        }
    }
}

fn once(has_said: &mut bool, sentence: impl Fn() -> String) {
    if !std::mem::replace(has_said, true) {
        tracing::info!("{}", sentence());
    }
}
