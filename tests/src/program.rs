//! Building a C program of `programs/` with the system's compiler.

use crate::dist;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How a program finds the driver's functions; see `programs/driver.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Linked to `libcuda.so.1`.
    Link,
    /// `dlopen` and `dlsym` of each exported name.
    Dlsym,
    /// `cuGetProcAddress` with these flags: 0, or 2 for the per-thread default stream.
    Proc(u32),
    /// It sees to that itself.
    Itself,
}

/// A program or library to be built from one file of `programs/`.
#[derive(Clone, Debug)]
pub struct Program {
    source: &'static str,
    flags: Vec<String>,
    via: Via,
}

impl Program {
    /// The program in `programs/SOURCE.c`, linked to the driver.
    #[must_use]
    pub fn new(source: &'static str) -> Self {
        let flags = Vec::new();
        let via = Via::Link;
        Self { source, flags, via }
    }

    /// The same, with another way to find the driver.
    #[must_use]
    pub fn via(mut self, via: Via) -> Self {
        self.via = via;
        self
    }

    /// The same, with one more flag for the compiler.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// The same, linked to the fake driver of `fakecuda.c`; it runs with [`fakecuda`] as its library path.
    #[must_use]
    pub fn on_fakecuda(self) -> Self {
        self.via(Via::Itself).flag(format!("-L{}", fakecuda().display())).flag("-l:libcuda.so.1")
    }

    /// A shared library instead of a program, with that soname.
    #[must_use]
    pub fn shared(self, soname: &str) -> Self {
        self.via(Via::Itself).flag("-shared").flag(format!("-Wl,-soname,{soname}"))
    }

    /// Builds it, unless this process has done so already, as a file named `name` in a folder of its own.
    ///
    /// # Panics
    /// Where the compiler refuses it.
    #[must_use]
    pub fn build_as(&self, name: &str) -> PathBuf {
        static BUILT: OnceLock<Mutex<HashMap<String, Arc<OnceLock<PathBuf>>>>> = OnceLock::new();
        let command = self.command();
        let key = format!("{name} {command:?}");
        let mut built = BUILT.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let place = Arc::clone(built.entry(key).or_default());
        drop(built);
        place.get_or_init(|| compile(command, name)).clone()
    }

    /// Builds it under its own name.
    #[must_use]
    pub fn build(&self) -> PathBuf {
        self.build_as(self.source)
    }

    fn command(&self) -> Command {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O1", "-g", "-fPIC", "-pthread"])
            .args(["-Wall", "-Wextra", "-Werror", "-fexceptions"])
            .arg("-I")
            .arg(&programs)
            .arg(programs.join(self.source).with_extension("c"));
        match self.via {
            Via::Link => {
                let folder = dist::simulator();
                cc.arg("-L").arg(folder).arg("-l:libcuda.so.1");
            }
            Via::Dlsym => {
                cc.arg("-DVIA_DLSYM");
            }
            Via::Proc(flags) => {
                cc.arg(format!("-DVIA_PROC={flags}"));
            }
            Via::Itself => {}
        }
        cc.args(&self.flags).arg("-ldl");
        cc
    }
}

/// The folder that holds the fake driver of `fakecuda.c` as `libcuda.so.1`.
#[must_use]
pub fn fakecuda() -> PathBuf {
    let library = Program::new("fakecuda").shared("libcuda.so.1").build_as("libcuda.so.1");
    library.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Compiles into a folder beside the test's own executable, the same one every time.
fn compile(mut command: Command, name: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    format!("{command:?}").hash(&mut hasher);
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.with_extension("programs").join(format!("{name}-{:016x}", hasher.finish()));
    std::fs::create_dir_all(&folder).expect("a folder beside the test's executable");
    let path = folder.join(name);
    // Written elsewhere and renamed: a program of an earlier run may still be at work.
    let fresh = folder.join(format!(".{name}.{}", std::process::id()));
    let output = command.arg("-o").arg(&fresh).output().expect("cc, the C compiler");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{said}");
    std::fs::rename(&fresh, &path).expect("a rename within a folder");
    path
}
