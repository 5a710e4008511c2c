//! Whether a client is still there: asked by pings, told by anything that comes from it.

use std::time::Duration;

use tokio::time::Instant;

/// How often a client is asked, and how long it may say nothing.
const PING: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(25);

/// What is to be done about a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing yet.
    Wait,
    /// It is to be asked.
    Ask,
    /// It is not there any more.
    Leave,
}

/// What is known of a client.
pub(super) struct Presence {
    /// When it was asked last.
    asked: Instant,
    /// When it was heard last, as much later as nobody listened since.
    heard: Instant,
}

impl Presence {
    pub(super) fn new(now: Instant) -> Self {
        Self { asked: now, heard: now }
    }

    /// Something came from it.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// From `since` until `now` it was told something and nobody listened: that was no silence of its own. One that takes nothing is
    /// found out by what is told it.
    pub(super) fn told(&mut self, since: Instant, now: Instant) {
        self.heard = now.min(self.heard + now.duration_since(since));
    }

    /// What is to be done at this moment; who is told to ask has asked.
    pub(super) fn look(&mut self, now: Instant) -> Then {
        if now.duration_since(self.heard) > SILENCE {
            return Then::Leave;
        }
        if now.duration_since(self.asked) > PING {
            self.asked = now;
            return Then::Ask;
        }
        Then::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_says_nothing_is_asked_and_then_left() {
        let begin = Instant::now();
        let mut presence = Presence::new(begin);
        let told: Vec<Then> = (1..=26).map(|second| presence.look(begin + second * SECOND)).collect();
        for (second, then) in (1..).zip(told) {
            let expected = match second {
                11 | 22 => Then::Ask,
                26 => Then::Leave,
                _ => Then::Wait,
            };
            assert_eq!(then, expected, "{second}");
        }
    }

    #[test]
    fn who_answers_stays() {
        let begin = Instant::now();
        let mut presence = Presence::new(begin);
        for second in 1..=100 {
            let now = begin + second * SECOND;
            match presence.look(now) {
                Then::Ask => presence.heard(now),
                Then::Wait => {}
                Then::Leave => panic!("left after {second} s"),
            }
        }
    }

    #[test]
    fn the_time_in_which_nobody_listened_is_no_silence() {
        let begin = Instant::now();
        let mut presence = Presence::new(begin);
        assert_eq!(presence.look(begin + 20 * SECOND), Then::Ask);
        let (since, now) = (begin + 20 * SECOND, begin + 80 * SECOND);
        presence.told(since, now);
        assert_eq!(presence.look(now), Then::Ask);
        assert_eq!(presence.look(now + 5 * SECOND), Then::Wait);
        assert_eq!(presence.look(now + 6 * SECOND), Then::Leave, "20 s before and 6 s after");
    }
}
