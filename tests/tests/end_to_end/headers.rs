//! The programs' own declarations of the driver's functions are those of the real `cuda.h`, where it has been fetched.

use aishim_tests::dist;
use std::process::Command;

/// Functions whose form the 13.0 header has no longer are declared by nobody, so they are not compared.
#[test]
fn of_cuda_13() {
    let include = dist::workspace().join("target/cudart/13/include");
    if !include.join("cuda.h").exists() {
        println!("skipped: {} is missing; scripts/fetch-cudart.sh brings it", include.display());
        return;
    }
    let programs = dist::workspace().join("tests/programs");
    let mut compared = 0;
    for entry in std::fs::read_dir(&programs).expect("the programs").flatten() {
        let path = entry.path();
        let text = std::fs::read_to_string(&path).expect("a program");
        if path.extension().is_none_or(|e| e != "c") || !text.contains("#include \"program.h\"") {
            continue;
        }
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]);
        cc.args(["-Wno-enum-conversion", "-DUSE_CUDA_H", "-I"]);
        cc.arg(&include).arg("-I").arg(dist::workspace().join("include"));
        let output = cc.arg(&path).output().expect("cc, the C compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        compared += 1;
    }
    assert!(compared > 10, "{compared} programs");
}
