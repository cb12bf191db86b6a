//! What the shim adds to a copy that it leaves to the driver: 64 KiB of pageable memory in a program that has 300 device
//! allocations, over the null driver, whose copies do nothing.
//!
//! ```sh
//! LD_PRELOAD=dist/libaishim.so LD_LIBRARY_PATH=target/null-driver target/release/copy-meter [--cold]
//! ```
//!
//! Within one process, the driver's own functions and those that the program is given take turns, in batches. It prints
//! medians over the turns: of both, and of their differences; for a copy alone, and for one that is waited for. `--cold`
//! walks over 1 MiB before each copy, as a driver that moves bytes does: a first-level cache then has nothing of ours.
//! Without the preload the two are the same functions, and it says so.

use aishim_benches::stamps;
use std::error::Error;
use std::ffi::{CStr, CString, c_void};
use std::hint::black_box;

const ALLOCATIONS: usize = 300;
const COPY_BYTES: usize = 64 << 10;
const WALKED_BYTES: usize = 1 << 20;
const TURNS: usize = 2_000;

type Copy = unsafe extern "C" fn(u64, u64, usize, *mut c_void) -> u32;
type Wait = unsafe extern "C" fn(*mut c_void) -> u32;
type Dlsym = unsafe extern "C" fn(*mut c_void, *const libc::c_char) -> *mut c_void;

/// Copies by name, with what waits for them. They differ in the types of their arguments and not in how these are passed
/// (System V ABI: all are integers), and a function leaves alone what it has not declared.
const COPIES: [(&str, &str, bool); 5] = [
    ("cuMemcpyHtoD_v2", "cuCtxSynchronize", true),
    ("cuMemcpyDtoH_v2", "cuCtxSynchronize", false),
    ("cuMemcpyHtoDAsync_v2", "cuStreamSynchronize", true),
    ("cuMemcpyDtoHAsync_v2", "cuStreamSynchronize", false),
    ("cuMemcpy", "cuCtxSynchronize", true),
];

fn main() {
    let is_cold = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--cold") => true,
        Some(_) => {
            eprintln!("usage: copy-meter [--cold]");
            std::process::exit(2);
        }
    };
    if let Err(error) = report(is_cold) {
        eprintln!("copy-meter: {error}: LD_LIBRARY_PATH names the folder of a libcuda.so.1");
        std::process::exit(1);
    }
}

fn report(is_cold: bool) -> Result<(), Box<dyn Error>> {
    let driver = Driver::load()?;
    let mut meter =
        Meter { device: driver.begin()?, host: vec![1; COPY_BYTES], walked: vec![1; WALKED_BYTES], is_cold };
    let ns_per_tick = stamps::ns_per_tick();
    for (copy, wait, is_to_device) in COPIES {
        let sides = [driver.own(copy, wait)?, driver.given(copy, wait)?];
        if sides[0] == sides[1] {
            println!("{copy}: not hooked, both sides are the driver's own");
        }
        for waits in [false, true] {
            let (mut times, mut differences) = ([Vec::new(), Vec::new()], Vec::new());
            for turn in 0..TURNS {
                let mut of_turn = [0.0; 2];
                for place in 0..2 {
                    let side = (turn + place) % 2;
                    of_turn[side] = meter.ticks_a_copy(sides[side], is_to_device, waits) * ns_per_tick;
                }
                times.iter_mut().zip(of_turn).for_each(|(list, ns)| list.push(ns));
                differences.push(of_turn[1] - of_turn[0]);
            }
            let what = if waits { "and wait" } else { "alone" };
            let [own, given] = times.map(stamps::median);
            let added = stamps::median(differences);
            println!("{copy:<21} {what:<8}  driver_ns {own:.1}  given_ns {given:.1}  added_ns {added:.1}");
        }
    }
    Ok(())
}

/// One side's functions for one copy.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Side {
    copy: *mut c_void,
    wait: *mut c_void,
}

/// The memory that is copied from and to.
struct Meter {
    device: Vec<u64>,
    host: Vec<u8>,
    walked: Vec<u8>,
    is_cold: bool,
}

