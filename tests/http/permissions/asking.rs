//! One operation, asked by somebody who was made for this one call, on things that were made for it too: no call is in another's way,
//! whatever it costs the caller.

use std::collections::BTreeSet;

use commands::{FirstTeam, NewAccount};
use domain::{Email, Role};
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, TestApp};

use super::super::newcomers::{
    Newcomer, account, invitation_token, member, newcomer, registered, signed_in, take_in, totp_code,
};
use super::super::support::keep;

/// One call: the operation, who asks, and a number that no other call has.
pub(super) struct Call<'a> {
    pub(super) app: &'a TestApp,
    /// What the interface says of itself.
    pub(super) document: &'a Value,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) who: &'a str,
    pub(super) number: usize,
}

/// What the call asks for.
struct Target {
    path: String,
    body: Value,
}

impl Call<'_> {
    /// Asks as the one who is named, sending this as `X-Request-Id`.
    pub(super) async fn ask(&self, request_id: &str) -> Reply {
        let caller = self.caller().await;
        self.send(&caller, caller.client.with_header("x-request-id", request_id)).await
    }

    /// Asks for the same without saying who asks.
    pub(super) async fn ask_anonymously(&self) -> Reply {
        let caller = self.caller().await;
        self.send(&caller, self.app.anon()).await
    }

    async fn send(&self, caller: &Newcomer, client: Client) -> Reply {
        let target = self.target(caller).await;
        self.check_documented(&target.body);
        let request = client.request(Method::from_bytes(self.method.as_bytes()).unwrap(), &target.path);
        client.send(if target.body.is_null() { request } else { request.json(&target.body) }).await
    }

    /// Makes sure that what is sent is what the document asks for.
    fn check_documented(&self, body: &Value) {
        let operation = &self.document["paths"][self.path][self.method.to_lowercase()];
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let schema = schema.as_str().and_then(|schema| self.document.pointer(schema.trim_start_matches('#')));
        let names = |value: Option<&Value>| -> BTreeSet<String> {
            value.and_then(Value::as_object).into_iter().flat_map(|fields| fields.keys().cloned()).collect()
        };
        let (sent, known) = (names(Some(body)), names(schema.map(|schema| &schema["properties"])));
        let case = format!("{} {}: {sent:?} of {known:?}", self.method, self.path);
        assert!(sent.is_subset(&known) && sent.is_empty() == known.is_empty(), "{case}");
        let required = schema.and_then(|schema| schema["required"].as_array()).into_iter().flatten();
        assert!(required.filter_map(Value::as_str).all(|field| sent.contains(field)), "{case}");
    }

    /// Somebody of this kind, whose address is not verified yet.
    async fn caller(&self) -> Newcomer {
        let (app, email) = (self.app, self.address("caller"));
        let plain = NewAccount { email_verified: false, ..account(&email).await };
        let (account, membership) = match self.who {
            "owner" => (plain, Some((app.people.team, Role::Owner))),
            "operator" => (plain, Some((app.people.team, Role::Operator))),
            "viewer" => (plain, Some((app.people.team, Role::Viewer))),
            "auditor" => (plain, Some((app.people.team, Role::Auditor))),
            "admin" => (NewAccount { admin: true, team: FirstTeam::Own, ..plain }, None),
            "other_team" => (plain, Some((app.people.other_team, Role::Owner))),
            strange => panic!("{strange} is nobody"),
        };
        let newcomer = registered(app, account).await;
        if let Some((team, role)) = membership {
            take_in(app, team, newcomer.id, role).await;
        }
        newcomer
    }

    fn address(&self, whose: &str) -> String {
        format!("{whose}{}@example.org", self.number)
    }

    fn name(&self) -> String {
        format!("for-{}", self.number)
    }

    /// The path with the id of something that exists, and a body that would do.
    async fn target(&self, caller: &Newcomer) -> Target {
        let mut target = Target { path: self.path.to_owned(), body: Value::Null };
        let resource = self.path.trim_start_matches("/api/").split('/').next().unwrap_or_default();
        match resource {
            "auth" => self.of_auth(&mut target, caller).await,
            "users" => self.of_users(&mut target).await,
            "team" | "teams" => self.of_teams(&mut target, caller).await,
            _ => self.of_the_rest(&mut target).await,
        }
        target
    }

    async fn of_auth(&self, target: &mut Target, caller: &Newcomer) {
        let (app, client) = (self.app, &caller.client);
        match (self.method, self.path.trim_start_matches("/api/auth/")) {
            ("POST", "register") => {
                target.body = json!({"email": self.address("new"), "password": PASSWORD, "name": "New"});
            }
            ("POST", "login") => target.body = json!({"email": caller.email, "password": PASSWORD}),
            ("POST", "refresh") => target.body = json!({"refresh_token": caller.refresh_token}),
            ("PATCH", "me") => target.body = json!({"name": "Somebody"}),
            ("POST", "password") => {
                target.body =
                    json!({"current_password": PASSWORD, "new_password": "a staple that is correct"});
            }
            ("POST", "password-reset") => target.body = json!({"email": caller.email}),
            ("POST", "password-reset/confirm") => {
                let email = Email::parse(&caller.email).unwrap();
                let registrar = api::node::registrar();
                let at = app.commands.request_password_reset(&registrar, caller.id, &email).await.unwrap();
                app.projections.settle(at, tests::LIMIT).await.unwrap();
                let token = app.mail_tokens("PasswordResetRequested", caller.id, 1).await.remove(0);
                target.body = json!({"token": token, "new_password": "a staple that is correct"});
            }
            ("POST", "verify-email") => {
                let email = Email::parse(&caller.email).unwrap();
                let registrar = api::node::registrar();
                app.commands.request_email_verification(&registrar, caller.id, &email).await.unwrap();
                let token = app.mail_tokens("EmailVerificationRequested", caller.id, 1).await.remove(0);
                target.body = json!({"token": token});
            }
            ("POST", "2fa/confirm") => {
                let begun = client.post("/api/auth/2fa", Value::Null).await.expect(200);
                target.body = json!({"totp_code": totp_code(begun.str("secret"))});
            }
            ("DELETE", "2fa") => {
                let begun = client.post("/api/auth/2fa", Value::Null).await.expect(200);
                let code = json!({"totp_code": totp_code(begun.str("secret"))});
                let codes = client.post("/api/auth/2fa/confirm", code).await.expect(200).json;
                target.body = json!({"totp_code": codes["recovery_codes"][0]});
            }
            ("DELETE", "sessions/{id}") => {
                let (other, _) = signed_in(app, caller.id).await;
                let sessions = other.get("/api/auth/sessions").await.expect(200).json;
                let sessions = sessions["items"].as_array().unwrap().clone();
                let session = sessions.iter().find(|session| session["current"] == true).unwrap();
                fill(target, "{id}", session["id"].as_str().unwrap());
            }
            ("POST", "api-keys") => target.body = self.key(),
            ("DELETE", "api-keys/{id}") => {
                let key = client.post("/api/auth/api-keys", self.key()).await.expect(201);
                fill(target, "{id}", key.str("id"));
            }
            ("GET", "users/{id}") => {
                fill(target, "{id}", &newcomer(app, &self.address("other")).await.id.to_string());
            }
            _ => {}
        }
    }

    /// A key that does what its maker may do.
    fn key(&self) -> Value {
        let scope = if self.who == "auditor" { "audit:read" } else { "team:read" };
        json!({"name": self.name(), "scopes": [scope]})
    }

    /// Leave for somebody in the team to see a secret.
    fn grant(&self) -> Value {
        json!({"user_id": self.app.people.viewer, "minutes": 5, "reason": "incident 7"})
    }

    /// A job that runs once a year.
    fn schedule(&self) -> Value {
        json!({"name": self.name(), "kind": "wait", "cron": "@yearly"})
    }

    async fn of_users(&self, target: &mut Target) {
        if self.path.contains("{id}") {
            fill(target, "{id}", &newcomer(self.app, &self.address("other")).await.id.to_string());
        }
        if self.method == "PATCH" {
            target.body = json!({"active": false});
        }
    }

    async fn of_teams(&self, target: &mut Target, caller: &Newcomer) {
        let (app, team) = (self.app, self.app.people.team);
        let invite = async |email: &str| -> Reply {
            let body = json!({"email": email, "role": "viewer"});
            app.owner().post("/api/team/invitations", body).await.expect(201)
        };
        match (self.method, self.path.trim_start_matches("/api/")) {
            ("PATCH", "team") => target.body = json!({"name": self.name()}),
            ("POST", "teams") => target.body = json!({"name": self.name(), "slug": self.name()}),
            ("PATCH" | "DELETE", "team/members/{user_id}") => {
                let member = member(app, team, Role::Viewer, &self.address("other")).await;
                fill(target, "{user_id}", &member.id.to_string());
                if self.method == "PATCH" {
                    target.body = json!({"role": "auditor"});
                }
            }
            ("POST", "team/invitations") => {
                target.body = json!({"email": self.address("guest"), "role": "viewer"});
            }
            ("DELETE", "team/invitations/{id}") => {
                fill(target, "{id}", invite(&self.address("guest")).await.str("id"));
            }
            ("POST", "teams/join") => {
                // A team that none of them is in yet.
                let admin = app.admin();
                let slug = json!({"name": self.name(), "slug": format!("joined-{}", self.number)});
                let made = admin.post("/api/teams", slug).await.expect(201);
                let admin = admin.with_header("daybook-team", made.str("id"));
                let body = json!({"email": caller.email, "role": "viewer"});
                let invitation = admin.post("/api/team/invitations", body).await.expect(201);
                let token =
                    invitation_token(app, made.str("id").parse().unwrap(), invitation.str("id")).await;
                target.body = json!({"invitation_token": token});
            }
            _ => {}
        }
    }

    async fn of_the_rest(&self, target: &mut Target) {
        let owner = self.app.owner();
        if self.path.starts_with("/api/secrets/") || self.path.starts_with("/api/audit/{") {
            let secret = keep(&owner, &self.name()).await;
            if self.path.contains("{grant_id}") {
                let path = format!("/api/secrets/{}/grants", secret.str("id"));
                let grant = owner.post(&path, self.grant()).await.expect(201);
                fill(target, "{grant_id}", grant.str("id"));
            }
            if self.path.ends_with("/restore") {
                owner.delete(&format!("/api/secrets/{}", secret.str("id"))).await.expect(204);
            }
            fill(target, "{id}", secret.str("id"));
            fill(target, "{aggregate_type}", "secret");
        } else if self.path.starts_with("/api/jobs/{") || self.path.starts_with("/api/reports/jobs/{") {
            // One that no worker takes before it is asked about.
            let file = self.path.ends_with("/artifacts/{name}");
            let run_at = if file { "2020-01-01T00:00:00Z" } else { "2100-01-01T00:00:00Z" };
            let job = owner.post("/api/jobs", json!({"kind": "wait", "run_at": run_at})).await.expect(201);
            if file {
                let store = self.app.artifacts();
                self.app.complete_with(job.str("id"), &store, &[("last_access", b"x")]).await;
            }
            fill(target, "{id}", job.str("id"));
        } else if self.path == "/api/effects/release" {
            let sql = "update effects set held_since = clock_timestamp(), held_because = 'a test'";
            sqlx::query(sql).execute(&mut self.app.database.connect().await).await.unwrap();
        } else if self.path.starts_with("/api/workers/{") {
            let sql = "insert into workers (name, host, pid, version, kinds, concurrency) values ($1, 'h', 1, '0', '{}', 1)";
            sqlx::query(sql).bind(self.name()).execute(self.app.ledger.pool()).await.unwrap();
            fill(target, "{name}", &self.name());
        }
        if self.path.starts_with("/api/schedules/{") {
            let schedule = owner.post("/api/schedules", self.schedule()).await.expect(201);
            fill(target, "{id}", schedule.str("id"));
        }
        fill(target, "{name}", "last_access");
        target.body = match (self.method, self.path) {
            ("POST", "/api/secrets") => json!({"name": self.name(), "value": "v"}),
            ("PATCH", "/api/secrets/{id}") => json!({"description": "d"}),
            ("POST", "/api/secrets/{id}/restore") => json!({"name": format!("{}-restored", self.name())}),
            ("POST", "/api/secrets/{id}/destroy") => json!({"versions": [1]}),
            ("POST", "/api/secrets/{id}/grants") => self.grant(),
            ("PUT", "/api/secrets/{id}/value") => json!({"value": "v2"}),
            ("POST", "/api/schedules") => self.schedule(),
            ("PATCH", "/api/schedules/{id}") => json!({"paused": true}),
            ("POST", "/api/jobs") => json!({"kind": "wait"}),
            ("POST", "/api/jobs/batch") => json!({"jobs": [{"kind": "wait"}]}),
            ("POST", "/api/jobs/bulk") => json!({"action": "cancel", "filter": {"kind": "none-such"}}),
            ("POST", "/api/jobs/pause" | "/api/jobs/resume") => json!({"kind": "wait"}),
            _ => Value::Null,
        };
    }
}

fn fill(target: &mut Target, parameter: &str, value: &str) {
    target.path = target.path.replace(parameter, value);
}
