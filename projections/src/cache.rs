//! Rows by key in memory (D7).
//!
//! A row here is right as of a position of its view. Three things are never true: an older row in the place of a newer one; a
//! row that was read before a change this process has been told of; a row from before an interruption of the channel
//! over which other processes tell of their changes. The second is what `floors` are for: whoever learns that a key
//! was touched raises its floor first, and a row read below the floor is refused. They take the place of tombstones in
//! the cache itself, which would count against its capacity and could be evicted just when they matter. Keys share floors
//! by hash: a needless refusal costs one read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use moka::ops::compute::Op;
use moka::sync::Cache;

use crate::view::fnv;

/// A power of two.
const FLOORS: usize = 8_192;
/// What an entry weighs besides key and row: bookkeeping, roughly.
const OVERHEAD: usize = 200;

struct Entry<R> {
    row: Arc<R>,
    /// The row is the view's as of this position.
    as_of: i64,
    epoch: u64,
    weight: u32,
}

impl<R> Clone for Entry<R> {
    fn clone(&self) -> Self {
        Self { row: Arc::clone(&self.row), as_of: self.as_of, epoch: self.epoch, weight: self.weight }
    }
}

/// The rows of one view that this process holds.
pub(crate) struct RowCache<R> {
    rows: Cache<String, Entry<R>>,
    floors: Box<[AtomicI64]>,
    /// Entries of another epoch are not used.
    epoch: AtomicU64,
    /// Whether other processes' changes are being heard of; if not, nothing here can be trusted.
    trusted: AtomicBool,
}

impl<R: Send + Sync + 'static> RowCache<R> {
    /// Holds rows of about `bytes` bytes of memory.
    pub(crate) fn new(bytes: u64) -> Self {
        let weigh = |_: &String, entry: &Entry<R>| entry.weight;
        Self {
            rows: Cache::builder().max_capacity(bytes).weigher(weigh).build(),
            floors: (0..FLOORS).map(|_| AtomicI64::new(0)).collect(),
            epoch: AtomicU64::new(0),
            trusted: AtomicBool::new(false),
        }
    }

    fn floor(&self, key: &str) -> &AtomicI64 {
        &self.floors[fnv(key) as usize % FLOORS]
    }

    /// To be taken before rows are read that shall be put in afterwards.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Forgets everything, also what is just being read.
    pub(crate) fn flush(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.rows.invalidate_all();
    }

    /// Says whether changes made elsewhere are heard of from now on. Flushes either way.
    pub(crate) fn trust(&self, trusted: bool) {
        if !trusted {
            self.trusted.store(false, Ordering::SeqCst);
        }
        self.flush();
        self.trusted.store(trusted, Ordering::SeqCst);
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<R>> {
        if !self.trusted.load(Ordering::SeqCst) {
            return None;
        }
        let entry = self.rows.get(key)?;
        (entry.epoch == self.epoch()).then_some(entry.row)
    }

    /// Somebody touched the row at `position`: what is older is not used any more.
    pub(crate) fn touch(&self, key: &str, position: i64) {
        self.floor(key).fetch_max(position, Ordering::SeqCst);
        // Also when nothing is there: a reader that has just looked at the floor may be about to put its row in, and only the
        // key's lock, which this takes, makes sure that this comes after it.
        self.rows.entry_by_ref(key).and_compute_with(|present| match present {
            Some(present) if present.value().as_of < position => Op::Remove,
            Some(_) | None => Op::Nop,
        });
    }

    /// Puts in a row as of `as_of`, of about `bytes` bytes of memory, read or made in `epoch`. An entry of a later position stays, and
    /// so does the gap where a later change is known.
    pub(crate) fn put(&self, key: &str, row: Arc<R>, as_of: i64, epoch: u64, bytes: usize) {
        let weight = u32::try_from(bytes + key.len() + OVERHEAD).unwrap_or(u32::MAX);
        self.rows.entry_by_ref(key).and_compute_with(|present| {
            let newer = |entry: &Entry<R>| entry.epoch == epoch && entry.as_of >= as_of;
            let refused = !self.trusted.load(Ordering::SeqCst)
                || epoch != self.epoch()
                || as_of < self.floor(key).load(Ordering::SeqCst)
                || present.is_some_and(|entry| newer(entry.value()));
            if refused { Op::Nop } else { Op::Put(Entry { row, as_of, epoch, weight }) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> RowCache<u32> {
        let cache = RowCache::new(1 << 20);
        cache.trust(true);
        cache
    }

    fn held(cache: &RowCache<u32>) -> Option<u32> {
        cache.get("k").map(|row| *row)
    }

    #[test]
    fn a_reader_fills_a_gap_but_never_takes_a_later_rows_place() {
        let cache = cache();
        let epoch = cache.epoch();
        cache.put("k", Arc::new(1), 5, epoch, 1);
        assert_eq!(held(&cache), Some(1));
        cache.put("k", Arc::new(2), 7, epoch, 1);
        cache.put("k", Arc::new(1), 6, epoch, 1);
        assert_eq!(held(&cache), Some(2));
    }

    #[test]
    fn what_was_read_before_a_known_change_is_refused_and_what_was_read_after_it_is_not() {
        let cache = cache();
        let epoch = cache.epoch();
        cache.put("k", Arc::new(1), 5, epoch, 1);
        cache.touch("k", 6);
        assert_eq!(held(&cache), None);
        cache.put("k", Arc::new(1), 5, epoch, 1);
        assert_eq!(held(&cache), None);
        cache.put("k", Arc::new(2), 6, epoch, 1);
        assert_eq!(held(&cache), Some(2));
        cache.touch("k", 6);
        assert_eq!(held(&cache), Some(2), "it is the row as of that very change");
    }

    #[test]
    fn what_was_being_read_when_the_channel_broke_is_refused() {
        let cache = cache();
        let epoch = cache.epoch();
        cache.flush();
        cache.put("k", Arc::new(1), 5, epoch, 1);
        assert_eq!(held(&cache), None);
    }

    #[test]
    fn nothing_is_used_while_nobody_listens() {
        let cache = cache();
        cache.put("k", Arc::new(1), 5, cache.epoch(), 1);
        cache.trust(false);
        cache.put("k", Arc::new(1), 5, cache.epoch(), 1);
        assert_eq!(held(&cache), None);
    }
}
