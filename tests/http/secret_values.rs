//! Values: any bytes up to a limit, entity tags, and what happens when somebody meddles with what is stored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp, on_tables};

use super::secret_support::{at_once, edit, grant, path, put, readings, reveal};
use super::support::{keep, problem, refused, up_to_now};

const LARGEST: usize = 65_536;

async fn store(client: &Client, name: &str, field: &str, value: impl Into<Value>) -> Reply {
    client.post("/api/secrets", json!({"name": name, field: value.into()})).await
}

#[tokio::test]
async fn a_value_is_any_bytes_up_to_the_limit() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let texts = [
        "x".to_owned(),
        "x".repeat(LARGEST),
        "ä".repeat(LARGEST / 2),
        "\0".repeat(LARGEST),
        "\u{1}\r\n\t\u{7f}\"\\ \u{202e}\u{feff}🔑".to_owned(),
        " surrounded ".to_owned(),
    ];
    for (n, text) in texts.iter().enumerate() {
        for (field, given) in [("value", text.clone()), ("value_base64", BASE64.encode(text))] {
            let kept = store(&operator, &format!("{field}/{n}"), field, given).await.expect(201);
            let shown = reveal(&operator, &path(&kept), "").await.expect(200);
            assert!(shown.str("value") == text && shown.json.get("value_base64").is_none(), "{n} {field}");
            let shown = reveal(&operator, &path(&kept), "?encoding=base64").await.expect(200);
            assert!(shown.str("value_base64") == BASE64.encode(text) && shown.json.get("value").is_none());
        }
    }
    let all: Vec<u8> = (0..=255).collect();
    for (n, bytes) in [vec![0xff], vec![0xc3, 0x28], all, vec![0xff; LARGEST]].iter().enumerate() {
        let kept =
            store(&operator, &format!("bytes/{n}"), "value_base64", BASE64.encode(bytes)).await.expect(201);
        for query in ["", "?encoding=base64"] {
            let shown = reveal(&operator, &path(&kept), query).await.expect(200);
            assert!(shown.str("value_base64") == BASE64.encode(bytes) && shown.json.get("value").is_none());
        }
    }
    let kept = keep(&operator, "db").await;
    for encoding in ["hex", "", "Base64", "base64url"] {
        refused(&reveal(&operator, &path(&kept), &format!("?encoding={encoding}")).await, &["encoding"]);
    }
}

#[tokio::test]
async fn what_is_no_value_is_refused_and_never_echoed() {
    const CANARY: &str = "canary-51d9c2";
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = path(&keep(&operator, "db").await);
    let over = "x".repeat(LARGEST + 1);
    let cases = [
        (json!({}), "value"),
        (json!({"value": null}), "value"),
        (json!({"value": ""}), "value"),
        (json!({"value_base64": ""}), "value_base64"),
        (json!({"value": over}), "value"),
        (json!({"value": "ä".repeat(LARGEST / 2) + "x"}), "value"),
        (json!({"value_base64": BASE64.encode(&over)}), "value_base64"),
        (json!({"value": CANARY, "value_base64": BASE64.encode(CANARY)}), "value_base64"),
        (json!({"value": "", "value_base64": ""}), "value_base64"),
        (json!({"value_base64": CANARY}), "value_base64"),
        (json!({"value_base64": "AP8"}), "value_base64"),
        (json!({"value_base64": "AP8=\n"}), "value_base64"),
        (json!({"value_base64": "_w=="}), "value_base64"),
        (json!({"value": [CANARY]}), "value"),
        (json!({"value": {"text": CANARY}}), "value"),
        (json!({"value": 7}), "value"),
        (json!({"value_base64": [CANARY]}), "value_base64"),
    ];
    for (body, field) in cases {
        let mut new = body.clone();
        new["name"] = json!("new");
        let replies =
            [operator.post("/api/secrets", new).await, operator.put(&format!("{secret}/value"), body).await];
        for reply in replies {
            let fields: Vec<&str> =
                reply.fields().iter().map(|named| named.split('[').next().unwrap()).collect();
            assert_eq!((reply.status, fields.as_slice()), (422, &[field][..]), "{}", reply.text);
            assert!(!reply.text.contains(CANARY) && reply.text.len() < 1_000, "{}", reply.text);
        }
    }
    // What is not even JSON comes back no more than the rest.
    for body in
        [format!("{{\"value\": \"{CANARY}"), format!("{CANARY}: {{}}"), format!("{{\"value\": {CANARY}}}")]
    {
        let request = operator.request(reqwest::Method::PUT, &format!("{secret}/value"));
        let reply = operator.send(request.header("content-type", "application/json").body(body)).await;
        assert!(reply.status < 500 && reply.status >= 400 && !reply.text.contains(CANARY), "{}", reply.text);
    }
    assert_eq!(operator.get(&secret).await.expect(200).json["version"], 1);
}

