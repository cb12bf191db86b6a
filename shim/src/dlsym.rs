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

/// Says how to answer `caller`'s lookup of `symbol`, which begins with `cu`.
pub(crate) extern "C" fn decide(handle: *mut c_void, symbol: *const c_char, caller: *const c_void) -> *mut c_void {
    // SAFETY: the program passed it to dlsym(3), so it is a zero-terminated string.
    let name = unsafe { CStr::from_ptr(symbol) };
    let Some(hook) = Hook::by_symbol(name) else {
        return PASS;
    };
    if handle == libc::RTLD_NEXT {
        return decide_next(hook, caller);
    }
    let scope = if handle == libc::RTLD_DEFAULT { global_scope() } else { handle };
    let found = real(scope, symbol);
    if found.is_null() {
        return PASS;
    }
    if found.cast_const() != crate::exports::of(hook) {
        return answer(scope, hook, found);
    }
    // Our own export came first; what counts is whether there is a driver behind it.
    let (behind_scope, behind) = behind_us(hook, caller);
    if behind.is_null() {
        // As below, the other way round: the last lookup has to be one that fails.
        real(libc::RTLD_NEXT, symbol);
        return NOTHING;
    }
    if config::is_off() {
        return behind;
    }
    driver::learn(behind_scope, hook, behind);
    let _ = driver::ours_for(behind);
    // Once more, so that the last lookup is one that succeeds: a failed one would have left an error for dlerror(3).
    real(scope, symbol)
}

/// What the driver gave, or ours for it.
fn answer(scope: *mut c_void, hook: Hook, found: *mut c_void) -> *mut c_void {
    if config::is_off() {
        return PASS;
    }
    driver::learn(scope, hook, found);
    if let Some(ours) = driver::ours_for(found) {
        // As in `decide`, for dlerror(3).
        real(scope, hook.symbol().as_ptr());
        return ours.cast_mut();
    }
    if driver::is_driver(found) {
        driver::unknown(hook.symbol().to_bytes());
    }
    PASS
}

/// RTLD_NEXT depends on who asks, and who asks for what comes behind us should get it. Only where nothing does, and we
/// would be what is found, there is nothing.
fn decide_next(hook: Hook, caller: *const c_void) -> *mut c_void {
    let symbol = hook.symbol().as_ptr();
    if !real(libc::RTLD_NEXT, symbol).is_null() {
        return PASS;
    }
    let first = real(global_scope(), symbol);
    let is_ours = first.cast_const() == crate::exports::of(hook);
    if is_ours || driver::same_library(first, caller) {
        // As in `decide`.
        real(libc::RTLD_NEXT, symbol);
        return NOTHING;
    }
    PASS
}

/// What the caller would have found, were we not there: in the global scope, or in that of the library it is in.
fn behind_us(hook: Hook, caller: *const c_void) -> (*mut c_void, *mut c_void) {
    let symbol = hook.symbol().as_ptr();
    let found = real(libc::RTLD_NEXT, symbol);
    if !found.is_null() {
        return (libc::RTLD_NEXT, found);
    }
    let library = driver::library_of(caller).unwrap_or(libc::RTLD_NEXT);
    let found = real(library, symbol);
    let is_ours = found.cast_const() == crate::exports::of(hook);
    (library, if is_ours { std::ptr::null_mut() } else { found })
}

/// The handle of what RTLD_DEFAULT means to everybody but us: linked with -Bsymbolic, we would find ourselves first.
fn global_scope() -> *mut c_void {
    static SCOPE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let known = SCOPE.load(Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: dlopen(3) of the program itself, which is never unloaded.
    let scope = unsafe { libc::dlopen(std::ptr::null(), libc::RTLD_LAZY) };
    SCOPE.store(scope, Relaxed);
    scope
}
