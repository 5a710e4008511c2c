//! Documents that speak of files which are not there mislead.

use regex::Regex;

use super::{SourceFile, assert_none, files, root};

/// `[text](target)`, the target without its anchor.
const LINK: &str = r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)";
/// A path in backticks that starts in one of our folders and names a file.
const NAMED: &str = r"`((?:domain|ledger|commands|projections|api|tests|migrations|docs|scripts|jobs|\.ci)/[\w./-]*\w\.(?:rs|sql|md|toml|sh|py))`";

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
fn decisions_are_numbered_and_whole() {
    let decisions = files("docs/adr", ".md");
    assert!(decisions.len() >= 4);
    for (number, decision) in (1..).zip(&decisions) {
        assert!(decision.path.starts_with(&format!("docs/adr/{number:04}-")), "{}", decision.path);
        let missing: Vec<&str> = ADR_PARTS.into_iter().filter(|part| !decision.text.contains(part)).collect();
        assert_eq!(missing, Vec::<&str>::new(), "{}", decision.path);
    }
}
