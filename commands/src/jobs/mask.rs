//! Masking the values of secrets in a stream of bytes.
//!
//! [`Patterns`] are made once per attempt from the values; a [`Masker`] per stream then replaces each occurrence by `***`, also
//! when it is split across writes. What is looked for, per value:
//!
//! - the value itself, and itself without surrounding white space;
//! - each of its lines of at least [`SHORTEST`] bytes, without surrounding white space (a key in PEM printed line by line);
//! - its base64, standard and URL-safe, with and without padding, at each of the three alignments it can have inside a longer
//!   text, and also when the base64 is wrapped into lines. Of an embedded value the characters that depend on its neighbours
//!   stay: they hold at most 6 bits of it at either end.
//!
//! - a value that is no ASCII, as a text in which each of its bytes is a character (Latin-1), in UTF-8: what programs make of bytes
//!   that they take for text, such as in a JSON document;
//! - a value that is no UTF-8, as the text it becomes where what cannot be read is replaced by U+FFFD.
//!
//! A value shorter than [`SHORTEST`] is looked for in plain only: its base64 core would be one to three characters, found by chance in
//! every second word. Other encodings (hexadecimal, percent, JSON escapes, encryption) are not recognised.
//!
//! Matches that overlap are replaced together by one `***`. The result does not depend on how the stream was cut into writes. Bytes
//! are held back only while they may still become a value, so a finished line is not delayed for nothing.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::{Zeroize as _, Zeroizing};

/// What stands in place of a value.
pub const MASK: &str = "***";

/// Bytes a value (or one of its lines) needs to be looked for beyond its plain, whole form.
pub const SHORTEST: usize = 4;

/// Base64 characters that must have matched before bytes are held back across a line break. Without it every line that happens to end
/// in the first letter of some value's base64 would wait for the next one; with it a value wrapped within its first characters shows
/// at most three of them.
const HELD_ACROSS_LINES: usize = 4;

/// A secret's value. It has no `Debug` and no `Display`, so it cannot end up in a log by accident, and is overwritten when dropped.
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for SecretBytes {
    fn from(value: Zeroizing<Vec<u8>>) -> Self {
        Self(value)
    }
}

/// The values are too many or too large to look for (several hundred MiB).
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the secrets are too large to be masked in the output")]
pub struct TooLarge;

/// What to look for; shared by the streams of an attempt.
pub struct Patterns {
    plain: Option<Search>,
    encoded: Option<Search>,
    /// The bytes some pattern begins with.
    begins: [bool; 256],
}

impl Patterns {
    /// Prepares the search for these values. Empty values are ignored.
    ///
    /// # Errors
    /// [`TooLarge`] when the automaton would not fit.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, TooLarge> {
        let mut plain = Forms::default();
        let mut encoded = Forms::default();
        for value in values {
            add_plain(value, &mut plain);
            add_misread(value, &mut plain);
            for form in [value, value.trim_ascii()] {
                add_encoded(form, &mut encoded);
            }
        }
        let mut begins = [false; 256];
        for first in plain.0.iter().chain(&encoded.0).filter_map(|pattern| pattern.first()) {
            begins[usize::from(*first)] = true;
        }
        Ok(Self { plain: Search::new(&plain.0)?, encoded: Search::new(&encoded.0)?, begins })
    }

    /// The whole text masked at once.
    #[must_use]
    pub fn mask(self: &Arc<Self>, text: &[u8]) -> Vec<u8> {
        let mut masker = Masker::new(Arc::clone(self));
        let mut out = Vec::with_capacity(text.len());
        masker.push(text, &mut out);
        masker.finish(&mut out);
        out
    }
}

/// What values look like. Overwritten when it goes; the automaton that is made of it keeps its own copy as long as the attempt runs.
#[derive(Default)]
struct Forms(BTreeSet<Vec<u8>>);

impl Forms {
    fn add(&mut self, form: &[u8]) {
        if !self.0.contains(form) {
            self.0.insert(form.to_vec());
        }
    }
}

impl Drop for Forms {
    fn drop(&mut self) {
        while let Some(mut form) = self.0.pop_first() {
            form.zeroize();
        }
    }
}

fn add_plain(value: &[u8], into: &mut Forms) {
    let trimmed = value.trim_ascii();
    // A value of white space only has no trimmed form worth looking for.
    for form in [value, if trimmed.len() >= SHORTEST { trimmed } else { value }] {
        if !form.is_empty() {
            into.add(form);
        }
    }
    let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| line.len() >= SHORTEST).for_each(|line| into.add(line));
}

