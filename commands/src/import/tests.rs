#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use serde_json::json;

use super::*;

const BCRYPT: &str = "$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";
const ARGON2: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c2l4dGVlbmJ5dGVzc2FsdA$g35b5pQMsgXzaA7dWB5Ru9izMOVoMukKX1a4Q9O+0us";

fn parse(line: &Value) -> Result<ImportedAccount, Vec<LineProblem>> {
    ImportedAccount::parse(line.to_string().as_bytes())
}

/// The fields that are wrong in `line`, in order.
fn wrong(line: &str) -> Vec<String> {
    ImportedAccount::parse(line.as_bytes()).unwrap_err().into_iter().map(|problem| problem.field).collect()
}

fn ada() -> Value {
    json!({"email": "ada@example.org", "name": "Ada Lovelace", "password_hash": BCRYPT})
}

fn lines(text: &[u8]) -> Vec<ImportLine> {
    ImportLines::new(Cursor::new(text)).map(Result::unwrap).collect()
}

#[test]
fn an_account_is_read_with_what_it_leaves_out() {
    let account = parse(&ada()).unwrap();
    assert_eq!((account.email.as_str(), account.name.as_str()), ("ada@example.org", "Ada Lovelace"));
    assert_eq!((account.admin, account.email_verified, account.active), (false, false, true));
    let mut line = ada();
    line["admin"] = json!(true);
    line["email_verified"] = json!(true);
    line["active"] = json!(false);
    let account = parse(&line).unwrap();
    assert_eq!((account.admin, account.email_verified, account.active), (true, true, false));
}

#[test]
fn the_hashes_of_older_systems_are_taken_as_they_are() {
    let bcrypt = ["2a", "2b", "2y"].map(|prefix| BCRYPT.replace("2b", prefix));
    for hash in bcrypt.iter().map(String::as_str).chain([ARGON2]) {
        let mut line = ada();
        line["password_hash"] = json!(hash);
        assert_eq!(parse(&line).unwrap().password_hash.as_str(), hash);
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_nothing_is_repeated() {
    let line = json!({"email": "ada", "name": " ", "password_hash": "hunter2", "admin": "yes", "active": null, "role": 1});
    let problems = parse(&line).unwrap_err();
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["role", "email", "name", "password_hash", "admin", "active"]);
    assert!(problems.iter().all(|problem| !problem.message.contains("hunter2")), "{problems:?}");
    assert_eq!(wrong("{}"), ["email", "name", "password_hash"]);
    assert_eq!(parse(&json!({})).unwrap_err()[0].message, "is missing");
}

#[test]
fn what_is_not_one_object_is_refused() {
    for line in [
        "",
        "null",
        "[]",
        "\"ada@example.org\"",
        "{\"email\": \"ada",
        "{} {}",
        "email,name,password_hash",
        &"[".repeat(4_000),
        &"{\"a\":".repeat(1_000),
    ] {
        assert_eq!(wrong(line), [""], "{line:.40}");
    }
    assert!(ImportedAccount::parse(b"{\"email\": \"\xff\"}").is_err(), "not UTF-8");
}

#[test]
fn a_field_that_is_there_twice_or_is_none_of_ours_is_refused() {
    let ada = ada().to_string();
    let twice = ada.replace('}', ", \"email\": \"eve@example.org\"}");
    assert_eq!(wrong(&twice), ["email"]);
    let unknown = ada.replace('}', ", \"pass\\u001bword\": \"open sesame\", \"Email\": \"x\"}");
    assert_eq!(wrong(&unknown), ["pass\\u{1b}word", "Email"]);
}

#[test]
fn hashes_that_would_stall_the_pool_are_refused() {
    for hash in [BCRYPT.replace("$05$", "$31$"), ARGON2.replace("m=19456", "m=4194304")] {
        let mut line = ada();
        line["password_hash"] = json!(hash);
        assert_eq!(parse(&line).unwrap_err()[0].field, "password_hash");
    }
}

#[test]
fn a_file_is_read_line_by_line_whatever_ends_them() {
    let ada = ada().to_string();
    let eve = ada.replace("ada@", "eve@");
    let text = format!("\u{feff}{ada}\r\n\n  \t \nnonsense\n{eve}");
    let lines = lines(text.as_bytes());
    let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
    assert_eq!(numbers, [1, 4, 5]);
    let taken: Vec<bool> = lines.iter().map(|line| line.account.is_ok()).collect();
    assert_eq!(taken, [true, false, true]);
    assert_eq!(lines[0].read, 3 + ada.len() as u64 + 2);
    assert_eq!(lines[2].read, text.len() as u64);
    assert!(self::lines(b"").is_empty() && self::lines(b"\n\n").is_empty());
}

#[test]
fn a_line_without_an_end_does_not_fill_the_memory_and_the_next_is_read() {
    let ada = ada().to_string();
    let padded = |length: usize| format!("{ada}{}", " ".repeat(length - ada.len()));
    for (length, taken) in
        [(8_191, true), (8_192, true), (8_193, false), (8_194, false), (8_195, false), (3_000_000, false)]
    {
        for end in ["\n", "\r\n"] {
            let text = format!("{}{end}{ada}{end}", padded(length));
            let lines = lines(text.as_bytes());
            let outcomes: Vec<bool> = lines.iter().map(|line| line.account.is_ok()).collect();
            assert_eq!(outcomes, [taken, true], "{length} {end:?}");
            assert_eq!(lines[1].read, text.len() as u64, "{length} {end:?}");
        }
    }
    let blank = lines(" ".repeat(100_000).as_bytes());
    assert!(blank.len() == 1 && blank[0].account.is_err());
}
