//! Documents that speak of files which are not there mislead.

use api::config::SETTINGS;
use regex::Regex;

use super::{SourceFile, assert_none, files, read, root};

/// `[text](target)`, the target without its anchor.
const LINK: &str = r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)";
/// A path in backticks that starts in one of our folders and names a file.
const NAMED: &str = r"`((?:domain|ledger|commands|projections|api|tests|migrations|docs|scripts|jobs|\.ci)/[\w./-]*\w\.(?:rs|sql|md|toml|sh|py))`";

/// A test in backticks: its file, and its name behind two colons.
const TEST: &str = r"`((?:[\w-]+/)+[\w-]+\.rs)::(\w+)`";

const ADR_PARTS: [&str; 4] =
    ["## Context", "## Decision", "## Consequences", "## How we would notice that it is wrong"];

fn documents() -> Vec<SourceFile> {
    files("", ".md")
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(LINK).unwrap();
    let mut broken = vec![];
    for document in documents() {
        let folder = root().join(&document.path).parent().unwrap().to_owned();
        for found in link.captures_iter(&document.text) {
            let target = &found[1];
            if !target.contains("://") && !target.starts_with("mailto:") && !folder.join(target).exists() {
                broken.push(format!("{}: {target}", document.path));
            }
        }
    }
    assert_none("links to nothing", &broken);
}

#[test]
fn files_that_are_named_exist() {
    let named = Regex::new(NAMED).unwrap();
    let mut missing = vec![];
    // The changelog tells of the past too.
    for document in documents().iter().filter(|document| document.path != "CHANGELOG.md") {
        let found = named.captures_iter(&document.text).map(|found| found[1].to_owned());
        missing.extend(
            found.filter(|path| !root().join(path).exists()).map(|path| format!("{}: {path}", document.path)),
        );
    }
    assert_none("named but not there", &missing);
}

#[test]
fn tests_that_are_named_exist() {
    let test = Regex::new(TEST).unwrap();
    let (mut missing, mut count) = (vec![], 0);
    for document in documents() {
        for (_, [file, name]) in test.captures_iter(&document.text).map(|found| found.extract()) {
            count += 1;
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            if !text.contains(&format!("fn {name}(")) {
                missing.push(format!("{}: {file}::{name}", document.path));
            }
        }
    }
    assert_none("tests that are promised and not there", &missing);
    assert!(count > 20, "ARCHITECTURE.md names the test that holds each of its invariants: {count}");
}

#[test]
fn the_readme_has_the_table_of_settings() {
    let readme = read("README.md");
    let (_, table) = readme.split_once("| name | default | meaning |\n|---|---|---|\n").unwrap();
    let shown: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let settings = SETTINGS.iter().map(|setting| {
        let quote = if setting.literal { "`" } else { "" };
        format!("| `{}` | {quote}{}{quote} | {} |", setting.name, setting.default, setting.meaning)
    });
    assert_eq!(shown, settings.collect::<Vec<_>>(), "README.md against api/src/config/table.rs");
}

#[test]
fn decisions_are_numbered_and_whole() {
    let decisions = files("docs/adr", ".md");
    assert!(decisions.len() >= 4);
    for (number, decision) in (1..).zip(&decisions) {
        assert!(decision.path.starts_with(&format!("docs/adr/{number:04}-")), "{}", decision.path);
        let missing: Vec<&str> = ADR_PARTS.into_iter().filter(|part| !decision.text.contains(part)).collect();
        assert_eq!(missing, Vec::<&str>::new(), "{}", decision.path);
    }
}
