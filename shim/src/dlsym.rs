//! What the exported `dlsym` does with a name that begins with `cu`.
//!
//! No allocation, no lock, no formatting, no thread-local with a destructor in here: allocators call `dlsym` while they
//! start, from several threads, inside the loader's lock. The only functions called are `dlvsym` and the real `dlsym`,
//! which the program was calling anyway, and `dladdr`.

use crate::config;
use crate::driver;
use crate::hook::Hook;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// The real `dlsym`, once it is known. Read by the assembly of the exported one.
pub(crate) static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

type DlsymFn = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

/// Finds the real `dlsym`. By version, because an unversioned lookup would be answered by `dlvsym`'s caller, us; 2.2.5
/// is the version of x86-64's first glibc, which every later one still exports.
pub(crate) extern "C" fn resolve() -> *mut c_void {
    // SAFETY: dlvsym(3) with constant strings; it is not interposed by us.
    let real = unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), c"GLIBC_2.2.5".as_ptr()) };
    REAL.store(real, Relaxed);
    real
}

/// The real `dlsym`, called as ourselves.
pub(crate) fn real(handle: *mut c_void, symbol: *const c_char) -> *mut c_void {
    let mut function = REAL.load(Relaxed);
    if function.is_null() {
        function = resolve();
        if function.is_null() {
            return function;
        }
    }
    // SAFETY: it is dlsym(3), whose signature this is.
    let function = unsafe { std::mem::transmute::<*mut c_void, DlsymFn>(function) };
    // SAFETY: a handle and a zero-terminated name, as dlsym(3) demands of its caller, whose they are.
    unsafe { function(handle, symbol) }
}

/// Means to the caller in assembly: answer null.
const NOTHING: *mut c_void = std::ptr::without_provenance_mut(1);

/// Means: nothing to do with us, jump on to the real one.
const PASS: *mut c_void = std::ptr::null_mut();

/// Says how to answer a lookup of `symbol`, which begins with `cu`.
pub(crate) extern "C" fn decide(handle: *mut c_void, symbol: *const c_char) -> *mut c_void {
    // SAFETY: the program passed it to dlsym(3), so it is a zero-terminated string.
    let name = unsafe { CStr::from_ptr(symbol) };
    // RTLD_NEXT depends on who asks, and who asks for what comes behind us should get it.
    if handle == libc::RTLD_NEXT || config::is_off() {
        return PASS;
    }
    let Some(hook) = Hook::by_symbol(name) else {
        return PASS;
    };
    // In the global scope our own export comes first; what counts is whether there is a driver behind it.
    let scope = if handle == libc::RTLD_DEFAULT {
        libc::RTLD_NEXT
    } else {
        handle
    };
    let found = real(scope, symbol);
    if found.is_null() {
        return NOTHING;
    }
    if found.cast_const() == crate::exports::of(hook) {
        return found;
    }
    driver::learn(scope, hook, found);
    match driver::ours_for(found) {
        Some(ours) => ours.cast_mut(),
        None => {
            driver::unknown(name.to_bytes());
            found
        }
    }
}
