//! A system call that is forbidden, as a container's filter may forbid it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// In what `command` starts, close_range(2) fails with EPERM (seccomp(2)).
pub fn close_range(command: &mut Command) -> &mut Command {
    /// Where `struct seccomp_data` has the number of the call.
    const NUMBER_AT: u32 = 0;
    const CODE: [(u32, u8, u32); 4] = [
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, NUMBER_AT),
        (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_close_range as u32),
        (libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        (libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    let forbid = || {
        let mut code = CODE.map(|(code, jt, k)| libc::sock_filter { code: code as u16, jt, jf: 0, k });
        let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
        // SAFETY: prctl(2), which copies the program.
        let is_set = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if is_set { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: two system calls, which are async-signal-safe.
    unsafe { command.pre_exec(forbid) }
}
