//! Who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{PRODUCT, assert_none, cargo, files, read, read_toml};

/// What each crate names of ours: the arrows of ARCHITECTURE.md, exactly. All kinds of dependencies count, tests' too.
const ARROWS: [(&str, &[&str]); 6] = [
    ("domain", &[]),
    ("ledger", &[]),
    ("commands", &["domain", "ledger"]),
    ("projections", &["domain", "ledger"]),
    ("api", &["commands", "domain", "ledger", "projections"]),
    ("tests", &["api", "commands", "domain", "ledger", "projections"]),
];

/// All that the rules are built on. Nothing here does IO, has a runtime, a clock or randomness.
const DOMAIN_STANDS_ON: [&str; 7] =
    ["chrono", "cqrs-es", "serde", "serde_json", "thiserror", "unicode-normalization", "uuid"];

/// Dependencies that are declared for a feature and never named in the code, with the reason.
const NEVER_NAMED: [(&str, &str); 0] = [];

/// Each crate with its direct dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|p| (name(p), p["dependencies"].as_array().unwrap().iter().map(name).collect())).collect()
}

#[test]
fn the_crates_depend_on_each_other_as_the_architecture_says() {
    let all = dependencies();
    let arrows: BTreeMap<&str, Vec<&str>> = all
        .iter()
        .map(|(name, on)| {
            (name.as_str(), on.iter().map(String::as_str).filter(|on| all.contains_key(*on)).collect())
        })
        .collect();
    let expected: BTreeMap<&str, Vec<&str>> = ARROWS.iter().map(|(name, on)| (*name, on.to_vec())).collect();
    assert_eq!(arrows, expected);
}

#[test]
fn domain_stands_on_nothing_that_does_io() {
    let on = &dependencies()["domain"];
    assert_eq!(on.iter().map(String::as_str).collect::<Vec<_>>(), DOMAIN_STANDS_ON);
}

#[test]
fn domain_has_no_clock_even_by_feature() {
    let manifest = read_toml("domain/Cargo.toml");
    let features = manifest["dependencies"]["chrono"].get("features");
    assert_eq!(features, None, "chrono's features for domain: `now` and `clock` are the clock");
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    let missing = ARROWS.iter().map(|(name, _)| *name).filter(|name| {
        let manifest = read_toml(&format!("{name}/Cargo.toml"));
        manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&true.into())
    });
    assert_none("no `[lints] workspace = true`", &missing.map(str::to_owned).collect::<Vec<_>>());
}

#[test]
fn events_are_matched_by_name_where_forgetting_one_would_be_silent() {
    let lint = "clippy::wildcard_enum_match_arm";
    let missing = ["domain", "projections"]
        .into_iter()
        .filter(|name| !read(&format!("{name}/src/lib.rs")).contains(lint));
    assert_none(&format!("no `#![warn({lint})]` in lib.rs"), &missing.map(str::to_owned).collect::<Vec<_>>());
}

#[test]
fn every_dependency_is_used() {
    let mut findings = vec![];
    for (name, on) in dependencies() {
        let code = files(&name, ".rs");
        for dependency in on {
            let ident = dependency.replace('-', "_");
            let word = regex::Regex::new(&format!(r"\b{ident}\b")).unwrap();
            let used = code.iter().any(|file| word.is_match(&file.text));
            if !used && !NEVER_NAMED.iter().any(|(never, _)| *never == dependency) {
                findings.push(format!("{name}: {dependency}"));
            }
        }
    }
    assert_none("declared but never named in the crate's code", &findings);
}

#[test]
fn what_the_workspace_declares_is_used_by_a_crate() {
    let manifest = read_toml("Cargo.toml");
    let used: BTreeSet<String> = dependencies().into_values().flatten().collect();
    let declared = manifest["workspace"]["dependencies"].as_table().unwrap().keys();
    let unused = declared.filter(|name| !used.contains(*name) && !PRODUCT.contains(&name.as_str()));
    assert_none("declared in the root's Cargo.toml, used by no crate", &unused.cloned().collect::<Vec<_>>());
}
