//! What happens to values that must not be seen: all that people, programs and jobs do with them, rightly and wrongly.

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Client, Reply, eventually};

use super::super::home::{Home, Serving};
use super::forms::{Canaries, random_part};
use super::places::{Place, files};
use crate::http::device;
use crate::mail::server::read_mail;

/// Prints its secrets in every way that a job may, keeps one in its home and leaves it as its result; then it ends as it is told.
const KINDS: &str = r#"
[jobs.show]
command = ["sh", "-c", '''
printf '%s\n' "$PLAIN" "$ODD"; printf '%s\n' "$ODD" >&2
printf %s "$PLAIN" | base64; printf 'user:%s' "$ODD" | base64 -w 20; printf 'x%s' "$PLAIN" | base64 | tr '+/' '-_'
begun=${{PLAIN%???????????}}; printf %s "$begun"; sleep 0.05; printf '%s\n' "${{PLAIN#"$begun"}}"
printf %s "$PLAIN" > "$HOME/kept"; printf %s "$ODD" > kept-beside-it-by-the-job && rm kept-beside-it-by-the-job
printf '{result}' "$PLAIN" > "$DAYBOOK_RESULT"
printf 'ready\n%s' "$PLAIN"
{ending}
''']
params.result = { type = "string", enum = ['{"used": "%s"}', '{"used": %s', '%s'] }
params.ending = { type = "string", enum = ["exit 0", "exit 3", "kill -9 $$", "until [ -e /nowhere/at/all ]; do sleep 0.05; done"] }
secrets = { PLAIN = "of/jobs/plain", ODD = "of/jobs/odd" }
max_attempts = 1

[jobs.lost]
command = ["true"]
secrets = { PLAIN = "of/jobs/plain", GONE = "never/stored" }
max_attempts = 1
"#;

/// The settings that hold keys, as canaries.
pub(super) fn home(canaries: &mut Canaries) -> Home {
    let key = random_part() + &random_part() + &random_part();
    let (jwt, encryption) = (canaries.plain("JWT_SECRET"), key[..32].to_owned());
    canaries.add_bytes("ENCRYPTION_KEY", encryption.as_bytes());
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, encryption);
    Home::new()
        .file(KINDS)
        .with("LOG_LEVEL", "trace")
        .with("LOG_FORMAT", "json")
        .with("REGISTRATION", "open")
        .with("JOB_RETRY_DELAY_SECONDS", 1)
        .with("JWT_SECRET", jwt)
        .with("ENCRYPTION_KEY", encoded)
        .with("ADMIN_EMAIL", "admin@example.org")
        .with("ADMIN_PASSWORD", canaries.plain("ADMIN_PASSWORD"))
}

/// Everything that happens, and what was answered to it.
pub(super) struct Story<'a> {
    pub(super) canaries: &'a mut Canaries,
    pub(super) serving: &'a Serving,
    pub(super) home: &'a Home,
    /// Answers that should show nothing.
    pub(super) answers: Vec<Place>,
    /// Found again where things are kept: that looking finds something.
    pub(super) marker: String,
}

