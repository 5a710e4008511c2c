//! From the bytes a job prints to the lines that are stored.
//!
//! Values of secrets are masked first, in the bytes; then the text is split into lines. A line is text PostgreSQL can hold: invalid UTF-8
//! and NUL become U+FFFD. It is cut at [`LINE_BYTES`], with [`CUT_MARK`] after what is left. An attempt may store a limited number of
//! lines and bytes over both streams; past it the output is still taken, so that the process never blocks on a full pipe, and only counted.

use std::io::BufRead as _;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::mask::{Masker, Patterns};

/// The longest line that is stored, in bytes.
pub const LINE_BYTES: usize = 8 * 1024;

/// Stands after a line that was cut.
pub const CUT_MARK: &str = " [line cut at 8 KiB]";

/// An attempt may store this many bytes for each line it may store.
const BYTES_PER_LINE: u64 = 2 * 1024;

/// However few lines are allowed, so many bytes may be stored.
const BYTES_AT_LEAST: u64 = 64 * 1024;

/// Progress reports an attempt may make; each differs from the one before by at least a thousandth.
const PROGRESS_REPORTS: u32 = 1000;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The process' standard output.
    Stdout,
    /// The process' standard error.
    Stderr,
    /// Daybook's own remarks on the attempt.
    System,
}

impl Stream {
    /// `stdout`, `stderr` or `system`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// What an attempt says while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A line to store: no line end, no NUL, at most [`LINE_BYTES`] and the mark.
    Line {
        /// Where it came from.
        stream: Stream,
        /// The text, with secrets masked.
        text: String,
        /// When it was read.
        at: DateTime<Utc>,
    },
    /// How far the job has come, from 0 to 1 (`::progress 0.4` on standard output).
    Progress(f64),
}

/// What an attempt may still store; shared by its streams.
pub struct Budget {
    max_lines: u64,
    max_bytes: u64,
    spent: Mutex<Spent>,
}

#[derive(Default)]
struct Spent {
    lines: u64,
    bytes: u64,
    dropped: u64,
}

/// What becomes of a line.
enum Verdict {
    Keep,
    /// The first line that is not kept; the text says so.
    Over(String),
    Drop,
}

impl Budget {
    /// A budget of `max_lines` lines and `max_bytes` of text; without these 2 KiB for each line, and 64 KiB at least.
    #[must_use]
    pub fn new(max_lines: u64, max_bytes: Option<u64>) -> Self {
        let by_lines = max_lines.saturating_mul(BYTES_PER_LINE).max(BYTES_AT_LEAST);
        let max_bytes = max_bytes.unwrap_or(by_lines);
        Self { max_lines, max_bytes, spent: Mutex::default() }
    }

