//! Every symbol that libaishim.so exports: one function for each hook, those of `include/aishim.h`, and `dlsym`.
//!
//! In this crate's own unit tests nothing is exported: an exported `dlsym` would interpose the test harness.

use crate::cuda::{Abi, Status, sys::*};
use crate::direct;
use crate::driver;
use crate::handlers::{
    capture, context, device_memory, host_memory, launch, lookup, pointers, streams, synchronise, work,
};
use crate::hook::Hook;
use crate::sampling;
use crate::table::with_hooks;
use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

macro_rules! export {
    ($($(#[$unchecked:ident])? $kind:ident $name:ident $(, $ptsz:ident)?: fn $args:tt => $room:ident :: $handler:ident $pass:tt;)*) => {
        $(
            export!(@check $($unchecked)? $name $args);
            export!(@function $kind $name $args => $room::$handler $pass);
            $(export!(@function $kind $ptsz $args => $room::$handler $pass);)?
        )*

        /// Our function for `hook`.
        pub(crate) fn of(hook: Hook) -> *const c_void {
            match hook {
                $(Hook::$name => $name as *const c_void, $(Hook::$ptsz => $ptsz as *const c_void,)?)*
            }
        }
    };
    (@check unchecked $name:ident $args:tt) => {};
    (@check $name:ident ($($arg:ident : $ty:ty),*)) => {
        const _: unsafe fn($($ty),*) -> CUresult = crate::cuda::sys::$name;
    };
    // A launch, by the short way where it is an ordinary one; see `launch`.
    (@function Launch $name:ident $args:tt => $room:ident :: $handler:ident $pass:tt) => {
        export!(@exported $name $args {
            let real = driver::real(Hook::$name);
            if !real.is_null()
                && let Some(status) = export!(@handled $name $args real, [$room::$handler::<true>] $pass)
            {
                return status;
            }
            export!(@late $name $args [$room::$handler::<false>] $pass)
        });
    };
    (@function $kind:ident $name:ident $args:tt => $room:ident :: $handler:ident $pass:tt) => {
        export!(@exported $name $args {
            let mut real = driver::real(Hook::$name);
            if real.is_null() {
                real = driver::resolve_late(Hook::$name);
                if real.is_null() {
                    return Status::NOT_SUPPORTED;
                }
            }
            export!(@handled $name $args real, [$room::$handler] $pass)
        });
    };
    // Everything else about a launch, out of line.
    (@late $name:ident ($($arg:ident : $ty:ty),*) [$handler:path] $pass:tt) => {{
        #[cold]
        #[inline(never)]
        #[allow(non_snake_case, clippy::too_many_arguments, unused_variables, reason = "as above")]
        unsafe extern "C-unwind" fn late($($arg: <$ty as Abi>::Raw),*) -> Status {
            let mut real = driver::real(Hook::$name);
            if real.is_null() {
                real = driver::resolve_late(Hook::$name);
            }
            if real.is_null() {
                return Status::NOT_SUPPORTED;
            }
            export!(@handled $name ($($arg : $ty),*) real, [$handler] $pass).unwrap_or(Status::NOT_SUPPORTED)
        }
        #[allow(ffi_unwind_calls, reason = "a cancelled thread may unwind through; no destructor waits here")]
        // SAFETY: the program's own arguments.
        unsafe { late($($arg),*) }
    }};
    // The driver's function with the program's arguments.
    (@called $name:ident ($($arg:ident : $ty:ty),*) $real:ident) => {{
        type Real = unsafe extern "C-unwind" fn($(<$ty as Abi>::Raw),*) -> Status;
        // SAFETY: the driver exports this symbol with the C ABI and this signature (checked against the header above,
        // or named in the table where the header no longer has it).
        let real = unsafe { std::mem::transmute::<*const c_void, Real>($real) };
        #[allow(ffi_unwind_calls, reason = "a cancelled thread may unwind through; no destructor waits here")]
        // SAFETY: the program's own arguments, passed on unchanged to the function it meant to call.
        move || unsafe { real($($arg),*) }
    }};
    (@handled $name:ident ($($arg:ident : $ty:ty),*) $real:ident, [$handler:path] ($($pass:expr),*)) => {{
        let call = export!(@called $name ($($arg : $ty),*) $real);
        // SAFETY: pointers among the arguments are the program's, valid as the driver demands.
        unsafe { $handler(Hook::$name, call, $($pass),*) }
    }};
    (@exported $name:ident ($($arg:ident : $ty:ty),*) $body:block) => {
        #[doc = concat!("`", stringify!($name), "` of the CUDA driver API.")]
        ///
        /// # Safety
        /// As for the driver's function of that name, which is what is called.
        #[allow(non_snake_case, unused_variables, reason = "the driver's own names; a handler takes what it needs")]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub(crate) unsafe extern "C-unwind" fn $name($($arg: <$ty as Abi>::Raw),*) -> Status {
            #[cfg(feature = "panic-injection")]
            crate::fence::injection::entered(Hook::$name);
            #[cfg(feature = "bypass")]
            if let Some(real) = crate::bypass::around(Hook::$name) {
                return export!(@called $name ($($arg : $ty),*) real)();
            }
            $body
        }
    };
}

with_hooks!(export);

/// `ai_alloc_pinned` of `include/aishim.h`, which says what it promises.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) extern "C-unwind" fn ai_alloc_pinned(bytes: usize) -> *mut c_void {
    direct::alloc(bytes)
}

/// `ai_free_pinned` of `include/aishim.h`.
///
/// # Safety
/// Nothing uses the memory any more.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C-unwind" fn ai_free_pinned(memory: *mut c_void) {
    direct::free(memory);
}

/// `ai_pool_stats` of `include/aishim.h`.
///
/// # Safety
/// `stats` is null or has room for `bytes`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn ai_pool_stats(stats: *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { direct::stats(stats, bytes) }
}

#[cfg(not(target_arch = "x86_64"))]
compile_error!("aishim runs on x86-64 Linux: dlsym below is written in its assembly");

/// `dlsym(3)`, interposed.
///
/// glibc finds out who asks for `RTLD_NEXT` by the return address on the stack, so this must not be an ordinary
/// function that calls the real one: it looks at the name, and unless that begins with `cu` it jumps on to the real
/// `dlsym` with the stack as it was. For a `cu` name [`crate::dlsym::decide`] says what to answer: 0 means jump on, 1
/// means null, everything else is the answer.
///
/// # Safety
/// As for dlsym(3).
#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void {
    std::arch::naked_asm!(
        "test rsi, rsi",
        "jz 2f",
        "cmp byte ptr [rsi], 0x63", // 'c'
        "jne 2f",
        "cmp byte ptr [rsi + 1], 0x75", // 'u'
        "jne 2f",
        "mov rdx, qword ptr [rsp]", // the caller
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {decide}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "test rax, rax",
        "jz 2f",
        "cmp rax, 1",
        "jne 3f",
        "xor eax, eax",
        "3:",
        "ret",
        "2:",
        "mov rax, qword ptr [rip + {real}]",
        "test rax, rax",
        "jnz 4f",
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {resolve}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "4:",
        "jmp rax",
        decide = sym crate::dlsym::decide,
        resolve = sym crate::dlsym::resolve,
        real = sym crate::dlsym::REAL,
    )
}
