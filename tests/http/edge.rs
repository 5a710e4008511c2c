//! What stands around every operation: problems, ids, headers, limits, positions, metrics.

use reqwest::{Body, Method};
use serde_json::json;
use sqlx::Row as _;
use tests::{Client, PASSWORD, Reply, Setup, TestApp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{audited, keep, problem, refused};

async fn post_text(client: &Client, content_type: &str, body: impl Into<Body>) -> Reply {
    let request = client.request(Method::POST, "/api/secrets").header("content-type", content_type);
    client.send(request.body(body)).await
}

#[tokio::test]
async fn bodies_that_cannot_be_taken_are_problems() {
    let app = TestApp::start().await;
    let operator = app.operator();
    for malformed in
        ["", "{", "{\"name\": \"a\", }", "{\"name\": \"db\", \"value\": \"v\"} x", "\u{feff}{}", "nul"]
    {
        let reply = post_text(&operator, "application/json", malformed.to_owned()).await;
        problem(&reply, 400, "bad_request");
    }
    let not_utf8 =
        post_text(&operator, "application/json", b"{\"name\": \"\xff\", \"value\": \"v\"}".to_vec()).await;
    problem(&not_utf8, 400, "bad_request");
    for wrong in ["[]", "\"x\"", "7", "null"] {
        assert_eq!(post_text(&operator, "application/json", wrong).await.status, 422, "{wrong}");
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let reply = post_text(&operator, "application/json", format!("{{\"name\": {deep}}}")).await;
    assert!([400, 422].contains(&reply.status), "{}", reply.text);
    let twice =
        post_text(&operator, "application/json", "{\"name\": \"a\", \"name\": \"b\", \"value\": \"v\"}")
            .await;
    refused(&twice, &["name"]);
    let good = r#"{"name": "typed", "value": "v"}"#;
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", "json"] {
        problem(&post_text(&operator, content_type, good).await, 415, "unsupported_media_type");
    }
    let none = operator.request(Method::POST, "/api/secrets").body(good);
    problem(&operator.send(none).await, 415, "unsupported_media_type");
    post_text(&operator, "Application/JSON; charset=utf-8", good).await.expect(201);
}

#[tokio::test]
async fn a_body_over_a_mebibyte_is_refused_announced_or_not() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let body = |size: usize| {
        let frame = r#"{"name": "big", "value": "v", "description": ""}"#;
        frame.replace("\"\"}", &format!("\"{}\"}}", "x".repeat(size - frame.len())))
    };
    let (fits, over) = (body(1024 * 1024), body(1024 * 1024 + 1));
    refused(&post_text(&operator, "application/json", fits).await, &["description"]);
    problem(&post_text(&operator, "application/json", over.clone()).await, 413, "payload_too_large");
    let parts: Vec<Result<String, std::io::Error>> =
        vec![Ok(over[..500_000].to_owned()), Ok(over[500_000..].to_owned())];
    let unannounced = Body::wrap_stream(futures::stream::iter(parts));
    problem(&post_text(&operator, "application/json", unannounced).await, 413, "payload_too_large");
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_problems() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for path in [
        "/",
        "/api",
        "/api/",
        "/api/nothing",
        "/api/secrets/",
        "/nothing",
        "/api/secrets/x/y/z",
        "/docs/nothing",
        "/api/v2/secrets",
        "//",
        "/%00",
        "/%ff",
    ] {
        let reply = owner.get(path).await;
        assert_eq!((reply.status, reply.str("code")), (404, "not_found"), "{path}");
        problem(&reply, 404, "not_found");
    }
    for (method, path, allow) in [
        (Method::PUT, "/api/secrets", "GET,HEAD,POST"),
        (Method::PATCH, "/api/auth/login", "POST"),
        (Method::POST, "/livez", "GET,HEAD"),
        (Method::from_bytes(b"BREW").unwrap(), "/api/jobs/kinds", "GET,HEAD"),
    ] {
        let reply = owner.send(owner.request(method, path)).await;
        problem(&reply, 405, "method_not_allowed");
        let mut methods: Vec<&str> = reply.header("allow").split(',').map(str::trim).collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allow, "{path}");
    }
    for id in
        ["x", "1", "00000000-0000-0000-0000-00000000000g", "..%2F..%2Fetc", "%00", "%ff", &"x".repeat(4_000)]
    {
        problem(&owner.get(&format!("/api/secrets/{id}")).await, 404, "not_found");
        problem(&owner.get(&format!("/api/jobs/{id}/logs")).await, 404, "not_found");
        problem(&owner.get(&format!("/api/audit/secret/{id}/history")).await, 404, "not_found");
        problem(&owner.get(&format!("/api/audit/{id}/{}/state", app.people.team)).await, 404, "not_found");
    }
}

