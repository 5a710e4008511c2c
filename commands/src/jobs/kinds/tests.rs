#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Map, Value, json};

use super::{Actions, Kind, KindProblem, KindSettings, Kinds};

const REPORT: &str = r#"
LISTEN = "127.0.0.1:0"

[jobs.nightly-report]
description = "Builds the nightly report"
command = ["python3", "report.py", "--day", "{day}"]
params.day = { type = "string", pattern = '\d{4}-\d{2}-\d{2}' }
secrets = { DB_PASSWORD = "report-db" }
env = { MODE = "fast" }
timeout_seconds = 900
max_attempts = 3

[jobs.noop]
command = ["true"]
"#;

fn parse(text: &str) -> Result<Kinds, Vec<KindProblem>> {
    Kinds::parse(text, &Actions::built_in())
}

fn one(text: &str) -> Kind {
    parse(&format!("[jobs.x]\n{text}")).unwrap().get("x").unwrap().clone()
}

fn args(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn accepts(kind: &Kind, value: Value) -> Vec<String> {
    kind.action().outline(&kind.validate(&args(value)).unwrap())
}

fn refuses(kind: &Kind, value: Value) -> Vec<(String, String)> {
    kind.validate(&args(value))
        .unwrap_err()
        .into_iter()
        .map(|problem| (problem.field, problem.message))
        .collect()
}

fn paths(text: &str) -> Vec<String> {
    parse(text).unwrap_err().into_iter().map(|problem| problem.path).collect()
}

#[test]
fn kinds_are_read() {
    let kinds = parse(REPORT).unwrap();
    assert_eq!(kinds.iter().map(Kind::name).collect::<Vec<_>>(), ["nightly-report", "noop"]);
    let kind = kinds.get("nightly-report").unwrap();
    assert_eq!((kind.timeout_seconds(), kind.max_attempts()), (900, Some(3)));
    assert_eq!((&kind.secrets()["DB_PASSWORD"][..], &kind.env()["MODE"][..]), ("report-db", "fast"));
    assert_eq!(accepts(kind, json!({"day": "2026-03-01"})), ["python3", "report.py", "--day", "2026-03-01"]);
    let noop = kinds.get("noop").unwrap();
    assert_eq!((noop.timeout_seconds(), noop.max_attempts()), (3600, None));
    assert!(kinds.get("other").is_none());
}

#[test]
fn a_kind_can_be_shown() {
    let info = serde_json::to_value(parse(REPORT).unwrap().get("nightly-report").unwrap().info()).unwrap();
    let day = json!({"name": "day", "type": "string", "description": "", "required": true, "default": null, "enum": null,
        "pattern": r"\d{4}-\d{2}-\d{2}", "max_length": 1000, "min": null, "max": null});
    let limits = json!({"memory_bytes": null, "cpu_seconds": null, "open_files": null, "file_bytes": null, "processes": null});
    let expected = json!({"name": "nightly-report", "type": "command", "description": "Builds the nightly report", "params": [day],
        "secrets": {"DB_PASSWORD": "report-db"}, "timeout_seconds": 900, "max_attempts": 3, "retry_delay_seconds": null,
        "retry_factor": 2.0, "retry_cap_seconds": 3600, "retry_jitter": 0.1, "final_exit_codes": [], "concurrency_limit": 1,
        "unique": false, "limits": limits, "output_kb": null, "artifacts_mb": 100});
    assert_eq!(info, expected);
}

#[test]
fn no_file_or_no_table_means_no_kinds() {
    assert!(parse("LISTEN = ':0'").unwrap().is_empty());
    let folder = tempfile::tempdir().unwrap();
    assert!(Kinds::load(&folder.path().join("daybook.toml"), &Actions::built_in()).unwrap().is_empty());
    assert!(
        Kinds::load(folder.path(), &Actions::built_in()).unwrap_err()[0]
            .message
            .starts_with("cannot be read")
    );
}

#[test]
fn broken_toml_is_placed_but_not_quoted() {
    let problems = parse("A = 1\nJWT_SECRET = \"topsecret\n").unwrap_err();
    assert_eq!((problems.len(), problems[0].path.as_str()), (1, "line 2"));
    assert!(!problems[0].message.contains("topsecret"), "{}", problems[0].message);
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = r#"
        [jobs.Bad_Name]
        command = []
        [jobs.a]
        comand = ["x"]
        timeout_seconds = 0
        max_attempts = 101
        description = 3
        [jobs.b]
        command = ["{p}", "{nobody}", "{", "a}", "{{fine}}", "nul\u0000"]
        params.p = { type = "string", pattern = "(", colour = "red" }
        params.1st = { type = "text" }
        params.q = 3
        secrets = { PATH = "x", HOME = "x", DAYBOOK_X = "x", "a=b" = "x", EMPTY = " ", TWICE = "x", LIST = [] }
        env = { TWICE = "x" }
        [jobs]
        c = 1
    "#;
    let mut found = paths(text);
    found.sort_unstable();
    let expected = [
        "jobs.Bad_Name",
        "jobs.Bad_Name.command",
        "jobs.a.comand",
        "jobs.a.command",
        "jobs.a.description",
        "jobs.a.max_attempts",
        "jobs.a.timeout_seconds",
        "jobs.b.command[0]",
        "jobs.b.command[1]",
        "jobs.b.command[2]",
        "jobs.b.command[3]",
        "jobs.b.command[5]",
        "jobs.b.env.TWICE",
        "jobs.b.params.1st",
        "jobs.b.params.1st.type",
        "jobs.b.params.p.colour",
        "jobs.b.params.p.pattern",
        "jobs.b.params.q",
        "jobs.b.secrets.DAYBOOK_X",
        "jobs.b.secrets.EMPTY",
        "jobs.b.secrets.HOME",
        "jobs.b.secrets.LIST",
        "jobs.b.secrets.PATH",
        "jobs.b.secrets.a=b",
        "jobs.c",
    ];
    assert_eq!(found, expected);
}

#[test]
fn parameters_that_contradict_themselves_are_reported() {
    for (param, path) in [
        ("{}", "type"),
        ("{ type = 'integer', pattern = 'x' }", "pattern"),
        ("{ type = 'boolean', max_length = 3 }", "max_length"),
        ("{ type = 'string', min = 3 }", "min"),
        ("{ type = 'integer', min = 3.5 }", "min"),
        ("{ type = 'number', max = nan }", "max"),
        ("{ type = 'integer', min = 3, max = 2 }", "min"),
        ("{ type = 'string', max_length = 30001 }", "max_length"),
        ("{ type = 'string', enum = [] }", "enum"),
        ("{ type = 'string', enum = ['a', 1] }", "enum[1]"),
        ("{ type = 'integer', default = '1' }", "default"),
        ("{ type = 'integer', default = 1979-05-27 }", "default"),
        ("{ type = 'string', enum = ['a'], default = 'b' }", "default"),
        ("{ type = 'string', default = 'b', required = true }", "required"),
        ("{ type = 'string', pattern = 'a)|(?:b' }", "pattern"),
        ("{ type = 'string', pattern = '(?x) a # b' }", "pattern"),
    ] {
        assert_eq!(
            paths(&format!("[jobs.x]\ncommand = ['y']\nparams.p = {param}")),
            [format!("jobs.x.params.p.{path}")],
            "{param}"
        );
    }
    assert_eq!(paths("jobs = 3"), ["jobs"]);
    assert_eq!(paths("[jobs.x]\ncommand = 'ls -l'"), ["jobs.x.command"]);
    assert_eq!(paths("[jobs.x]\ncommand = ['']"), ["jobs.x.command"]);
    assert_eq!(paths(&format!("[jobs.{}]\ncommand = ['y']", "x".repeat(64))).len(), 1);
}

#[test]
fn arguments_are_checked_by_name() {
    let kind = one(
        "command = ['c', '{day}', '{n}']\nparams.day = { type = 'string', pattern = 'a|ab', max_length = 3 }\nparams.n = { type = 'integer', min = 1, max = 9 }",
    );
    let field = |name: &str, message: &str| (format!("args.{name}"), message.to_owned());
    assert_eq!(accepts(&kind, json!({"day": "ab", "n": 9})), ["c", "ab", "9"]);
    assert_eq!(
        refuses(&kind, json!({"x": 1})),
        [
            field("x", "the kind `x` has no such parameter"),
            field("day", "is required"),
            field("n", "is required")
        ]
    );
    for (day, message) in [
        (json!("xab"), "must match `a|ab` as a whole"),
        (json!("ab\n"), "must match `a|ab` as a whole"),
        (json!(""), "must match `a|ab` as a whole"),
        (json!("abab"), "must have at most 3 characters"),
        (json!("a\0"), "must not contain NUL"),
        (json!(null), "must be a string"),
        (json!(["ab"]), "must be a string"),
    ] {
        assert_eq!(refuses(&kind, json!({"day": day, "n": 1})), [field("day", message)]);
    }
    for (n, message) in [
        (json!(0), "must be at least 1"),
        (json!(10), "must be at most 9"),
        (json!(1.0), "must be a whole number of at most 64 bits"),
        (json!("1"), "must be a whole number of at most 64 bits"),
        (json!(u64::MAX), "must be a whole number of at most 64 bits"),
    ] {
        assert_eq!(refuses(&kind, json!({"day": "a", "n": n})), [field("n", message)]);
    }
}

#[test]
fn every_type_has_its_text() {
    let kind = one(
        "command = ['c', '{s}', '{i}', '{n}', '{b}']\nparams = { s.type = 'string', i.type = 'integer', n.type = 'number', b.type = 'boolean' }",
    );
    assert_eq!(accepts(&kind, json!({"s": "", "i": 3, "n": 2.5, "b": true})), ["c", "", "3", "2.5", "true"]);
    assert_eq!(refuses(&kind, json!({"s": 1, "i": true, "n": "1", "b": "true"})).len(), 4);
    let kind = one("command = ['c', '{n}']\nparams.n = { type = 'number', enum = [1, 2.5] }");
    assert_eq!(accepts(&kind, json!({"n": 1.0})), ["c", "1.0"]);
    assert_eq!(refuses(&kind, json!({"n": 2})), [("args.n".to_owned(), "must be one of 1, 2.5".to_owned())]);
}

#[test]
fn a_value_stays_within_its_argument() {
    let kind = one(
        "command = ['sh', '-c', 'echo \"$1\"', 'x', '{a}', '[{a}-{b}]', '{{a}}']\nparams = { a.type = 'string', b.type = 'string' }",
    );
    let value = "one two; $(rm) {b} 'x' \"y\"\n*";
    let argv = accepts(&kind, json!({"a": value, "b": "{a}"}));
    assert_eq!(argv, ["sh", "-c", "echo \"$1\"", "x", value, &format!("[{value}-{{a}}]"), "{a}"]);
}

#[test]
fn a_value_is_not_taken_for_an_option() {
    let params = "params = { a.type = 'string', n.type = 'integer', d = { type = 'string', default = '-d' }, ok = { type = 'string', allow_leading_dash = true, default = '' } }";
    let kind =
        one(&format!("command = ['c', '{{ok}}{{a}}', '--n={{n}}', '{{n}}', '{{d}}', '{{ok}}']\n{params}"));
    assert_eq!(accepts(&kind, json!({"a": "x-", "n": 1})), ["c", "x-", "--n=1", "1", "-d", ""]);
    let dash = |name: &str| (format!("args.{name}"), "must not start with `-`".to_owned());
    assert_eq!(refuses(&kind, json!({"a": "-rf", "n": -1, "d": "-e"})), [dash("a"), dash("d"), dash("n")]);
    assert_eq!(
        accepts(&kind, json!({"a": "-rf", "n": 1, "ok": "-x"})),
        ["c", "-x-rf", "--n=1", "1", "-d", "-x"]
    );
}

#[test]
fn defaults_and_optional_parameters() {
    let kind = one(
        "command = ['c', '--mode={mode}', '--tag={tag}', 'end']\nparams.mode = { type = 'string', default = 'fast' }\nparams.tag = { type = 'string', required = false }",
    );
    assert_eq!(accepts(&kind, json!({})), ["c", "--mode=fast", "end"]);
    assert_eq!(accepts(&kind, json!({"mode": "slow", "tag": "-x"})), ["c", "--mode=slow", "--tag=-x", "end"]);
}

#[test]
fn what_a_kind_says_of_its_jobs_is_read() {
    let settings = one("command = ['x']").settings().clone();
    assert_eq!(settings, KindSettings::default());
    let kind = one(
        "command = ['x']\nretry_delay_seconds = 5\nretry_factor = 3\nretry_cap_seconds = 9\nretry_jitter = 0.5\nfinal_exit_codes = [1, 255]
        concurrency_limit = 3\nunique = true\nlimits = { memory_mb = 16, file_mb = 2 }\noutput_kb = 7\nartifacts_mb = 0",
    );
    assert_eq!((kind.retry_delay_seconds(), kind.concurrency_limit(), kind.is_unique()), (Some(5), 3, true));
    let backoff = kind.backoff();
    assert_eq!((backoff.factor, backoff.cap_seconds, backoff.jitter), (3.0, 9, 0.5));
    let settings = kind.settings();
    assert_eq!(settings.final_exit_codes, [1, 255]);
    assert_eq!((settings.limits.memory_bytes, settings.limits.file_bytes), (Some(16 << 20), Some(2 << 20)));
    assert_eq!((settings.limits.cpu_seconds, settings.output_kb, settings.artifacts_mb), (None, Some(7), 0));
}

#[test]
fn what_a_kind_may_not_say_of_its_jobs_is_told() {
    for (line, path) in [
        ("retry_delay_seconds = 0", "retry_delay_seconds"),
        ("retry_factor = 0.9", "retry_factor"),
        ("retry_factor = nan", "retry_factor"),
        ("retry_cap_seconds = 604801", "retry_cap_seconds"),
        ("retry_jitter = 1.1", "retry_jitter"),
        ("final_exit_codes = [0]", "final_exit_codes"),
        ("final_exit_codes = 1", "final_exit_codes"),
        ("concurrency_limit = 0", "concurrency_limit"),
        ("unique = 1", "unique"),
        ("limits = 3", "limits"),
        ("limits = { memory_mb = 1 }", "limits.memory_mb"),
        ("limits = { colour = 1 }", "limits.colour"),
        ("output_kb = 0", "output_kb"),
        ("artifacts_mb = 10241", "artifacts_mb"),
        ("type = 'smtp'", "type"),
        ("type = 3", "type"),
    ] {
        assert_eq!(
            paths(&format!("[jobs.x]\ncommand = ['y']\n{line}")),
            [format!("jobs.x.{path}")],
            "{line}"
        );
    }
    let secret = "[jobs.x]\ncommand = ['y', '{secret:A}']\nsecrets = { A = 'a' }";
    assert_eq!(paths(secret), ["jobs.x.command[1]"]);
    let problems = parse("[jobs.x]\ntype = 'smtp'\nserver = 'x'").unwrap_err();
    assert_eq!(problems[0].message, "must be one of command, http");
}

#[test]
fn a_type_that_gives_no_reason_is_not_believed_to_have_been_read() {
    let actions = Actions::built_in().with("mute", |_| None);
    let problems = Kinds::parse("[jobs.x]\ntype = 'mute'", &actions).unwrap_err();
    assert_eq!(problems[0].path, "jobs.x.type");
}
