//! Names of users, asked of the system's user database once for each.

use std::collections::HashMap;
use std::ffi::CStr;

/// The names asked for so far.
#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<u32, String>,
}

impl Names {
    /// The name of user `uid`, or its number where it has none.
    pub fn of(&mut self, uid: u32) -> String {
        let name = || look_up(uid).unwrap_or_else(|| uid.to_string());
        self.known.entry(uid).or_insert_with(name).clone()
    }
}

fn look_up(uid: u32) -> Option<String> {
    // The longest entry that is worth a name; getpwuid_r(3) says ERANGE for longer ones.
    let mut room = vec![0; 16 * 1024];
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to memory of ours that outlives the call, with the length it is given (getpwuid_r(3)).
    let failed = unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), room.as_mut_ptr(), room.len(), &raw mut found) };
    if failed != 0 || found.is_null() {
        return None;
    }
    // SAFETY: a result that is not null says that `entry` was filled, and its name points into `room`, zero-terminated.
    let name = unsafe { CStr::from_ptr((*found).pw_name) };
    Some(aishim_abi::layout::text_of(name.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_a_stranger_a_number() {
        let mut names = Names::default();
        assert_eq!(names.of(0), "root");
        assert_eq!(names.of(0), "root");
        assert_eq!(names.of(3_999_999_999), "3999999999");
    }
}