impl Meter {
    /// Ticks of one copy, of a batch; when cold, of one, with a time stamp in them.
    fn ticks_a_copy(&mut self, side: Side, is_to_device: bool, waits: bool) -> f64 {
        // SAFETY: found under these names, whose signatures pass their arguments as these do.
        let (copy, wait) = unsafe {
            (std::mem::transmute::<*mut c_void, Copy>(side.copy), std::mem::transmute::<*mut c_void, Wait>(side.wait))
        };
        let stream = black_box(std::ptr::without_provenance_mut::<c_void>(0x5610_0000_0000));
        let host = self.host.as_ptr() as u64;
        let batch = if self.is_cold { 1 } else { 64 };
        if self.is_cold {
            self.walked.iter_mut().step_by(64).for_each(|byte| *byte = black_box(byte.wrapping_add(1)));
        }
        let start = stamps::ticks();
        for i in 0..batch {
            let device = black_box(self.device[i * 37 % ALLOCATIONS]);
            let (to, from) = if is_to_device { (device, host) } else { (host, device) };
            // SAFETY: the null driver looks at none of it; a hook hands on so small a copy.
            unsafe { copy(to, from, COPY_BYTES, stream) };
            if waits {
                // SAFETY: as above.
                unsafe { wait(stream) };
            }
        }
        (stamps::ticks() - start) as f64 / batch as f64
    }
}

/// The driver's library, and the two ways into it.
struct Driver {
    library: *mut c_void,
    dlsym: Dlsym,
}

impl Driver {
    fn load() -> Result<Self, Box<dyn Error>> {
        // SAFETY: the driver's own initialisers, which any CUDA program runs.
        let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
        // glibc's own dlsym, past whatever is preloaded.
        // SAFETY: the C library is there; its handle and constant strings.
        let dlsym = unsafe {
            let libc_itself = libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_NOW);
            libc::dlvsym(libc_itself, c"dlsym".as_ptr(), c"GLIBC_2.2.5".as_ptr())
        };
        if library.is_null() || dlsym.is_null() {
            return Err(if library.is_null() { "no driver" } else { "no dlsym of glibc's own" }.into());
        }
        // SAFETY: dlsym(3), whose signature this is.
        Ok(Self { library, dlsym: unsafe { std::mem::transmute::<*mut c_void, Dlsym>(dlsym) } })
    }

    fn own(&self, copy: &str, wait: &str) -> Result<Side, Box<dyn Error>> {
        // SAFETY: a handle and a zero-terminated name.
        let find = |name: &CStr| unsafe { (self.dlsym)(self.library, name.as_ptr()) };
        Ok(Side { copy: found(copy, find)?, wait: found(wait, find)? })
    }

    fn given(&self, copy: &str, wait: &str) -> Result<Side, Box<dyn Error>> {
        Ok(Side { copy: self.function(copy)?, wait: self.function(wait)? })
    }

    fn function(&self, name: &str) -> Result<*mut c_void, Box<dyn Error>> {
        // SAFETY: a handle and a zero-terminated name.
        found(name, |name| unsafe { libc::dlsym(self.library, name.as_ptr()) })
    }

    /// Makes a context and device memory, of sizes as a network's weights have.
    fn begin(&self) -> Result<Vec<u64>, Box<dyn Error>> {
        let (init, retain) = (self.function("cuInit")?, self.function("cuDevicePrimaryCtxRetain")?);
        let allocate = self.function("cuMemAlloc_v2")?;
        let mut context = std::ptr::null_mut::<c_void>();
        let mut device = vec![0_u64; ALLOCATIONS];
        // SAFETY: the signatures are those of the CUDA driver API.
        unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32) -> u32>(init)(0);
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut *mut c_void, i32) -> u32>(retain)(
                &raw mut context,
                0,
            );
            let allocate = std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut u64, usize) -> u32>(allocate);
            for (index, address) in device.iter_mut().enumerate() {
                allocate(address, (index % 7 + 1) << 20);
            }
        }
        Ok(device)
    }
}

fn found(name: &str, find: impl Fn(&CStr) -> *mut c_void) -> Result<*mut c_void, Box<dyn Error>> {
    let function = find(&CString::new(name)?);
    if function.is_null() { Err(format!("the driver has no {name}").into()) } else { Ok(function) }
}
