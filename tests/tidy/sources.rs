//! What may not stand in the code. clippy forbids calls; these are the rules it cannot know.

use std::collections::BTreeSet;

use regex::Regex;

use super::text::{functions, matches, product};
use super::{SourceFile, assert_none, files, read, read_toml, root};

/// Lines a file may have at most. The habit is 400; this is where a question becomes a failure.
const LONGEST_FILE: usize = 500;
/// Files that are longer, with the reason.
const LONGER: [(&str, &str); 0] = [];

/// Where `ring` may be named (D12): sealing in the ledger, the token provider at the edge, and the TLS of the one HTTP client.
const RING: [&str; 5] =
    ["ledger/src/seal", "ledger/src/digest", "ledger/src/proof", "api/src/tokens", "commands/src/http.rs"];
/// Where the other ciphers may be named: what opens the Fernet tokens of other systems, since ring has no CBC.
const FERNET: &str = "commands/src/secrets/import/fernet";

fn findings<'a>(files: impl IntoIterator<Item = &'a SourceFile>, pattern: &str) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    files.into_iter().flat_map(|file| matches(file, &pattern)).collect()
}

fn outside<'a>(files: &'a [SourceFile], allowed: &'a [&str]) -> impl Iterator<Item = &'a SourceFile> {
    files.iter().filter(move |file| !allowed.iter().any(|start| file.path.starts_with(start)))
}

#[test]
fn only_the_ledger_touches_the_event_table() {
    let shipped = &product().shipped;
    let mut migrations = files("migrations", ".sql");
    migrations.retain(|file| !file.path.contains("_ledger"));
    // Strings may be continued on the next line with a backslash.
    let table =
        r#"(?i)\b(from|into|update|join|table|only|truncate|references|on)[\s\\]+(public\.)?"?events\b"#;
    assert_none(
        "the event table belongs to ledger/ (D11): append, read and follow through it",
        &findings(outside(shipped, &["ledger/"]).chain(&migrations), table),
    );
    let ours = findings(shipped.iter().filter(|file| file.top() == "ledger"), table);
    assert!(!ours.is_empty(), "the pattern finds nothing where there is something");
}

#[test]
fn cryptography_is_in_few_places() {
    let shipped = &product().shipped;
    let named = r"\bring::|\buse ring\b|\bextern crate ring\b";
    assert_none("ring is for sealing and tokens only (D12)", &findings(outside(shipped, &RING), named));
    assert!(!findings(shipped, named).is_empty(), "the pattern finds nothing where there is something");
    let others = r"\b(aes|cbc|sha2)::|\bHmac\b";
    assert_none("these ciphers open Fernet tokens only", &findings(outside(shipped, &[FERNET]), others));
    assert!(!findings(shipped, others).is_empty(), "the pattern finds nothing where there is something");
}

/// reqwest without a TLS provider panics, and with its own would bring a second cryptography library.
#[test]
fn http_clients_are_made_in_one_place() {
    let shipped = &product().shipped;
    let made = r"\b(ClientBuilder::new|Client::builder|reqwest::Client::(new|default)|reqwest::get)\b";
    let elsewhere = findings(outside(shipped, &["commands/src/http.rs"]), made);
    assert_none("take commands::http::builder", &elsewhere);
    assert!(!findings(shipped, made).is_empty(), "the pattern finds nothing where there is something");
}

#[test]
fn requests_read_teams_rows_on_behalf_of_their_team() {
    let shipped = &product().shipped;
    let rule = "rows of teams are read by `of(team)` (docs/adr/0005-two-walls-between-teams.md)";
    let all = r"\bacross_teams\b";
    // Which jobs there are to run, and which schedules are due, is asked by the worker, for no request.
    let allowed = ["projections/src/team_reader", "api/src/queue", "api/src/schedules"];
    assert_none(rule, &findings(outside(shipped, &allowed), all));
    assert_eq!(findings(shipped, all).len(), 3, "its definition, the worker's queue, and schedules");
    let tables = r#"(?i)\b(from|into|update|join|only)[\s\\]+(public\.)?["{]?(secrets|jobs|audit)\b"#;
    assert_none(rule, &findings(outside(shipped, &["projections/"]), tables));
    let ours = findings(shipped.iter().filter(|file| file.top() == "projections"), tables);
    assert!(!ours.is_empty(), "the pattern finds nothing where there is something");
    let edge = outside(shipped, &["domain/", "ledger/", "commands/", "projections/", "api/src/node"]);
    assert_none("the edge has no connections of its own", &findings(edge, r"\.pool\(\)"));
}

