#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::{MASK, Masker, Patterns, SHORTEST};

fn patterns(values: &[&[u8]]) -> Arc<Patterns> {
    Arc::new(Patterns::new(values.iter().copied()).unwrap())
}

fn mask(values: &[&str], text: &str) -> String {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    String::from_utf8(patterns(&values).mask(text.as_bytes())).unwrap()
}

/// Masks in pieces of the given lengths, over and over.
fn mask_in_pieces(patterns: &Arc<Patterns>, text: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut masker = Masker::new(Arc::clone(patterns));
    let mut out = Vec::new();
    let mut rest = text;
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*length).clamp(1, rest.len()));
        masker.push(piece, &mut out);
        rest = after;
    }
    masker.finish(&mut out);
    out
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn plain_values_are_replaced() {
    assert_eq!(mask(&["hunter2"], "login hunter2, again hunter2!\n"), "login ***, again ***!\n");
    assert_eq!(mask(&[], "nothing to hide"), "nothing to hide");
    assert_eq!(mask(&[""], "nothing to hide"), "nothing to hide");
}

#[test]
fn short_values_are_replaced_in_plain_only() {
    let base64 = STANDARD.encode("abc");
    assert_eq!(mask(&["abc"], &format!("xabcx {base64}")), format!("x***x {base64}"));
}

#[test]
fn overlapping_values_share_a_mask_and_neighbours_do_not() {
    assert_eq!(mask(&["abcdef", "defghi"], "-abcdefghi-"), "-***-");
    assert_eq!(mask(&["bcde", "abcdefgh"], "-abcdefgh-bcde-"), "-***-***-");
    assert_eq!(mask(&["hunter2"], "hunter2hunter2"), "******");
    assert_eq!(mask(&["aaaa"], &"a".repeat(100)), "***");
}

#[test]
fn every_base64_form_is_replaced() {
    let value = "s3cr3t/pass~~?>word";
    for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
        assert_eq!(mask(&[value], &engine.encode(value)), MASK, "the whole value");
        for before in 0..3 {
            for after in 0..3 {
                let text = engine.encode(format!("{}{value}{}", &"u:"[..before.min(2)], &"\n\n"[..after]));
                let masked = mask(&[value], &format!("Basic {text}."));
                assert!(masked.contains(MASK), "{before} before, {after} after: {masked}");
                // What may stay: the group shared with the neighbours, on either side.
                assert!(masked.len() <= "Basic ***.".len() + 8, "{before} before, {after} after: {masked}");
            }
        }
    }
}

#[test]
fn wrapped_base64_is_replaced() {
    let key = "0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ-".repeat(4);
    for lead in 0..80 {
        let text = STANDARD.encode(format!("{}{key}\n", "x".repeat(lead)));
        for (width, end) in [(64, "\n"), (76, "\n"), (76, "\r\n")] {
            let lines: Vec<&str> =
                text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let masked = mask(&[&key], &(lines.join(end) + end));
            // At most three characters of its beginning when it is wrapped there, and the groups shared with neighbours.
            let left = text.len() - STANDARD_NO_PAD.encode(&key).len();
            assert!(
                masked.len() <= left + "***".len() + 2 * end.len() + 16,
                "lead {lead}, width {width}: {masked}"
            );
        }
    }
}

#[test]
fn the_lines_of_a_value_are_replaced_one_by_one() {
    let key = "-----BEGIN KEY-----\r\nMIIEvQIBADAN\nabc\nBgkqhkiG9w0B\n-----END KEY-----\n";
    assert_eq!(mask(&[key], &format!("[{key}]")), "[***]");
    assert_eq!(mask(&[key], "1: MIIEvQIBADAN\n2: abc\n3: BgkqhkiG9w0B"), "1: ***\n2: abc\n3: ***");
    assert_eq!(mask(&["hunter2\n"], "'hunter2'"), "'***'", "a value stored with its line end");
    assert_eq!(mask(&["hunter2\n"], &STANDARD.encode("hunter2")), MASK);
}