impl Story<'_> {
    /// An answer that should show nothing.
    fn note(&mut self, what: &str, reply: Reply, status: u16) -> Reply {
        assert_eq!(reply.status, status, "{what}: {}", reply.text);
        self.answers.push(Place::answer(what, &reply));
        reply
    }

    /// A new value and the body that `with` makes of it, which is refused.
    async fn refused(&mut self, client: &Client, what: &str, status: u16, body: impl FnOnce(&str) -> Value) {
        let value = self.canaries.fresh(what);
        let reply = client.post("/api/secrets", body(&value)).await;
        self.note(what, reply, status);
    }

    /// Secrets that are stored, read, changed, put away and restored from the past. Returns the ids.
    pub(super) async fn secrets(&mut self, admin: &Client) -> Vec<String> {
        let (first, second) = (self.canaries.fresh("first value"), self.canaries.fresh("second value"));
        let keyed = admin.with_header("idempotency-key", "once").with_header("x-request-id", &self.marker);
        let body = json!({"name": "of-people", "value": first, "description": self.marker});
        let made = self.note("storing", keyed.post("/api/secrets", body.clone()).await, 201);
        self.note("storing again", keyed.post("/api/secrets", body).await, 201);
        let path = format!("/api/secrets/{}", made.str("id"));
        let value = format!("{path}/value");
        assert_eq!(admin.get(&value).await.expect(200).str("value"), first);
        self.note("changing", admin.put(&value, json!({"value": second})).await, 200);
        let packed = admin.with_header("accept-encoding", "gzip").get(&value).await.expect(200);
        assert_eq!((packed.header("cache-control"), packed.header("content-encoding")), ("no-store", ""));
        assert_eq!(packed.str("value"), second);
        let before = admin.get(&format!("{value}?version=1&reason=looking")).await.expect(200);
        assert_eq!(before.str("value"), first);
        let late = json!({"value": self.canaries.fresh("value that came too late")});
        let stale = admin.with_header("if-match", "\"1\"").put(&value, late).await;
        self.note("changing an old version", stale, 412);
        let taken = json!({"name": "of-people", "value": self.canaries.fresh("value under a taken name")});
        self.note("storing under a taken name", admin.post("/api/secrets", taken).await, 409);
        self.note("listing", admin.get("/api/secrets?q=of").await, 200);
        let mut ids = vec![made.str("id").to_owned()];
        for (name, value) in [
            ("plain", self.canaries.plain("a job's value")),
            ("odd", self.canaries.fresh("a job's odd value")),
        ] {
            let body = json!({"name": format!("of/jobs/{name}"), "value": value});
            ids.push(
                self.note("storing for jobs", admin.post("/api/secrets", body).await, 201)
                    .str("id")
                    .to_owned(),
            );
        }
        ids
    }

    /// Values in bodies that are refused.
    pub(super) async fn refusals(&mut self, admin: &Client) {
        let anon = self.serving.anon();
        let long = |value: &str| json!({"name": "x", "value": format!("{value}{}", "x".repeat(65_536))});
        self.refused(admin, "too long", 422, long).await;
        self.refused(
            admin,
            "an unknown field",
            422,
            |value| json!({"name": "x", "value": "y", "vlaue": value}),
        )
        .await;
        self.refused(admin, "an object", 422, |value| json!({"name": "x", "value": {"value": value}})).await;
        self.refused(admin, "a list", 422, |value| json!({"name": "x", "value": [value]})).await;
        self.refused(
            admin,
            "in place of a list",
            422,
            |value| json!({"name": "x", "value": "y", "tags": value}),
        )
        .await;
        self.refused(admin, "a time", 422, |value| json!({"name": "x", "value": "y", "expires_at": value}))
            .await;
        let expecting =
            |value: &str| json!({"name": "x", "value": "y", "tags": format!(", expected {value}")});
        self.refused(admin, "that speaks of what is expected", 422, expecting).await;
        let twice = |value: &str| json!({"name": "x", "value": "y", "value_base64": format!("{value}!")});
        self.refused(admin, "given twice", 422, twice).await;
        self.refused(
            admin,
            "as no base64",
            422,
            |value| json!({"name": "x", "value_base64": format!("{value}!")}),
        )
        .await;
        self.refused(admin, "as a name", 422, |value| json!({"name": value, "value": "y"})).await;
        self.refused(
            admin,
            "as a tag",
            422,
            |value| json!({"name": "x", "value": "y", "tags": [value.to_owned() + "\n"]}),
        )
        .await;
        self.refused(admin, "the whole body", 422, |value| json!(value)).await;
        self.refused(&anon, "nobody's", 401, |value| json!({"name": "x", "value": value})).await;
        let large = json!({"value": self.canaries.fresh("larger than a body may be").repeat(40_000)});
        // Refused before all of it has arrived, so that the answer may be lost on the way: a connection of its own.
        let apart = self.serving.anon().with_token(admin.token());
        if let Ok(reply) = apart.request(Method::POST, "/api/secrets").json(&large).send().await {
            assert_eq!(reply.status(), 413);
        }
        let nowhere = format!("/api/secrets/{}/value", uuid::Uuid::now_v7());
        let lost = json!({"value": self.canaries.fresh("for a secret that there is not")});
        self.note("changing nothing", admin.put(&nowhere, lost).await, 404);
        self.bodies_that_are_none(admin).await;
    }

    async fn bodies_that_are_none(&mut self, admin: &Client) {
        let cut = format!(r#"{{"name": "x", "value": "{}"#, self.canaries.plain("a body that is cut off"));
        let bare = format!(r#"{{"name": "x", "value": x{}}}"#, self.canaries.plain("a text without quotes"));
        let twice = self.canaries.plain("a field that comes twice");
        let twice = format!(r#"{{"name": "x", "value": "{twice}", "value": "{twice}"}}"#);
        let after =
            format!(r#"{{"name": "x", "value": "y"}} {}"#, self.canaries.plain("something after the body"));
        let form = format!("name=x&value={}", self.canaries.plain("a form"));
        for (what, kind, body, status) in [
            ("a body that is cut off", "application/json", cut, 400),
            ("a text without quotes", "application/json", bare, 400),
            ("a field that comes twice", "application/json", twice, 422),
            ("something after the body", "application/json", after, 400),
            ("a form", "application/x-www-form-urlencoded", form, 415),
        ] {
            let request = admin.request(Method::POST, "/api/secrets").header("content-type", kind).body(body);
            let reply = admin.send(request).await;
            self.note(what, reply, status);
        }
    }

    /// Jobs that show what they were given, and end in every way. Returns the ids.
    pub(super) async fn jobs(&mut self, admin: &Client) -> Vec<String> {
        let mut ids = vec![];
        let forever = "until [ -e /nowhere/at/all ]; do sleep 0.05; done";
        for (result, ending, seconds, status) in [
            (r#"{"used": "%s"}"#, "exit 0", 60, "completed"),
            (r#"{"used": %s"#, "exit 0", 60, "completed"),
            ("%s", "exit 3", 60, "failed"),
            (r#"{"used": "%s"}"#, "kill -9 $$", 60, "failed"),
            (r#"{"used": "%s"}"#, forever, 1, "failed"),
            (r#"{"used": "%s"}"#, forever, 60, "cancelled"),
        ] {
            let args = json!({"result": result, "ending": ending});
            let body = json!({"kind": "show", "args": args, "timeout_seconds": seconds});
            let job = self.note("queueing", admin.post("/api/jobs", body).await, 201).str("id").to_owned();
            if status == "cancelled" {
                self.prints(admin, &job, "ready").await;
                self.note("cancelling", admin.post(&format!("/api/jobs/{job}/cancel"), json!({})).await, 200);
            }
            self.ends(admin, &job, status).await;
            ids.push(job);
        }
        let lost = self.note("queueing", admin.post("/api/jobs", json!({"kind": "lost"})).await, 201);
        self.ends(admin, lost.str("id"), "failed").await;
        ids.push(lost.str("id").to_owned());
        ids
    }

    async fn prints(&self, admin: &Client, job: &str, text: &str) {
        eventually("what a job prints", async || {
            let log = admin.get(&format!("/api/jobs/{job}/logs")).await.expect(200);
            log.json["items"].as_array().unwrap().iter().any(|line| line["text"] == text).then_some(())
        })
        .await;
    }

    async fn ends(&mut self, admin: &Client, job: &str, status: &str) {
        let ended = eventually("the job's end", async || {
            let job = admin.get(&format!("/api/jobs/{job}")).await.expect(200);
            ["completed", "failed", "cancelled"].contains(&job.str("status")).then_some(job)
        })
        .await;
        assert_eq!(ended.str("status"), status, "{}", ended.text);
        self.note("the job", ended, 200);
        let log = self.note("its log", admin.get(&format!("/api/jobs/{job}/logs?limit=200")).await, 200);
        // All but the job that never began has shown its values.
        assert!(log.text.contains("***") || log.text.contains("never/stored"), "{}", log.text);
    }

    /// Somebody's passwords, tokens, keys and codes, used rightly and wrongly. Returns their id.
    pub(super) async fn person(&mut self) -> String {
        let anon = self.serving.anon();
        let (email, password) = ("grace@example.org", self.canaries.fresh("password"));
        let weak = json!({"email": email, "name": "Grace", "password": format!("{email} {}", self.canaries.fresh("weak password"))});
        self.note("a weak password", anon.post("/api/auth/register", weak).await, 422);
        let body = json!({"email": email, "name": "Grace", "password": password});
        let id = self
            .note("registering", anon.post("/api/auth/register", body.clone()).await, 201)
            .str("id")
            .to_owned();
        self.note("registering again", anon.post("/api/auth/register", body).await, 409);
        let wrong = json!({"email": email, "password": self.canaries.fresh("wrong password")});
        self.note("a wrong password", anon.post("/api/auth/login", wrong).await, 401);
        let swapped = json!({"email": self.canaries.fresh("password for an address"), "password": email});
        self.note("a password for an address", anon.post("/api/auth/login", swapped).await, 422);
        let mistyped =
            json!({"email": email, "password": {"is": self.canaries.fresh("password in an object")}});
        self.note("a password in an object", anon.post("/api/auth/login", mistyped).await, 422);
        let grace = self.session(&anon, json!({"email": email, "password": password})).await;
        self.keys(&grace).await;
        self.device(&grace, email, &password).await;
        self.new_passwords(&grace, email, &password).await;
        self.strange_credentials().await;
        id
    }

    /// Signs in, goes on, and tries what was used up.
    async fn session(&mut self, anon: &Client, body: Value) -> Client {
        let tokens = anon.post("/api/auth/login", body.clone()).await.expect(200);
        let refresh = json!({"refresh_token": tokens.str("refresh_token")});
        let next = anon.post("/api/auth/refresh", refresh).await.expect(200);
        let kept =
            anon.with_header("daybook-session", "cookie").post("/api/auth/login", body).await.expect(200);
        for tokens in [&tokens, &next] {
            for name in ["access_token", "refresh_token"] {
                self.canaries.add(name, tokens.str(name).rsplit('.').next().unwrap());
            }
        }
        let cookies = kept.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap());
        for cookie in cookies {
            let value = cookie.split(['=', ';']).nth(1).unwrap();
            self.canaries.add("a cookie", value.rsplit('.').next().unwrap());
        }
        anon.with_token(next.str("access_token"))
    }

    async fn keys(&mut self, grace: &Client) {
        let keyed = grace.with_header("idempotency-key", "once");
        let made = keyed
            .post("/api/auth/api-keys", json!({"name": "deploy", "scopes": ["secrets:read"]}))
            .await
            .expect(201);
        let key = made.str("key");
        self.canaries.add("API key", key.rsplit('.').next().unwrap());
        let program = grace.with_token(key);
        self.note("a key's question", program.get("/api/secrets").await, 200);
        self.refused(&program, "with a key that may not", 403, |value| json!({"name": "x", "value": value}))
            .await;
        self.note("its keys", grace.get("/api/auth/api-keys").await, 200);
    }

    async fn device(&mut self, grace: &Client, email: &str, password: &str) {
        let (device, enrolment) = device::begin(grace).await;
        self.canaries.add("shared key", enrolment.str("secret"));
        self.canaries.add_bytes("shared key", device.totp().secret().as_ref());
        let confirmed = device::confirm(grace, &device.code().await).await.expect(200);
        let codes = device::recovery_codes(&confirmed);
        for code in &codes {
            self.canaries.add("recovery code", code);
            self.canaries.add("recovery code", &code.replace('-', ""));
        }
        let anon = self.serving.anon();
        let with = |code: &str| json!({"email": email, "password": password, "totp_code": code});
        let odd = self.canaries.fresh("a code that is none");
        self.note("a code that is none", anon.post("/api/auth/login", with(&odd)).await, 422);
        anon.post("/api/auth/login", with(&codes[0])).await.expect(200);
        self.note("a code twice", anon.post("/api/auth/login", with(&codes[0])).await, 401);
        device::switch_off(grace, &codes[1]).await.expect(204);
    }

    /// Another password, by oneself and by a mail.
    async fn new_passwords(&mut self, grace: &Client, email: &str, password: &str) {
        let anon = self.serving.anon();
        let next = self.canaries.fresh("next password");
        let wrong = json!({"current_password": self.canaries.fresh("not the present password"), "new_password": next});
        self.note("not the present password", grace.post("/api/auth/password", wrong).await, 422);
        let body = json!({"current_password": password, "new_password": next});
        self.note("another password", grace.post("/api/auth/password", body).await, 204);
        let unknown =
            json!({"token": self.canaries.fresh("a mail's token that is none"), "new_password": next});
        self.note("a token that is none", anon.post("/api/auth/password-reset/confirm", unknown).await, 422);
        self.note("asking", anon.post("/api/auth/password-reset", json!({"email": email})).await, 202);
        let token = self.mailed("password-reset").await;
        self.canaries.add("token of a mail", token.rsplit('.').next().unwrap());
        let reset = json!({"token": token, "new_password": self.canaries.fresh("password after a mail")});
        self.note(
            "a token of a mail",
            anon.post("/api/auth/password-reset/confirm", reset.clone()).await,
            204,
        );
        self.note("a token twice", anon.post("/api/auth/password-reset/confirm", reset).await, 422);
    }

    /// The token in the mail of this kind.
    async fn mailed(&self, kind: &str) -> String {
        let folder = self.home.data().join("mail");
        eventually("a mail", async || {
            let mails = if folder.is_dir() { files(&folder) } else { vec![] };
            let mail = mails.into_iter().find(|mail| mail.name.ends_with(&format!("-{kind}.eml")))?;
            let (_, text) = read_mail(&String::from_utf8(mail.bytes).unwrap());
            let token = text.split("token=").nth(1)?.split_whitespace().next()?.to_owned();
            Some(token)
        })
        .await
    }

    /// Credentials that are none, wherever one may be.
    async fn strange_credentials(&mut self) {
        let anon = self.serving.anon();
        let plain = self.canaries.plain("a credential that is none");
        let attempts = [
            ("authorization", format!("Bearer {plain}")),
            ("authorization", format!("Bearer dbk_{plain}")),
            ("authorization", format!("Bearer eyJhbGciOiJFZERTQSJ9.{plain}.{plain}")),
            ("authorization", format!("Basic {plain}")),
            ("cookie", format!("daybook_access={plain}; daybook_refresh={plain}")),
        ];
        for (name, value) in attempts {
            let reply =
                anon.with_header(name, value).with_header("x-csrf-token", &plain).get("/api/auth/me").await;
            self.note("a credential that is none", reply, 401);
        }
        let reply = anon.post("/api/auth/refresh", json!({"refresh_token": format!("dbr_{plain}")})).await;
        self.note("a refresh token that is none", reply, 401);
    }
}
