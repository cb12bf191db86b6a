//! The library that programs are started with: where it is, and how it gets into LD_PRELOAD (ld.so(8)).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// File name of the library.
pub(crate) const LIBRARY: &str = "libaishim.so";

/// Names a library to take instead of looking for one.
pub(crate) const VARIABLE: &str = "AISHIM_LIB";

/// The variable of the dynamic loader.
pub(crate) const LD_PRELOAD: &str = "LD_PRELOAD";

/// Why there is no library to preload.
#[derive(Debug)]
pub(crate) struct Unusable {
    /// What is wrong.
    pub(crate) cause: String,
    /// What to do about it.
    pub(crate) cure: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.cure)
    }
}

fn unusable(cause: String, cure: &str) -> Unusable {
    let cure = format!("{cure} set {VARIABLE} to the path of {LIBRARY}");
    Unusable { cause, cure }
}

/// The library to preload, as an absolute path that the loader takes.
pub(crate) fn library() -> Result<PathBuf, Unusable> {
    let found = match std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        Some(named) => named_library(Path::new(&named))?,
        None => library_near(&program_folder()?)?,
    };
    check_path(&found)?;
    check_object(&found)?;
    Ok(found)
}

fn named_library(named: &Path) -> Result<PathBuf, Unusable> {
    std::fs::canonicalize(named).map_err(|e| {
        let named = named.display();
        let cause = format!("{VARIABLE} names {named}, which cannot be found ({e})");
        unusable(cause, "unset it, or")
    })
}

fn program_folder() -> Result<PathBuf, Unusable> {
    let program = std::env::current_exe().ok();
    let folder = program.as_deref().and_then(Path::parent);
    let cause = || "aictl does not know where it is installed".to_owned();
    folder.map(Path::to_owned).ok_or_else(|| unusable(cause(), "mount /proc, or"))
}

fn library_near(folder: &Path) -> Result<PathBuf, Unusable> {
    let places = [folder.to_owned(), folder.join("../lib"), folder.join("../lib/aishim")];
    let mut found = places.iter().filter_map(|p| std::fs::canonicalize(p.join(LIBRARY)).ok());
    found.next().ok_or_else(|| {
        let folder = folder.display();
        let cause = format!("{LIBRARY} is not beside aictl ({folder}), nor in ../lib or ../lib/aishim of it");
        unusable(cause, "install it there, or")
    })
}

/// LD_PRELOAD is split at colons and blanks, and the loader expands `$`; nothing escapes them.
fn check_path(path: &Path) -> Result<(), Unusable> {
    let bytes = path.as_os_str().as_bytes();
    let splits = |b: &u8| b.is_ascii_whitespace() || matches!(b, b':' | b'$');
    if bytes.iter().any(splits) {
        let path = path.display();
        let cause = format!("the path {path} holds a blank, a colon or a dollar sign, which LD_PRELOAD cannot carry");
        return Err(unusable(cause, "move the library to a path without them, or"));
    }
    Ok(())
}

/// The loader only complains about a file that is no library for this machine, and runs the program without it.
fn check_object(path: &Path) -> Result<(), Unusable> {
    let wrong = |what: &str| unusable(format!("{} {what}", path.display()), "install it again, or");
    let mut start = [0; 20];
    let read = File::open(path).and_then(|mut f| f.read_exact(&mut start));
    read.map_err(|e| wrong(&format!("cannot be read ({e})")))?;
    let [0x7f, b'E', b'L', b'F', class, ..] = start else {
        return Err(wrong("is no ELF file"));
    };
    let machine = u16::from_le_bytes([start[18], start[19]]);
    // e_ident[EI_CLASS] and e_machine of elf(5): 64 bit, and the machine that this program was built for.
    if class != 2 || machine != own_machine() {
        return Err(wrong("is a library for another kind of machine"));
    }
    Ok(())
}

const fn own_machine() -> u16 {
    if cfg!(target_arch = "aarch64") { libc::EM_AARCH64 } else { libc::EM_X86_64 }
}

