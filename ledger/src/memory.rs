//! Unwrapped data keys in memory, and until when they may be used.
//!
//! A destroyed key must be forgotten by every process within a second. Two things make that so.
//!
//! What is here is used only until a moment shortly ahead, which whoever hears of destroyed keys keeps moving on for as long as it
//! knows that it hears (`hearing.rs`). When nobody listens, when the connection has died without a word, or when this process
//! was stopped for a while, the moment passes and keys are read from the database again: nothing has to be switched off.
//!
//! And what was read before something was forgotten is not remembered after it. Whoever reads keys takes the epoch first; whoever
//! forgets raises it; a key of an earlier epoch is used by who read it and not kept. That a few others are not kept either costs
//! them one more read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use moka::sync::Cache;

use crate::seal::DataKey;

/// Keys remembered at most.
const MOST: u64 = 100_000;
/// How long a key is used without looking whether its row is still there. Destroyed keys are heard of; this is for rows that
/// somebody has removed by hand.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Clone)]
struct Held {
    key: Arc<DataKey>,
    generation: u64,
}

/// The keys that one process remembers.
pub(crate) struct KeyMemory {
    keys: Cache<String, Held>,
    /// Held for reading by who remembers, for writing by who forgets: nothing comes in between the two.
    epoch: RwLock<u64>,
    /// Keys of another generation are not used: everything before was forgotten at once.
    generation: AtomicU64,
    /// Milliseconds after `begun` until which keys may be used.
    until: AtomicU64,
    begun: Instant,
}

impl KeyMemory {
    /// Remembers nothing of use before [`KeyMemory::use_until`].
    pub(crate) fn new() -> Self {
        Self {
            keys: Cache::builder().max_capacity(MOST).time_to_live(LONGEST).build(),
            epoch: RwLock::new(0),
            generation: AtomicU64::new(0),
            until: AtomicU64::new(0),
            begun: Instant::now(),
        }
    }

