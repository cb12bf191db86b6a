//! What programs did with pinned memory on a GPU, recorded in benches/traces, done again under the library.

use aishim_tests::{Program, Sandbox, dist};

/// The share of the record's allocations that the pool serves, where the driver refuses to synchronise a context and no
/// allocation or free of the pool's waits for the GPU.
fn hit_rate(record: &str, allocations: u32) -> f64 {
    let sandbox = Sandbox::new();
    let path = dist::workspace().join("benches/traces").join(record);
    let mut command = sandbox.shimmed(Program::new("record").build());
    command.arg(path).env("SIMCUDA_COSTS", "h200").env("SIMCUDA_FAIL", "cuCtxSynchronize:999,cuCtxSynchronize_v2:999");
    let outcome = sandbox.succeed(&mut command);
    let counts: Vec<u32> = outcome.stdout.split_whitespace().map(|word| word.parse().expect("a count")).collect();
    let &[all, served, held, waited] = counts.as_slice() else { panic!("{}", outcome.stdout) };
    assert_eq!(all, allocations, "{record}");
    assert!(held > 0, "{record}: no stream was held at any call of the pool's");
    assert_eq!(waited, 0, "{record}: of {held} calls beside a stream that was held");
    f64::from(served) / f64::from(all)
}

/// No batch of 32 MiB was served once: see `what_is_aside_is_no_growth_for_a_request_that_it_cannot_serve` of the pool.
/// The first two never are; others can miss where page-locking takes longer than it did.
#[test]
fn a_data_loader() {
    let rate = hit_rate("dataloader.trace", 20);
    assert!(rate >= 0.7, "{rate}");
}

#[test]
fn a_service_with_an_allocator_of_its_own() {
    let rate = hit_rate("serving.trace", 46);
    assert!(rate >= 0.8, "{rate}");
}

#[test]
fn a_program_without_an_allocator() {
    let rate = hit_rate("uncached.trace", 800);
    assert!(rate >= 0.95, "{rate}");
}
