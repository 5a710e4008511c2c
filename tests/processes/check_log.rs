//! `daybook check` tells every broken invariant of the log with its position, and changes nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;
use serde_json::json;
use sqlx::{Executor as _, PgConnection};
use tests::Database;

use super::home::Home;

const GOOD: &str = "the configuration is good\n";

fn home_of(database: &Database) -> Home {
    Home::new()
        .with("DATABASE_URL", database.url())
        .with("ENCRYPTION_KEY", BASE64.encode(*database.encryption_key()))
        .with("JWT_SECRET", "one for all nodes, of more than 32 characters")
}

async fn run(on: &mut PgConnection, sql: &str) {
    on.execute(sqlx::raw_sql(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn text(on: &mut PgConnection, sql: &str) -> String {
    sqlx::query_scalar(sql).fetch_one(on).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// A log with people and secrets, that nobody serves any more.
async fn lived(home: &Home) {
    let serving = home.serve().await;
    let owner = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    for name in ["one", "two"] {
        let body = json!({"name": name, "value": "c4n4ry"});
        let id = owner.post("/api/secrets", body).await.expect(201).str("id").to_owned();
        owner.put(&format!("/api/secrets/{id}/value"), json!({"value": "c4n4ry"})).await.expect(200);
    }
    serving.stop(Signal::TERM).await.expect(0);
}

/// What is done behind the program's back, and how it is undone.
struct Broken {
    sql: String,
    undo: String,
    /// Each is part of what is told.
    told: Vec<String>,
}

impl Broken {
    fn new(sql: impl Into<String>, undo: impl Into<String>, told: &[&str]) -> Self {
        Self { sql: sql.into(), undo: undo.into(), told: told.iter().map(|&told| told.to_owned()).collect() }
    }

    /// An event that is changed, and put right again.
    fn event(position: i64, set: &str, told: &str) -> Self {
        let unlocked = |sql: &str| {
            format!(
                "alter table events disable trigger events_are_for_ever; {sql}; \
                 alter table events enable trigger events_are_for_ever"
            )
        };
        let sql = format!(
            "create table kept as select * from events where position = {position}; \
             update events set {set} where position = {position}"
        );
        let undo = format!(
            "delete from events where position in ({position}, {position} + 1000); \
             insert into events select * from kept; drop table kept"
        );
        Self::new(unlocked(&sql), unlocked(&undo), &[told])
    }
}

async fn assert_told(home: &Home, on: &mut PgConnection, broken: &Broken) {
    run(on, &broken.sql).await;
    let ended = home.run(&["check"]).await.expect(1);
    for told in &broken.told {
        assert!(ended.stdout.contains(told), "{}\n{told}\n{}", broken.sql, ended.stdout);
    }
    assert!(!ended.stdout.contains("c4n4ry") && !ended.stderr.contains("c4n4ry"), "{ended:?}");
    run(on, &broken.undo).await;
}

#[tokio::test]
async fn the_table_its_triggers_and_its_functions_are_those_of_the_migrations() {
    let database = Database::new().await;
    let home = home_of(&database);
    lived(&home).await;
    let mut behind = database.connect().await;
    assert_eq!(home.run(&["check"]).await.expect(0).stdout, GOOD);
    let made = "create trigger events_are_for_ever before update or delete or truncate on events \
                for each statement execute function events_are_for_ever()";
    let function = |name: &str| format!("select pg_get_functiondef('{name}'::regproc)");
    let refuse = text(&mut behind, &function("events_are_for_ever")).await;
    let append = text(&mut behind, &function("append_events")).await;
    for broken in [
        Broken::new(
            "alter table events disable trigger events_are_for_ever",
            "alter table events enable trigger events_are_for_ever",
            &["log: the trigger events_are_for_ever is disabled"],
        ),
        Broken::new(
            "alter table events enable replica trigger events_are_for_ever",
            "alter table events enable trigger events_are_for_ever",
            &["log: the trigger events_are_for_ever is disabled"],
        ),
        Broken::new(
            "drop trigger events_are_for_ever on events",
            made,
            &["log: the trigger events_are_for_ever is missing"],
        ),
        Broken::new(
            "drop trigger events_are_for_ever on events; create trigger events_are_for_ever before delete on events \
             for each statement execute function events_are_for_ever()",
            format!("drop trigger events_are_for_ever on events; {made}"),
            &["log: the trigger events_are_for_ever is not as the migrations make it"],
        ),
        Broken::new(
            "create trigger extra before insert on events for each row execute function suppress_redundant_updates_trigger()",
            "drop trigger extra on events",
            &["log: the table events has a trigger extra"],
        ),
        Broken::new(
            "create or replace function events_are_for_ever() returns trigger language plpgsql as 'begin return null; end'",
            refuse,
            &["log: the function events_are_for_ever is not as the migrations make it"],
        ),
        Broken::new(
            append.replace("order by e.position desc limit 1;", "limit 1;"),
            append,
            &["log: the function append_events is not as the migrations make it"],
        ),
        Broken::new(
            "alter table events drop constraint events_position",
            "alter table events add constraint events_position unique (position)",
            &["log: the table events lacks the constraint UNIQUE (\"position\")"],
        ),
        Broken::new(
            "alter table events drop constraint events_position_check; \
             alter table events add constraint events_position_check check (position >= 1) not valid",
            "alter table events validate constraint events_position_check",
            &["log: the constraint CHECK ((\"position\" >= 1)) of the table events is not valid"],
        ),
        Broken::new(
            "alter table events alter column payload drop not null",
            "alter table events alter column payload set not null",
            &["log: the column payload of the table events may be null"],
        ),
        Broken::new(
            "alter table events set unlogged",
            "alter table events set logged",
            &["log: the table events is unlogged"],
        ),
        Broken::new(
            "create rule quiet as on insert to events do instead nothing",
            "drop rule quiet on events",
            &["log: the table events has rules"],
        ),
        Broken::new(
            "update _sqlx_migrations set version = 9000 where version = 13",
            "update _sqlx_migrations set version = 13 where version = 9000",
            &["log: migration 13 (artifacts) is missing", "log: migration 9000 is of another"],
        ),
        Broken::new(
            "update _sqlx_migrations set checksum = checksum || '\\x00' where version = 5",
            "update _sqlx_migrations set checksum = substr(checksum, 1, length(checksum) - 1) where version = 5",
            &["log: migration 5 (reactors) was applied in another form"],
        ),
    ] {
        assert_told(&home, &mut behind, &broken).await;
    }
    assert_eq!(home.run(&["check"]).await.expect(0).stdout, GOOD);
}

#[tokio::test]
async fn events_that_are_missing_moved_or_unreadable_are_told_by_position() {
    let database = Database::new().await;
    let home = home_of(&database);
    lived(&home).await;
    let mut behind = database.connect().await;
    let head: i64 =
        sqlx::query_scalar("select max(position) from events").fetch_one(&mut behind).await.unwrap();
    let at = "select position from events where event_type = $1 order by position limit 1";
    let stored: i64 = sqlx::query_scalar(at).bind("SecretStored").fetch_one(&mut behind).await.unwrap();
    let registered: i64 = sqlx::query_scalar(at).bind("UserRegistered").fetch_one(&mut behind).await.unwrap();
    let user =
        text(&mut behind, &format!("select aggregate_id from events where position = {registered}")).await;
    let cannot = |position: i64, rest: &str| format!("log: event {position} cannot be read: {rest}");
    let mut all = vec![
        Broken::event(
            head,
            "position = position + 1000",
            &format!("log: positions {head} to {} are missing", head + 999),
        ),
        Broken::event(stored, "sequence = 17", &format!("log: event {stored} is number 17 of secret/")),
        Broken::event(
            head,
            "recorded_at = recorded_at - interval '1 day'",
            &format!("log: event {head} was recorded before event {}", head - 1),
        ),
        Broken::event(head, "recorded_at = 'infinity'", &cannot(head, "")),
        Broken::event(
            stored,
            "event_type = 'SecretSung'",
            &cannot(stored, "SecretSung: secret event SecretSung version 1 is not known"),
        ),
        Broken::event(stored, "event_version = '77'", &cannot(stored, "SecretStored: ")),
        Broken::event(stored, "aggregate_type = 'song', sequence = 1", "is number 2 of secret/"),
    ];
    for payload in [
        "'\"c4n4ry\"'",
        "'{\"SecretStored\": {\"name\": \"c4n4ry\"}}'",
        "'{\"SecretStored\": {\"name\": \"c4n4ry\\ud800\"}}'",
        "'{\"SecretStored\": {\"c4n4ry\": 1e400}}'",
        "(repeat('[', 500) || repeat(']', 500))::json",
        "'null'",
    ] {
        all.push(Broken::event(stored, &format!("payload = {payload}"), &cannot(stored, "SecretStored: ")));
    }
    for metadata in ["'[]'", "'{\"actor\": 5}'", "'{\"actor\": \"c4n4ry\\udc00\"}'", "'3'"] {
        all.push(Broken::event(
            stored,
            &format!("metadata = {metadata}"),
            &cannot(stored, "SecretStored: metadata"),
        ));
    }
    all.push(Broken::event(
        registered,
        "payload = replace(payload::text, '\"sealed\":\"', '\"sealed\":\"AAAA')::json",
        &cannot(registered, "UserRegistered: "),
    ));
    all.push(Broken::new(
        format!("create table kept as select * from data_keys where id = 'subject/{user}'; delete from data_keys where id = 'subject/{user}'"),
        "insert into data_keys select * from kept; drop table kept",
        &[&format!("log: data key subject/{user} is missing, which event {registered}")],
    ));
    for (view, set, told) in [
        ("users", "state = 'failed', last_error = 'event 3: words'", ": event 3: words".to_owned()),
        (
            "jobs",
            "position = position + 10",
            format!("is at position {}, beyond the end of the log, position {head}", head + 10),
        ),
        ("teams", "digest = '\\x00'", format!("stands on another event at position {head}")),
        ("audit", "state = 'outdated'", projections::with_tables("the view {audit} is outdated at position")),
    ] {
        let of_it = format!("view like '{view}%'");
        all.push(Broken::new(
            format!(
                "create table kept as select * from checkpoints; update checkpoints set {set} where {of_it}"
            ),
            "delete from checkpoints; insert into checkpoints select * from kept; drop table kept",
            &[&told],
        ));
    }
    all.push(Broken::new(
        "create table kept as select * from reactors; update reactors set position = position + 100 where name = 'mail'",
        "update reactors r set position = k.position from kept k where k.name = r.name; drop table kept",
        &["log: the reactor mail is at position"],
    ));
    for broken in all {
        assert_told(&home, &mut behind, &broken).await;
    }
    assert_eq!(home.run(&["check"]).await.expect(0).stdout, GOOD);

    // Of many of a kind the first are told, then how many there are.
    run(
        &mut behind,
        "alter table events disable trigger events_are_for_ever; \
         update events set event_version = '77'; alter table events enable trigger events_are_for_ever",
    )
    .await;
    for format in ["jsonl", "pretty"] {
        let printed = home.run(&["events", "--format", format]).await.expect(0).stdout;
        let cannot = printed.lines().filter(|line| line.contains("version 77 is not known")).count();
        assert_eq!(cannot as i64, head, "{printed}");
        let stream = format!("user/{user}");
        let printed =
            home.run(&["events", "--format", format, "--aggregate", &stream]).await.expect(0).stdout;
        assert!(printed.contains("version 77 is not known"), "{printed}");
    }
    let told = home.run(&["state", &format!("user/{user}")]).await.expect(1).stderr;
    assert!(told.contains(&format!("event {registered} (UserRegistered) cannot be read")), "{told}");
    let ended = home.run(&["check"]).await.expect(1);
    let lines = ended.stdout.lines().filter(|line| line.contains("cannot be read")).count();
    let more = head.min(20);
    assert_eq!(lines as i64, more + i64::from(head > 20), "{}", ended.stdout);
}

#[tokio::test]
async fn an_empty_database_stays_empty_and_a_folder_that_is_not_there_is_not_made() {
    let database = Database::empty().await;
    let home = Home::new().with("DATABASE_URL", database.url());
    let ended = home.run(&["check"]).await.expect(0);
    assert_eq!(ended.stdout, GOOD);
    assert!(
        ended.stderr.contains("the database is empty") && ended.stderr.contains("daybook migrate"),
        "{ended:?}"
    );
    let made = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    let made: i64 = sqlx::query_scalar(made).fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!((made, home.data().exists()), (0, false));

    let nowhere = Home::new();
    let ended = nowhere.run(&["check"]).await.expect(0);
    assert_eq!(ended.stdout, GOOD);
    assert!(ended.stderr.contains("there is no database yet"), "{}", ended.stderr);
    assert!(!nowhere.data().exists());
    assert_eq!(nowhere.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_role_that_may_only_read_finds_the_same() {
    let database = Database::new().await;
    let home = home_of(&database);
    lived(&home).await;
    let mut behind = database.connect().await;
    let reader = "daybook_check_reader";
    run(
        &mut behind,
        &format!(
            "do $$ begin create role {reader} login; exception when duplicate_object then null; end $$; \
             grant select on all tables in schema public to {reader}"
        ),
    )
    .await;
    let user = text(&mut behind, "select current_user::text").await;
    let read_only = database.url().replacen(&format!("{user}@"), &format!("{reader}@"), 1);
    let read_only = read_only.replacen(&format!("user={user}"), &format!("user={reader}"), 1);
    assert!(read_only.contains(reader), "{read_only}");
    let looking = home_of(&database).without("DATABASE_URL").with("DATABASE_URL", read_only);
    let ended = looking.run(&["check"]).await.expect(0);
    assert_eq!(ended.stdout, GOOD);
    assert!(ended.stderr.contains("may only read"), "{}", ended.stderr);
    run(&mut behind, "alter table events disable trigger events_are_for_ever").await;
    let ended = looking.run(&["check"]).await.expect(1);
    assert!(ended.stdout.contains("log: the trigger events_are_for_ever is disabled"), "{}", ended.stdout);
}

#[tokio::test]
async fn events_from_beyond_the_end_are_an_error_and_not_nothing() {
    let database = Database::new().await;
    let home = home_of(&database);
    lived(&home).await;
    let all = home.run(&["events", "--format", "jsonl"]).await.expect(0).json_lines();
    let head = all.len();
    let last = home.run(&["events", "--format", "jsonl", "--from", &head.to_string()]).await.expect(0);
    assert_eq!(last.json_lines(), all[head - 1..]);
    for beyond in [head + 1, head + 1_000] {
        for format in ["jsonl", "pretty"] {
            let from = beyond.to_string();
            let ended = home.run(&["events", "--format", format, "--from", &from]).await.expect(1);
            let told = format!("--from {beyond} lies beyond the end of the log, position {head}");
            assert!(ended.stdout.is_empty() && ended.stderr.contains(&told), "{ended:?}");
        }
    }
    let from = (head + 2).to_string();
    let ended = home.run(&["events", "--follow", "--from", &from]).await.expect(1);
    assert!(ended.stderr.contains(&format!("position {head}")), "{}", ended.stderr);
}
