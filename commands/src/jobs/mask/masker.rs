//! Masking one stream.
//!
//! The stream is read in several ways at once: as it is written, as base64 (line breaks are passed over), and each of these with the
//! escapes of URLs or of JSON undone. Such a [`Reader`] finds patterns in what it reads and says where that stands in the stream. Escapes are
//! rare, so a reader that undoes them sleeps until one comes: up to there it would have read what its base has.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::automaton::StateID;
use zeroize::Zeroizing;

use super::escapes::{Decoder, Escapes, Symbol};
use super::search::Search;
use super::{MASK, Patterns};

/// Base64 characters that must have matched before bytes are held back across a line break. Without it every line that happens to end
/// in the first letter of some value's base64 would wait for the next one; with it a value wrapped within its first characters shows
/// at most three of them.
const HELD_ACROSS_LINES: usize = 4;

/// The escapes that are undone, and whether also in front of base64, whose letters hold no space.
const ESCAPES: [(Escapes, bool); 3] =
    [(Escapes::Percent, true), (Escapes::Form, false), (Escapes::Json, true)];

/// A search on its way through what is read of a stream.
struct Reader {
    /// Base64: line breaks are passed over.
    wrapped: bool,
    state: StateID,
    /// Where the last symbols begin in the stream: of as many at least as may still become a match.
    starts: VecDeque<usize>,
    /// Matches count from here on: what lies before was released at a line break.
    barrier: usize,
    /// The line break just seen, 0 if the last symbol was none: an empty line ends a base64 text.
    last_break: u8,
}

impl Reader {
    fn new(search: &Search, wrapped: bool) -> Self {
        Self { wrapped, state: search.start, starts: VecDeque::new(), barrier: 0, last_break: 0 }
    }

    /// Takes one symbol; returns where the match lies that it completes.
    fn step(&mut self, search: &Search, symbol: Symbol) -> Option<Range<usize>> {
        if self.wrapped && matches!(symbol.byte, b'\n' | b'\r') {
            self.line_break(search, symbol);
            return None;
        }
        self.last_break = 0;
        self.state = search.next(self.state, symbol.byte);
        if self.starts.len() == search.longest {
            self.starts.pop_front();
        }
        self.starts.push_back(symbol.start);
        let length = search.longest_match(self.state)?;
        Some(self.start_of_last(length)?.max(self.barrier)..symbol.end)
    }

    /// A line break inside base64 is passed over, but not an empty line, which keeps the held bytes bounded.
    fn line_break(&mut self, search: &Search, symbol: Symbol) {
        let empty_line = matches!((self.last_break, symbol.byte), (b'\n', _) | (b'\r', b'\r'));
        self.last_break = symbol.byte;
        if empty_line || search.depth(self.state) < HELD_ACROSS_LINES {
            self.barrier = symbol.end;
        }
        if empty_line {
            self.state = search.start;
        }
    }

    /// Where the last `count` symbols begin.
    fn start_of_last(&self, count: usize) -> Option<usize> {
        self.starts.get(self.starts.len().checked_sub(count)?).copied()
    }

    /// Where a match may begin that is not complete. Forgets what lies before.
    fn open(&mut self, search: &Search) -> Option<usize> {
        let depth = search.depth(self.state);
        self.starts.drain(..self.starts.len().saturating_sub(depth));
        self.starts.front().map(|start| (*start).max(self.barrier))
    }

    /// Goes on where `base` is, which has read the same so far.
    fn follow(&mut self, search: &Search, base: &Self) {
        let depth = search.depth(base.state);
        self.state = base.state;
        self.starts.clear();
        self.starts.extend(base.starts.range(base.starts.len().saturating_sub(depth)..));
        self.barrier = base.barrier;
        self.last_break = base.last_break;
    }
}

/// A reader that undoes escapes.
struct Unescaped {
    decoder: Decoder,
    /// The index of the search, and of the reader it follows while it sleeps.
    base: usize,
    reader: Reader,
    awake: bool,
}

/// Masks one stream. Holds back at most the bytes that the longest pattern is written with, twelve times its length if all of it is escaped.
pub struct Masker {
    patterns: Arc<Patterns>,
    /// One for each of the patterns' searches.
    bases: Vec<Reader>,
    unescaped: Vec<Unescaped>,
    /// Bytes not yet given out; the first one stands at `offset` in the stream.
    held: Zeroizing<Vec<u8>>,
    offset: usize,
    /// Where the matches among the held bytes lie in the stream: ascending, disjoint.
    found: Vec<Range<usize>>,
    /// Where the mask written last ends: a match from before there belongs to the same mask.
    masked_to: usize,
    /// Room for what one byte completes.
    symbols: Vec<Symbol>,
}

