//! Coming back: nothing is missed, nothing is repeated, or the client is told to begin anew.

use ::ledger::{Append, Metadata, NewEvent};
use api::server::Roles;
use domain::SecretId;
use serde_json::json;
use tests::{Client, EventStream, Setup, TestApp, eventually};
use tokio::task::JoinSet;

use super::super::support::keep;
use super::{CHANGES, listening, position, value_path};
use crate::ledger::support::whole_log;
use crate::projections::support::{changed, secret_id, stored, terminate_all};

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Keeps, changes and puts away secrets, whatever becomes of it.
async fn busy(client: Client, mut numbers: Numbers, rounds: u32) {
    let mut secrets = vec![];
    for round in 0..rounds {
        let which = numbers.below(5) as usize;
        match secrets.get(which) {
            None => {
                let name = format!("s{}-{round}", numbers.0 % 1_000_000);
                let kept = client.post("/api/secrets", json!({"name": name, "value": "v"})).await;
                secrets.push(kept.expect(201).json);
            }
            Some(secret) if numbers.below(8) == 0 => {
                client.delete(&format!("/api/secrets/{}", secret["id"].as_str().unwrap())).await.expect(204);
                secrets.remove(which);
            }
            Some(secret) => {
                drop(client.put(&value_path(secret), json!({"value": format!("v{round}")})).await.expect(200))
            }
        }
    }
}