#[tokio::test]
async fn wrong_queries_are_named_and_never_a_fault_of_ours() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for (path, field) in [
        ("/api/jobs?status=lost", "status"),
        ("/api/jobs?limit=x", "limit"),
        ("/api/audit/events?from=yesterday", "from"),
        ("/api/audit/events?aggregate_type=x", "aggregate_type"),
        ("/api/audit/events?aggregate_type=claim", "aggregate_type"),
        ("/api/audit/events?cursor=0", "cursor"),
        ("/api/audit/events?cursor=-1", "cursor"),
        ("/api/audit/events?cursor=x", "cursor"),
        ("/api/audit/events?from=-262143-01-01T00:00:00Z", "from"),
        ("/api/audit/events?to=%2B262142-01-01T00:00:00Z", "to"),
        ("/api/audit/events?unknown=1", "unknown"),
        ("/api/audit/events?fields=position,sealed", "fields"),
    ] {
        refused(&owner.get(path).await, &[field]);
    }
    // What no text of ours holds finds nothing.
    for path in ["/api/jobs?kind=", "/api/secrets?q=", "/api/secrets?tag=", "/api/secrets?prefix=a"] {
        let found = owner.get(&format!("{path}%00")).await.expect(200);
        assert_eq!(found.json, json!({"items": [], "next": null}), "{path}");
    }
    for name in ["actor", "type", "aggregate_id", "request_id"] {
        let found = owner.get(&format!("/api/audit/events?{name}=%00")).await.expect(200);
        assert_eq!(found.json, json!({"items": [], "next": null}), "{name}");
    }
    let invalid_utf8 = owner.get("/api/secrets?q=%ff").await;
    assert!(invalid_utf8.status == 200 || invalid_utf8.status == 422, "{}", invalid_utf8.text);
}

#[tokio::test]
async fn a_request_has_one_id_everywhere() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let client = operator
        .with_header("x-request-id", "Order_1.2-3")
        .with_header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let secret = client.post("/api/secrets", json!({"name": "db", "value": "v"})).await.expect(201);
    assert_eq!(secret.header("x-request-id"), "Order_1.2-3");
    let events = audited(&app, &app.auditor(), "request_id=Order_1.2-3").await;
    assert_eq!(events.len(), 1);
    assert_eq!(
        (&events[0]["type"], &events[0]["aggregate_id"]),
        (&json!("SecretStored"), &secret.json["id"])
    );
    let mut connection = app.database.connect().await;
    let query = "select distinct metadata->>'trace_id', metadata->>'request_id' from events where metadata->>'trace_id' is not null";
    let rows = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].get::<String, _>(0), rows[0].get::<String, _>(1)),
        (trace.to_owned(), "Order_1.2-3".to_owned())
    );

    let refused = client.get("/api/secrets/x").await;
    assert_eq!(refused.str("request_id"), "Order_1.2-3");
    for odd in [&"x".repeat(65), "a b", "<script>", "a/b", "\u{e9}", ""] {
        let reply = operator.with_header("x-request-id", odd).get("/api/nothing").await;
        let made = reply.header("x-request-id");
        assert!(uuid::Uuid::parse_str(made).is_ok(), "{odd:?} became {made:?}");
        assert_eq!(reply.str("request_id"), made);
    }
    let two = operator.with_header("x-request-id", "a").with_header("x-request-id", "b").get("/livez").await;
    assert!(uuid::Uuid::parse_str(two.header("x-request-id")).is_ok());
    assert_eq!(
        operator.with_header("x-request-id", "x".repeat(64)).get("/livez").await.header("x-request-id").len(),
        64
    );
}

