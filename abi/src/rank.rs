//! The terms in which processes are put in order: how important one is, its share, its class, which GPU, which policy.
//!
//! Each is a type that cannot hold what it must not: made by a checked constructor from what another process wrote.

use std::fmt;

/// How important a process is: 0 to 100, higher is more important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// The least important.
    pub const LOWEST: Self = Self(0);
    /// The most important.
    pub const HIGHEST: Self = Self(100);
    /// That of a process of which nobody has said anything.
    pub const NORMAL: Self = Self(20);

    /// The priority of that number; none above 100.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number > 100 { None } else { Some(Self(number as u8)) }
    }

    /// As a number from 0 to 100.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The share of a process among those with whom it shares: 1 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// That of a process of which nobody has said anything.
    pub const NORMAL: Self = Self(100);

    /// The largest.
    pub const HIGHEST: Self = Self(10_000);

    /// The weight of that number; none outside of 1 to 10,000.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 || number > 10_000 { None } else { Some(Self(number as u16)) }
    }

    /// As a number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }
}

/// Enumerations whose values stand for numbers in what processes share.
macro_rules! numbered {
    ($($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $number:literal $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$value_doc])* $value = $number,)*
        }

        impl $name {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$value,)*];

            /// The one that `number` stands for; none where this version knows no such.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$value),)*
                    _ => None,
                }
            }

            /// The number that stands for it.
            #[must_use]
            pub const fn number(self) -> u32 {
                self as u32
            }

            /// Its name for people.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }

            /// The one of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    )*};
}
pub(crate) use numbered;

numbered! {
    /// What kind of work a process does.
    Class {
        /// Nobody has said.
        Unclassified = 0 "unclassified",
        /// Continuous work that may wait.
        Batch = 1 "batch",
        /// Neither.
        Normal = 2 "normal",
        /// Short bursts that somebody waits for.
        Inference = 3 "inference",
        /// To be found out by watching it.
        Auto = 4 "auto",
    }

    /// Why a process's behaviour suggests the class it does.
    ClassReason {
        /// It was not watched for long enough, or has done nothing.
        Unseen = 0 "too little was seen of it yet",
        /// Inference.
        ShortBursts = 1 "short requests with idle time between them",
        /// Batch.
        Continuous = 2 "work on the GPU nearly all of the time",
        /// Batch.
        NeverWaits = 3 "launches without end, and never waits for them",
        /// Normal.
        LongRequests = 4 "idle time between requests, but these are long",
        /// Normal.
        GraphsWithoutGaps = 5 "short requests made of graphs, without idle time between them",
        /// Normal.
        LittleIdle = 6 "neither busy throughout nor idle for long",
        /// Normal.
        CopiesOnly = 7 "copies and no kernels",
        /// None yet: device memory grows and little is launched.
        Loading = 8 "it is still loading: device memory grows, and little is launched",
    }

    /// How the launches of processes on one GPU are put in order.
    PolicyKind {
        /// Not at all: every gate is open.
        Off = 0 "off",
        /// The more important first, those of equal rank in turns.
        Priority = 1 "priority",
        /// In turns, by weight over GPU time used.
        Fair = 2 "fair",
    }
}

impl Class {
    /// The priority of a process of that class for which no other is wished; none where the class says nothing.
    #[must_use]
    pub const fn priority(self) -> Option<Priority> {
        match self {
            Self::Unclassified | Self::Auto => None,
            Self::Batch => Some(Priority(5)),
            Self::Normal => Some(Priority::NORMAL),
            Self::Inference => Some(Priority(80)),
        }
    }
}

/// The UUID of a GPU, or of an instance of one, as cuDeviceGetUuid_v2 tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The UUID of nothing.
    pub const NONE: Self = Self([0; 16]);

    /// As two words of shared memory.
    pub(crate) fn to_words(self) -> [u64; 2] {
        let all = u128::from_le_bytes(self.0);
        [all as u64, (all >> 64) as u64]
    }

    /// From two words of shared memory.
    pub(crate) fn from_words(words: [u64; 2]) -> Self {
        Self((u128::from(words[0]) | u128::from(words[1]) << 64).to_le_bytes())
    }
}

impl fmt::Display for Uuid {
    /// As nvidia-smi writes it, without what stands before it (`GPU-`, `MIG-`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_none() {
        assert_eq!(Priority::new(100), Some(Priority::HIGHEST));
        assert_eq!((Priority::new(101), Priority::new(u32::MAX)), (None, None));
        assert_eq!((Weight::new(0), Weight::new(10_001)), (None, None));
        assert_eq!(Weight::new(10_000).map(Weight::number), Some(10_000));
        assert_eq!((Class::from_number(5), PolicyKind::from_number(3)), (None, None));
    }

    #[test]
    fn names_and_numbers_lead_back() {
        for class in Class::ALL {
            assert_eq!(Class::from_number(class.number()), Some(*class));
            assert_eq!(Class::from_name(class.name()), Some(*class));
        }
        for policy in PolicyKind::ALL {
            assert_eq!(PolicyKind::from_name(&policy.to_string()), Some(*policy));
        }
        assert_eq!(PolicyKind::from_name("Fair"), None);
    }

    #[test]
    fn a_uuid_is_written_as_nvidia_smi_writes_it() {
        let uuid = Uuid(std::array::from_fn(|i| i as u8));
        assert_eq!(uuid.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(Uuid::from_words(uuid.to_words()), uuid);
    }
}
