//! From one look at the queue to the next.

/// Where a look at the queue begins, which matters only where more teams wait than are looked at at a time. The beginning by default.
#[derive(Clone, Debug, Default)]
pub struct QueuePlace {
    pub(super) team: String,
    /// Where looks began to find nothing.
    since: String,
}

impl QueuePlace {
    /// The place after a look from here that came to `next`, and whether there is still somewhere to look: until all around nothing was
    /// found.
    pub(super) fn after(&self, next: String, found: bool) -> (Self, bool) {
        if next.is_empty() || found {
            let more = !next.is_empty();
            return (Self { since: next.clone(), team: next }, more);
        }
        let (from, to, since) = (&self.team, &next, &self.since);
        let is_round = if from < to { from < since && since <= to } else { since > from || since <= to };
        if is_round {
            return (Self { since: next.clone(), team: next }, false);
        }
        (Self { since: since.clone(), team: next }, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places of looks that find nothing, from `team` on, until there is nowhere to look any more.
    fn round(place: QueuePlace, teams: &[&str]) -> (Vec<String>, QueuePlace) {
        let (mut place, mut seen) = (place, vec![]);
        loop {
            let next = teams.iter().find(|team| **team > place.team.as_str()).unwrap_or(&teams[0]);
            let (after, more) = place.after((*next).to_owned(), false);
            seen.push(after.team.clone());
            place = after;
            if !more {
                return (seen, place);
            }
        }
    }

    #[test]
    fn looks_that_find_nothing_end_after_they_were_all_around() {
        let teams = ["b", "d", "f", "h"];
        let (seen, place) = round(QueuePlace::default(), &teams);
        assert_eq!(seen, ["b", "d", "f", "h", "b"]);
        let (seen, place) = round(place, &teams);
        assert_eq!(seen, ["d", "f", "h", "b"]);
        let (place, more) = place.after("d".to_owned(), true);
        assert!(more, "something was found");
        assert_eq!(round(place, &teams).0, ["f", "h", "b", "d"]);
    }

    #[test]
    fn where_all_is_seen_at_once_there_is_nowhere_else_to_look() {
        for found in [true, false] {
            let (place, more) = QueuePlace::default().after(String::new(), found);
            assert_eq!((place.team.as_str(), more), ("", false));
        }
    }
}
