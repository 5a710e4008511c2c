//! Looking for many patterns at once.

use std::collections::{BTreeSet, HashMap};

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use super::TooLarge;

/// An Aho-Corasick automaton that also knows how much of a pattern each of its states stands for.
pub(super) struct Search {
    automaton: NFA,
    /// Where it stands when nothing of a pattern has been seen.
    pub(super) start: StateID,
    depths: HashMap<StateID, usize>,
    /// Bytes of the longest pattern.
    pub(super) longest: usize,
}

impl Search {
    pub(super) fn new(patterns: &BTreeSet<Vec<u8>>) -> Result<Option<Self>, TooLarge> {
        let Some(longest) = patterns.iter().map(Vec::len).max() else { return Ok(None) };
        let automaton = NFA::builder()
            .match_kind(MatchKind::Standard)
            .prefilter(false)
            .build(patterns)
            .map_err(|_| TooLarge)?;
        let start = automaton.start_state(Anchored::No).map_err(|_| TooLarge)?;
        let mut depths = HashMap::from([(start, 0)]);
        for pattern in patterns {
            let mut state = start;
            for (index, byte) in pattern.iter().enumerate() {
                state = automaton.next_state(Anchored::No, state, *byte);
                depths.insert(state, index + 1);
            }
        }
        Ok(Some(Self { automaton, start, depths, longest }))
    }

    pub(super) fn next(&self, state: StateID, byte: u8) -> StateID {
        self.automaton.next_state(Anchored::No, state, byte)
    }

    /// The length of the longest pattern that ends in this state.
    pub(super) fn longest_match(&self, state: StateID) -> Option<usize> {
        if !self.automaton.is_match(state) {
            return None;
        }
        let found =
            (0..self.automaton.match_len(state)).map(|index| self.automaton.match_pattern(state, index));
        found.map(|pattern| self.automaton.pattern_len(pattern)).max()
    }

    /// How many of the last bytes are the beginning of some pattern.
    pub(super) fn depth(&self, state: StateID) -> usize {
        self.depths.get(&state).copied().unwrap_or(0)
    }
}
