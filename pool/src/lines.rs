//! Tests: which cache lines a processor of many has to fetch from another.
//!
//! How fast the pool is on 16 processors cannot be seen on two, but what makes it slow there can be counted: the reads of
//! a line that another processor wrote last, and the writes to one that another has. Under test the crate's atomics tell
//! a model of the processors' caches of each access; a single thread plays all processors, one request at a time. The
//! model has no capacity and no time but what it is told.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::atomic::{self, Ordering},
};

/// Lines are fetched one by one: the neighbour that a processor may fetch with it does harm at most.
const LINE_BYTES: usize = 64;

/// The caches of up to 64 processors.
#[derive(Default)]
struct Caches {
    acting: u32,
    /// Which processors have a line; one that writes it is the only one.
    holders: HashMap<usize, u64>,
    fetches: u64,
}

thread_local! {
    static CACHES: RefCell<Option<Caches>> = const { RefCell::new(None) };
}

/// From now on what this thread does is counted, and is done by `processor`.
pub(crate) fn act_as(processor: u32) {
    CACHES.with_borrow_mut(|caches| caches.get_or_insert_default().acting = processor);
}

/// How often a line had to come from another processor, or be taken from others, since the last call.
pub(crate) fn fetches() -> u64 {
    CACHES.with_borrow_mut(|caches| caches.as_mut().map_or(0, |caches| std::mem::take(&mut caches.fetches)))
}

/// An access to what lies at `place`.
pub(crate) fn touch<T>(place: &T, is_write: bool) {
    let line = std::ptr::from_ref(place).addr() / LINE_BYTES;
    // Not while a thread's locals are going, when nobody counts any more.
    let _ = CACHES.try_with(|caches| {
        if let Some(caches) = caches.borrow_mut().as_mut() {
            caches.touch(line, is_write);
        }
    });
}

impl Caches {
    fn touch(&mut self, line: usize, is_write: bool) {
        let me = 1u64 << self.acting;
        let holders = self.holders.entry(line).or_default();
        let others = *holders & !me;
        // What nobody has comes from memory, once.
        let is_fetched = others != 0 && (is_write || *holders & me == 0);
        self.fetches += u64::from(is_fetched);
        *holders = if is_write { me } else { *holders | me };
    }
}

macro_rules! counted {
    ($($name:ident($value:ty);)*) => { $(
        /// The standard library's, and each access is counted.
        #[derive(Debug)]
        #[repr(transparent)]
        pub(crate) struct $name(atomic::$name);

        #[allow(dead_code, reason = "all have what any of them needs")]
        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            pub(crate) fn load(&self, ordering: Ordering) -> $value {
                touch(self, false);
                self.0.load(ordering)
            }

            pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                self.write().store(value, ordering);
            }

            pub(crate) fn swap(&self, value: $value, ordering: Ordering) -> $value {
                self.write().swap(value, ordering)
            }

            pub(crate) fn compare_exchange(
                &self,
                seen: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.write().compare_exchange(seen, new, success, failure)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                seen: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.write().compare_exchange_weak(seen, new, success, failure)
            }

            pub(crate) fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                next: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                self.write().fetch_update(success, failure, next)
            }

            fn write(&self) -> &atomic::$name {
                touch(self, true);
                &self.0
            }
        }
    )* };
}

macro_rules! counted_changes {
    ($($name:ident { $($change:ident),* }($value:ty);)*) => { $(
        impl $name { $(
            pub(crate) fn $change(&self, amount: $value, ordering: Ordering) -> $value {
                self.write().$change(amount, ordering)
            }
        )* }
    )* };
}

counted! {
    AtomicBool(bool);
    AtomicI64(i64);
    AtomicU32(u32);
    AtomicU64(u64);
    AtomicUsize(usize);
}

counted_changes! {
    AtomicI64 { fetch_add }(i64);
    AtomicU32 { fetch_max }(u32);
    AtomicU64 { fetch_add, fetch_max, fetch_or }(u64);
}
