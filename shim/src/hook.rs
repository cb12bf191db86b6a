//! Hooks by number: what the table says of each, in arrays.

use crate::table::with_hooks;
use aishim_abi::layout::{HOOKS, HookKind};
use std::ffi::CStr;

macro_rules! declare {
    ($($(#[$unchecked:ident])? $kind:ident $name:ident $(, $ptsz:ident)?: fn $args:tt => $room:ident :: $handler:ident $pass:tt;)*) => {
        /// One hooked entry point of the driver.
        #[allow(non_camel_case_types, reason = "the driver's own names")]
        #[allow(clippy::upper_case_acronyms, reason = "the driver's own names")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Hook { $($name, $($ptsz,)?)* }

        impl Hook {
            /// All hooks, in the order of the table.
            pub(crate) const ALL: &[Hook] = &[$(Hook::$name, $(Hook::$ptsz,)?)*];
            const KINDS: &[HookKind] = &[$(HookKind::$kind, $(declare!(@kind $ptsz $kind),)?)*];
            const SYMBOLS: &[&CStr] = &[$(declare!(@symbol $name), $(declare!(@symbol $ptsz),)?)*];
            const PER_THREAD: &[bool] = &[$(false, $(declare!(@yes $ptsz),)?)*];
            #[cfg(test)]
            pub(crate) const HANDLERS: &[&str] = &[$(
                concat!(stringify!($room), "::", stringify!($handler)),
                $(declare!(@handler $ptsz $room::$handler),)?
            )*];
        }
    };
    (@kind $ptsz:ident $kind:ident) => { HookKind::$kind };
    (@yes $ptsz:ident) => { true };
    (@symbol $name:ident) => {
        // The literal ends in the one zero byte it has.
        match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
            Ok(symbol) => symbol,
            Err(_) => panic!("a symbol name holds a zero byte"),
        }
    };
    (@handler $ptsz:ident $room:ident :: $handler:ident) => {
        concat!(stringify!($room), "::", stringify!($handler))
    };
}

with_hooks!(declare);

/// Number of hooks.
pub(crate) const COUNT: usize = Hook::ALL.len();

const _: () = assert!(COUNT <= HOOKS, "the segment has no room for so many hooks");

impl Hook {
    /// The symbol as the driver exports it.
    pub(crate) const fn symbol(self) -> &'static CStr {
        Self::SYMBOLS[self as usize]
    }

    /// What the function does.
    pub(crate) const fn kind(self) -> HookKind {
        Self::KINDS[self as usize]
    }

    /// Whether stream 0 means the calling thread's own default stream (`_ptsz`, `_ptds`).
    #[inline]
    pub(crate) const fn per_thread_default_stream(self) -> bool {
        Self::PER_THREAD[self as usize]
    }

    /// The hook of an exported symbol.
    pub(crate) fn by_symbol(symbol: &CStr) -> Option<Self> {
        Self::ALL.iter().copied().find(|h| h.symbol() == symbol)
    }

    /// Whether `name`, as a program looks it up (without version or stream suffix), belongs to a hook.
    pub(crate) fn is_hooked_name(name: &[u8]) -> bool {
        Self::ALL.iter().any(|h| base(h.symbol().to_bytes()) == base(name))
    }
}

/// A symbol without `_ptsz`, `_ptds` and `_vN`.
fn base(symbol: &[u8]) -> &[u8] {
    let symbol = symbol.strip_suffix(b"_ptsz").unwrap_or(symbol);
    let symbol = symbol.strip_suffix(b"_ptds").unwrap_or(symbol);
    match symbol {
        [start @ .., b'_', b'v', digit] if digit.is_ascii_digit() => start,
        _ => symbol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_suffixes_are_understood() {
        let mut names: Vec<_> = Hook::ALL.iter().map(|h| h.symbol()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COUNT);
        assert_eq!(base(b"cuMemcpyHtoDAsync_v2_ptsz"), b"cuMemcpyHtoDAsync");
        assert!(Hook::cuMemcpyHtoDAsync_v2_ptsz.per_thread_default_stream());
        assert!(Hook::is_hooked_name(b"cuMemAlloc"));
        assert!(!Hook::is_hooked_name(b"cuMemPrefetchAsync"));
    }
}
