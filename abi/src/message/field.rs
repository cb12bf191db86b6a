//! The types that a message's fields may have, and how each lies in it.

use super::{Reason, Source, VERSION, Version};
use crate::layout::{put_text, text_of};
use crate::rank::{Class, PolicyKind, Priority, Uuid, Weight};

/// A value of fixed size in a message.
pub(crate) trait Field: Sized {
    /// Its size in bytes.
    const BYTES: usize;

    /// Writes it over `to`, which is [`BYTES`](Self::BYTES) long.
    fn put(&self, to: &mut [u8]);

    /// Reads it from `from`, which is [`BYTES`](Self::BYTES) long; none where that is no value of it.
    fn take(from: &[u8]) -> Option<Self>;
}

impl Field for u32 {
    const BYTES: usize = 4;

    fn put(&self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_le_bytes());
    }

    fn take(from: &[u8]) -> Option<Self> {
        Some(Self::from_le_bytes(from.try_into().ok()?))
    }
}

impl Field for u64 {
    const BYTES: usize = 8;

    fn put(&self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_le_bytes());
    }

    fn take(from: &[u8]) -> Option<Self> {
        Some(Self::from_le_bytes(from.try_into().ok()?))
    }
}

impl Field for Option<u64> {
    const BYTES: usize = 8;

    fn put(&self, to: &mut [u8]) {
        self.unwrap_or(u64::MAX).put(to);
    }

    fn take(from: &[u8]) -> Option<Self> {
        let number = u64::take(from)?;
        Some((number != u64::MAX).then_some(number))
    }
}

impl Field for Uuid {
    const BYTES: usize = 16;

    fn put(&self, to: &mut [u8]) {
        to.copy_from_slice(&self.0);
    }

    fn take(from: &[u8]) -> Option<Self> {
        Some(Self(from.try_into().ok()?))
    }
}

/// What stands in a message as a number of 4 bytes.
macro_rules! as_number {
    ($($kind:ty: $number:expr, $checked:expr;)*) => {$(
        impl Field for $kind {
            const BYTES: usize = 4;

            fn put(&self, to: &mut [u8]) {
                let number: fn(&$kind) -> u32 = $number;
                number(self).put(to);
            }

            fn take(from: &[u8]) -> Option<Self> {
                let checked: fn(u32) -> Option<$kind> = $checked;
                checked(u32::take(from)?)
            }
        }
    )*};
}

/// Stands for what was not said.
const NOT_SAID: u32 = u32::MAX;

as_number! {
    Version: |_| VERSION, |number| (number == VERSION).then_some(Version);
    Priority: |p| p.number(), Priority::new;
    Option<Priority>: |p| p.map_or(NOT_SAID, Priority::number),
        |number| if number == NOT_SAID { Some(None) } else { Priority::new(number).map(Some) };
    Option<Weight>: |w| w.map_or(NOT_SAID, Weight::number),
        |number| if number == NOT_SAID { Some(None) } else { Weight::new(number).map(Some) };
    Class: |c| c.number(), Class::from_number;
    Option<Class>: |c| c.map_or(NOT_SAID, Class::number),
        |number| if number == NOT_SAID { Some(None) } else { Class::from_number(number).map(Some) };
    PolicyKind: |p| p.number(), PolicyKind::from_number;
    Reason: |r| r.number(), Reason::from_number;
    Source: |s| s.number(), Source::from_number;
    Option<u32>: |n| n.unwrap_or(u32::MAX), |number| Some((number != u32::MAX).then_some(number));
}

/// Text of at most `N` - 1 bytes, without control characters; longer text is cut.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const N: usize>(String);

/// The job a process is part of.
pub type Job = Text<64>;

/// The name of a program and its version.
pub type Name = Text<32>;

impl<const N: usize> Text<N> {
    /// That text, as much of it as there is room for.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut field = [0; N];
        put_text(&mut field, text.as_bytes());
        Self::of(&field)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was cut within a character, or is none, is replaced by something longer; so it is cut again, between characters.
    fn of(field: &[u8]) -> Self {
        let mut text = text_of(field);
        while text.len() >= N {
            text.pop();
        }
        Self(text)
    }
}

impl<const N: usize> Field for Text<N> {
    const BYTES: usize = N;

    fn put(&self, to: &mut [u8]) {
        put_text(to, self.0.as_bytes());
    }

    fn take(from: &[u8]) -> Option<Self> {
        Some(Self::of(from))
    }
}

/// Most GPUs that a process can name at once.
pub(super) const GPUS: usize = 16;

/// Some GPUs, 16 at most, none of them twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus(Vec<Uuid>);

impl Gpus {
    /// Those GPUs, each once, as many as there is room for.
    pub fn new(uuids: impl IntoIterator<Item = Uuid>) -> Self {
        let mut gpus = Vec::with_capacity(GPUS);
        for uuid in uuids {
            if gpus.len() < GPUS && uuid != Uuid::NONE && !gpus.contains(&uuid) {
                gpus.push(uuid);
            }
        }
        Self(gpus)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.0.iter().copied()
    }
}

impl Field for Gpus {
    const BYTES: usize = 4 + GPUS * Uuid::BYTES;

    fn put(&self, to: &mut [u8]) {
        to.fill(0);
        let (count, rest) = to.split_at_mut(4);
        (self.0.len() as u32).put(count);
        for (uuid, place) in self.0.iter().zip(rest.chunks_exact_mut(Uuid::BYTES)) {
            uuid.put(place);
        }
    }

    fn take(from: &[u8]) -> Option<Self> {
        let (count, rest) = from.split_at_checked(4)?;
        let count = u32::take(count)? as usize;
        let named = rest.chunks_exact(Uuid::BYTES).take(count).filter_map(Uuid::take);
        let gpus = Self::new(named);
        // Too many, one twice, or none at all where one was said to be.
        (gpus.0.len() == count).then_some(gpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(Text::<4>::new("abcdef").as_str(), "abc");
        assert_eq!(Text::<4>::new("aäöü").as_str(), "aä");
        assert!(Text::<8>::new("äöü\u{1}x").as_str().len() < 8);
        let text = Text::<8>::new("\u{1}\u{2}\u{3}\u{4}");
        let mut field = [0; 8];
        text.put(&mut field);
        assert_eq!(Text::take(&field), Some(text));
    }

    #[test]
    fn gpus_are_few_and_different() {
        let uuid = |n| Uuid([n; 16]);
        let gpus = Gpus::new([uuid(1), uuid(2), uuid(1), Uuid::NONE]);
        assert_eq!(gpus.iter().collect::<Vec<_>>(), [uuid(1), uuid(2)]);
        assert_eq!(Gpus::new((1..100).map(uuid)).iter().count(), GPUS);
        let mut field = [0; Gpus::BYTES];
        gpus.put(&mut field);
        assert_eq!(Gpus::take(&field), Some(gpus));
        for count in [3, 17, u32::MAX] {
            count.put(&mut field[..4]);
            assert_eq!(Gpus::take(&field), None);
        }
    }
}
