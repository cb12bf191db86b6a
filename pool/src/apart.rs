//! Values that many threads write, kept off the cache lines of what all threads read.

use std::ops::Deref;

/// A value on cache lines of its own; two, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