/// The value of LD_PRELOAD with `library` first and whatever was there behind it.
pub(crate) fn merged(library: &Path, existing: Option<&OsStr>) -> OsString {
    let ours = library.as_os_str();
    let mut value = ours.as_bytes().to_vec();
    for other in entries(existing.unwrap_or_default()).filter(|e| *e != ours) {
        value.push(b':');
        value.extend_from_slice(other.as_bytes());
    }
    OsString::from_vec(value)
}

/// The libraries that a value of LD_PRELOAD names.
pub(crate) fn entries(value: &OsStr) -> impl Iterator<Item = &OsStr> {
    let parts = value.as_bytes().split(|b| matches!(b, b' ' | b':'));
    parts.filter(|p| !p.is_empty()).map(OsStr::from_bytes)
}

/// Whether process `pid` has the library mapped; none where its maps are not ours to read.
pub(crate) fn is_loaded_in(pid: u32) -> Option<bool> {
    let maps = std::fs::read(format!("/proc/{pid}/maps")).ok()?;
    let mut lines = maps.split(|b| *b == b'\n');
    Some(lines.any(|l| maps_library(l, LIBRARY)))
}

/// Whether a line of /proc/PID/maps is about the file `name` in some folder, be it removed since.
pub(crate) fn maps_library(line: &[u8], name: &str) -> bool {
    let line = line.strip_suffix(b" (deleted)").unwrap_or(line);
    let file = line.rsplit(|b| *b == b'/').next();
    line.contains(&b'/') && file == Some(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_comes_first_and_only_once() {
        let ours = Path::new("/opt/libaishim.so");
        let merged = |existing: &str| merged(ours, Some(OsStr::new(existing)));
        assert_eq!(merged(""), "/opt/libaishim.so");
        assert_eq!(merged("libjemalloc.so.2"), "/opt/libaishim.so:libjemalloc.so.2");
        assert_eq!(merged("a.so /opt/libaishim.so:b.so"), "/opt/libaishim.so:a.so:b.so");
        assert_eq!(super::merged(ours, None), "/opt/libaishim.so");
    }

    #[test]
    fn paths_that_the_loader_would_split_are_refused() {
        for bad in ["/a b/l.so", "/a:b/l.so", "/$LIB/l.so", "/a\tb/l.so"] {
            assert!(check_path(Path::new(bad)).is_err(), "{bad}");
        }
        assert!(check_path(Path::new("/opt/ä/l.so")).is_ok());
    }

    #[test]
    fn the_library_is_looked_for_beside_and_in_lib() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        std::fs::create_dir_all(root.path().join("lib/aishim")).unwrap();
        std::fs::create_dir(&bin).unwrap();
        let unusable = library_near(&bin).unwrap_err();
        assert!(unusable.cure.contains(VARIABLE), "{unusable}");
        for place in ["lib/aishim", "lib", "bin"] {
            let path = root.path().join(place).join(LIBRARY);
            std::fs::write(&path, "").unwrap();
            assert_eq!(library_near(&bin).unwrap(), path.canonicalize().unwrap());
        }
    }

    #[test]
    fn what_is_no_library_is_refused() {
        assert!(check_object(&std::env::current_exe().unwrap()).is_ok());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(check_object(file.path()).unwrap_err().cause.contains("cannot be read"));
        std::fs::write(file.path(), "#!/bin/sh\necho this is no library\n").unwrap();
        assert!(check_object(file.path()).unwrap_err().cause.contains("no ELF file"));
    }

    #[test]
    fn a_removed_library_is_still_recognised() {
        let line = b"7f00-7f01 r-xp 00000000 00:01 2 /opt/x/libaishim.so (deleted)";
        assert!(maps_library(line, LIBRARY));
        assert!(maps_library(b"7f00-7f01 r-xp 0 00:01 2 /opt/libaishim.so", LIBRARY));
        assert!(!maps_library(b"7f00-7f01 r-xp 0 00:01 2 /opt/notlibaishim.so", LIBRARY));
        assert!(!maps_library(b"7f00-7f01 r-xp 0 00:00 0", LIBRARY));
    }
}
