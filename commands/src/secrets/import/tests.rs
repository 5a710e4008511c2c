#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// What must never be repeated.
const CANARY: &str = "c4n4ry-value";

fn read(format: ImportFormat, text: &str) -> ImportFile {
    ImportFile::read(text.as_bytes(), format, &SecretFolder::all(), &FernetKeys::default())
}

fn pairs(file: &ImportFile) -> Vec<(String, String)> {
    assert_eq!(told(file), Vec::<String>::new());
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    file.secrets.iter().map(|it| (it.new.name.to_string(), text(&it.value))).collect()
}

fn told(file: &ImportFile) -> Vec<String> {
    file.problems.iter().map(ToString::to_string).collect()
}

fn env(text: &str) -> Vec<(String, String)> {
    pairs(&read(ImportFormat::Env, text))
}

fn wrong_env(text: &str) -> Vec<String> {
    told(&read(ImportFormat::Env, text))
}

fn wrong_json(text: &str) -> Vec<String> {
    told(&read(ImportFormat::Json, text))
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn lines_are_names_and_values() {
    let text = "\u{feff}# of the shop\n\n  A=1\nexport B = two words # a comment\nC=a#b=c\r\nD=${A}$B\nE=it's\nF=#x\nexporter=1";
    let expected = [
        ("A", "1"),
        ("B", "two words"),
        ("C", "a#b=c"),
        ("D", "${A}$B"),
        ("E", "it's"),
        ("F", "#x"),
        ("exporter", "1"),
    ];
    assert_eq!(env(text), owned(&expected));
}

#[test]
fn quotes_hold_blanks_comments_and_line_breaks() {
    let text = concat!(
        "A=' one # two '  # three\n",
        "B='C:\\new\\$x\"'\n",
        r#"C="a\tb\\n\"c\" \$d \d 'e'""#,
        "\r\nD=\"-----BEGIN-----\r\nabc=\r\n\r\n-----END-----\r\n\"\r\nE='\n'\nF=last",
    );
    let expected = [
        ("A", " one # two "),
        ("B", "C:\\new\\$x\""),
        ("C", "a\tb\\n\"c\" $d \\d 'e'"),
        ("D", "-----BEGIN-----\nabc=\n\n-----END-----\n"),
        ("E", "\n"),
        ("F", "last"),
    ];
    assert_eq!(env(text), owned(&expected));
}

#[test]
fn wrong_lines_are_told_by_number_and_never_repeated() {
    let text = format!(
        "A=1\n{CANARY}\n=x{CANARY}\nB=\"{CANARY}\" x\nC=\nD= # x\nE=`{CANARY}`\n../F=x\nG\u{7}=x\nH='\n{CANARY}'\nA={CANARY}\nI=\"{CANARY}\nJ=1\n"
    );
    let told = wrong_env(&text);
    let expected = [
        "line 2: has no '='",
        "line 3: has no name before the '='",
        "line 4: something stands behind the closing quote",
        "line 5: the value must not be empty",
        "line 6: the value must not be empty",
        "line 7: quotes are ' and \", not `",
        "line 8: the name must be segments",
        "line 9: the name must be segments",
        "line 12: A is there twice: see line 1",
        "line 13: the quote that begins here is not closed",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
    assert!(!told.join("\n").contains(CANARY));
}

#[test]
fn bytes_that_are_no_text_are_told_by_line() {
    let file =
        ImportFile::read(b"A=1\nB=\xff\n", ImportFormat::Env, &SecretFolder::all(), &FernetKeys::default());
    assert_eq!(told(&file), ["line 2: is not UTF-8"]);
    assert!(file.secrets.is_empty());
}

#[test]
fn sizes_have_an_end() {
    let value = |length| format!("A={}\n", "x".repeat(length));
    assert_eq!(env(&value(65_536))[0].1.len(), 65_536);
    assert_eq!(wrong_env(&value(65_537)), ["line 1: the value must be at most 65536 bytes, has 65537"]);
    let lines = |count| (0..count).map(|number| format!("N{number}=x\n")).collect::<String>();
    assert_eq!(env(&lines(2_000)).len(), 2_000);
    assert_eq!(wrong_env(&lines(2_001)), ["the file: must have at most 2000 secrets, has 2001"]);
    let large = "#".repeat(LARGEST_IMPORT + 1);
    assert_eq!(wrong_env(&large), [format!("the file: must be at most 8388608 bytes, has {}", large.len())]);
}

#[test]
fn names_are_put_into_the_folder() {
    let folder = "payments/".parse().unwrap();
    let file = ImportFile::read(b"KEY=1\n", ImportFormat::Env, &folder, &FernetKeys::default());
    assert_eq!(pairs(&file), owned(&[("payments/KEY", "1")]));
    let deep = "a/b/c/d/e/f/g/h/".parse().unwrap();
    let file = ImportFile::read(b"KEY=1\n", ImportFormat::Env, &deep, &FernetKeys::default());
    assert_eq!(told(&file), ["line 1: the name must have at most 8 segments separated by '/'"]);
}

#[test]
fn nested_objects_are_paths() {
    let text =
        r#"{"payments": {"stripe": "sk", "bank/iban": "DE\u0031", "none": {}}, "report-db": "a\nb $x"}"#;
    let expected = [("payments/stripe", "sk"), ("payments/bank/iban", "DE1"), ("report-db", "a\nb $x")];
    assert_eq!(pairs(&read(ImportFormat::Json, text)), owned(&expected));
}

#[test]
fn lists_say_more_about_each_secret() {
    let text = r#"[
        {"name": "a", "value": "1", "description": "the first", "tags": ["prod", "x:y"], "expires_at": "2027-01-01T01:00:00.1234+01:00"},
        {"name": "b/c", "value_base64": "/wA="}
    ]"#;
    let file = read(ImportFormat::Json, text);
    assert_eq!(told(&file), Vec::<String>::new());
    let [first, second] = &file.secrets[..] else { panic!("{}", file.secrets.len()) };
    assert_eq!((first.new.name.as_str(), first.new.description.as_str()), ("a", "the first"));
    assert_eq!(first.new.tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["prod", "x:y"]);
    assert_eq!(first.new.expires_at, Some("2027-01-01T00:00:00.123Z".parse().unwrap()));
    assert_eq!((second.new.name.as_str(), second.value.as_slice()), ("b/c", &[0xff, 0][..]));
}

#[test]
fn wrong_values_are_told_by_path_and_never_repeated() {
    let text = format!(
        r#"{{"a": 1, "b": {{"c": true, "d": [null]}}, "e": "{CANARY}", "e": "{CANARY}", "f": null, "g": "", "..": "{CANARY}", "h\n": "x", "b/x": "1", "b ": {{"x": "2"}}}}"#
    );
    let told = wrong_json(&text);
    let expected = [
        "a: must be a string or an object",
        "b.c: must be a string or an object",
        "b.d: must be a string or an object",
        "e: is there twice",
        "f: must be a string or an object",
        "g: the value must not be empty",
        "..: the name must be segments",
        "h\\n: the name must be segments",
        "b .x: the name must be segments",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
    assert!(!told.join("\n").contains(CANARY));
}

#[test]
fn two_ways_to_one_name_are_refused() {
    let told = wrong_json(r#"{"a/b": "1", "a": {"b": "2"}}"#);
    assert_eq!(told, ["a.b: a/b is there twice: see a/b"]);
}

#[test]
fn wrong_items_are_told_by_path_and_never_repeated() {
    let text = format!(
        r#"["{CANARY}", {{"name": "a"}}, {{"value": "{CANARY}"}}, {{"name": "b", "value": "{CANARY}", "colour": "red"}},
            {{"name": "c", "value": 5}}, {{"name": "d", "value": "x", "value_base64": "eA=="}}, {{"name": "e", "value_base64": "{CANARY}"}},
            {{"name": "f", "value": "x", "tags": "prod"}}, {{"name": "g", "value": "x", "tags": ["Prod"], "expires_at": "tomorrow"}},
            {{"name": "h", "value": "x", "name": "i"}}, {{"name": "j", "value": "x", "description": "\u0007"}}]"#
    );
    let told = wrong_json(&text);
    let expected = [
        "[0]: must be an object",
        "[1]: value is missing",
        "[2]: name is missing",
        "[3].colour: is not a field of a secret",
        "[4].value: must be a string",
        "[5]: has value and value_base64: one of them, please",
        "[6].value_base64: must be base64",
        "[7].tags: must be a list of strings",
        "[8]: expires_at must be a time such as 2027-01-01T00:00:00Z",
        "[8]: tags[0] must be made of",
        "[9].name: is there twice",
        "[10]: description must not contain control",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
    assert!(!told.join("\n").contains(CANARY));
}

#[test]
fn what_is_no_json_is_told_by_line_and_column_without_its_text() {
    let told = wrong_json(&format!("{{\"a\": \"{CANARY}\",\n \"b\" {CANARY}}}"));
    assert_eq!(told, ["line 2: is not JSON that can be read: see column 6"]);
    assert_eq!(
        wrong_json(&format!("\"{CANARY}\"")),
        ["the file: must be an object of names and values, or a list of secrets"]
    );
    let deep = "[".repeat(200);
    assert!(wrong_json(&deep)[0].contains("is not JSON that can be read"));
}

/// Of the specification of Fernet; it holds `hello`.
const TOKEN: &str =
    "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";

#[test]
fn tokens_are_opened_in_lines_and_in_json() {
    let keys = FernetKeys::parse("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=").unwrap();
    let read =
        |text: &str| ImportFile::read(text.as_bytes(), ImportFormat::Fernet, &SecretFolder::all(), &keys);
    let cut = &TOKEN[..TOKEN.len() - 4];
    let file = read(&format!("A={TOKEN}\nB='{TOKEN}'\n"));
    assert_eq!(pairs(&file), owned(&[("A", "hello"), ("B", "hello")]));
    assert_eq!(pairs(&read(&format!(" {{\"a\": {{\"b\": \"{TOKEN}\"}}}}"))), owned(&[("a/b", "hello")]));
    let file = read(&format!("A={TOKEN}\nB={cut}\nC={CANARY}\n"));
    assert_eq!(
        told(&file),
        [
            "line 2: cannot be opened: it was made with another key, or was changed or cut",
            "line 3: is not a Fernet token"
        ]
    );
}

fn double_quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for character in value.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '\r' => text.push_str("\\r"),
            _ => text.push(character),
        }
    }
    text + "\""
}

