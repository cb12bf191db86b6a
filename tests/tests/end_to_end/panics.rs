//! A panic in the library's own code, whichever hook it strikes: the program finishes with the right result, and the
//! library says so once and only forwards from then on.

use aishim_abi::layout::PassThrough;
use aishim_abi::statistics::Statistic;
use aishim_tests::{Program, Sandbox, Via, dist};

/// Hooks that `everything.c` calls and in which code of the library's runs that could panic.
const STRUCK: [&str; 29] = [
    "cuDevicePrimaryCtxRetain",
    "cuCtxCreate_v2",
    "cuCtxDestroy_v2",
    "cuMemHostAlloc",
    "cuMemAllocHost_v2",
    "cuMemHostGetFlags",
    "cuMemHostGetDevicePointer_v2",
    "cuMemGetAddressRange_v2",
    "cuPointerGetAttribute",
    "cuPointerGetAttributes",
    "cuPointerSetAttribute",
    "cuMemFreeHost",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemAlloc_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemFree_v2",
    "cuMemcpyHtoD_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuEventSynchronize",
    "cuCtxSynchronize",
    "cuLaunchKernel",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
];

/// Hooks that strike before there is a context, so that there never is a segment.
const BEFORE_LIFE: [&str; 2] = ["cuDevicePrimaryCtxRetain", "cuGetProcAddress_v2"];

fn strike(via: Via, hook: &str) {
    let sandbox = Sandbox::new();
    let program = Program::new("everything").via(via).build();
    let mut command = sandbox.shimmed(program);
    command.env("LD_PRELOAD", dist::panicking_shim()).env("PANIC_INJECTION", hook);
    let outcome = sandbox.run(&mut command);
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (Some(0), "right\n"), "{hook}: {}", outcome.stderr);
    let said = "aishim: an internal error was caught; the program goes on without aishim\n";
    assert_eq!(outcome.stderr, said, "{hook}");
    if let [segment] = sandbox.segments().as_slice() {
        assert!(segment.statistic(Statistic::Panics) >= 1, "{hook}");
        assert_eq!(segment.statistic(Statistic::PassThrough), PassThrough::Panic as u64);
    } else {
        assert!(BEFORE_LIFE.contains(&hook), "{hook}");
    }
}

#[test]
fn in_each_hook() {
    for hook in STRUCK {
        strike(Via::Link, hook);
    }
}

#[test]
fn in_a_lookup() {
    strike(Via::Proc(0), "cuGetProcAddress_v2");
    strike(Via::Proc(2), "cuLaunchKernel_ptsz");
}

#[test]
fn nothing_injected_nothing_said() {
    let sandbox = Sandbox::new();
    let program = Program::new("everything").build();
    let outcome = sandbox.succeed(sandbox.shimmed(&program).env("LD_PRELOAD", dist::panicking_shim()));
    assert_eq!(outcome.stdout, "right\n");
    let native = sandbox.succeed(&mut sandbox.native(&program));
    let shimmed = sandbox.succeed(&mut sandbox.shimmed(&program));
    shimmed.assert_same(&native);
}