#[test]
fn domain_has_no_clock_no_randomness_no_sql_and_never_waits() {
    let shipped = &product().shipped;
    let domain = shipped.iter().filter(|file| file.top() == "domain");
    let forbidden = r"(Utc|Local|SystemTime|Instant)::now\b|\bnow_v7\b|\bnew_v4\b|\b(tokio|sqlx|rand|ring)::|\bstd::(fs|net|process|thread|env)\b|[^\n]*\.await\b";
    let mut found = findings(domain, forbidden);
    // cqrs-es hands the events over with an `async` that never waits.
    found.retain(|line| !line.ends_with("sink.write(event, self).await"));
    assert_none("domain is pure (ARCHITECTURE.md)", &found);
}

/// The functions that turn events into state: an aggregate's `evolve`, and all of a view.
fn folds_of(file: &SourceFile) -> Vec<(String, &str)> {
    if file.path.starts_with("projections/src/views/") {
        functions(file, &Regex::new(".").unwrap())
    } else if file.top() == "domain" {
        functions(file, &Regex::new("^(evolve|apply)$").unwrap())
    } else {
        vec![]
    }
}

#[test]
fn folds_have_no_clock() {
    let shipped = &product().shipped;
    let clock = Regex::new(r"::now\b|\bnow_v7\b").unwrap();
    let found = shipped.iter().flat_map(folds_of).filter(|(_, text)| clock.is_match(text));
    assert_none("a fold has no clock (D5)", &found.map(|(place, _)| place).collect::<Vec<_>>());
}

/// Beside clippy's `wildcard_enum_match_arm`, which does not see matches on tuples and on options of an event.
#[test]
fn folds_match_every_event_by_name() {
    let shipped = &product().shipped;
    let wildcard = Regex::new(r"(?m)^\s*(_|[a-z]\w*|\(_(, _)*\)|\.\.)( if [^\n]*)? =>").unwrap();
    let folds: Vec<_> = shipped.iter().flat_map(folds_of).collect();
    assert!(folds.len() >= 4, "the four aggregates have one each: {}", folds.len());
    let found = folds.iter().filter(|(_, text)| wildcard.is_match(text)).map(|(place, _)| place.clone());
    assert_none("a fold that does not name every event (D5)", &found.collect::<Vec<_>>());
}

#[test]
fn what_ships_does_not_panic_on_purpose() {
    let shipped = &product().shipped;
    assert_none(
        "an error, with its cause, instead",
        &findings(shipped, r"\.unwrap\(\)|\bunwrap_err\(\)|\b(todo|unimplemented)!\("),
    );
    // `.expect(` is clippy's to find; nobody may silence it, or anything else, without saying why.
    let silenced = r"#!?\[(allow|expect)\([^\]]*\]";
    let without_reason = findings(shipped, silenced).into_iter().filter(|found| !found.contains("reason ="));
    assert_none("a lint is silenced without `reason = `", &without_reason.collect::<Vec<_>>());
    assert_none(
        "`#[expect(.., reason = ..)]` on the one item, not `allow` on the file",
        &findings(shipped, r"#!?\[allow\([^\]]*clippy::(unwrap_used|expect_used)[^\]]*\]"),
    );
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = Regex::new(concat!(r"\b(TO", "DO|FIX", r"ME|XX", r"X|HA", r"CK)\b")).unwrap();
    let all = [".rs", ".sql", ".py", ".sh", ".toml"].iter().flat_map(|ending| files("", ending));
    let found = all.flat_map(|file| matches(&file, &marks));
    assert_none("finish it, or write an issue", &found.collect::<Vec<_>>());
}