#[tokio::test]
async fn whoever_has_the_value_is_told_that_it_is_the_same_without_a_record() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = path(&keep(&operator, "db").await);
    put(&operator, &secret, "v2").await.expect(200);
    let first = reveal(&operator, &secret, "").await.expect(200);
    assert_eq!(first.header("etag"), "\"v2\"");
    let recorded = readings(&app).await;
    let having = |client: &Client, tags: &str| client.with_header("if-none-match", tags);
    for tags in ["\"v2\"", "W/\"v2\"", "\"v1\", \"v2\"", "\"x\",\"v2\"", "*"] {
        let same = reveal(&having(&operator, tags), &secret, "").await.expect(304);
        assert_eq!((same.header("etag"), same.text.as_str()), ("\"v2\"", ""), "{tags}");
        assert_eq!(same.header("cache-control"), "no-store");
    }
    assert_eq!(readings(&app).await, recorded, "nothing left");
    reveal(&having(&operator, "\"v1\""), &secret, "?version=1").await.expect(304);
    for tags in ["\"v1\"", "\"2\"", "\"v22\"", "\"\"", "v"] {
        let new = reveal(&having(&operator, tags), &secret, "").await.expect(200);
        assert_eq!((new.str("value"), new.header("etag")), ("v2", "\"v2\""), "{tags}");
    }
    assert_eq!(readings(&app).await, recorded + 5);
    // Only to those who may have it: to others "the same" would already tell something.
    problem(&reveal(&having(&app.viewer(), "\"v2\""), &secret, "").await, 403, "forbidden");
    problem(&reveal(&having(&app.other_team(), "\"v2\""), &secret, "").await, 404, "secret_not_found");
    let nobody = having(&app.anon(), "\"v2\"");
    problem(&reveal(&nobody, &secret, "").await, 401, "unauthorized");
    problem(&reveal(&having(&operator, "*"), &secret, "?version=9").await, 404, "version_not_found");
    problem(&reveal(&having(&operator, "\"v9\""), &secret, "?version=9").await, 404, "version_not_found");
    grant(&app.owner(), &secret, app.people.viewer, 5).await.expect(201);
    reveal(&having(&app.viewer(), "\"v2\""), &secret, "").await.expect(304);

    put(&operator, &secret, "v3").await.expect(200);
    let changed = reveal(&having(&operator, "\"v2\""), &secret, "").await.expect(200);
    assert_eq!((changed.str("value"), changed.header("etag")), ("v3", "\"v3\""));
    operator.delete(&secret).await.expect(204);
    problem(&reveal(&having(&operator, "\"v3\""), &secret, "").await, 404, "secret_not_found");
}

/// A secret with one version for each way of meddling with what is stored of it.
struct Meddled {
    app: TestApp,
    secret: Reply,
}

impl Meddled {
    async fn with(versions: u32) -> Self {
        let app = TestApp::start().await;
        let secret = keep(&app.operator(), "db").await;
        let path = path(&secret);
        for _ in 1..versions {
            put(&app.operator(), &path, "canary-8a1f").await.expect(200);
        }
        Self { app, secret }
    }

    async fn sealed(&self, version: u32) -> Vec<u8> {
        let sql = on_tables("select row->>'sealed' from secret_versions where key = $1");
        let key = format!("{}/{version:010}", self.secret.str("id"));
        let sealed: String = sqlx::query_scalar(&sql)
            .bind(key)
            .fetch_one(&mut self.app.database.connect().await)
            .await
            .unwrap();
        BASE64.decode(sealed).unwrap()
    }