impl Masker {
    /// A masker at the beginning of a stream.
    #[must_use]
    pub fn new(patterns: Arc<Patterns>) -> Self {
        let reader = |base: usize| Reader::new(&patterns.searches[base], base > 0);
        let bases: Vec<Reader> = (0..patterns.searches.len()).map(reader).collect();
        let pairs =
            (0..bases.len()).flat_map(|base| ESCAPES.map(|(escapes, in_base64)| (base, escapes, in_base64)));
        let unescaped = pairs
            .filter(|(base, _, in_base64)| *base == 0 || *in_base64)
            .map(|(base, escapes, _)| Unescaped {
                decoder: Decoder::new(escapes),
                base,
                reader: reader(base),
                awake: false,
            })
            .collect();
        Self {
            patterns,
            bases,
            unescaped,
            held: Zeroizing::default(),
            offset: 0,
            found: Vec::new(),
            masked_to: 0,
            symbols: Vec::new(),
        }
    }

    /// Takes the next bytes and appends to `out` what is certain by now.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.bases.is_empty() {
            out.extend_from_slice(bytes);
            return;
        }
        let patterns = Arc::clone(&self.patterns);
        self.held.reserve(bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.skip(&patterns, rest);
            if let Some((byte, after)) = rest.split_first() {
                self.step(&patterns, *byte);
                rest = after;
            }
        }
        let certain = self.certain(&patterns);
        self.release(certain, out);
    }

    /// The stream has ended: appends the rest.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let patterns = Arc::clone(&self.patterns);
        for index in 0..self.unescaped.len() {
            self.unescaped[index].decoder.finish(&mut self.symbols);
            self.read_symbols(&patterns, index);
        }
        self.release(self.position(), out);
        *self = Self::new(patterns);
    }

    /// Bytes of the stream taken so far.
    fn position(&self) -> usize {
        self.offset + self.held.len()
    }

    /// Between matches, passes over what no pattern begins with.
    fn skip<'a>(&mut self, patterns: &Patterns, bytes: &'a [u8]) -> &'a [u8] {
        let idle =
            self.bases.iter().zip(&patterns.searches).all(|(reader, search)| reader.state == search.start);
        if !idle || self.unescaped.iter().any(|unescaped| unescaped.awake) {
            return bytes;
        }
        let length = bytes.iter().position(|byte| patterns.begins[usize::from(*byte)]).unwrap_or(bytes.len());
        let (passed, rest) = bytes.split_at(length);
        if !passed.is_empty() {
            self.held.extend_from_slice(passed);
            self.bases.iter_mut().for_each(|reader| reader.last_break = 0);
        }
        rest
    }

    fn step(&mut self, patterns: &Patterns, byte: u8) {
        let position = self.position();
        self.held.push(byte);
        for index in 0..self.unescaped.len() {
            let unescaped = &mut self.unescaped[index];
            if !unescaped.awake {
                if !unescaped.decoder.begins_with(byte) {
                    continue;
                }
                unescaped.awake = true;
                // Its base has not taken this byte yet.
                unescaped.reader.follow(&patterns.searches[unescaped.base], &self.bases[unescaped.base]);
            }
            unescaped.decoder.push(byte, position, &mut self.symbols);
            self.read_symbols(patterns, index);
        }
        for index in 0..self.bases.len() {
            let symbol = Symbol { byte, start: position, end: position + 1 };
            if let Some(range) = self.bases[index].step(&patterns.searches[index], symbol) {
                self.note(range);
            }
        }
    }

    /// Lets the reader with the escapes undone take what its decoder has just made out; it sleeps again once nothing is open.
    fn read_symbols(&mut self, patterns: &Patterns, index: usize) {
        let symbols = std::mem::take(&mut self.symbols);
        let search = &patterns.searches[self.unescaped[index].base];
        for symbol in &symbols {
            if let Some(range) = self.unescaped[index].reader.step(search, *symbol) {
                self.note(range);
            }
        }
        let unescaped = &mut self.unescaped[index];
        unescaped.awake = unescaped.reader.state != search.start || unescaped.decoder.pending().is_some();
        self.symbols = symbols;
        self.symbols.clear();
    }

    /// Adds a match and joins it with those it overlaps.
    fn note(&mut self, mut range: Range<usize>) {
        let first = self.found.partition_point(|found| found.end <= range.start);
        let after = self.found.partition_point(|found| found.start < range.end).max(first);
        for found in &self.found[first..after] {
            range = range.start.min(found.start)..range.end.max(found.end);
        }
        self.found.splice(first..after, [range]);
    }

    /// The position before which no match can begin any more.
    fn certain(&mut self, patterns: &Patterns) -> usize {
        let mut certain = self.position();
        for (reader, search) in self.bases.iter_mut().zip(&patterns.searches) {
            certain = certain.min(reader.open(search).unwrap_or(certain));
        }
        for unescaped in self.unescaped.iter_mut().filter(|unescaped| unescaped.awake) {
            let open = unescaped.reader.open(&patterns.searches[unescaped.base]);
            certain = certain.min(open.or(unescaped.decoder.pending()).unwrap_or(certain));
        }
        certain
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
            self.masked_to = self.masked_to.max(range.end);
            from = from.max(range.end);
        }
        if from < certain {
            out.extend_from_slice(&self.held[from - self.offset..certain - self.offset]);
            from = certain;
        }
        self.held.drain(..from - self.offset);
        self.offset = from;
    }

    /// Bytes that are held back.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }
}
