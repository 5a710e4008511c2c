//! What `deny.toml` says of the packages we build with, checked without cargo-deny and without the network, for the platform
//! this runs on.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::spdx::is_satisfied;
use super::{assert_none, cargo, read_toml};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// A package as it is built here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
}

/// Every package that is built on this platform, with the features that are on.
fn packages() -> BTreeSet<Package> {
    let edges = "normal,build,dev";
    let tree =
        cargo(&["tree", "--workspace", "--edges", edges, "--prefix", "depth", "--format", "\t{p}\t{l}"]);
    let lines: Vec<(usize, Package)> = tree.lines().filter_map(package).collect();
    let only_forwards = |(place, (depth, package)): &(usize, &(usize, Package))| {
        // An old version that is nothing but a door to the new one is no second copy.
        lines.get(place + 1).is_some_and(|(next, child)| *next == depth + 1 && child.name == package.name)
    };
    let forwarding: BTreeSet<Package> =
        lines.iter().enumerate().filter(only_forwards).map(|(_, (_, package))| package.clone()).collect();
    lines.into_iter().map(|(_, package)| package).filter(|package| !forwarding.contains(package)).collect()
}

/// `12<tab>name v1.2.3 (proc-macro)<tab>MIT (*)`
fn package(line: &str) -> Option<(usize, Package)> {
    let mut columns = line.split('\t');
    let depth = columns.next()?.parse().ok()?;
    let mut words = columns.next()?.split(' ');
    let name = words.next()?.to_owned();
    let version = words.next()?.trim_start_matches('v').to_owned();
    let licence = columns.next()?.trim_end_matches(" (*)").to_owned();
    Some((depth, Package { name, version, licence }))
}

fn list<'a>(deny: &'a Table, section: &str, key: &str) -> &'a [Value] {
    deny[section][key].as_array().unwrap()
}

fn texts<'a>(list: &'a [Value], key: &str) -> Vec<&'a str> {
    list.iter().map(|entry| entry[key].as_str().unwrap()).collect()
}

#[test]
fn every_licence_is_one_we_accepted() {
    let deny = read_toml("deny.toml");
    let allowed: Vec<&str> = list(&deny, "licenses", "allow").iter().map(|v| v.as_str().unwrap()).collect();
    let packages = packages();
    assert!(packages.len() > 100, "cargo tree tells of {} packages only", packages.len());
    let others = packages.iter().filter(|package| !is_satisfied(&package.licence, &allowed));
    let findings = others.map(|package| format!("{} {}: {}", package.name, package.version, package.licence));
    assert_none("licences that deny.toml does not allow", &findings.collect::<Vec<_>>());
}

#[test]
fn no_package_is_built_that_we_refused() {
    let deny = read_toml("deny.toml");
    let refused = texts(list(&deny, "bans", "deny"), "crate");
    let found = packages().into_iter().filter(|package| refused.contains(&package.name.as_str()));
    assert_none("deny.toml says why not", &found.map(|package| package.name).collect::<Vec<_>>());
}

#[test]
fn nothing_is_built_twice_without_a_reason() {
    let deny = read_toml("deny.toml");
    let skipped = texts(list(&deny, "bans", "skip"), "crate");
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        if !skipped.contains(&format!("{}@{}", package.name, package.version).as_str()) {
            versions.entry(package.name).or_default().push(package.version);
        }
    }
    let twice = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    let findings = twice.map(|(name, versions)| format!("{name}: {}", versions.join(", ")));
    assert_none(
        "several versions; get rid of one, or say in deny.toml (bans.skip) who needs it",
        &findings.collect::<Vec<_>>(),
    );
}

#[test]
fn every_exception_is_needed_and_has_a_reason() {
    let deny = read_toml("deny.toml");
    let lock = read_toml("Cargo.lock");
    let locked: BTreeSet<String> = list_of_packages(&lock)
        .map(|package| {
            format!("{}@{}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap())
        })
        .collect();
    let skip = list(&deny, "bans", "skip");
    let gone = texts(skip, "crate").into_iter().filter(|name| !locked.contains(*name));
    assert_none(
        "no longer in Cargo.lock: remove it from deny.toml",
        &gone.map(str::to_owned).collect::<Vec<_>>(),
    );
    let reasons = skip.iter().chain(list(&deny, "bans", "deny")).map(|entry| entry["reason"].as_str());
    assert!(reasons.into_iter().all(|reason| reason.is_some_and(|reason| !reason.is_empty())));
}

#[test]
fn everything_comes_from_the_registry() {
    let lock = read_toml("Cargo.lock");
    let elsewhere = list_of_packages(&lock).filter(|package| {
        package.get("source").is_some_and(|source| source.as_str() != Some(CRATES_IO))
            || package.contains_key("source") != package.contains_key("checksum")
    });
    assert_none(
        "not from crates.io, or without a checksum",
        &elsewhere.map(|p| p["name"].to_string()).collect::<Vec<_>>(),
    );
}

fn list_of_packages(lock: &Table) -> impl Iterator<Item = &Table> {
    lock["package"].as_array().unwrap().iter().map(|package| package.as_table().unwrap())
}
