//! What can go wrong, each as one sentence.

use std::ffi::CStr;
use std::fmt;

use cudarc::driver::DriverError;

/// Why the program ends with exit code 1.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No library called libcuda.so.1 could be loaded.
    NoDriver,
    /// A driver call returned an error.
    Driver { call: &'static str, error: DriverError },
    /// The device computed something else.
    WrongResult { request: u32, element: usize, got: f32, expected: f32 },
    /// A serving thread panicked; its message is on standard error.
    ThreadPanicked,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => f.write_str(
                "libcuda.so.1 cannot be loaded: install the NVIDIA driver, or set LD_LIBRARY_PATH to the folder of the simulated one",
            ),
            Self::Driver { call, error } => {
                let name = error.error_name().map_or("unknown error".into(), CStr::to_string_lossy);
                let text = error.error_string().map_or("no description".into(), CStr::to_string_lossy);
                write!(f, "{call} failed with {name} ({text})")
            }
            Self::WrongResult { request, element, got, expected } => write!(
                f,
                "wrong result: element {element} of request {request} is {got}, expected {expected}"
            ),
            Self::ThreadPanicked => f.write_str("a serving thread panicked"),
        }
    }
}

/// Names the driver call that an error came from.
pub(crate) trait FromCall<T> {
    /// Turns a driver error into a [`Failure`] of `call`.
    fn in_call(self, call: &'static str) -> Result<T, Failure>;
}

impl<T> FromCall<T> for Result<T, DriverError> {
    fn in_call(self, call: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Driver { call, error })
    }
}