proptest! {
    #[test]
    fn values_in_double_quotes_come_out_as_they_went_in(values in proptest::collection::vec("(?s).{1,40}", 1..8)) {
        let lines = values.iter().enumerate().map(|(at, value)| format!("N{at}={}\n", double_quoted(value)));
        let text: String = lines.collect();
        let read: Vec<String> = env(&text).into_iter().map(|(_, value)| value).collect();
        prop_assert_eq!(read, values);
    }

    #[test]
    fn values_in_single_quotes_come_out_as_they_went_in(values in proptest::collection::vec("[^'\r]{1,40}", 1..8)) {
        let lines = values.iter().enumerate().map(|(at, value)| format!("export N{at}='{value}' # {value:?}\n"));
        let text: String = lines.collect();
        let read: Vec<String> = env(&text).into_iter().map(|(_, value)| value).collect();
        prop_assert_eq!(read, values);
    }

    #[test]
    fn json_comes_out_as_it_went_in(values in proptest::collection::btree_map("[a-z][a-z0-9]{0,8}", "(?s).{1,40}", 1..8)) {
        let text = serde_json::to_string(&values).unwrap();
        prop_assert_eq!(pairs(&read(ImportFormat::Json, &text)), values.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn no_file_is_too_strange_to_be_read(text in "(?s).{0,200}", shape in 0..3_usize) {
        let format = [ImportFormat::Env, ImportFormat::Json, ImportFormat::Fernet][shape];
        let file = read(format, &text);
        prop_assert!(file.secrets.iter().all(|it| !it.value.is_empty()));
    }
}