    async fn store(&self, version: u32, sealed: &str) {
        let row = format!("jsonb_set(row::jsonb, '{{sealed}}', to_jsonb('{sealed}'::text))");
        let id = self.secret.str("id");
        edit(&self.app, &format!("update secret_versions set row = {row} where key = '{id}/{version:010}'"))
            .await;
    }

    async fn key(&self, version: u32) -> Vec<u8> {
        let sql = "select wrapped from data_keys where id = $1";
        let key = format!("secret/{}/{version}", self.secret.str("id"));
        sqlx::query_scalar(sql).bind(key).fetch_one(&mut self.app.database.connect().await).await.unwrap()
    }

    async fn store_key(&self, version: u32, wrapped: &[u8]) {
        let id = self.secret.str("id");
        let hex: String = wrapped.iter().map(|byte| format!("{byte:02x}")).collect();
        edit(
            &self.app,
            &format!("update data_keys set wrapped = '\\x{hex}' where id = 'secret/{id}/{version}'"),
        )
        .await;
    }

    /// What a node says that has nothing of it in memory.
    async fn expect(self, cases: &[(u32, u16, &str)]) {
        let node = self.app.another_node(Setup::default()).await;
        let operator = up_to_now(&self.app, &node.operator()).await;
        let path = path(&self.secret);
        for (version, status, code) in cases {
            let reply = reveal(&operator, &path, &format!("?version={version}")).await;
            problem(&reply, *status, code);
            let detail = reply.str("detail");
            let named = detail.contains("db") || *status == 410;
            assert!(named && detail.contains(&version.to_string()), "{version}: {}", reply.text);
            assert!(!reply.text.contains("canary") && !reply.text.contains("value of"), "{}", reply.text);
        }
        assert_eq!(readings(&self.app).await, 0, "nothing left, so nothing was read");
    }
}

/// One bit of each byte, not always the same.
fn flipped(bytes: &[u8]) -> Vec<Vec<u8>> {
    let flip = |n: usize| {
        let mut bent = bytes.to_vec();
        bent[n] ^= 1 << (n % 8);
        bent
    };
    (0..bytes.len()).map(flip).collect()
}

#[tokio::test]
async fn a_sealed_value_that_was_bent_cut_or_moved_is_damaged_and_says_so() {
    // Format, key id, nonce, value, tag; of versions that are not the present one.
    let length = (1 + 8 + 12 + "canary-8a1f".len() + 16) as u32;
    let meddled = Meddled::with(length + 40).await;
    let mut version = 2;
    let bits = flipped(&meddled.sealed(2).await).len() as u32;
    assert!((40..=length + 20).contains(&bits), "{bits}");
    for n in 0..bits {
        let bent = flipped(&meddled.sealed(version).await).swap_remove(n as usize);
        meddled.store(version, &BASE64.encode(bent)).await;
        version += 1;
    }
    for cut in [0, 1, 9, 20, 21, 22, 37] {
        let sealed = meddled.sealed(version).await;
        meddled.store(version, &BASE64.encode(&sealed[..cut.min(sealed.len() - 1)])).await;
        version += 1;
    }
    let another = meddled.sealed(2).await;
    for odd in [
        BASE64.encode(another),
        BASE64.encode(meddled.sealed(1).await),
        "no base64!".to_owned(),
        "AAAA".to_owned(),
        BASE64.encode([meddled.sealed(version + 4).await, vec![0]].concat()),
    ] {
        meddled.store(version, &odd).await;
        version += 1;
    }
    // Both the value and the key of another version, in the place of this one.
    let (sealed, wrapped) = (meddled.sealed(1).await, meddled.key(1).await);
    meddled.store(version, &BASE64.encode(sealed)).await;
    meddled.store_key(version, &wrapped).await;
    let cases: Vec<_> = (2..=version).map(|version| (version, 409, "secret_damaged")).collect();
    meddled.expect(&cases).await;
}

