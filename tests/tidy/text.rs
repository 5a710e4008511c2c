//! Looking at Rust without a parser. It relies on the formatting that `make lint` enforces.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::{PRODUCT, SourceFile, files};

/// The product's Rust, split into what ships and what only tests it; comments are blanked in both, line numbers stay.
pub(super) struct Product {
    pub(super) shipped: Vec<SourceFile>,
    pub(super) tests: Vec<SourceFile>,
}

pub(super) fn product() -> &'static Product {
    static PRODUCT: LazyLock<Product> = LazyLock::new(look);
    &PRODUCT
}

fn look() -> Product {
    let all: Vec<SourceFile> =
        PRODUCT.iter().flat_map(|name| files(&format!("{name}/src"), ".rs")).map(without_comments).collect();
    let test_modules: BTreeSet<String> = all.iter().flat_map(test_modules_of).collect();
    let is_test = |file: &SourceFile| {
        test_modules.iter().any(|module| {
            file.path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    };
    let (mut tests, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(is_test);
    let mut shipped = vec![];
    for file in rest {
        let (ships, checks) = split(&file.text);
        shipped.push(SourceFile { path: file.path.clone(), text: ships });
        tests.push(SourceFile { path: file.path, text: checks });
    }
    Product { shipped, tests }
}

fn without_comments(mut file: SourceFile) -> SourceFile {
    let lines = file.text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    file.text = lines.collect::<Vec<_>>().join("\n");
    file
}

/// Where `#[cfg(test)] mod name;` points, without the ending.
fn test_modules_of(file: &SourceFile) -> Vec<String> {
    let declaration = Regex::new(r"#\[cfg\(test\)\]\s+(?:pub(?:\([a-z]+\))? )?mod (\w+);").unwrap();
    let base = file.path.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("/lib");
    declaration.captures_iter(&file.text).map(|found| format!("{base}/{}", &found[1])).collect()
}

/// Parts the `#[cfg(test)]` items from the rest; each side has blank lines for the other's.
fn split(text: &str) -> (String, String) {
    let (mut ships, mut checks) = (String::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            put(&mut ships, &mut checks, line);
            continue;
        }
        let end = format!("{}}}", indentation(line));
        put(&mut checks, &mut ships, line);
        for line in lines.by_ref() {
            put(&mut checks, &mut ships, line);
            if line == end || line.ends_with(';') && indentation(line).len() + 1 == end.len() {
                break;
            }
        }
    }
    (ships, checks)
}

fn put(to: &mut String, other: &mut String, line: &str) {
    to.push_str(line);
    to.push('\n');
    other.push('\n');
}

fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

/// Every function whose name matches, with its path and line, and its text up to the closing brace.
pub(super) fn functions<'a>(file: &'a SourceFile, name: &Regex) -> Vec<(String, &'a str)> {
    let start = Regex::new(r"(?m)^([ \t]*)(?:pub(?:\([a-z]+\))? )?(?:const |async )*fn (\w+)").unwrap();
    let found = start.captures_iter(&file.text).filter(|found| name.is_match(&found[2]));
    found
        .map(|found| {
            let rest = &file.text[found.get(0).unwrap().start()..];
            let end = rest.find(&format!("\n{}}}", &found[1])).unwrap_or(rest.len());
            (place(file, found.get(0).unwrap().start()), &rest[..end])
        })
        .collect()
}

/// Every match in a file, as `path:line: text`.
pub(super) fn matches(file: &SourceFile, pattern: &Regex) -> Vec<String> {
    let found = pattern.find_iter(&file.text);
    found.map(|found| format!("{}: {}", place(file, found.start()), found.as_str().trim())).collect()
}

fn place(file: &SourceFile, offset: usize) -> String {
    format!("{}:{}", file.path, file.text[..offset].matches('\n').count() + 1)
}

#[test]
fn test_code_is_told_from_the_rest() {
    let text = "fn a() {}\n#[cfg(test)]\nuse x::y;\nfn b() {}\n    #[cfg(test)]\n    mod tests {\n        fn c() {\n        }\n    }\nfn d() {}\n";
    let (ships, checks) = split(text);
    let names =
        |text: &str| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&ships), ["fn a() {}", "fn b() {}", "fn d() {}"]);
    assert_eq!(names(&checks).len(), 7);
    assert_eq!((ships.lines().count(), checks.lines().count()), (10, 10));
}

#[test]
fn the_product_has_both_kinds_of_code() {
    let product = product();
    let is_there = |files: &[SourceFile], path: &str| {
        files.iter().any(|file| file.path == path && !file.text.trim().is_empty())
    };
    assert!(
        is_there(&product.shipped, "ledger/src/lane.rs") && !is_there(&product.tests, "ledger/src/lane.rs")
    );
    assert!(
        is_there(&product.tests, "domain/src/job/tests.rs")
            && !is_there(&product.shipped, "domain/src/job/tests.rs")
    );
    assert!(
        is_there(&product.shipped, "domain/src/caller.rs")
            && is_there(&product.tests, "domain/src/caller.rs")
    );
}