#[test]
fn a_finished_line_is_not_held_back() {
    let mut masker = Masker::new(patterns(&[b"hunter2", b"done it"]));
    let mut out = Vec::new();
    masker.push(b"waiting\nhunt", &mut out);
    assert_eq!(out, b"waiting\n");
    masker.push(b"ing is done\n", &mut out);
    assert_eq!(out, b"waiting\nhunting is done\n");
    // The first letter of the value's base64 at the end of a line does not delay the line.
    let first = &STANDARD.encode("hunter2")[..1];
    out.clear();
    masker.push(format!("end {first}\n").as_bytes(), &mut out);
    assert_eq!(out, format!("end {first}\n").as_bytes());
}

#[test]
fn what_is_held_back_is_bounded() {
    let value = "x".repeat(500);
    let encoded = STANDARD.encode(&value);
    let mut masker = Masker::new(patterns(&[value.as_bytes()]));
    let mut out = Vec::new();
    for _ in 0..50 {
        masker.push(&encoded.as_bytes()[..600], &mut out);
        masker.push(&b"\n".repeat(10_000), &mut out);
        assert!(masker.held.len() <= 3 * encoded.len(), "{} bytes held", masker.held.len());
    }
}

fn values() -> impl Strategy<Value = Vec<String>> {
    // A small alphabet makes values that overlap and repeat; the second form looks like real ones.
    let value = prop_oneof!["[ab\n]{1,9}", "[ -)+-~]{4,40}", "[a-c]{4,6}\n[a-c]{4,6}"];
    proptest::collection::vec(value, 1..4)
}

/// A text made of noise and of the values in several forms.
fn text(values: Vec<String>) -> impl Strategy<Value = (Vec<String>, Vec<u8>)> {
    let forms = proptest::collection::vec((0..values.len(), 0..7_usize, "[ab\n\r]{0,4}"), 0..12);
    forms.prop_map(move |forms| {
        let mut text = Vec::new();
        for (index, form, noise) in forms {
            text.extend_from_slice(noise.as_bytes());
            text.extend_from_slice(&shown_as(&values[index], form));
        }
        (values.clone(), text)
    })
}

fn shown_as(value: &str, form: usize) -> Vec<u8> {
    let wrapped = |text: String| {
        text.into_bytes().chunks(7).map(|line| [line, b"\n"].concat()).collect::<Vec<_>>().concat()
    };
    match form {
        0 => value.as_bytes().to_vec(),
        1 => STANDARD.encode(value).into_bytes(),
        2 => URL_SAFE_NO_PAD.encode(format!("u{value}:")).into_bytes(),
        3 => STANDARD_NO_PAD.encode(format!("uv{value}")).into_bytes(),
        4 => wrapped(STANDARD.encode(format!("user:{value}"))),
        5 => value.as_bytes()[..value.len() / 2].to_vec(),
        _ => b"\xff\xfe\0".to_vec(),
    }
}

proptest! {
    #[test]
    fn pieces_are_masked_like_the_whole(
        (values, text) in values().prop_flat_map(text),
        lengths in proptest::collection::vec(1..12_usize, 1..8),
    ) {
        let bytes: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
        let patterns = patterns(&bytes);
        let whole = patterns.mask(&text);
        prop_assert_eq!(&mask_in_pieces(&patterns, &text, &lengths), &whole);
        prop_assert_eq!(&mask_in_pieces(&patterns, &text, &[1]), &whole);
    }

    #[test]
    fn no_value_is_left((values, text) in values().prop_flat_map(text), lengths in proptest::collection::vec(1..12_usize, 1..8)) {
        let bytes: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
        let masked = mask_in_pieces(&patterns(&bytes), &text, &lengths);
        for value in &values {
            prop_assert!(!contains(&masked, value.as_bytes()), "{value:?} is left in {}", masked.escape_ascii());
            if value.len() >= SHORTEST {
                prop_assert!(!contains(&masked, STANDARD_NO_PAD.encode(value).as_bytes()), "{value:?} is left in base64");
            }
        }
    }

    #[test]
    fn text_without_values_is_unchanged(text in proptest::collection::vec(any::<u8>(), 0..500)) {
        prop_assert_eq!(patterns(&[b"a value that is not there"]).mask(&text), text);
    }
}