#[tokio::test]
async fn a_data_key_that_was_bent_or_is_of_a_key_that_is_not_configured_is_named() {
    let meddled = Meddled::with(90).await;
    let (mut version, mut cases) = (2, vec![]);
    let length = meddled.key(2).await.len();
    for n in 0..length {
        let bent = flipped(&meddled.key(version).await).swap_remove(n);
        meddled.store_key(version, &bent).await;
        // The first bytes after the format's say which key wrapped it.
        let expected =
            if (1..=8).contains(&n) { (503, "key_not_configured") } else { (409, "secret_damaged") };
        cases.push((version, expected.0, expected.1));
        version += 1;
    }
    assert!(version < 85, "{version}");
    for cut in [0, 8, 20, 40] {
        let wrapped = meddled.key(version).await;
        meddled.store_key(version, &wrapped[..cut]).await;
        cases.push((version, 409, "secret_damaged"));
        version += 1;
    }
    let gone = format!("delete from data_keys where id = 'secret/{}/{version}'", meddled.secret.str("id"));
    edit(&meddled.app, &gone).await;
    cases.push((version, 409, "secret_damaged"));
    meddled.expect(&cases).await;
}

#[tokio::test]
async fn the_present_value_moved_to_another_secret_is_damaged_there() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let (mine, theirs) = (keep(&operator, "mine").await, keep(&app.other_team(), "theirs").await);
    let (from, to) = (theirs.str("id"), mine.str("id"));
    // The whole of it: value and key.
    let row =
        "jsonb_set(row::jsonb, '{sealed}', (select s.row::jsonb->'sealed' from secrets s where s.key = '";
    edit(&app, &format!("update secrets set row = {row}{from}')) where key = '{to}'")).await;
    let key = format!("(select wrapped from data_keys where id = 'secret/{from}/1')");
    edit(&app, &format!("update data_keys set wrapped = {key} where id = 'secret/{to}/1'")).await;
    let node = app.another_node(Setup::default()).await;
    let there = node.operator();
    let reply = reveal(&there, &path(&mine), "").await;
    problem(&reply, 409, "secret_damaged");
    assert!(reply.str("detail").contains("mine") && !reply.text.contains("value of"), "{}", reply.text);
    let seen = reveal(&node.other_team(), &path(&theirs), "").await.expect(200);
    assert_eq!(seen.str("value"), "value of theirs");
    // It takes its next value all the same, and that is read.
    put(&there, &path(&mine), "new").await.expect(200);
    assert_eq!(reveal(&there, &path(&mine), "").await.expect(200).str("value"), "new");
    assert_eq!(readings(&app).await, 2);
}

#[tokio::test]
async fn of_many_who_read_at_once_each_is_on_record() {
    let app = TestApp::start().await;
    let secret = path(&keep(&app.operator(), "db").await);
    let replies = at_once(8, |_| {
        let (operator, secret) = (app.operator(), secret.clone());
        async move { reveal(&operator, &secret, "").await }
    })
    .await;
    assert!(replies.iter().all(|reply| reply.str("value") == "value of db"));
    assert_eq!(readings(&app).await, 8, "each of them is on record");
}

#[tokio::test]
async fn what_is_sealed_is_in_no_answer_either() {
    let app = TestApp::start().await;
    let (operator, owner) = (app.operator(), app.owner());
    let kept = keep(&operator, "db").await;
    let (secret, id) = (path(&kept), kept.str("id"));
    put(&operator, &secret, "v2").await.expect(200);
    let sql = on_tables("select row->>'sealed' from secret_versions order by key");
    let sealed: Vec<String> =
        sqlx::query_scalar(&sql).fetch_all(&mut app.database.connect().await).await.unwrap();
    assert_eq!(sealed.len(), 2);
    let given = grant(&owner, &secret, app.people.viewer, 5).await.expect(201);
    let owner = up_to_now(&app, &owner).await;
    let mut answers = vec![given];
    for url in [
        "/api/secrets".to_owned(),
        secret.clone(),
        format!("{secret}/versions"),
        format!("{secret}/grants"),
        format!("{secret}/access"),
        "/api/audit/events?limit=200".to_owned(),
        "/api/audit/secret-access".to_owned(),
        format!("/api/audit/secret/{id}/history"),
        format!("/api/audit/secret/{id}/state"),
        format!("{secret}/value"),
    ] {
        answers.push(owner.get(&url).await.expect(200));
    }
    answers.push(app.admin().get("/api/audit/events?limit=200").await.expect(200));
    answers.push(owner.post(&format!("{secret}/destroy"), json!({})).await.expect(200));
    for answer in answers {
        assert!(!sealed.iter().any(|sealed| answer.text.contains(sealed)), "{}", answer.text);
    }
}
