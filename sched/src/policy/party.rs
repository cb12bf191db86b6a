//! The members of a job as one party.
//!
//! A party wants while any of its members does, and has the lowest priority and weight of them.

use std::collections::BTreeMap;

use super::{Priority, Weight};

/// A party's members, counted: nothing here depends on how many there are but for a logarithm.
#[derive(Debug, Default)]
pub(super) struct Party {
    priorities: Counted<Priority>,
    weights: Counted<Weight>,
    wanting: usize,
}

/// Where a party stands among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) priority: Priority,
    pub(super) weight: Weight,
}

impl Party {
    pub(super) fn add(&mut self, of: Standing) {
        self.priorities.add(of.priority);
        self.weights.add(of.weight);
    }

    pub(super) fn remove(&mut self, of: Standing) {
        self.priorities.remove(of.priority);
        self.weights.remove(of.weight);
    }

    /// `None` without members.
    pub(super) fn standing(&self) -> Option<Standing> {
        Some(Standing { priority: self.priorities.lowest()?, weight: self.weights.lowest()? })
    }

    pub(super) fn wants(&self) -> bool {
        self.wanting > 0
    }

    /// A member begins or ceases to want.
    pub(super) fn count_wanting(&mut self, wants: bool) {
        self.wanting = if wants { self.wanting + 1 } else { self.wanting.saturating_sub(1) };
    }
}

#[derive(Debug)]
struct Counted<T>(BTreeMap<T, usize>);

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Copy> Counted<T> {
    fn add(&mut self, value: T) {
        *self.0.entry(value).or_default() += 1;
    }

    fn remove(&mut self, value: T) {
        if let Some(count) = self.0.get_mut(&value) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&value);
            }
        }
    }

    fn lowest(&self) -> Option<T> {
        self.0.first_key_value().map(|(value, _)| *value)
    }
}