/// In tests/ clippy forbids it (tests/clippy.toml); its rules go by crate, so the product's own tests are looked at here.
#[test]
fn tests_do_not_sleep() {
    let found = findings(&product().tests, r"(?m)(^|[^.\w])(thread::|time::|tokio::time::)?sleep(_until)?\(");
    assert_none("wait for the event itself, within a limit", &found);
}

#[test]
fn files_stay_short_enough_to_read() {
    let long = files("", ".rs").into_iter().filter_map(|file| {
        let lines = file.text.lines().count();
        let known = LONGER.iter().any(|(path, _)| *path == file.path);
        (lines > LONGEST_FILE && !known).then(|| format!("{}: {lines} lines", file.path))
    });
    assert_none("split by what a thing is", &long.collect::<Vec<_>>());
}

/// A file that no other one names is not compiled, and nobody notices: a merge has taken tests away like that.
#[test]
fn every_file_is_part_of_a_crate() {
    let all = files("", ".rs");
    let text = |path: &str| all.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let is_root = |name: &str| ["main", "lib", "build"].contains(&name);
    let orphans = all.iter().filter_map(|file| {
        let (folder, name) = file.path.trim_end_matches(".rs").trim_end_matches("/mod").rsplit_once('/')?;
        let mut parents = ["/mod.rs", "/lib.rs", "/main.rs", ".rs"].into_iter();
        let named = Regex::new(&format!(r"(?m)^\s*(pub(\([a-z]+\))? )?mod {name};")).unwrap();
        let is_named =
            parents.any(|parent| text(&format!("{folder}{parent}")).is_some_and(|text| named.is_match(text)));
        (!is_root(name) && !is_named).then(|| file.path.clone())
    });
    assert_none("name it with `mod`, or take it away", &orphans.collect::<Vec<_>>());
}

#[test]
fn every_migration_is_run_in_order() {
    let listed = read("ledger/src/migrations.rs");
    let list = Regex::new(r#"\((\d+),\s*"(\w+)",\s*include_str!\("../../migrations/([\w.]+)"\)"#).unwrap();
    let run: Vec<_> = list.captures_iter(&listed).map(|found| found.extract::<3>().1).collect();
    let exist: Vec<String> =
        files("migrations", ".sql").iter().map(|file| file.path.replace("migrations/", "")).collect();
    assert_eq!(
        run.iter().map(|[_, _, file]| *file).collect::<Vec<_>>(),
        exist,
        "ledger/src/migrations.rs against migrations/"
    );
    for (place, [number, name, file]) in (1..).zip(run) {
        assert_eq!((number.parse(), file), (Ok(place), format!("{place:04}_{name}.sql").as_str()));
    }
}

#[test]
fn every_call_the_root_refuses_is_refused_by_the_crates_with_their_own_rules() {
    let refused = |path: &str| -> BTreeSet<String> {
        let list = read_toml(path)["disallowed-methods"].as_array().unwrap().clone();
        for entry in &list {
            assert!(
                entry["reason"].as_str().is_some_and(|reason| reason.len() > 10),
                "{path}: {entry} has no reason"
            );
        }
        list.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    let everywhere = refused("clippy.toml");
    for file in files("", "clippy.toml").iter().filter(|file| file.path != "clippy.toml") {
        // What domain cannot call, because it does not depend on it, need not be forbidden there.
        let manifest = root().join(&file.path).with_file_name("Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let own = refused(&file.path);
        let missing = everywhere.difference(&own).filter(|path| {
            let first = path.split("::").next().unwrap_or_default();
            first == "std" || manifest.contains(&format!("{first}."))
        });
        assert_none(&file.path, &missing.cloned().collect::<Vec<_>>());
    }
}
