//! What must not be seen, and all the forms in which it could be.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Characters of a random part: no text has them by chance.
const PART: usize = 14;

/// Values that must not be seen, each with a name for people.
#[derive(Default)]
pub(crate) struct Canaries {
    forms: Vec<Vec<u8>>,
    names: Vec<String>,
}

/// Finds them.
pub(crate) struct Search {
    automaton: AhoCorasick,
    names: Vec<String>,
}

/// Random letters and digits.
pub(crate) fn random_part() -> String {
    let mut part = String::new();
    while part.len() < PART {
        let token = ledger::random_token().unwrap();
        part.extend(token.chars().filter(char::is_ascii_alphanumeric).take(PART - part.len()));
    }
    part
}

impl Canaries {
    /// A new value with characters that every encoding treats in its own way. Each half of it is looked for too.
    pub(crate) fn fresh(&mut self, name: &str) -> String {
        let parts = [random_part(), random_part()];
        let value = format!("{} \"\\/+é&=%<{}", parts[0], parts[1]);
        self.add(name, &value);
        parts.iter().for_each(|part| self.add(name, part));
        value
    }

    /// A new value of letters and digits only.
    pub(crate) fn plain(&mut self, name: &str) -> String {
        let value = random_part() + &random_part() + &random_part();
        self.add(name, &value);
        value
    }

    /// A value that the program made.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        assert!(value.len() >= PART, "{name} is found by chance");
        self.add_bytes(name, value.as_bytes());
    }

    /// The same of a value that is no text.
    pub(crate) fn add_bytes(&mut self, name: &str, value: &[u8]) {
        for form in forms(value) {
            self.forms.push(form);
            self.names.push(name.to_owned());
        }
    }

    pub(crate) fn search(&self) -> Search {
        Search { automaton: AhoCorasick::new(&self.forms).unwrap(), names: self.names.clone() }
    }
}

impl Search {
    /// The names of those that the bytes show.
    pub(crate) fn found(&self, bytes: &[u8]) -> BTreeSet<&str> {
        let matches = self.automaton.find_overlapping_iter(bytes);
        matches.map(|found| self.names[found.pattern().as_usize()].as_str()).collect()
    }
}

fn forms(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let every = |write: fn(u8) -> String| value.iter().map(|byte| write(*byte)).collect::<String>();
    let mut forms = BTreeSet::from([
        value.to_vec(),
        every(|byte| format!("{byte:02x}")).into_bytes(),
        every(|byte| format!("{byte:02X}")).into_bytes(),
        every(|byte| format!("%{byte:02x}")).into_bytes(),
        every(|byte| format!("%{byte:02X}")).into_bytes(),
        every(url_encoded).into_bytes(),
        every(|byte| url_encoded(byte).replace("%20", "+")).into_bytes(),
        every(|byte| url_encoded(byte).to_lowercase()).into_bytes(),
    ]);
    if let Ok(text) = std::str::from_utf8(value) {
        let json = serde_json::to_string(text).unwrap();
        let inside = &json[1..json.len() - 1];
        // As it stands in JSON, in JSON within JSON (which is how a line of the log repeats some), and in ASCII only.
        let twice = serde_json::to_string(inside).unwrap();
        let ascii: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        forms.extend([inside, &twice[1..twice.len() - 1], &ascii].map(|form| form.as_bytes().to_vec()));
        forms.insert(format!("{text:?}").trim_matches('"').as_bytes().to_vec());
    }
    forms.extend(base64_forms(value));
    forms
}

fn url_encoded(byte: u8) -> String {
    let kept = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if kept { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

/// In base64 a value looks different depending on what stands before it; its first and last characters depend on its neighbours.
fn base64_forms(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![];
    for (before, skip) in [(0, 0), (1, 2), (2, 3)] {
        let bytes = [&vec![0; before][..], value].concat();
        let complete = bytes.len() * 8 / 6;
        for text in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
            forms.push(text.as_bytes()[skip..complete].to_vec());
        }
    }
    forms
}

#[test]
fn every_form_is_found_and_nothing_else() {
    let mut canaries = Canaries::default();
    let value = canaries.fresh("value");
    let key = canaries.plain("key");
    canaries.add_bytes("bytes", &[0, 200, 255, 1, 128, 64, 32, 16, 8, 4, 2, 99, 98, 97, 0, 7]);
    let search = canaries.search();
    let one = |bytes: &[u8]| search.found(bytes).into_iter().map(str::to_owned).collect::<Vec<_>>();
    for text in [
        value.clone(),
        serde_json::json!({"a": [value]}).to_string(),
        serde_json::json!({"a": serde_json::json!({"b": value}).to_string()}).to_string(),
        format!("{:?}", Some(&value)),
        STANDARD_NO_PAD.encode(format!("user:{value}")),
        URL_SAFE_NO_PAD.encode(format!("use:{value}!")),
        STANDARD_NO_PAD.encode(format!("us:{value}!!")),
        reqwest::Url::parse_with_params("http://localhost/", [("q", &value)]).unwrap().to_string(),
        value.bytes().map(|byte| format!("{byte:02x}")).collect(),
        // A part of it.
        value[..PART].to_owned(),
    ] {
        assert_eq!(one(format!("before {text} after").as_bytes()), ["value"], "{text}");
    }
    assert_eq!(one(format!("{key}{value}").as_bytes()), ["key", "value"]);
    assert_eq!(one(&[9, 9, 0, 200, 255, 1, 128, 64, 32, 16, 8, 4, 2, 99, 98, 97, 0, 7, 9]), ["bytes"]);
    let another = Canaries::default().fresh("another");
    assert!(one(another.as_bytes()).is_empty() && one(&value.as_bytes()[..PART - 1]).is_empty());
}