/// What programs make of a value that they take for another kind of text.
fn add_misread(value: &[u8], into: &mut Forms) {
    if value.is_ascii() {
        return;
    }
    // A byte is two at most. With room for all no copies are left behind.
    let mut latin1 = Zeroizing::new(String::with_capacity(2 * value.len()));
    latin1.extend(value.iter().copied().map(char::from));
    add_plain(latin1.as_bytes(), into);
    if std::str::from_utf8(value).is_err() {
        let mut replaced = Zeroizing::new(String::with_capacity(3 * value.len()));
        for chunk in value.utf8_chunks() {
            replaced.push_str(chunk.valid());
            replaced.extend((!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER));
        }
        // With little else than replacement characters it would be found in any garbage.
        let left = replaced.chars().filter(|character| *character != char::REPLACEMENT_CHARACTER);
        if left.count() >= SHORTEST {
            add_plain(replaced.as_bytes(), into);
        }
    }
}

fn add_encoded(value: &[u8], into: &mut Forms) {
    if value.len() < SHORTEST {
        return;
    }
    // Bytes that stand before the value in its group of three, and the characters they have a part in.
    for (before, skip) in [(0, 0), (1, 2), (2, 3)] {
        let mut bytes = Zeroizing::new(Vec::with_capacity(before + value.len()));
        bytes.resize(before, 0);
        bytes.extend_from_slice(value);
        let complete = bytes.len() * 8 / 6;
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = Zeroizing::new(engine.encode(&*bytes).into_bytes());
            let padding = (4 - text.len() % 4) % 4;
            let padded = Zeroizing::new([&text[skip..], &b"=="[..padding]].concat());
            [&text[skip..complete], &text[skip..], &padded].into_iter().for_each(|form| into.add(form));
        }
    }
}

/// An Aho-Corasick automaton that also knows how much of a pattern each of its states stands for.
struct Search {
    automaton: NFA,
    start: StateID,
    depths: HashMap<StateID, usize>,
}

impl Search {
    fn new(patterns: &BTreeSet<Vec<u8>>) -> Result<Option<Self>, TooLarge> {
        if patterns.is_empty() {
            return Ok(None);
        }
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
        Ok(Some(Self { automaton, start, depths }))
    }

    /// The length of the longest pattern that ends in this state.
    fn longest_match(&self, state: StateID) -> Option<usize> {
        if !self.automaton.is_match(state) {
            return None;
        }
        let found =
            (0..self.automaton.match_len(state)).map(|index| self.automaton.match_pattern(state, index));
        found.map(|pattern| self.automaton.pattern_len(pattern)).max()
    }

    /// How many of the last bytes are the beginning of some pattern.
    fn depth(&self, state: StateID) -> usize {
        self.depths.get(&state).copied().unwrap_or(0)
    }
}

/// Masks one stream. Holds back at most the length of the longest pattern (three times that in wrapped base64).
pub struct Masker {
    patterns: Arc<Patterns>,
    plain: Option<StateID>,
    encoded: Option<StateID>,
    /// Bytes not yet given out; the first one stands at `offset` in the stream.
    held: Zeroizing<Vec<u8>>,
    offset: usize,
    /// Where the matches among the held bytes lie in the stream: ascending, disjoint.
    found: Vec<Range<usize>>,
    /// Where the mask written last ends: a match from before there belongs to the same mask.
    masked_to: usize,
    /// Base64 matches count from here on: what lies before was released at a line break.
    barrier: usize,
    /// The line break byte just seen, 0 if the last byte was none: an empty line ends a base64 text.
    last_break: u8,
}

impl Masker {
    /// A masker at the beginning of a stream.
    #[must_use]
    pub fn new(patterns: Arc<Patterns>) -> Self {
        let plain = patterns.plain.as_ref().map(|search| search.start);
        let encoded = patterns.encoded.as_ref().map(|search| search.start);
        Self {
            patterns,
            plain,
            encoded,
            held: Zeroizing::default(),
            offset: 0,
            found: Vec::new(),
            masked_to: 0,
            barrier: 0,
            last_break: 0,
        }
    }