/// The positions of all that happened to the team's secrets after `since`.
async fn happened(app: &TestApp, since: i64) -> Vec<i64> {
    let team = app.people.team.to_string();
    let log = whole_log(&app.ledger).await;
    let ours = log.iter().filter(|event| {
        event.position > since
            && event.stream.aggregate_type == "secret"
            && event.metadata.team_id.as_ref() == Some(&team)
    });
    ours.map(|event| event.position).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_again_and_again_misses_nothing_and_hears_nothing_twice() {
    for seed in [1, 2, 3] {
        let one = TestApp::start().await;
        let two = one.another_node(Setup::default()).await;
        let since = one.ledger.head().await.unwrap();
        let mut writers = JoinSet::new();
        let clients = [one.operator(), two.operator(), two.owner(), one.other_team()];
        for (number, client) in (0..).zip(clients) {
            writers.spawn(busy(client, Numbers(seed * 10 + number), 40));
        }
        let operator = one.operator();
        let end = tokio::spawn(async move {
            writers.join_all().await;
            keep(&operator, "the/end").await;
        });
        let heard = heard_in_pieces([&one, &two], seed, since).await;
        end.await.unwrap();
        assert_eq!(heard, happened(&one, since).await, "seed {seed}");
        assert!(heard.len() > 100, "{}", heard.len());
    }
}

/// What somebody hears up to the end who is cut off after every few events and comes back to one of the nodes.
async fn heard_in_pieces(nodes: [&TestApp; 2], seed: u64, since: i64) -> Vec<i64> {
    let (mut numbers, mut last, mut heard) = (Numbers(seed), since.to_string(), vec![]);
    loop {
        let viewer = nodes[numbers.below(2) as usize].viewer();
        let mut stream = viewer.with_header("last-event-id", &last).stream(CHANGES).await;
        for _ in 0..numbers.below(12) {
            let event = stream.next().await.unwrap();
            assert_ne!(event.kind, "reset", "seed {seed}");
            last.clone_from(&event.id);
            if event.kind == "secret" {
                heard.push(position(&event));
            }
            if event.data["name"] == "the/end" {
                return heard;
            }
        }
    }
}

/// Appends behind the interface's back, as the team's.
async fn append(app: &TestApp, events: Vec<NewEvent>) -> i64 {
    let team_id = Some(app.people.team.to_string());
    let metadata = Metadata { actor: "system".to_owned(), team_id, ..Metadata::default() };
    let position = app.ledger.append(Append { events, metadata, data_keys: vec![] }).await.unwrap().position;
    app.projections.wait(position, tests::LIMIT).await.unwrap();
    position
}

/// A secret of as many versions.
pub(super) async fn secret_of(app: &TestApp, name: &str, versions: u32) -> (SecretId, i64) {
    let id = secret_id();
    let mut events = vec![stored(id, app.people.team, name)];
    events.extend((2..=versions).map(|version| changed(id, version)));
    (id, append(app, events).await)
}

/// Keeps on asking until the stream is there: what the node needs may be away for a moment.
async fn opened(client: &Client) -> EventStream {
    eventually("a stream", async || client.try_stream(CHANGES).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_lose_the_database_again_and_again_miss_no_change() {
    let one = TestApp::start().await;
    let only_api = Roles { api: true, worker: false, follower: false };
    let two = one.another_node(Setup::default().roles(only_api)).await;
    let since = one.ledger.head().await.unwrap();
    let (writing, reading) =
        (writes_whatever_happens(one.operator()), heard_in_spite_of_it([&one, &two], since));
    let ((), heard) = tokio::join!(writing, reading);
    assert_eq!(heard, happened(&one, since).await);
}

async fn writes_whatever_happens(writer: Client) {
    let body = |name: &str| json!({"name": name, "value": "v"});
    for n in 0..60 {
        // Whether it was kept or not: the log knows.
        let _ = writer.post("/api/secrets", body(&format!("s{n}"))).await;
    }
    eventually("the end", async || {
        let reply = writer.post("/api/secrets", body("the/end")).await;
        (reply.status == 201 || reply.str("code") == "name_taken").then_some(())
    })
    .await;
}

/// What somebody hears up to the end while all connections to the database are closed every now and then.
async fn heard_in_spite_of_it(nodes: [&TestApp; 2], since: i64) -> Vec<i64> {
    let mut database = nodes[0].database.connect().await;
    let (mut last, mut heard) = (since.to_string(), vec![]);
    for round in 0.. {
        let viewer = nodes[round % 2].viewer().with_header("last-event-id", &last);
        let mut stream = opened(&viewer).await;
        for _ in 0..10 {
            let Some(event) = stream.next().await else { break };
            assert_ne!(event.kind, "reset");
            last.clone_from(&event.id);
            if event.kind == "secret" {
                heard.push(position(&event));
            }
            if event.data["name"] == "the/end" {
                return heard;
            }
        }
        if round < 6 {
            terminate_all(&mut database).await;
        }
    }
    heard
}

#[tokio::test]
async fn many_changes_at_once_are_told_in_full_to_who_reads() {
    let app = TestApp::start().await;
    let mut stream = listening(&app.viewer()).await;
    let (id, _) = secret_of(&app, "burst", 1_000).await;
    for version in 1..=1_000 {
        let told = stream.expect("secret").await.data;
        assert_eq!((&told["id"], &told["version"]), (&json!(id.to_string()), &json!(version)));
    }
}

#[tokio::test]
async fn who_was_away_too_long_is_told_to_read_anew_and_hears_what_happens_then() {
    let app = TestApp::start().await;
    let since = app.ledger.head().await.unwrap();
    let (_, head) = secret_of(&app, "busy", 1_001).await;
    eventually("the node has told all of it", async || {
        let began = app.viewer().stream(CHANGES).await.expect("ready").await;
        (position(&began) == head).then_some(())
    })
    .await;
    for (after, told) in [(since, None), (since + 1, Some(1_000)), (head - 1, Some(1)), (head, Some(0))] {
        let mut stream = app.viewer().stream(&format!("{CHANGES}?after={after}")).await;
        match told {
            None => assert_eq!(position(&stream.expect("reset").await), head),
            Some(told) => {
                for n in 1..=told {
                    assert_eq!(position(&stream.expect("secret").await), after + n);
                }
            }
        }
        assert_eq!(position(&stream.expect("ready").await), head);
    }
}

#[tokio::test]
async fn what_is_far_apart_in_the_log_is_told_in_order_and_by_name() {
    let app = TestApp::start().await;
    let since = app.ledger.head().await.unwrap();
    let first = keep(&app.operator(), "first").await;
    // More than is looked at in one query.
    let theirs = secret_id();
    let metadata = Metadata { team_id: Some(app.people.other_team.to_string()), ..Metadata::default() };
    let mut head = 0;
    for thousand in 0..11 {
        let mut events: Vec<_> = (0..1_000).map(|n| changed(theirs, thousand * 1_000 + n + 1)).collect();
        if thousand == 0 {
            events[0] = stored(theirs, app.people.other_team, "theirs");
        }
        let append = Append { events, metadata: metadata.clone(), data_keys: vec![] };
        head = app.ledger.append(append).await.unwrap().position;
    }
    app.projections.wait(head, tests::LIMIT).await.unwrap();
    let last = keep(&app.operator(), "last").await;
    app.operator()
        .patch(&format!("/api/secrets/{}", first.str("id")), json!({"name": "renamed"}))
        .await
        .expect(200);
    let end = app.ledger.head().await.unwrap();
    eventually("the node has told all of it", async || {
        let began = app.viewer().stream(CHANGES).await.expect("ready").await;
        (position(&began) >= end).then_some(())
    })
    .await;
    let mut stream = app.viewer().stream(&format!("{CHANGES}?after={since}")).await;
    let told = [(&first, "renamed", "stored"), (&last, "last", "stored"), (&first, "renamed", "renamed")];
    for (secret, name, event) in told {
        let told = stream.expect("secret").await.data;
        assert_eq!(
            (&told["id"], &told["name"], &told["event"]),
            (&secret.json["id"], &json!(name), &json!(event))
        );
    }
    stream.expect("ready").await;
}

#[tokio::test]
async fn a_position_that_was_never_reached_is_told_to_read_anew() {
    let app = TestApp::start().await;
    let head = app.ledger.head().await.unwrap();
    for future in [head + 1_000, i64::MAX] {
        let mut stream = app.viewer().with_header("last-event-id", future).stream(CHANGES).await;
        stream.expect("reset").await;
        stream.expect("ready").await;
        let kept = keep(&app.operator(), &format!("after-{future}")).await;
        assert_eq!(stream.expect("secret").await.data["id"], kept.json["id"]);
    }
}

#[tokio::test]
async fn what_was_heard_last_goes_before_what_was_asked_for_first() {
    let app = TestApp::start().await;
    let since = app.ledger.head().await.unwrap();
    keep(&app.operator(), "one").await;
    let mut stream = listening(&app.viewer()).await;
    let two = keep(&app.operator(), "two").await;
    let heard = stream.expect("secret").await;
    assert_eq!(heard.data["id"], two.json["id"]);
    // As a browser does: the same address, and the header.
    let mut again =
        app.viewer().with_header("last-event-id", heard.id).stream(&format!("{CHANGES}?after={since}")).await;
    again.expect("ready").await;
}
