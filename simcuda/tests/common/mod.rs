//! The simulated driver, loaded as a program loads it, and processes that use it.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Says to a child process which part it plays.
pub(crate) const ROLE: &str = "SIMCUDA_TEST_ROLE";

/// A folder with the library under the names that programs load.
pub(crate) fn installed(folder: &Path) -> PathBuf {
    let executable = std::env::current_exe().expect("a running test has a path");
    let library = executable.with_file_name("libsimcuda.so");
    for name in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        let link = folder.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(&library, link).expect("the folder is writable");
        }
    }
    folder.join("libcuda.so.1")
}

/// A child process that plays `role` in the test function `part`, on the GPU of `folder`.
pub(crate) fn child(folder: &Path, part: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running test has a path"));
    command
        .args(["--exact", part, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env("SIMCUDA_DIR", folder)
        .env("SIMCUDA_TEST_LIBRARY", installed(folder))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Waits for a line of the child's that holds `text`, and returns it.
pub(crate) fn wait_for_line(child: &mut Child, text: &str) -> String {
    let stdout = child.stdout.as_mut().expect("the child's output is piped");
    let mut reader = BufReader::with_capacity(1, stdout);
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).expect("readable") > 0, "the child ended without saying {text}");
        if line.contains(text) {
            return line.trim().to_owned();
        }
    }
}

/// The driver.
pub(crate) struct Driver(libloading::Library);

/// Calls a driver function by its exported name.
macro_rules! call {
    ($driver:expr, $name:ident($($arg:expr => $ty:ty),* $(,)?)) => {{
        // SAFETY: the signatures written in the tests are those of cuda.h.
        unsafe {
            type Function = unsafe extern "C" fn($($ty),*) -> u32;
            let function = $driver.get::<Function>(stringify!($name));
            function($($arg),*)
        }
    }};
}
pub(crate) use call;

impl Driver {
    /// Loads the library that the parent named.
    pub(crate) fn load() -> Self {
        let path = std::env::var("SIMCUDA_TEST_LIBRARY").expect("the parent names the library");
        // SAFETY: loading it runs no code.
        Self(unsafe { libloading::Library::new(path) }.expect("the library loads"))
    }

    /// A function by name.
    pub(crate) fn get<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the caller's type is the function's.
        unsafe { *self.0.get::<T>(name.as_bytes()).expect("the function is exported") }
    }

    /// Loads the library and makes the primary context current.
    pub(crate) fn with_context() -> Self {
        let driver = Self::load();
        assert_eq!(call!(driver, cuInit(0 => c_uint)), 0);
        let mut context: *mut c_void = std::ptr::null_mut();
        assert_eq!(call!(driver, cuDevicePrimaryCtxRetain(&raw mut context => *mut *mut c_void, 0 => c_int)), 0);
        assert_eq!(call!(driver, cuCtxSetCurrent(context => *mut c_void)), 0);
        driver
    }

    /// A kernel of the simulator.
    pub(crate) fn kernel(&self, name: &std::ffi::CStr) -> *mut c_void {
        let image = c"simcuda image 1\nspin\nvector_add\nsaxpy\nreduce_sum\n";
        let (mut module, mut function): (*mut c_void, *mut c_void) = (std::ptr::null_mut(), std::ptr::null_mut());
        let loaded =
            call!(self, cuModuleLoadData(&raw mut module => *mut *mut c_void, image.as_ptr() => *const c_char));
        assert_eq!(loaded, 0);
        let found = call!(self, cuModuleGetFunction(
            &raw mut function => *mut *mut c_void, module => *mut c_void, name.as_ptr() => *const c_char));
        assert_eq!(found, 0);
        function
    }

    /// Launches `kernel` on the default stream with one block of `threads`.
    pub(crate) fn launch(&self, kernel: *mut c_void, threads: u32, parameters: &mut [*mut c_void]) -> u32 {
        type Launch = unsafe extern "C" fn(
            *mut c_void,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            *mut c_void,
            *mut *mut c_void,
            *mut *mut c_void,
        ) -> u32;
        let launch: Launch = self.get("cuLaunchKernel");
        let null = std::ptr::null_mut::<*mut c_void>();
        // SAFETY: the parameters fit the kernel, as its test says.
        unsafe { launch(kernel, 1, 1, 1, threads, 1, 1, 0, null.cast(), parameters.as_mut_ptr(), null) }
    }

    /// Launches a spin of `duration_ns`.
    pub(crate) fn spin(&self, kernel: *mut c_void, mut duration_ns: u64) -> u32 {
        self.launch(kernel, 1, &mut [(&raw mut duration_ns).cast()])
    }

    /// Waits for all work.
    pub(crate) fn synchronize(&self) -> u32 {
        call!(self, cuCtxSynchronize())
    }

    /// Allocates device memory.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<u64, u32> {
        let mut address = 0u64;
        match call!(self, cuMemAlloc_v2(&raw mut address => *mut u64, bytes => usize)) {
            0 => Ok(address),
            status => Err(status),
        }
    }

    /// Free device memory, in bytes.
    pub(crate) fn free_bytes(&self) -> usize {
        let (mut free, mut total) = (0usize, 0usize);
        assert_eq!(call!(self, cuMemGetInfo_v2(&raw mut free => *mut usize, &raw mut total => *mut usize)), 0);
        free
    }
}
