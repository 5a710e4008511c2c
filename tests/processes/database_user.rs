//! A database user who may not make roles, as administrators of databases give to programs.

use rustix::process::Signal;
use serde_json::json;
use sqlx::{Executor as _, PgConnection};
use tests::{Database, Server};

use super::home::Home;

/// The SQL that a message asks an administrator to run.
fn remedy(told: &str) -> String {
    let (_, sql) = told.split_once("has to run: ").unwrap_or_else(|| panic!("{told}"));
    sql.lines().next().unwrap().to_owned()
}

/// The program refuses to start, in words, and has changed nothing; what it asks for.
async fn refused(home: &Home, database: &Database, says: &str) -> String {
    let sql = "select count(*) from pg_class where relnamespace = current_schema()::regnamespace";
    let count =
        async || sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut database.connect().await).await.unwrap();
    let before = count().await;
    let served = home.run(&["serve"]).await.expect(1);
    assert!(served.stderr.contains(says), "{}", served.stderr);
    let checked = home.run(&["check"]).await.expect(1);
    assert!(
        checked.stdout.contains(&format!("DATABASE_URL: {}", remedy_line(&served.stderr))),
        "{}",
        checked.stdout
    );
    assert_eq!(count().await, before);
    remedy(&served.stderr)
}

fn remedy_line(stderr: &str) -> &str {
    stderr.lines().find_map(|line| line.strip_prefix("daybook: ")).unwrap()
}

/// It starts, and what people keep is there for them.
async fn works(home: &Home, name: &str) {
    assert_eq!(home.run(&["check"]).await.expect(0).stdout, "the configuration is good\n");
    let serving = home.serve().await;
    let admin = ("admin@example.org".to_owned(), "chosen by hand".to_owned());
    let client = serving.sign_in(&admin).await;
    client.post("/api/secrets", json!({"name": name, "value": "v"})).await.expect(201);
    let listed = client.get(&format!("/api/secrets?prefix={name}")).await.expect(200);
    assert_eq!(listed.json["items"].as_array().unwrap().len(), 1, "{}", listed.text);
    client.get("/api/jobs").await.expect(200);
    client.get("/api/audit/events").await.expect(200);
    serving.stop(Signal::TERM).await.expect(0);
    home.run(&["projections", "rebuild", "secrets"]).await.expect(0);
    home.run(&["projections", "verify"]).await.expect(0);
}

fn home_of(database: &Database) -> Home {
    Home::new()
        .with("DATABASE_URL", database.url())
        .with("ADMIN_EMAIL", "admin@example.org")
        .with("ADMIN_PASSWORD", "chosen by hand")
}

async fn run(admin: &mut PgConnection, sql: &str) {
    admin.execute(sqlx::raw_sql(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test]
async fn who_may_not_make_the_role_is_told_what_to_run_and_starts_once_it_was_run() {
    let server = Server::start("database-user").await;
    let mut admin = server.connect().await;
    run(&mut admin, "create role \"plain-user\" login").await;
    let database = server.empty_database("plain-user").await;
    let home = home_of(&database);
    let sql = refused(&home, &database, "has no role daybook_api").await;
    run(&mut admin, &sql).await;
    works(&home, "first").await;
    let loosened = [
        "alter role daybook_api superuser",
        "alter role daybook_api bypassrls",
        // A cycle of memberships is nothing PostgreSQL allows.
        "revoke daybook_api from \"plain-user\"; alter role daybook_api inherit; grant \"plain-user\" to daybook_api",
    ];
    for loosened in loosened {
        run(&mut admin, loosened).await;
        let sql = refused(&home, &database, "would see the rows of all teams").await;
        run(&mut admin, &sql).await;
    }
    let sql = refused(&home, &database, "may not assume the role daybook_api").await;
    run(&mut admin, &sql).await;
    works(&home, "second").await;
    drop((home, database));
    server.stop().await;
}

/// Where the tables are not in `public`, another role would look for them elsewhere.
#[tokio::test]
async fn who_has_a_schema_of_their_own_and_may_make_roles_needs_nobody() {
    let server = Server::start("database-schema").await;
    let mut admin = server.connect().await;
    run(&mut admin, "create role maker login createrole").await;
    let database = server.empty_database("maker").await;
    run(&mut database.connect().await, "create schema maker").await;
    let home = home_of(&database);
    works(&home, "first").await;
    let tables: Vec<String> = sqlx::query_scalar("select distinct schemaname::text from pg_tables where tablename in ('events', 'secrets', 'checkpoints')").fetch_all(&mut database.connect().await).await.unwrap();
    assert_eq!(tables, ["maker"]);
    works(&home, "second").await;
    drop((home, database));
    server.stop().await;
}
