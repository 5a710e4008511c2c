#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};

use super::filling::{Filling, Secrets};
use super::headers::Headers;
use super::*;
use crate::jobs::kinds::template::Template;
use crate::jobs::kinds::{Kind, Kinds};
use crate::jobs::mask::SecretBytes;
use crate::jobs::{Actions, KindProblem};

fn parse(text: &str) -> Result<Kind, Vec<KindProblem>> {
    let text = format!("[jobs.x]\ntype = 'http'\n{text}");
    Kinds::parse(&text, &Actions::built_in()).map(|kinds| kinds.get("x").unwrap().clone())
}

fn problems(text: &str) -> Vec<(String, String)> {
    let problems = parse(text).unwrap_err().into_iter();
    problems.map(|one| (one.path.trim_start_matches("jobs.x.").to_owned(), one.message)).collect()
}

fn paths(text: &str) -> Vec<String> {
    problems(text).into_iter().map(|(path, _)| path).collect()
}

fn values(kind: &Kind, args: Value) -> Values {
    kind.validate(args.as_object().unwrap()).unwrap()
}

fn refused(kind: &Kind, args: Value) -> Vec<String> {
    let problems = kind.validate(args.as_object().unwrap()).unwrap_err();
    problems.into_iter().map(|problem| problem.field).collect()
}

/// What would be sent: URL, headers and body.
struct Sent {
    url: Result<String, String>,
    headers: Result<Vec<(String, String)>, String>,
    body: Option<Result<String, String>>,
}