#[tokio::test]
async fn every_answer_protects_the_browser_it_may_land_in() {
    let app = TestApp::with(Setup::default().with("CORS_ORIGINS", "https://console.example.org")).await;
    let owner = app.owner();
    for path in ["/api/secrets", "/api/nothing", "/livez", "/openapi.json", "/docs/"] {
        let reply = owner.get(path).await;
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(reply.header("x-frame-options"), "DENY", "{path}");
        assert_eq!(reply.header("referrer-policy"), "no-referrer", "{path}");
        assert!(reply.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(reply.header("server"), "", "{path}");
    }
    assert_eq!(owner.get("/api/secrets").await.header("cache-control"), "no-store");
    let from = |origin: &str| owner.with_header("origin", origin);
    let allowed = from("https://console.example.org").get("/api/secrets").await.expect(200);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://console.example.org");
    for exposed in ["etag", "daybook-position", "x-request-id", "retry-after"] {
        assert!(allowed.header("access-control-expose-headers").contains(exposed), "{exposed}");
    }
    for other in [
        "https://evil.example.org",
        "http://console.example.org",
        "https://console.example.org.evil.org",
        "null",
    ] {
        let reply = from(other).get("/api/secrets").await.expect(200);
        assert_eq!(reply.header("access-control-allow-origin"), "", "{other}");
    }
    let preflight = app.anon().with_header("origin", "https://console.example.org");
    let preflight = preflight.with_header("access-control-request-method", "PUT");
    let preflight =
        preflight.with_header("access-control-request-headers", "authorization,if-match,daybook-team");
    let reply = preflight.send(preflight.request(Method::OPTIONS, "/api/secrets/x/value")).await.expect(200);
    assert!(reply.header("access-control-allow-methods").contains("PUT"));
    for header in ["authorization", "if-match", "daybook-team", "idempotency-key", "daybook-position"] {
        assert!(reply.header("access-control-allow-headers").contains(header), "{header}");
    }
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_can_read_that() {
    let app = TestApp::start().await;
    let plain = app.anon().get("/openapi.json").await.expect(200);
    assert_eq!(plain.header("content-encoding"), "");
    let gzip = app.anon().with_header("accept-encoding", "gzip");
    let response = gzip.request(Method::GET, "/openapi.json").send().await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert!(response.headers()["vary"].to_str().unwrap().to_lowercase().contains("accept-encoding"));
    let bytes = response.bytes().await.unwrap();
    assert!(bytes.starts_with(&[0x1f, 0x8b]) && bytes.len() * 3 < plain.text.len(), "{}", bytes.len());
}

/// Asks until it is told to wait, and says how often it was answered.
async fn until_refused(mut ask: impl AsyncFnMut() -> Reply) -> (usize, Reply) {
    for answered in 0..200 {
        let reply = ask().await;
        if reply.status == 429 {
            return (answered, reply);
        }
    }
    panic!("never refused");
}

#[tokio::test]
async fn who_asks_too_often_is_told_to_wait() {
    let setup = Setup::default()
        .with("RATE_LIMIT_ENABLED", "true")
        .with("RATE_LIMIT_PER_MINUTE", 40)
        .with("RATE_LIMIT_AUTHENTICATED_PER_MINUTE", 20);
    let app = TestApp::with(setup).await;
    let (viewer, anon) = (app.viewer(), app.anon());
    let (answered, refused) = until_refused(async || viewer.get("/api/jobs/kinds").await).await;
    assert!(answered >= 20, "{answered}");
    problem(&refused, 429, "too_many_requests");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // Everybody has a share of their own.
    app.operator().get("/api/jobs/kinds").await.expect(200);
    anon.get("/livez").await.expect(200);

    // Ten attempts a minute to sign in, right or wrong; then not even the right password helps.
    let mut number = 0;
    let (attempts, _) = until_refused(async || {
        number += 1;
        let attempt = json!({"email": format!("nobody-{number}@example.org"), "password": "wrong password"});
        anon.post("/api/auth/login", attempt).await
    })
    .await;
    assert!((10..20).contains(&attempts), "{attempts}");
    let right = json!({"email": "owner@example.org", "password": PASSWORD});
    problem(&anon.post("/api/auth/login", right).await, 429, "too_many_requests");
    app.owner().get("/api/jobs/kinds").await.expect(200);

    // Bad tokens are counted as well, or they could be guessed without end.
    let guess = anon.with_token("x.y.z");
    let (_, refused) = until_refused(async || guess.get("/api/auth/me").await).await;
    problem(&refused, 429, "too_many_requests");
    app.owner().get("/api/jobs/kinds").await.expect(200);
}

#[tokio::test]
async fn a_read_sees_the_write_whose_position_it_carries() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = keep(&operator, "db").await;
    let position: i64 = secret.header("daybook-position").parse().unwrap();
    assert_eq!(position, app.ledger.head().await.unwrap());
    let at = |position: &str| operator.with_header("daybook-position", position);
    at(&position.to_string()).get("/api/secrets").await.expect(200);
    at("0").get("/api/secrets").await.expect(200);
    let far = at(&(position + 1_000_000).to_string()).get("/api/secrets").await;
    problem(&far, 504, "views_behind");
    assert!(far.str("detail").contains(&position.to_string()), "{}", far.text);
    for malformed in ["", "x", "-1", "1.5", "99999999999999999999", "1 2"] {
        refused(&at(malformed).get("/api/secrets").await, &["Daybook-Position"]);
    }
}

/// The value of a metric's line.
fn metric(text: &str, line: &str) -> f64 {
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    found.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn the_probes_and_the_metrics_tell_how_things_are() {
    let app = TestApp::start().await;
    let (anon, operator) = (app.anon(), app.operator());
    for path in ["/livez", "/readyz"] {
        let reply = anon.get(path).await.expect(200);
        assert_eq!(
            (reply.text.as_str(), reply.header("content-type")),
            ("ok\n", "text/plain; charset=utf-8")
        );
    }
    let health = anon.get("/api/health").await.expect(200);
    assert_eq!((health.str("status"), health.str("database"), health.str("views")), ("ok", "ok", "ok"));
    assert_eq!(health.json["position"], app.ledger.head().await.unwrap());

    let secret = keep(&operator, "db").await;
    let path = format!("/api/secrets/{}", secret.str("id"));
    let read = async || {
        let reply = anon.get("/metrics").await.expect(200);
        assert!(reply.header("content-type").starts_with("text/plain; version=0.0.4"));
        reply.text
    };
    let before = read().await;
    for _ in 0..20 {
        operator.get(&path).await.expect(200);
        operator.get(&format!("/api/secrets/{}", uuid::Uuid::now_v7())).await.expect(404);
    }
    let after = read().await;
    let moved = |line: &str| metric(&after, line) - metric(&before, line);
    assert!(moved("cache_hits_total{view=\"secrets\"}") >= 20.0, "{after}");
    assert!(moved("cache_misses_total{view=\"secrets\"}") >= 20.0, "{after}");
    let requests = |status| {
        format!("http_requests_total{{method=\"GET\",path=\"/api/secrets/{{id}}\",status=\"{status}\"}}")
    };
    assert!(moved(&requests(200)) >= 20.0 && moved(&requests(404)) >= 20.0);
    assert!(metric(&after, "ledger_events_appended_total") > 0.0);
    assert!(!after.contains(secret.str("id")) && !after.contains("example.org"));
}

#[tokio::test]
async fn what_is_not_http_does_no_harm() {
    let app = TestApp::start().await;
    for garbage in [
        "\x16\x03\x01 hello\r\n\r\n",
        "GET /livez HTTP/9.9\r\n\r\n",
        "GET  /\r\n\r\n",
        "POST /api/secrets HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        stream.write_all(garbage.as_bytes()).await.unwrap();
        let mut answer = vec![];
        tests::within("the end of the connection", stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 505"),
            "{answer}"
        );
    }
    app.anon().get("/livez").await.expect(200);
}