    /// The key, if it is remembered and may be used at this moment.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<DataKey>> {
        let held = self.held(name)?;
        (self.begun.elapsed().as_millis() < u128::from(self.until.load(Ordering::SeqCst))).then_some(held)
    }

    fn held(&self, name: &str) -> Option<Arc<DataKey>> {
        let held = self.keys.get(name)?;
        (held.generation == self.generation.load(Ordering::SeqCst)).then_some(held.key)
    }

    /// To be taken before keys are read that shall be remembered.
    pub(crate) fn epoch(&self) -> u64 {
        *self.epoch.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a key that was read in `epoch`, unless something was forgotten since.
    pub(crate) fn put(&self, name: &str, key: &Arc<DataKey>, epoch: u64) {
        let present = self.epoch.read().unwrap_or_else(PoisonError::into_inner);
        if *present == epoch {
            let generation = self.generation.load(Ordering::SeqCst);
            self.keys.insert(name.to_owned(), Held { key: Arc::clone(key), generation });
        }
    }

    /// Forgets these keys, also where they are just being read.
    pub(crate) fn forget<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let mut epoch = self.epoch.write().unwrap_or_else(PoisonError::into_inner);
        *epoch += 1;
        names.into_iter().for_each(|name| self.keys.invalidate(name));
    }

    /// Forgets every key.
    pub(crate) fn forget_all(&self) {
        let mut epoch = self.epoch.write().unwrap_or_else(PoisonError::into_inner);
        *epoch += 1;
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.keys.invalidate_all();
    }

    /// Forgets this key if it is here: it was looked for, and has no row any more.
    pub(crate) fn forget_missing(&self, name: &str) {
        if self.held(name).is_some() {
            self.forget([name]);
        }
    }

    /// Every key destroyed up to now is known: until `moment`, what is remembered may be used.
    pub(crate) fn use_until(&self, moment: Instant) {
        let until = moment.saturating_duration_since(self.begun).as_millis();
        self.until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Destroyed keys are not heard of any more. Forgets every key.
    pub(crate) fn deaf(&self) {
        self.until.store(0, Ordering::SeqCst);
        self.forget_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::seal::Keyring;

    const LONG: Duration = Duration::from_secs(3_600);

    fn key() -> Arc<DataKey> {
        let keyring = Keyring::new(&[1; 32], None);
        Arc::new(keyring.make("k", &keyring.current()).unwrap().0)
    }

    fn hearing() -> KeyMemory {
        let memory = KeyMemory::new();
        memory.use_until(Instant::now() + LONG);
        memory
    }

    #[test]
    fn nothing_is_used_while_nobody_hears() {
        let memory = KeyMemory::new();
        memory.put("k", &key(), memory.epoch());
        assert!(memory.get("k").is_none());
        memory.use_until(Instant::now() + LONG);
        assert!(memory.get("k").is_some());
        memory.use_until(Instant::now());
        assert!(memory.get("k").is_none(), "the moment has passed");
        memory.use_until(Instant::now() + LONG);
        assert!(memory.get("k").is_some(), "nothing was missed meanwhile");
        memory.deaf();
        memory.use_until(Instant::now() + LONG);
        assert!(memory.get("k").is_none(), "something may have been");
    }

    #[test]
    fn a_key_that_was_read_before_something_was_forgotten_is_not_remembered_after_it() {
        for forget in [
            (|memory: &KeyMemory| memory.forget(["k"])) as fn(&KeyMemory),
            KeyMemory::forget_all,
            KeyMemory::deaf,
        ] {
            let memory = hearing();
            let before = memory.epoch();
            memory.put("k", &key(), before);
            forget(&memory);
            memory.use_until(Instant::now() + LONG);
            assert!(memory.get("k").is_none());
            memory.put("k", &key(), before);
            assert!(memory.get("k").is_none());
            memory.put("k", &key(), memory.epoch());
            assert!(memory.get("k").is_some());
        }
    }

    #[test]
    fn forgetting_one_key_keeps_the_others() {
        let memory = hearing();
        for name in ["k", "l"] {
            memory.put(name, &key(), memory.epoch());
        }
        memory.forget(["k"]);
        assert!(memory.get("k").is_none() && memory.get("l").is_some());
    }

    #[test]
    fn a_key_without_a_row_is_forgotten_and_one_that_is_not_here_disturbs_nobody() {
        let memory = hearing();
        memory.put("k", &key(), memory.epoch());
        let epoch = memory.epoch();
        memory.forget_missing("l");
        assert_eq!(memory.epoch(), epoch);
        memory.forget_missing("k");
        assert!(memory.get("k").is_none());
    }

    /// Readers that look at "the row" and remember it, while it is destroyed again and again.
    #[test]
    fn no_reader_puts_back_what_was_destroyed() {
        let (memory, row, done) = (hearing(), AtomicU64::new(0), AtomicBool::new(false));
        let keys: Vec<Arc<DataKey>> = (0..200).map(|_| key()).collect();
        let read_on = || {
            while !done.load(Ordering::SeqCst) {
                let epoch = memory.epoch();
                let read = row.load(Ordering::SeqCst) as usize;
                std::thread::yield_now();
                memory.put("k", &keys[read], epoch);
            }
        };
        // What is there after a key was destroyed, for as long as a reader may need that has looked at the row before.
        let destroy = |version: usize| {
            row.store(version as u64, Ordering::SeqCst);
            memory.forget(["k"]);
            let late = (0..50).filter_map(|_| {
                std::thread::yield_now();
                memory.get("k").filter(|found| !Arc::ptr_eq(found, &keys[version]))
            });
            late.count()
        };
        let put_back: usize = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4).map(|_| scope.spawn(read_on)).collect();
            let put_back = (1..keys.len()).map(destroy).sum();
            done.store(true, Ordering::SeqCst);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            put_back
        });
        assert_eq!(put_back, 0);
    }
}
