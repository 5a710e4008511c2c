//! Every stream ends when it should, and none when it should not.

use api::notices::Notices;
use domain::{Role, SecretId, Team, TeamCommand, UserId};
use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Client, EventStream, Setup, TestApp, eventually, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::newcomers::{member, signed_in};
use super::super::support::{keep, problem};
use super::resuming::secret_of;
use super::{CHANGES, listening, value_path};

/// Makes sure that the stream is ended, by the server and in order, without having told anything more.
async fn ends(stream: &mut EventStream, why: &str) {
    let rest = stream.rest().await;
    assert!(rest.iter().all(|event| event.kind.is_empty()), "{why}: {rest:?}");
    assert!(!stream.broke_off(), "{why}");
}

/// Does something as the team's owner.
async fn order(app: &TestApp, command: TeamCommand) {
    let mut context = commands::Context::system(Some(app.people.team));
    context.caller.permissions = Role::Owner.permissions();
    let done = app.commands.execute::<Team>(&context, app.people.team, None, command).await.unwrap();
    app.projections.wait(done.position.unwrap(), tests::LIMIT).await.unwrap();
}

/// One way in which somebody loses the right to hear.
async fn lose(app: &TestApp, what: &str, user_id: UserId, client: &Client) {
    let owner = app.owner();
    match what {
        "logout" => drop(client.post("/api/auth/logout", Value::Null).await.expect(204)),
        "logout-all" => drop(client.post("/api/auth/logout-all", Value::Null).await.expect(204)),
        "role" => order(app, TeamCommand::ChangeRole { user_id, role: Role::Auditor }).await,
        "membership" => drop(owner.delete(&format!("/api/team/members/{user_id}")).await.expect(204)),
        "account" => {
            let path = format!("/api/users/{user_id}");
            app.admin().patch(&path, json!({"active": false})).await.expect(200);
        }
        strange => panic!("nobody loses anything by {strange}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_hear_any_more_hears_nothing_more_on_any_node() {
    let one = TestApp::start().await;
    let two = one.another_node(Setup::default()).await;
    let mut stays = listening(&one.operator()).await;
    let ways = ["logout", "logout-all", "role", "membership", "account"];
    for (number, what) in ways.into_iter().enumerate() {
        let who = member(&one, one.people.team, Role::Viewer, &format!("leaver{number}@example.org")).await;
        let mut here = listening(&who.client).await;
        let mut there = listening(&who.client.speaking_to(two.address)).await;
        // Another's session of theirs goes on where only this one ends.
        let (other, _) = signed_in(&one, who.id).await;
        let mut other = listening(&other).await;
        lose(&one, what, who.id, &who.client).await;
        let name = format!("kept-after-{number}");
        keep(&one.operator(), &name).await;
        ends(&mut here, what).await;
        let late = there.rest().await;
        assert!(!there.broke_off(), "{what}: {late:?}");
        assert_eq!(stays.expect("secret").await.data["name"], name);
        match what {
            "logout" => assert_eq!(other.expect("secret").await.data["name"], name),
            _ => ends(&mut other, what).await,
        }
        assert_ne!(who.client.get(CHANGES).await.status, 200, "{what}");
    }
}

#[tokio::test]
async fn a_keys_streams_end_with_it_and_a_tokens_with_its_time() {
    let app = TestApp::start().await;
    let made =
        app.operator().post("/api/auth/api-keys", json!({"name": "n", "scopes": ["secrets:read"]})).await;
    let made = made.expect(201);
    let program = app.anon().with_token(made.str("key"));
    let mut stream = listening(&program).await;
    app.operator().delete(&format!("/api/auth/api-keys/{}", made.str("id"))).await.expect(204);
    keep(&app.operator(), "after").await;
    ends(&mut stream, "revoked").await;
    problem(&program.get(CHANGES).await, 401, "api_key_invalid");

    let soon = app.viewer().with_token(&app.token(app.people.viewer, 2));
    ends(&mut listening(&soon).await, "expired").await;
}

#[tokio::test]
async fn when_the_node_stops_its_streams_end_in_order() {
    let app = TestApp::start().await;
    let going_on = app.another_node(Setup::default()).await;
    let mut streams = join_all((0..3).map(|_| async { listening(&app.viewer()).await })).await;
    let kept = keep(&app.operator(), "last").await;
    for stream in &mut streams {
        assert_eq!(stream.expect("secret").await.data["id"], kept.json["id"]);
    }
    app.stop().await;
    for stream in &mut streams {
        ends(stream, "the node stops").await;
    }
    // What happened meanwhile is told by the other one.
    let next = keep(&going_on.operator(), "next").await;
    let viewer = going_on.viewer().with_header("last-event-id", kept.header("daybook-position"));
    let mut stream = viewer.stream(CHANGES).await;
    assert_eq!(stream.expect("secret").await.data["id"], next.json["id"]);
}

#[tokio::test]
async fn a_client_has_so_many_streams_and_no_more_until_one_ends() {
    let app = TestApp::start().await;
    let viewer = app.viewer();
    let mut streams = join_all((0..32).map(|_| listening(&viewer))).await;
    let refused = viewer.get(CHANGES).await;
    problem(&refused, 429, "too_many_waiting");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    drop(listening(&app.operator()).await);
    streams.pop();
    eventually("a place", async || (viewer.get(CHANGES).await.status == 200).then_some(())).await;
    let kept = keep(&app.operator(), "db").await;
    for stream in &mut streams {
        assert_eq!(stream.expect("secret").await.data["id"], kept.json["id"]);
    }
}

#[tokio::test]
async fn a_persons_keys_and_sessions_share_their_places() {
    let app = TestApp::start().await;
    let person = app.operator();
    let kept = keep(&person, "db").await;
    let body = json!({"name": "n", "scopes": ["secrets:read", "secrets:reveal"]});
    let mut clients = vec![person.clone()];
    for _ in 0..3 {
        let made = person.post("/api/auth/api-keys", body.clone()).await.expect(201);
        clients.push(app.anon().with_token(made.str("key")));
    }
    let mut streams = join_all((0..32).map(|n| listening(&clients[n % 3]))).await;
    for client in &clients {
        problem(&client.get(CHANGES).await, 429, "too_many_waiting");
        let waiting = client.get(&format!("{}?wait=1", value_path(&kept.json))).await;
        problem(&waiting, 429, "too_many_waiting");
    }
    drop(listening(&app.viewer()).await);
    streams.pop();
    eventually("a place", async || (clients[3].get(CHANGES).await.status == 200).then_some(())).await;
}

/// A client that has asked for the stream and does not read.
async fn does_not_read(app: &TestApp) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut connection = socket.connect(app.address).await.unwrap();
    let (viewer, team) = (app.viewer(), app.people.team);
    let request = format!(
        "GET {CHANGES} HTTP/1.1\r\nhost: daybook\r\nauthorization: Bearer {}\r\ndaybook-team: {team}\r\nconnection: close\r\n\r\n",
        viewer.token()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut begun = vec![];
    while !String::from_utf8_lossy(&begun).contains("event: ready") {
        assert_ne!(within("the beginning", connection.read_buf(&mut begun)).await.unwrap(), 0);
    }
    connection
}

#[tokio::test]
async fn a_reader_who_does_not_read_is_cut_off_and_may_come_back() {
    let app = TestApp::start().await;
    let mut connection = does_not_read(&app).await;
    // Some megabytes: more than what lies between here and there takes.
    let name = "n".repeat(2_000);
    let (_, head) = secret_of(&app, &name, 4_500).await;
    let mut heard = String::new();
    within("the end", connection.read_to_string(&mut heard)).await.unwrap();
    let ids: Vec<i64> = heard.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "without a gap up to the cut");
    assert!(ids.last().is_none_or(|last| *last < head), "it was never cut off");
    assert!(heard.ends_with("0\r\n\r\n"), "the end is an orderly one");
    // There is too much to be told again; what happens now is told.
    let mut stream =
        app.viewer().with_header("last-event-id", ids.last().copied().unwrap_or(0)).stream(CHANGES).await;
    stream.expect("reset").await;
    stream.expect("ready").await;
    keep(&app.operator(), "db").await;
    assert_eq!(stream.expect("secret").await.data["name"], "db");
}

#[tokio::test]
async fn who_watches_one_secret_wakes_for_it_and_for_no_other() {
    let app = TestApp::start().await;
    let closing = CancellationToken::new();
    let notices = Notices::new(app.ledger.clone(), app.projections.clone(), closing.clone());
    let team = app.people.team;
    let telling = tokio::spawn(notices.clone().run(closing.clone()));
    let (one, other) = (keep(&app.operator(), "one").await.json, keep(&app.operator(), "other").await.json);
    let id = |secret: &Value| -> SecretId { secret["id"].as_str().unwrap().parse().unwrap() };
    let mut watch = eventually("it hears", async || notices.watch(team, id(&one)).ok()).await;
    let mut of_others = notices.watch(app.people.other_team, id(&one)).unwrap();
    let put = async |secret: &Value, value: &str| {
        app.operator().put(&value_path(secret), json!({"value": value})).await.expect(200)
    };
    let long = || Instant::now() + tests::LIMIT;
    put(&one, "v2").await;
    assert!(watch.changed(long()).await);
    let mut of_other = notices.watch(team, id(&other)).unwrap();
    put(&other, "v2").await;
    assert!(of_other.changed(long()).await);
    assert!(!watch.changed(Instant::now()).await, "that was the other one");
    assert!(!of_others.changed(Instant::now()).await, "it is not theirs");
    // More than a queue takes: it looks again rather than to miss something.
    let (busy, _) = secret_of(&app, "busy", 2).await;
    let mut lagging = notices.watch(team, busy).unwrap();
    secret_of(&app, "noise", 3_000).await;
    let last: i64 = put(&other, "v3").await.header("daybook-position").parse().unwrap();
    // What was before a stretch that has begun is told.
    let begun = async || notices.listen(team).ok().filter(|listener| listener.from() >= last).map(drop);
    eventually("all of it is told", begun).await;
    assert!(lagging.changed(long()).await);
    closing.cancel();
    assert!(!watch.changed(long()).await);
    within("the end", telling).await.unwrap();
}
