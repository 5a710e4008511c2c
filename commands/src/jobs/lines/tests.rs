#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::{Budget, CUT_MARK, LINE_BYTES, Lines, Output, Stream};
use crate::jobs::mask::Patterns;

const AT: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn run(stream: Stream, secrets: &[&[u8]], max_lines: u64, pieces: &[&[u8]]) -> (Vec<Output>, u64) {
    let budget = Arc::new(Budget::new(max_lines, None));
    let patterns = Arc::new(Patterns::new(secrets.iter().copied()).unwrap());
    let mut lines = Lines::new(stream, patterns, Arc::clone(&budget));
    let mut out = Vec::new();
    for piece in pieces {
        lines.push(piece, AT, &mut out);
    }
    lines.finish(AT, &mut out);
    (out, budget.dropped())
}

fn texts(pieces: &[&[u8]]) -> Vec<String> {
    let (out, dropped) = run(Stream::Stdout, &[], 1_000_000, pieces);
    assert_eq!(dropped, 0);
    out.into_iter().map(text_of).collect()
}

fn text_of(output: Output) -> String {
    match output {
        Output::Line { text, .. } => text,
        Output::Progress(share) => format!("<{share}>"),
    }
}

#[test]
fn lines_end_where_their_ends_are() {
    assert_eq!(texts(&[b"one\ntwo\r\n\nfo", b"ur\r", b"\nfive"]), ["one", "two", "", "four", "five"]);
    assert_eq!(texts(&[b"one\n"]), ["one"]);
    assert_eq!(texts(&[]), Vec::<String>::new());
    assert_eq!(texts(&[b"10%\r20%\n"]), ["10%\r20%"]);
}

#[test]
fn what_postgresql_cannot_hold_is_replaced() {
    assert_eq!(texts(&[b"a\xffb\0c\n"]), ["a\u{FFFD}b\u{FFFD}c"]);
    assert_eq!(texts(&[b"caf\xc3", b"\xa9\n"]), ["caf\u{e9}"], "a character split across writes");
}

#[test]
fn long_lines_are_cut_and_marked() {
    let fits = "x".repeat(LINE_BYTES);
    assert_eq!(texts(&[fits.as_bytes(), b"\r\nnext"]), [fits.as_str(), "next"]);
    let cut = format!("{fits}{CUT_MARK}");
    assert_eq!(texts(&[fits.as_bytes(), b"y\nnext"]), [cut.as_str(), "next"]);
    assert_eq!(texts(&[fits.as_bytes(), fits.as_bytes(), b"\r\n"]), [cut.as_str()]);
    assert_eq!(texts(&[fits.as_bytes(), fits.as_bytes()]), [cut.as_str()]);
    for lead in 0..4 {
        let text = format!("{}{}", "x".repeat(lead), "\u{1F600}".repeat(LINE_BYTES / 4 + 1));
        let [line] = <[String; 1]>::try_from(texts(&[text.as_bytes()])).unwrap();
        let kept = line.strip_suffix(CUT_MARK).unwrap();
        assert!(text.starts_with(kept) && kept.len() > LINE_BYTES - 4 && kept.len() <= LINE_BYTES);
    }
}

#[test]
fn secrets_are_masked_before_lines_are_split() {
    let (out, _) = run(Stream::Stderr, &[b"first\nsecond"], 10, &[b"<fir", b"st\nsec", b"ond>\nafter\n"]);
    assert_eq!(out.into_iter().map(text_of).collect::<Vec<_>>(), ["<***>", "after"]);
    let secret = "s".repeat(40);
    let text = format!("{}{secret}\n", "x".repeat(LINE_BYTES - 20));
    let (out, _) = run(Stream::Stdout, &[secret.as_bytes()], 10, &[text.as_bytes()]);
    assert!(
        text_of(out.into_iter().next().unwrap()).ends_with("x***"),
        "masked, so it is not cut through the secret"
    );
}

#[test]
fn past_the_limit_lines_are_counted() {
    let (out, dropped) =
        run(Stream::Stdout, &[b"hunter2"], 2, &[b"1\n2\n3\n4 hun", b"ter2\n::progress 0.5\n", b"5\nlast"]);
    let system = "output limit of 2 lines reached; the rest is not stored";
    assert_eq!(out.iter().cloned().map(text_of).collect::<Vec<_>>(), ["1", "2", system, "<0.5>"]);
    assert!(matches!(out[2], Output::Line { stream: Stream::System, .. }));
    assert_eq!(dropped, 4);
    let (out, dropped) = run(Stream::Stdout, &[], 2, &[b"1\n2\n"]);
    assert_eq!((out.len(), dropped), (2, 0), "exactly the limit is not over it");
}

#[test]
fn past_the_bytes_lines_are_counted() {
    let line = [b"x".repeat(8000), b"\n".to_vec()].concat();
    let (out, dropped) = run(
        Stream::Stdout,
        &[],
        32,
        &[line.as_slice(); 10].into_iter().chain([&b"short"[..]]).collect::<Vec<_>>(),
    );
    assert_eq!((out.len(), dropped), (9, 3));
    assert_eq!(text_of(out[8].clone()), "output limit of 64 KiB reached; the rest is not stored");
}

#[test]
fn a_byte_limit_of_its_own_counts_instead() {
    let cut = |max_bytes| {
        let budget = Arc::new(Budget::new(1000, Some(max_bytes)));
        let patterns = Arc::new(Patterns::new([]).unwrap());
        let mut lines = Lines::new(Stream::Stdout, patterns, Arc::clone(&budget));
        let mut out = Vec::new();
        lines.push(&b"12345678\n".repeat(300), AT, &mut out);
        lines.finish(AT, &mut out);
        (out.len(), text_of(out.pop().unwrap()), budget.dropped())
    };
    assert_eq!(cut(2048), (257, "output limit of 2 KiB reached; the rest is not stored".to_owned(), 44));
    assert_eq!(cut(20), (3, "output limit of 20 bytes reached; the rest is not stored".to_owned(), 298));
    assert_eq!(cut(2400), (300, "12345678".to_owned(), 0));
}

#[test]
fn colours_are_kept() {
    assert_eq!(
        texts(&[b"\x1b[31mred\x1b[0m \x1b]0;title\x07\n"]),
        ["\u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}"]
    );
}

#[test]
fn progress_is_a_share_on_standard_output() {
    let shares = b"::progress 0\n::progress 0.4\n::progress 0.4001\n::progress 1\r\n";
    assert_eq!(texts(&[shares]), ["<0>", "<0.4>", "<1>"]);
    let others = [
        "::progress 1.1",
        "::progress -0.1",
        "::progress nan",
        "::progress",
        "::progress x",
        " ::progress 0.4",
    ];
    assert_eq!(texts(&[others.join("\n").as_bytes()]), others);
    let (out, _) = run(Stream::Stderr, &[], 10, &[b"::progress 0.4\n"]);
    assert_eq!(text_of(out[0].clone()), "::progress 0.4");
}

#[test]
fn progress_cannot_flood() {
    let text: String = (0..5000).map(|index| format!("::progress 0.{}\n", index % 10)).collect();
    assert_eq!(texts(&[text.as_bytes()]).len(), 1000);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200), length in 1..20_usize) {
        let pieces: Vec<&[u8]> = text.chunks(length).collect();
        let whole = texts(&[&text]);
        prop_assert_eq!(texts(&pieces), whole.clone());
        prop_assert!(whole.iter().all(|line| !line.contains(['\0', '\n'])));
    }
}
