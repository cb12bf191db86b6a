//! Preloaded allocators, before the library and after it: they look symbols up while they start.

use aishim_tests::{Program, Sandbox, dist};
use std::path::PathBuf;

/// The allocator's library, where the system has it.
fn library(name: &str) -> Option<PathBuf> {
    const FOLDERS: [&str; 4] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    FOLDERS.iter().map(|f| PathBuf::from(f).join(name)).find(|p| p.exists())
}

fn beside(name: &str, package: &str) {
    let Some(allocator) = library(name) else {
        println!("skipped: {name} is not installed (package {package})");
        return;
    };
    let shim = dist::shim();
    let orders =
        [format!("{}:{}", allocator.display(), shim.display()), format!("{}:{}", shim.display(), allocator.display())];
    for preload in orders {
        let sandbox = Sandbox::new();
        let program = Program::new("forms").build();
        let mut command = sandbox.shimmed(program);
        let outcome = sandbox.succeed(command.args(["8", "30"]).env("LD_PRELOAD", &preload));
        assert_eq!(outcome.stdout, "right\n", "{preload}");
        assert_eq!(sandbox.segment(outcome.pid).calls("cuLaunchKernelEx"), 8 * 30, "{preload}");

        let mut script = sandbox.shimmed("sh");
        script.args(["-c", "for i in 1 2 3 4 5; do env | grep -c AISHIM_DIR; done"]);
        let outcome = sandbox.succeed(script.env("LD_PRELOAD", &preload));
        assert_eq!(outcome.stdout, "1\n1\n1\n1\n1\n", "{preload}");
    }
}

#[test]
fn jemalloc() {
    beside("libjemalloc.so.2", "libjemalloc2");
}

#[test]
fn mimalloc() {
    beside("libmimalloc.so.2.0", "libmimalloc2.0");
}