/// A request of these parts, read and filled as a kind's are.
fn sent(toml: &str, args: Value, secrets: &[(&str, &[u8])]) -> Sent {
    let table = format!("[jobs.x]\ntype = 'spy'\n{toml}");
    let (seen, looks) = std::sync::mpsc::channel();
    let seen = std::sync::Mutex::new(seen);
    let spy = move |reading: &mut Reading<'_, '_>| {
        let target = target(reading).expect("a url");
        let headers = Headers::read(reading);
        let content = content(&Method::POST, &headers, reading);
        seen.lock().unwrap().send((target, headers, content)).unwrap();
        read_anything()
    };
    let kinds = Kinds::parse(&table, &Actions::built_in().with("spy", spy)).unwrap();
    let (target, headers, content) = looks.recv().unwrap();
    let values = kinds.get("x").unwrap().validate(args.as_object().unwrap()).unwrap();
    let secrets: Vec<_> =
        secrets.iter().map(|(name, value)| ((*name).to_owned(), SecretBytes::new(*value))).collect();
    let filling = Filling { values: &values, secrets: Secrets::Known(&secrets) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Sent {
        url: target.fill(filling).map(String::from),
        headers: headers.fill(filling).map(|headers| {
            headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect()
        }),
        body: content.map(|content| content.fill(filling).map(|body| text(&body))),
    }
}

fn read_anything() -> Option<Arc<dyn Action>> {
    #[derive(Debug)]
    struct Anything;
    impl Action for Anything {
        fn outline(&self, _values: &Values) -> Vec<String> {
            vec![]
        }

        fn run<'a>(&'a self, _run: Run<'a>) -> BoxFuture<'a, Finished> {
            Box::pin(async { Finished::without_process(Ending::Exited { code: 0 }) })
        }
    }
    Some(Arc::new(Anything))
}

fn url(template: &str, value: &str) -> Result<String, String> {
    let toml = format!("url = '{template}'\nparams.v = {{ type = 'string', max_length = 9000 }}");
    sent(&toml, json!({"v": value}), &[]).url
}

#[test]
fn a_kind_is_read_and_shows_no_secret() {
    let kind = parse(
        r#"
        method = "POST"
        url = "https://api.example.org/v1/{item}?key={secret:KEY}&day={day}"
        headers = { Authorization = "Bearer {secret:TOKEN}", "X-Day" = "{day}" }
        body = '{"day": "{day}"}'
        params = { item.type = "string", day.type = "string" }
        secrets = { KEY = "key", TOKEN = "api-token" }
        success_codes = [200, 201]
        retry_codes = []
        allow_private = ["10.0.0.0/8", "127.0.0.1", "::1"]
        follow_redirects = 10
        timeout_seconds = 30
        "#,
    )
    .unwrap();
    let values = values(&kind, json!({"item": "a b/c", "day": "x&y"}));
    let url = "https://api.example.org/v1/a%20b%2Fc?key=***&day=x%26y";
    assert_eq!(kind.action().outline(&values), ["POST", url]);
    let info = serde_json::to_value(kind.info()).unwrap();
    assert_eq!((&info["type"], &info["timeout_seconds"]), (&json!("http"), &json!(30)));
}

#[test]
fn every_problem_is_told_with_its_place() {
    let url = "url = 'https://a.org/'\n";
    for (text, path) in [
        ("", "url"),
        ("url = 3", "url"),
        ("url = 'ftp://a.org/'", "url"),
        ("url = '/v1'", "url"),
        ("url = 'https://'", "url"),
        ("url = 'https://a b.org/'", "url"),
        ("url = 'https://a.org/#x'", "url"),
        ("url = 'https://u:p@a.org/'", "url"),
        ("url = 'https://a.org/{x}'", "url"),
        ("url = 'https://a.org/{secret:X}'", "url"),
        ("url = 'https://a.org/{'", "url"),
        ("url = 'https://{h}/'\nparams.h.type = 'string'", "url"),
        ("url = 'https://a.org:{h}/'\nparams.h.type = 'string'", "url"),
        ("url = 'https://a.org{h}'\nparams.h.type = 'string'", "url"),
        ("url = 'https:///{h}'\nparams.h.type = 'string'", "url"),
        ("url = 'https:////a.org/{h}'\nparams.h.type = 'string'", "url"),
        ("url = 'https://?{h}'\nparams.h.type = 'string'", "url"),
        ("url = 'http:///a.org'", "url"),
        ("url = '{h}'\nparams.h.type = 'string'", "url"),
        ("url = '{h}://a.org/'\nparams.h.type = 'string'", "url"),
        ("url = 'https://a.org/{h}'\nparams.h = { type = 'string', required = false }", "url"),
        (&format!("{url}method = 'BREW'"), "method"),
        (&format!("{url}method = 'get'"), "method"),
        (&format!("{url}body = 'x'"), "body"),
        (&format!("{url}method = 'POST'\nbody = '{{x}}'"), "body"),
        (&format!("{url}method = 'POST'\nbody = '{{secret:X}}'"), "body"),
        (&format!("{url}method = 'POST'\nbody = '{{\"a\": {{t}}}}'\nparams.t.type = 'string'"), "body"),
        (
            &format!("{url}method = 'POST'\nbody = 'no'\nheaders = {{ content-type = 'application/json' }}"),
            "body",
        ),
        (
            &format!(
                "{url}method = 'POST'\nbody = 'x{{o}}'\nparams.o = {{ type = 'string', required = false }}"
            ),
            "body",
        ),
        (&format!("{url}headers = {{ 'a b' = 'x' }}"), "headers.a b"),
        (&format!("{url}headers = {{ Host = 'x' }}"), "headers.Host"),
        (&format!("{url}headers = {{ Content-Length = '3' }}"), "headers.Content-Length"),
        (&format!("{url}headers = {{ A = \"x\\r\\nB: y\" }}"), "headers.A"),
        (&format!("{url}headers = {{ A = '{{x}}' }}"), "headers.A"),
        (&format!("{url}headers = {{ A = 'x', a = 'y' }}"), "headers.a"),
        (
            &format!("{url}headers = {{ Content-Type = '{{t}}' }}\nparams.t.type = 'string'"),
            "headers.Content-Type",
        ),
        (&format!("{url}headers = {{ A = 3 }}"), "headers.A"),
        (&format!("{url}success_codes = []"), "success_codes"),
        (&format!("{url}success_codes = [99]"), "success_codes"),
        (&format!("{url}retry_codes = [600]"), "retry_codes"),
        (&format!("{url}follow_redirects = 11"), "follow_redirects"),
        (&format!("{url}allow_private = ['10.0.0.0/8', 'intranet']"), "allow_private[1]"),
        (&format!("{url}allow_private = '10.0.0.0/8'"), "allow_private"),
        (&format!("{url}secrets = {{ A = 'a' }}"), "secrets.A"),
        (&format!("{url}env = {{ A = 'a' }}"), "env"),
        (&format!("{url}limits = {{ open_files = 100 }}"), "limits"),
        (&format!("{url}command = ['true']"), "command"),
    ] {
        assert_eq!(paths(text), [path], "{text}: {:?}", problems(text));
    }
}

#[test]
fn a_value_never_changes_what_is_asked() {
    let path = "https://a.org/v1/{v}/x?q=1";
    for (value, encoded) in [
        ("plain", "plain"),
        ("a/../../b", "a%2F..%2F..%2Fb"),
        ("?admin=1#x", "%3Fadmin%3D1%23x"),
        ("@evil.org:80\\", "%40evil.org%3A80%5C"),
        ("%2e%2e", "%252e%252e"),
        ("a\r\nHost: b\t\0", "a%0D%0AHost%3A%20b%09%00"),
        ("ü'\"<>", "%C3%BC%27%22%3C%3E"),
        ("...", "..."),
    ] {
        if value.contains('\0') {
            continue; // refused as an argument; see below for secrets
        }
        assert_eq!(url(path, value).unwrap(), format!("https://a.org/v1/{encoded}/x?q=1"), "{value:?}");
    }
    assert_eq!(url("https://a.org?q={v}", "a&b=c d").unwrap(), "https://a.org/?q=a%26b%3Dc%20d");
    assert_eq!(url("https://a.org?q={v}", "..").unwrap(), "https://a.org/?q=..");
    let kind = parse(
        "url = 'https://a.org/v1/{v}/.{w}?q={q}'\nparams = { v.type = 'string', w.type = 'string', q.type = 'string' }",
    );
    let kind = kind.unwrap();
    for astray in ["", ".", ".."] {
        assert_eq!(refused(&kind, json!({"v": astray, "w": "x", "q": astray})), ["args.v"], "{astray:?}");
    }
    assert_eq!(refused(&kind, json!({"v": "x", "w": ".", "q": ""})), ["args.w"]);
    assert!(url("https://a.org/{v}", &"x".repeat(9000)).unwrap_err().contains("longer than"));
}

#[test]
fn a_secret_never_changes_what_is_asked() {
    let toml = "url = 'https://a.org/{secret:S}/{secret:S}?k={secret:S}'\nsecrets = { S = 's' }";
    let filled = |value: &[u8]| sent(toml, json!({}), &[("S", value)]).url;
    assert_eq!(filled(b"a/\xff\0").unwrap(), "https://a.org/a%2F%FF%00/a%2F%FF%00?k=a%2F%FF%00");
    for astray in [&b""[..], b".", b".."] {
        assert!(filled(astray).unwrap_err().starts_with("the value of `S` is empty"));
    }
}

#[test]
fn a_value_stays_in_its_header() {
    let kind = "url = 'https://a.org/'\nheaders = { X-Day = 'on {v}', X-Maybe = '{o}', X-Key = 'k={secret:S}' }\nsecrets = { S = 's' }
        params = { v.type = 'string', o = { type = 'string', required = false } }";
    let both = parse(kind).unwrap();
    for value in ["a\r\nX-Admin: 1", "a\nb", "a\tb", "a\u{7f}", "a\u{85}b"] {
        assert_eq!(refused(&both, json!({"v": value})), ["args.v"], "{value:?}");
    }
    let headers = |value: &[u8]| sent(kind, json!({"v": "ü \"x\""}), &[("S", value)]).headers;
    let expected = [("x-day", "on ü \"x\""), ("x-key", "k=ä")];
    let found = headers("ä".as_bytes()).unwrap();
    assert_eq!(found.iter().map(|(name, value)| (&name[..], &value[..])).collect::<Vec<_>>(), expected);
    for wrong in [&b"key\n"[..], b"a\0", b"a\x7f", &[b'x'; 9000]] {
        let error = headers(wrong).unwrap_err();
        assert!(error.starts_with("the header x-key cannot be sent") && !error.contains("key\n"), "{error}");
    }
}

#[test]
fn a_value_stays_in_its_place_in_the_body() {
    let body = |body: &str, kind: &str, v: Value, secret: &[u8]| {
        let toml = format!(
            "url = 'https://a.org/'\nbody = '''{body}'''\nparams.v.type = '{kind}'\nsecrets = {{ S = 's' }}"
        );
        sent(&toml, json!({"v": v}), &[("S", secret)]).body.unwrap()
    };
    let json = r#"{"day": "{v}", "s": ["{secret:S}"], "literal": "{{v}}", "o": {"": {}}}"#;
    let value = "x\", \"admin\": true, \"y\": \"\\ \r\n\u{1}\u{7f} ü {secret:S} {v}";
    let filled = body(json, "string", json!(value), b"\"\\").unwrap();
    let expected = json!({"day": value, "s": ["\"\\"], "literal": "{v}", "o": {"": {}}});
    assert_eq!(serde_json::from_str::<Value>(&filled).unwrap(), expected, "{filled}");
    assert_eq!(body(r#"{"n": {v}}"#, "integer", json!(-3), b"").unwrap(), r#"{"n": -3}"#);
    assert_eq!(body(r#"[{v}, "{v}"]"#, "boolean", json!(true), b"").unwrap(), r#"[true, "true"]"#);
    assert!(body(json, "string", json!("x"), b"\xff").unwrap_err().contains("not UTF-8"));
    assert_eq!(body("{v}={v}", "string", json!("a&b"), b"").unwrap(), "a&b=a&b");
}

#[test]
fn a_form_is_encoded_field_by_field() {
    let toml = "url = 'https://a.org/'\nheaders = { content-type = 'application/x-www-form-urlencoded; charset=utf-8' }\nbody = 'a={v}&b=1'\nparams.v.type = 'string'";
    assert_eq!(sent(toml, json!({"v": "x&b=2 ü"}), &[]).body.unwrap().unwrap(), "a=x%26b%3D2%20%C3%BC&b=1");
}

#[test]
fn braces_stand_for_themselves_except_around_names() {
    let parts = |text: &str| Template::parse_among_braces(text).parts().to_vec();
    for literal in
        ["", "{", "}", "{}", "{ x }", "{\"a\": {\"b\": 1}}", "{1}", "{a b}", "{secret:}", "{a", "{{", "{{}}"]
    {
        assert_eq!(Template::parse_among_braces(literal).literal(), Some(literal), "{literal}");
    }
    assert_eq!(Template::parse_among_braces("{{a}} {{secret:B}}").literal(), Some("{a} {secret:B}"));
    assert_eq!(parts("{a}{secret:B}").len(), 2);
    assert_eq!(parts("{\"n\":{a}}").len(), 3);
}
