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
        assert!(masker.held() <= 3 * encoded.len(), "{} bytes held", masker.held());
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

/// As `json.dumps` writes it, with whatever is not escaped of its own accord left as it is or not.
fn as_json(value: &str, ascii: bool, slash: bool, upper: bool) -> String {
    let mut text = serde_json::to_string(value).unwrap();
    text = text[1..text.len() - 1].to_owned();
    if slash {
        text = text.replace('/', r"\/");
    }
    if !ascii {
        return text;
    }
    let mut escaped = String::new();
    for character in text.chars() {
        if character.is_ascii() {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            escaped += &if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
        }
    }
    escaped
}

/// Every character as `\uXXXX`.
fn as_json_units(value: &str, upper: bool) -> String {
    let unit = |unit| if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
    value.encode_utf16().map(unit).collect()
}

fn as_url(value: &str, keep: &str, upper: bool, plus: bool) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b' ' if plus => text.push('+'),
            _ if byte.is_ascii_alphanumeric() && keep != "nothing" || keep.as_bytes().contains(&byte) => {
                text.push(char::from(byte));
            }
            _ if upper => text += &format!("%{byte:02X}"),
            _ => text += &format!("%{byte:02x}"),
        }
    }
    text
}

fn escaped_forms(value: &str) -> Vec<String> {
    let mut forms = vec![];
    for upper in [false, true] {
        forms.push(as_json_units(value, upper));
        for other in [false, true] {
            for ascii in [false, true] {
                forms.push(as_json(value, ascii, other, upper));
            }
            // Nothing but what is unreserved, what `encodeURI` and what forms keep; and nothing at all.
            for keep in ["-._~", ";,/?:@&=+$#-_.!~*'()", "*-._", "nothing"] {
                if !(other && keep.contains('+')) {
                    forms.push(as_url(value, keep, upper, other));
                }
            }
        }
        let base64 = STANDARD.encode(value);
        forms.push(as_url(&base64, "", upper, false));
        forms.push(as_json(&base64, false, true, upper));
    }
    forms
}

#[test]
fn escaped_values_are_replaced() {
    let value = "p\u{e4}ss \"w\u{1F511}rd\"\\/\n+%41~";
    for form in escaped_forms(value) {
        assert_eq!(mask(&[value], &format!("<{form}>")), "<***>", "{form}");
    }
    let half = "%70%c3%A4ss+%22w%F0%9F%94%91rd%22%5C/%0A%2B%2541~";
    assert_eq!(mask(&[value], &format!("?q={half}&r=%70%c3")), "?q=***&r=%70%c3", "each byte as it likes");
    let wrapped = STANDARD.encode("0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    let wrapped = [&wrapped[..40], &wrapped[40..]].join("\\n");
    assert_eq!(
        mask(
            &["0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ"],
            &format!("{{\"key\":\"{wrapped}\"}}")
        ),
        "{\"key\":\"***\"}"
    );
}

#[test]
fn what_only_looks_like_an_escape_stays() {
    let text = "100% of %4z, %, \\ and \\u12 and \\ud83d, C:\\new\\table, 1+1=2, \\";
    assert_eq!(mask(&["hunter2", "new table"], text), text);
    assert_eq!(
        mask(&["4z!x"], "%4z!x %4z%21x"),
        "%*** %***",
        "a value whose beginning was taken for an escape"
    );
    assert_eq!(mask(&["ab%"], "a%62%zz"), "***zz");
    assert_eq!(mask(&["ab%"], "a%62%"), "***");
}

#[test]
fn what_is_held_back_of_escapes_is_bounded() {
    let value = "\u{1F511}".repeat(100);
    let escaped = as_json_units(&value, false);
    let mut masker = Masker::new(patterns(&[value.as_bytes()]));
    let mut out = Vec::new();
    for _ in 0..50 {
        masker.push(&escaped.as_bytes()[..escaped.len() - 3], &mut out);
        assert!(masker.held() <= escaped.len(), "{} bytes held", masker.held());
    }
    masker.finish(&mut out);
    assert_eq!(out.len(), 50 * (escaped.len() - 3));
}

proptest! {
    #[test]
    fn escaped_values_are_masked_however_they_are_split(
        value in r#"[ -;=?-~é\n\t€🔑]{4,12}"#,
        before in "[ -;=?-~\n]{0,6}",
        form in any::<proptest::sample::Index>(),
        lengths in proptest::collection::vec(1..9_usize, 1..8),
    ) {
        let forms = escaped_forms(&value);
        let form = form.get(&forms);
        let patterns = patterns(&[value.as_bytes()]);
        let text = format!("{before}<{form}>");
        let masked = mask_in_pieces(&patterns, text.as_bytes(), &lengths);
        prop_assert_eq!(&masked, &patterns.mask(text.as_bytes()));
        let masked = String::from_utf8(masked).unwrap();
        prop_assert!(masked.ends_with("<***>"), "{value:?} as {form:?} became {masked:?}");
    }

    #[test]
    fn escapes_do_not_depend_on_the_pieces(
        values in proptest::collection::vec(r#"[a\\%/ n"]{1,6}"#, 1..4),
        text in r#"(a|n|u|/|"|\\|%|\+|4|%61|%5[cC]|%25|\\n|\\"|\\u0061|\\ud83d|\n){0,60}"#,
        lengths in proptest::collection::vec(1..5_usize, 1..8),
    ) {
        let bytes: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
        let patterns = patterns(&bytes);
        let whole = patterns.mask(text.as_bytes());
        prop_assert_eq!(&mask_in_pieces(&patterns, text.as_bytes(), &lengths), &whole);
        for value in &values {
            prop_assert!(!contains(&whole, value.as_bytes()), "{value:?} is left");
        }
    }
}