    /// Takes the next bytes and appends to `out` what is certain by now.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.plain.is_none() {
            out.extend_from_slice(bytes);
            return;
        }
        let patterns = Arc::clone(&self.patterns);
        self.held.reserve(bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.skip(&patterns, rest);
            if let Some((byte, after)) = rest.split_first() {
                self.held.push(*byte);
                self.step_plain(&patterns, *byte);
                self.step_encoded(&patterns, *byte);
                rest = after;
            }
        }
        let certain = self.certain(&patterns);
        self.release(certain, out);
    }

    /// The stream has ended: appends the rest.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.release(self.position(), out);
        *self = Self::new(Arc::clone(&self.patterns));
    }

    /// Bytes of the stream taken so far.
    fn position(&self) -> usize {
        self.offset + self.held.len()
    }

    /// Between matches, passes over what no pattern begins with.
    fn skip<'a>(&mut self, patterns: &Patterns, bytes: &'a [u8]) -> &'a [u8] {
        let idle = |search: &Option<Search>, state| search.as_ref().map(|search| search.start) == state;
        if !idle(&patterns.plain, self.plain) || !idle(&patterns.encoded, self.encoded) {
            return bytes;
        }
        let length = bytes.iter().position(|byte| patterns.begins[usize::from(*byte)]).unwrap_or(bytes.len());
        let (passed, rest) = bytes.split_at(length);
        self.held.extend_from_slice(passed);
        self.last_break = 0;
        rest
    }

    fn step_plain(&mut self, patterns: &Patterns, byte: u8) {
        let (Some(search), Some(state)) = (&patterns.plain, self.plain) else { return };
        let state = search.automaton.next_state(Anchored::No, state, byte);
        self.plain = Some(state);
        if let Some(length) = search.longest_match(state) {
            let end = self.position();
            self.note(end.saturating_sub(length)..end);
        }
    }

    fn step_encoded(&mut self, patterns: &Patterns, byte: u8) {
        let (Some(search), Some(state)) = (&patterns.encoded, self.encoded) else { return };
        if byte == b'\n' || byte == b'\r' {
            self.break_encoded(search, state, byte);
            return;
        }
        self.last_break = 0;
        let state = search.automaton.next_state(Anchored::No, state, byte);
        self.encoded = Some(state);
        if let Some(length) = search.longest_match(state) {
            let start = self.start_of_encoded(length).max(self.barrier);
            self.note(start..self.position());
        }
    }

    /// A line break inside base64 is skipped, but not an empty line, which keeps the held bytes bounded.
    fn break_encoded(&mut self, search: &Search, state: StateID, byte: u8) {
        let empty_line = matches!((self.last_break, byte), (b'\n', _) | (b'\r', b'\r'));
        self.last_break = byte;
        if empty_line {
            self.encoded = Some(search.start);
        }
        if empty_line || search.depth(state) < HELD_ACROSS_LINES {
            self.barrier = self.position();
        }
    }

    /// Where the last `length` bytes begin, line breaks not counted. Bytes that are not held any more were masked (or lie before the
    /// barrier): any position before the held ones says so.
    fn start_of_encoded(&self, length: usize) -> usize {
        let mut missing = length;
        for (index, byte) in self.held.iter().enumerate().rev() {
            if missing == 0 {
                return self.offset + index + 1;
            }
            missing -= usize::from(!matches!(byte, b'\n' | b'\r'));
        }
        if missing == 0 { self.offset } else { self.offset.saturating_sub(1) }
    }

    /// Adds a match that ends at the current position and joins it with those it overlaps.
    fn note(&mut self, mut range: Range<usize>) {
        while let Some(last) = self.found.pop_if(|last| last.end > range.start) {
            range.start = range.start.min(last.start);
        }
        self.found.push(range);
    }

    /// The position before which no match can begin any more.
    fn certain(&self, patterns: &Patterns) -> usize {
        let depth = |search: &Option<Search>, state: Option<StateID>| match (search, state) {
            (Some(search), Some(state)) => search.depth(state),
            (None, _) | (_, None) => 0,
        };
        let plain = self.position().saturating_sub(depth(&patterns.plain, self.plain));
        let encoded = self.start_of_encoded(depth(&patterns.encoded, self.encoded)).max(self.barrier);
        plain.min(encoded)
    }

    /// Gives out everything before `certain`. A match that begins there and ends later is given out as a whole: whatever is
    /// still found from `certain` on and overlaps it belongs to the same mask.
    fn release(&mut self, certain: usize, out: &mut Vec<u8>) {
        let mut from = self.offset;
        let ready = self.found.iter().take_while(|range| range.start < certain.max(self.masked_to)).count();
        for range in self.found.drain(..ready) {
            if range.start >= self.masked_to {
                out.extend_from_slice(&self.held[from - self.offset..range.start - self.offset]);
                out.extend_from_slice(MASK.as_bytes());
            }
            self.masked_to = range.end;
            from = range.end;
        }
        if from < certain {
            out.extend_from_slice(&self.held[from - self.offset..certain - self.offset]);
            from = certain;
        }
        self.held.drain(..from - self.offset);
        self.offset = from;
    }
}

#[cfg(test)]
mod tests;