    /// Lines that were not stored.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.with(|spent| spent.dropped)
    }

    /// Nothing more will be kept. Stays true once it is.
    fn is_spent(&self) -> bool {
        self.with(|spent| spent.dropped > 0 || spent.lines >= self.max_lines)
    }

    /// The limit was passed, and its line written.
    fn is_over(&self) -> bool {
        self.with(|spent| spent.dropped > 0)
    }

    fn drop_lines(&self, count: u64) {
        self.with(|spent| spent.dropped += count);
    }

    fn take(&self, bytes: usize) -> Verdict {
        self.with(|spent| {
            let bytes = spent.bytes.saturating_add(bytes as u64);
            let limit = match () {
                () if spent.lines >= self.max_lines => format!("{} lines", self.max_lines),
                () if bytes > self.max_bytes || spent.dropped > 0 => kibibytes(self.max_bytes),
                () => {
                    spent.lines += 1;
                    spent.bytes = bytes;
                    return Verdict::Keep;
                }
            };
            spent.dropped += 1;
            if spent.dropped > 1 {
                return Verdict::Drop;
            }
            Verdict::Over(format!("output limit of {limit} reached; the rest is not stored"))
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Spent) -> T) -> T {
        work(&mut self.spent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// As whole KiB where it is that much.
fn kibibytes(bytes: u64) -> String {
    if bytes.is_multiple_of(1024) { format!("{} KiB", bytes / 1024) } else { format!("{bytes} bytes") }
}

/// Turns one stream's bytes into [`Output`].
pub struct Lines {
    stream: Stream,
    budget: Arc<Budget>,
    /// Gone once nothing more is kept: masking what is thrown away would only cost time.
    masker: Option<Masker>,
    splitter: Splitter,
    progress: Progress,
    masked: Vec<u8>,
}

impl Lines {
    /// A stream at its beginning.
    #[must_use]
    pub fn new(stream: Stream, patterns: Arc<Patterns>, budget: Arc<Budget>) -> Self {
        let masker = Some(Masker::new(patterns));
        Self {
            stream,
            budget,
            masker,
            splitter: Splitter::default(),
            progress: Progress::default(),
            masked: Vec::new(),
        }
    }

    /// Takes bytes read at `at`; appends what is complete by now.
    pub fn push(&mut self, bytes: &[u8], at: DateTime<Utc>, out: &mut Vec<Output>) {
        if self.budget.is_spent() {
            self.stop_masking(at, out);
        }
        let mut masked = std::mem::take(&mut self.masked);
        masked.clear();
        let bytes = match &mut self.masker {
            Some(masker) => {
                masker.push(bytes, &mut masked);
                &masked
            }
            None => bytes,
        };
        self.split(bytes, at, out);
        self.masked = masked;
    }

    /// The stream has ended: appends the last line if it had no line end.
    pub fn finish(mut self, at: DateTime<Utc>, out: &mut Vec<Output>) {
        self.stop_masking(at, out);
        if let Some(text) = self.splitter.finish() {
            self.take(text, at, out);
        }
    }

    fn stop_masking(&mut self, at: DateTime<Utc>, out: &mut Vec<Output>) {
        if let Some(mut masker) = self.masker.take() {
            let mut rest = Vec::new();
            masker.finish(&mut rest);
            self.split(&rest, at, out);
        }
    }

    fn split(&mut self, bytes: &[u8], at: DateTime<Utc>, out: &mut Vec<Output>) {
        // Past the limit only a line that may report progress is worth looking at.
        let skim = self.masker.is_none() && self.budget.is_over();
        let mut skipped = 0;
        let mut rest = bytes;
        // `skip_until` searches with the standard library's memchr; reading from a slice cannot fail.
        while let Ok(length) = rest.skip_until(b'\n')
            && length > 0
        {
            let (piece, _) = bytes[bytes.len() - rest.len() - length..].split_at(length);
            if skim && self.splitter.line.is_empty() && piece.ends_with(b"\n") && !piece.starts_with(b":") {
                skipped += 1;
                continue;
            }
            if let Some(text) = self.splitter.push(piece) {
                self.take(text, at, out);
            }
        }
        if skipped > 0 {
            self.budget.drop_lines(skipped);
        }
    }

    fn take(&mut self, text: String, at: DateTime<Utc>, out: &mut Vec<Output>) {
        if self.stream == Stream::Stdout
            && let Some(progress) = parse_progress(&text)
        {
            out.extend(self.progress.report(progress).map(Output::Progress));
            return;
        }
        match self.budget.take(text.len()) {
            Verdict::Keep => out.push(Output::Line { stream: self.stream, text, at }),
            Verdict::Over(text) => out.push(Output::Line { stream: Stream::System, text, at }),
            Verdict::Drop => {}
        }
    }
}

/// The share a line like `::progress 0.4` reports; `None` for any other line, also one with a number out of 0..=1.
fn parse_progress(line: &str) -> Option<f64> {
    let share: f64 = line.strip_prefix("::progress ")?.trim().parse().ok()?;
    (0.0..=1.0).contains(&share).then_some(share)
}

/// Keeps a job that reports its progress in a tight loop from flooding its reader.
#[derive(Default)]
struct Progress {
    last: Option<f64>,
    reports: u32,
}

impl Progress {
    fn report(&mut self, share: f64) -> Option<f64> {
        let share = (share.abs() * 1000.0).round() / 1000.0;
        if self.last == Some(share) || self.reports >= PROGRESS_REPORTS {
            return None;
        }
        self.last = Some(share);
        self.reports += 1;
        Some(share)
    }
}

/// Collects one line at a time, and no more of it than can be stored.
#[derive(Default)]
struct Splitter {
    line: Vec<u8>,
    overlong: bool,
}

impl Splitter {
    /// Takes a piece with at most one line end, its last byte. Returns the line that it completes.
    fn push(&mut self, piece: &[u8]) -> Option<String> {
        let (content, ended) = match piece.strip_suffix(b"\n") {
            Some(content) => (content, true),
            None => (piece, false),
        };
        // One byte more than is stored tells whether there is more, and leaves room for a carriage return.
        let room = (LINE_BYTES + 1).saturating_sub(self.line.len());
        self.overlong |= content.len() > room;
        self.line.extend_from_slice(&content[..content.len().min(room)]);
        ended.then(|| self.complete())
    }

    fn finish(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.complete())
    }

    fn complete(&mut self) -> String {
        let overlong = std::mem::take(&mut self.overlong);
        if !overlong && self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        let mut text = String::from_utf8_lossy(&self.line).replace('\0', "\u{FFFD}");
        self.line.clear();
        if overlong || text.len() > LINE_BYTES {
            text.truncate(text.floor_char_boundary(LINE_BYTES));
            text.push_str(CUT_MARK);
        }
        text
    }
}

#[cfg(test)]
mod tests;
