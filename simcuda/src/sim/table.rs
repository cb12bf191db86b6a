//! Handles: what a program holds instead of an object.

/// Objects of one kind behind opaque handles. A handle that was freed is given out again first, as the driver's are.
pub(crate) struct Table<T> {
    base: usize,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

/// Distance between two handles; keeps them clear of the driver's small special values.
const STEP: usize = 64;

impl<T> Table<T> {
    /// A table whose handles start at `kind`'s range, so that one kind's handle is never another's.
    pub(crate) const fn new(kind: u8) -> Self {
        Self { base: 0x5c00_0000_0000 + ((kind as usize) << 32), slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(value);
        self.base + (index + 1) * STEP
    }

    pub(crate) fn get(&self, handle: usize) -> Option<&T> {
        self.slots.get(self.index(handle)?)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, handle: usize) -> Option<&mut T> {
        let index = self.index(handle)?;
        self.slots.get_mut(index)?.as_mut()
    }

    pub(crate) fn remove(&mut self, handle: usize) -> Option<T> {
        let index = self.index(handle)?;
        let value = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(value)
    }

    /// Removes every object for which `gone` holds.
    pub(crate) fn remove_where(&mut self, gone: impl Fn(&T) -> bool) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.as_ref().is_some_and(&gone) {
                *slot = None;
                self.free.push(index);
            }
        }
    }

    /// True if there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// The first object for which `wanted` holds.
    pub(crate) fn first(&self, wanted: impl Fn(&T) -> bool) -> Option<usize> {
        let index = self.slots.iter().position(|slot| slot.as_ref().is_some_and(&wanted))?;
        Some(self.base + (index + 1) * STEP)
    }

    fn index(&self, handle: usize) -> Option<usize> {
        let offset = handle.checked_sub(self.base)?;
        (offset % STEP == 0).then_some(offset / STEP)?.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_freed_handle_is_void_until_it_is_given_out_again() {
        let mut table = Table::new(1);
        let (first, second) = (table.insert('a'), table.insert('b'));
        assert_eq!((table.get(first), table.get(second + 1), table.get(0)), (Some(&'a'), None, None));
        assert_eq!((table.remove(first), table.remove(first), table.get(first)), (Some('a'), None, None));
        assert_eq!(table.insert('c'), first);
    }
}
