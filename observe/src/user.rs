//! Names and numbers of users and groups, as the system's user database has them.

use std::collections::HashMap;
use std::ffi::{CStr, CString};

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

/// The number of the user of that name; none where there is no such.
#[must_use]
pub fn uid_named(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let mut room = vec![0; ROOM_BYTES];
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut found = std::ptr::null_mut();
    let (to, bytes) = (room.as_mut_ptr(), room.len());
    // SAFETY: all pointers are to memory of ours that outlives the call, with the length it is given (getpwnam_r(3)).
    let failed = unsafe { libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), to, bytes, &raw mut found) };
    // SAFETY: a result that is not null says that `entry` was filled, and points to it.
    (failed == 0 && !found.is_null()).then(|| unsafe { (*found).pw_uid })
}

/// The number of the group of that name; none where there is no such.
#[must_use]
pub fn gid_named(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // A group's members are part of its entry.
    let mut room = vec![0; 16 * ROOM_BYTES];
    let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
    let mut found = std::ptr::null_mut();
    let (to, bytes) = (room.as_mut_ptr(), room.len());
    // SAFETY: all pointers are to memory of ours that outlives the call, with the length it is given (getgrnam_r(3)).
    let failed = unsafe { libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), to, bytes, &raw mut found) };
    // SAFETY: a result that is not null says that `entry` was filled, and points to it.
    (failed == 0 && !found.is_null()).then(|| unsafe { (*found).gr_gid })
}

/// The longest entry that is worth a name; getpwuid_r(3) says ERANGE for longer ones.
const ROOM_BYTES: usize = 16 * 1024;

fn look_up(uid: u32) -> Option<String> {
    let mut room = vec![0; ROOM_BYTES];
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

    #[test]
    fn names_lead_to_numbers() {
        assert_eq!((uid_named("root"), gid_named("root")), (Some(0), Some(0)));
        assert_eq!((uid_named("no such user"), gid_named("no such group")), (None, None));
        assert_eq!(uid_named("root\0x"), None);
    }
}
