//! What the stories about secrets share.

use std::future::Future;

use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Client, Reply, TestApp, eventually};

use super::support::count;

/// Where a secret is.
pub(crate) fn path(secret: &Reply) -> String {
    format!("/api/secrets/{}", secret.str("id"))
}

/// Gives the secret at `path` its next value.
pub(crate) async fn put(client: &Client, path: &str, value: &str) -> Reply {
    client.put(&format!("{path}/value"), json!({"value": value})).await
}

/// Reads the value of the secret at `path`; `query` begins with `?` or is empty.
pub(crate) async fn reveal(client: &Client, path: &str, query: &str) -> Reply {
    client.get(&format!("{path}/value{query}")).await
}

/// What is destroyed of the secret at `path`.
pub(crate) async fn destroy(client: &Client, path: &str, versions: &[u32]) -> Reply {
    client.post(&format!("{path}/destroy"), json!({"versions": versions})).await
}

/// The items of a list.
pub(crate) async fn items(client: &Client, path: &str) -> Vec<Value> {
    client.get(path).await.expect(200).json["items"].as_array().unwrap().clone()
}

/// The items of all pages of a list; `path` has a query.
pub(crate) async fn all_pages(client: &Client, path: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (vec![], String::new());
    loop {
        let page = client.get(&format!("{path}{cursor}")).await.expect(200);
        all.extend(page.json["items"].as_array().unwrap().clone());
        let Some(next) = page.json["next"].as_str() else { return all };
        cursor = format!("&cursor={next}");
    }
}

/// Does `attempt` so many times at once.
pub(crate) async fn at_once<F: Future<Output = Reply>>(times: u32, attempt: impl Fn(u32) -> F) -> Vec<Reply> {
    join_all((0..times).map(attempt)).await
}

/// The data keys that are left of a secret.
pub(crate) async fn keys(app: &TestApp, secret: &Reply) -> i64 {
    count(app, &format!("select count(*) from data_keys where id like 'secret/{}/%'", secret.str("id"))).await
}

/// How often values have left, by what the log itself says.
pub(crate) async fn readings(app: &TestApp) -> i64 {
    let types = "'SecretRevealed', 'SecretRevealedByGrant', 'SecretUsed'";
    count(app, &format!("select count(*) from events where event_type in ({types})")).await
}

/// Makes every view anew, and waits until all of them follow again.
pub(crate) async fn rebuild_everything(app: &TestApp) {
    let admin = app.admin();
    for view in items(&admin, "/api/projections").await {
        let name = view["name"].as_str().unwrap();
        admin.post(&format!("/api/projections/{name}/rebuild"), Value::Null).await.expect(202);
        eventually("the end of the rebuild", async || {
            let views = items(&admin, "/api/projections").await;
            let state = views.iter().find(|view| view["name"] == name).unwrap()["state"].clone();
            assert!(["rebuilding", "live"].contains(&state.as_str().unwrap()), "{name}: {state}");
            (state != "rebuilding").then_some(())
        })
        .await;
    }
}

/// Changes rows behind the program's back.
pub(crate) async fn edit(app: &TestApp, sql: &str) {
    let sql = tests::on_tables(sql);
    let done = sqlx::query(&sql).execute(&mut app.database.connect().await).await.unwrap();
    assert!(done.rows_affected() > 0, "nothing to change: {sql}");
}

/// Lets a person see the secret at `path`.
pub(crate) async fn grant(owner: &Client, path: &str, user: impl ToString, minutes: i64) -> Reply {
    let body = json!({"user_id": user.to_string(), "minutes": minutes, "reason": "incident 7"});
    owner.post(&format!("{path}/grants"), body).await
}
