//! How many may wait for something at the same time: in all, and each person. Keys are not counted by themselves: somebody with many of them
//! would have all places.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// Those who wait for one thing, by person.
#[derive(Clone)]
pub(crate) struct Places {
    taken: Arc<Mutex<Taken>>,
    most: usize,
    most_each: usize,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// People without one are not in it.
    each: HashMap<Uuid, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The node has none left.
    Node,
    /// The person has their share.
    Person,
}

/// A place among those who wait; free again when this is dropped.
pub struct Place {
    places: Places,
    person: Uuid,
}

impl Places {
    pub(crate) fn new(most: usize, most_each: usize) -> Self {
        Self { taken: Arc::default(), most, most_each }
    }

    pub(crate) fn take(&self, person: Uuid) -> Result<Place, Full> {
        let mut taken = self.lock();
        let own = taken.each.get(&person).copied().unwrap_or(0);
        if own >= self.most_each {
            return Err(Full::Person);
        }
        if taken.all >= self.most {
            return Err(Full::Node);
        }
        taken.all += 1;
        taken.each.insert(person, own + 1);
        Ok(Place { places: self.clone(), person })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Entry::Occupied(mut own) = taken.each.entry(self.person) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn person(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn a_person_has_a_share_and_no_more_until_a_place_is_free_again() {
        let places = Places::new(10, 2);
        let first = places.take(person(1)).unwrap();
        let _second = places.take(person(1)).unwrap();
        assert_eq!(places.take(person(1)).err(), Some(Full::Person));
        let _others = places.take(person(2)).unwrap();
        drop(first);
        places.take(person(1)).unwrap();
    }

    #[test]
    fn all_together_have_no_more_than_there_are() {
        let places = Places::new(3, 2);
        let taken: Vec<_> = (0..3).map(|n| places.take(person(n)).unwrap()).collect();
        assert_eq!(places.take(person(7)).err(), Some(Full::Node));
        drop(taken);
        assert!(places.lock().each.is_empty(), "who has left is forgotten");
        places.take(person(7)).unwrap();
    }
}
