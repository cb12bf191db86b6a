//! Every environment variable that aishim reads, declared once: its name, the values it takes and what it does. The shim
//! warns about what is not in this list, `aictl doctor` and the documentation are made from it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// What every variable of aishim begins with; `AISHIM` itself is one.
pub const PREFIX: &str = "AISHIM";

/// The values a variable takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// One of these words.
    Words(&'static [&'static str]),
    /// A decimal number from the first to the second.
    Number(u64, u64),
    /// A path; any text.
    Path,
}

/// One declared variable.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// The values it takes.
    pub values: Values,
    /// What holds where it is unset or empty.
    pub default: &'static str,
    /// One sentence for people.
    pub text: &'static str,
}

const SWITCH: Values = Values::Words(&["on", "off"]);

/// All variables.
pub const ALL: &[Variable] = &[
    Variable {
        name: "AISHIM",
        values: SWITCH,
        default: "on",
        text: "Turns all of the library off: every call goes straight to the driver.",
    },
    Variable {
        name: "AISHIM_CLASS",
        values: Values::Words(&["inference", "normal", "batch", "auto"]),
        default: "none",
        text: "What kind of work the process does, which is its priority where AISHIM_PRIORITY gives none: 80, 20, 5, or what its behaviour suggests.",
    },
    Variable {
        name: "AISHIM_COPY",
        values: SWITCH,
        default: "on",
        text: "Turns the staging of pageable copies off: the driver copies by itself.",
    },
    Variable {
        name: "AISHIM_DIR",
        values: Values::Path,
        default: "/run/aishim where it may be written, else /dev/shm/aishim-UID",
        text: "The runtime directory, where processes publish their figures.",
    },
    Variable {
        name: "AISHIM_GATE",
        values: Values::Words(&["ahead", "wait"]),
        default: "ahead",
        text: "Where launches that have to give way wait: on the GPU, with the program running ahead, or in the program.",
    },
    Variable {
        name: "AISHIM_GATE_JOBS",
        values: SWITCH,
        default: "off",
        text: "Also holds back processes of a job on several GPUs, which with collectives measured worse than letting them pass, and one that has contexts on several itself.",
    },
    Variable {
        name: "AISHIM_JOB",
        values: Values::Path,
        default: "TORCHELASTIC_RUN_ID",
        text: "The job that the process is part of: the coordinator lets processes of one user and job on together.",
    },
    Variable {
        name: "AISHIM_LIB",
        values: Values::Path,
        default: "beside aictl, ../lib or ../lib/aishim",
        text: "The library that aictl preloads.",
    },
    Variable {
        name: "AISHIM_LOG",
        values: Values::Words(&["off", "error", "warn", "info", "debug"]),
        default: "error",
        text: "What the library writes to stderr.",
    },
    Variable {
        name: "AISHIM_POOL",
        values: Values::Words(&["lazy", "eager", "off"]),
        default: "lazy",
        text: "When the pool of pinned memory is reserved: as it is needed, all of AISHIM_POOL_MIB in the background from the first context on, or never.",
    },
    Variable {
        name: "AISHIM_POOL_IDLE_S",
        values: Values::Number(0, 86_400),
        default: "60",
        text: "After how many seconds without need a slab of the pool is given back, one at a time; 0 keeps all.",
    },
    Variable {
        name: "AISHIM_POOL_MAX_MIB",
        values: Values::Number(1, 4_095),
        default: "AISHIM_POOL_MIB",
        text: "Size the pool may reach, in MiB, where requests would find no room in AISHIM_POOL_MIB; a smaller value than that changes nothing.",
    },
    Variable {
        name: "AISHIM_POOL_MIB",
        values: Values::Number(0, 4_095),
        default: "256",
        text: "Size the pool of pinned memory grows to ahead of need, in MiB; 0 turns the pool off.",
    },
    Variable {
        name: "AISHIM_POOL_ZERO",
        values: Values::Number(0, 1),
        default: "0",
        text: "1 hands out blocks of the pool filled with zeroes; else they hold what their last owner left there.",
    },
    Variable {
        name: "AISHIM_PRIORITY",
        values: Values::Number(0, 100),
        default: "20",
        text: "Priority of the process on the GPU; higher is more important.",
    },
    Variable { name: "AISHIM_SAMPLE", values: SWITCH, default: "on", text: "Turns the measuring of GPU time off." },
    Variable {
        name: "AISHIM_TRACE",
        values: Values::Path,
        default: "none",
        text: "Records each allocation and free of pinned memory and each synchronisation in this file, PID appended.",
    },
    Variable {
        name: "AISHIM_WEIGHT",
        values: Values::Number(1, 10_000),
        default: "100",
        text: "Share of the process among those with whom it takes turns.",
    },
];

impl Variable {
    /// The declared variable of that name.
    #[must_use]
    pub fn named(name: &OsStr) -> Option<&'static Self> {
        ALL.iter().find(|v| name == v.name)
    }

    /// Whether `value` is one it takes; empty counts as unset, which is always taken.
    #[must_use]
    pub fn accepts(&self, value: &OsStr) -> bool {
        value.is_empty()
            || match self.values {
                Values::Words(words) => words.iter().any(|w| value == *w),
                Values::Number(low, high) => number(value).is_some_and(|n| (low..=high).contains(&n)),
                Values::Path => true,
            }
    }
}

/// Whether `name` looks like a variable of aishim but is not declared: `AISHIM_` and something unknown after it.
#[must_use]
pub fn is_unknown(name: &OsStr) -> bool {
    let rest = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    rest.is_some_and(|r| r.starts_with(b"_")) && Variable::named(name).is_none()
}

fn number(value: &OsStr) -> Option<u64> {
    let text = value.to_str()?;
    // The standard library's parser takes a leading plus sign, we do not.
    text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(&words.join(", ")),
            Self::Number(low, high) => write!(f, "a number from {low} to {high}"),
            Self::Path => f.write_str("a path"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_ours() {
        assert!(ALL.windows(2).all(|w| w[0].name < w[1].name));
        assert!(ALL.iter().all(|v| v.name.starts_with(PREFIX)));
        assert!(Variable::named(OsStr::new(crate::directory::VARIABLE)).is_some());
    }

    #[test]
    fn values_are_checked() {
        let pool = Variable::named(OsStr::new("AISHIM_POOL_MIB")).unwrap();
        for good in ["", "0", "256", "4095"] {
            assert!(pool.accepts(OsStr::new(good)), "{good}");
        }
        for bad in ["+1", "-1", "lots", "4096", "1.5", "99999999999999999999"] {
            assert!(!pool.accepts(OsStr::new(bad)), "{bad}");
        }
        let switch = Variable::named(OsStr::new("AISHIM")).unwrap();
        assert!(switch.accepts(OsStr::new("off")) && !switch.accepts(OsStr::new("0")));
    }

    #[test]
    fn only_our_own_names_are_judged() {
        assert!(is_unknown(OsStr::new("AISHIM_POOL_MB")));
        assert!(!is_unknown(OsStr::new("AISHIM_POOL_MIB")));
        assert!(!is_unknown(OsStr::new("AISHIM")) && !is_unknown(OsStr::new("AISHIMMER")));
        assert!(!is_unknown(OsStr::new("PATH")));
    }
}
