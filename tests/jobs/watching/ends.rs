//! Who is let in, and when a socket ends.

use domain::{Role, Team, TeamCommand};
use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Client, Setup, Socket, TestApp, eventually};

use super::super::*;
use super::{seqs, socket_path, ticket, watch};

/// A job that runs until the gate `end` is open, and has printed `up`.
async fn going_on(app: &TestApp) -> String {
    let path = queue(&app.operator(), script(&format!("echo up; {}", wait_for("end")))).await;
    printed(&app.operator(), &path, "up").await;
    path
}

async fn code(app: &TestApp, job: &str, query: &str) -> Option<u16> {
    code_with(app, job, query, &[]).await
}

async fn code_with(app: &TestApp, job: &str, query: &str, headers: &[(&'static str, &str)]) -> Option<u16> {
    let mut socket = Socket::open(app.address, &socket_path(job, query), headers).await.unwrap();
    let (messages, code) = socket.rest().await;
    assert!(messages.is_empty() || code == Some(1000), "{messages:?} {code:?}");
    code
}

#[tokio::test]
async fn a_ticket_is_good_once_and_for_a_minute_and_for_the_team_it_was_made_for() {
    let app = shell_app().await;
    let operator = app.operator();
    let (path, _) = run(&operator, script("echo done")).await;
    let made = operator.post("/api/auth/ws-ticket", Value::Null).await.expect(200);
    assert_eq!((made.json["expires_in"].as_u64(), made.header("cache-control")), (Some(60), "no-store"));
    let good = made.str("ticket").to_owned();
    assert!(good.starts_with("dbt_"), "{good}");
    assert_eq!(code(&app, &path, &format!("ticket={good}")).await, Some(1000));
    assert_eq!(code(&app, &path, &format!("ticket={good}")).await, Some(4401), "once");

    let late = ticket(&operator).await;
    let aged = "update ws_tickets set expires_at = now() - interval '1 ms'";
    assert_eq!(sqlx::query(aged).execute(app.ledger.pool()).await.unwrap().rows_affected(), 1);
    assert_eq!(code(&app, &path, &format!("ticket={late}")).await, Some(4401), "a minute");

    // Of many who bring one, one gets in.
    let one = ticket(&operator).await;
    let query = format!("ticket={one}");
    let all = join_all((0..16).map(|_| code(&app, &path, &query))).await;
    assert_eq!(all.iter().filter(|code| **code == Some(1000)).count(), 1, "{all:?}");
    assert!(all.iter().all(|code| matches!(code, Some(1000 | 4401))), "{all:?}");

    for bad in
        ["ticket=", "ticket=dbt_", "ticket=dbt_AAAA", "ticket=x", "token=", "token=x", "token=dbk_x", ""]
    {
        assert_eq!(code(&app, &path, bad).await, Some(4401), "{bad}");
    }
    let two = format!("ticket={}&token={}", ticket(&operator).await, operator.token());
    assert_eq!(code(&app, &path, &two).await, Some(4401), "one credential");
    // It speaks for its own team, whatever else is said.
    let theirs = format!("ticket={}&team={}", ticket(&app.other_team()).await, app.people.team);
    assert_eq!(code(&app, &path, &theirs).await, Some(4404));
    let kept: i64 =
        sqlx::query_scalar("select count(*) from ws_tickets").fetch_one(app.ledger.pool()).await.unwrap();
    assert_eq!(kept, 1, "only the one that nobody could use with another credential is left");
}

#[tokio::test]
async fn tokens_and_keys_open_a_socket_and_cookies_do_not() {
    let app = shell_app().await;
    let operator = app.operator();
    let (path, _) = run(&operator, script("echo done")).await;
    let (team, token) = (app.people.team, operator.token().to_owned());
    assert_eq!(code(&app, &path, &format!("token={token}&team={team}")).await, Some(1000));
    assert_eq!(code(&app, &path, &format!("token={token}&team=main")).await, Some(1000));
    let bearer = format!("Bearer {token}");
    let named = [("authorization", bearer.as_str()), ("daybook-team", "main")];
    assert_eq!(code_with(&app, &path, "", &named).await, Some(1000));
    // Their own team has no such job.
    assert_eq!(code(&app, &path, &format!("token={token}")).await, Some(4404));
    for (scope, expected) in [("jobs:read", 1000), ("team:read", 4403)] {
        let body = json!({"name": scope, "scopes": [scope]});
        let key = operator.post("/api/auth/api-keys", body).await.expect(201).str("key").to_owned();
        assert_eq!(code(&app, &path, &format!("token={key}")).await, Some(expected), "{scope}");
        let ticket = ticket(&app.anon().with_token(&key)).await;
        assert_eq!(code(&app, &path, &format!("ticket={ticket}")).await, Some(expected), "{scope}");
    }
    let cookie = format!("daybook_access={token}; __Host-daybook_access={token}");
    assert_eq!(code_with(&app, &path, "", &[("cookie", &cookie)]).await, Some(4401));
}

#[tokio::test]
async fn who_may_not_see_the_job_is_told_so_by_code() {
    let app = shell_app().await;
    let (path, _) = run(&app.operator(), script("echo done")).await;
    let query = async |client: &Client| format!("ticket={}", ticket(client).await);
    assert_eq!(code(&app, &path, &query(&app.viewer()).await).await, Some(1000));
    assert_eq!(code(&app, &path, &query(&app.auditor()).await).await, Some(4403));
    assert_eq!(code(&app, &path, &query(&app.other_team()).await).await, Some(4404));
    for nothing in ["0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e11", "x", "%00"] {
        assert_eq!(code(&app, nothing, &query(&app.viewer()).await).await, Some(4404), "{nothing}");
    }
    let refusals = "select count(*) from events where event_type = 'AccessRefused'";
    let refusals: i64 = sqlx::query_scalar(refusals).fetch_one(app.ledger.pool()).await.unwrap();
    assert_eq!(refusals, 1, "the auditor's");
    let wrong = ["after=-1", "after=x", "since=3", "token=a&token=b"];
    for query in wrong {
        let (status, problem) = Socket::open(app.address, &socket_path(&path, query), &[]).await.unwrap_err();
        assert_eq!((status, &problem["code"]), (422, &json!("unprocessable")), "{query}");
    }
    let plain = app.operator().get(&socket_path(&path, "")).await.expect(426);
    assert_eq!((plain.str("code"), plain.header("upgrade")), ("upgrade_required", "websocket"));
    app.operator().get(&format!("/api{}", socket_path(&path, ""))).await.expect(404);
}

/// Does something as the team's owner.
async fn order(app: &TestApp, command: TeamCommand) {
    let mut context = commands::Context::system(Some(app.people.team));
    context.caller.permissions = Role::Owner.permissions();
    let done = app.commands.execute::<Team>(&context, app.people.team, None, command).await.unwrap();
    app.projections.wait(done.position.unwrap(), tests::LIMIT).await.unwrap();
}

#[tokio::test]
async fn whoever_may_not_watch_any_more_is_cut_off_on_every_node() {
    let one = shell_app().await;
    let two = one.another_node(Setup::default().kinds(SHELL)).await;
    let path = going_on(&one).await;
    let mut stays = watch(&one, &one.operator(), &path).await;
    let (viewer, auditor) = (one.people.viewer, Role::Auditor);
    let both = async |client: &Client| {
        let mut sockets = [watch(&one, client, &path).await, watch(&two, client, &path).await];
        for socket in &mut sockets {
            socket.until("line").await;
        }
        sockets
    };
    let end = async |sockets: [Socket; 2], code: u16| {
        for mut socket in sockets {
            assert_eq!(socket.code().await, Some(code));
        }
    };

    let body = json!({"name": "n", "scopes": ["jobs:read"]});
    let key = one.viewer().post("/api/auth/api-keys", body).await.expect(201);
    let sockets = both(&one.anon().with_token(key.str("key"))).await;
    one.viewer().delete(&format!("/api/auth/api-keys/{}", key.str("id"))).await.expect(204);
    end(sockets, 4401).await;

    let sockets = both(&one.viewer()).await;
    order(&one, TeamCommand::ChangeRole { user_id: viewer, role: auditor }).await;
    end(sockets, 4403).await;
    order(&one, TeamCommand::ChangeRole { user_id: viewer, role: Role::Viewer }).await;

    let sockets = both(&one.viewer()).await;
    one.owner().delete(&format!("/api/team/members/{viewer}")).await.expect(204);
    end(sockets, 4403).await;

    let sockets = both(&one.owner()).await;
    one.owner().post("/api/auth/logout", Value::Null).await.expect(204);
    end(sockets, 4401).await;

    // A token that has come to its end, and a ticket that was made with it.
    let soon = one.operator().with_token(&one.token(one.people.operator, 2));
    end(both(&soon).await, 4401).await;

    open_gate(&one, "end");
    assert_eq!(stays.code().await, Some(1000));
}

#[tokio::test]
async fn when_the_node_stops_its_sockets_are_closed_in_order() {
    let setup = || Setup::default().kinds(SHELL);
    let app = TestApp::with(setup()).await;
    let going_on_elsewhere = app.another_node(setup()).await;
    let path = going_on(&app).await;
    let mut sockets = join_all((0..5).map(|_| async { watch(&app, &app.viewer(), &path).await })).await;
    for socket in &mut sockets {
        assert_eq!(socket.until("line").await["text"], "up");
    }
    let client = going_on_elsewhere.viewer();
    let ends = join_all(sockets.iter_mut().map(Socket::code));
    let (codes, ()) = tokio::join!(ends, app.stop());
    assert_eq!(codes, [Some(1001); 5]);
    open_gate(&going_on_elsewhere, "end");
    let mut socket = super::watch_after(&going_on_elsewhere, &client, &path, 1).await;
    let (messages, code) = socket.rest().await;
    assert_eq!(code, Some(1000));
    let seqs = seqs(&messages);
    assert_eq!(seqs, (2..2 + seqs.len() as u64).collect::<Vec<_>>());
}

/// Waits until the node has closed a socket for this reason.
async fn closed_for(app: &TestApp, reason: &str) {
    let label = format!("reason=\"{reason}\"");
    let closed = async || {
        let text = app.anon().get("/metrics").await.expect(200).text;
        let counted = |line: &str| line.starts_with("job_sockets_closed_total{") && line.contains(&label);
        text.lines().any(counted).then_some(())
    };
    eventually(reason, closed).await;
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_cut_off_though_nothing_happens() {
    let app = shell_app().await;
    let path = going_on(&app).await;
    let mut dead = watch(&app, &app.viewer(), &path).await;
    let mut alive = watch(&app, &app.viewer(), &path).await;
    for socket in [&mut dead, &mut alive] {
        socket.until("line").await;
    }
    // Whoever reads answers pings.
    let (alive, ()) = tokio::join!(alive.code(), async {
        closed_for(&app, "the client does not answer").await;
        open_gate(&app, "end");
    });
    assert_eq!(alive, Some(1000));
    assert!(!dead.rest().await.0.iter().any(|message| message["type"] == "end"));
}

#[tokio::test]
async fn a_reader_who_does_not_read_is_cut_off() {
    let app = TestApp::with(Setup::default().kinds(SHELL).with("MAX_LOG_LINES", 20_000)).await;
    let operator = app.operator();
    // Some megabytes: more than what lies between here and there takes.
    let text = "yes $(head -c 4000 /dev/zero | tr '\\0' x) | head -n 5000";
    let (path, job) = run(&operator, script(text)).await;
    assert_eq!(job.str("status"), "completed");
    let mut socket = watch(&app, &operator, &path).await;
    closed_for(&app, "the reader is too slow").await;
    let (messages, code) = socket.rest().await;
    let seqs = seqs(&messages);
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "without a gap up to the cut");
    assert!(seqs.len() < 5_000 && matches!(code, Some(4408) | None), "{} {code:?}", seqs.len());
    // Whoever reads gets all of it.
    let (messages, code) = super::watch_after(&app, &operator, &path, seqs.len() as u64).await.rest().await;
    assert_eq!((super::seqs(&messages).last(), code), (Some(&5_000), Some(1000)));
}

#[tokio::test]
async fn a_person_has_so_many_sockets_and_no_more_until_one_ends() {
    let app = shell_app().await;
    let path = going_on(&app).await;
    let viewer = app.viewer();
    let mut sockets = vec![];
    for _ in 0..32 {
        let mut socket = watch(&app, &viewer, &path).await;
        socket.until("line").await;
        sockets.push(socket);
    }
    assert_eq!(watch(&app, &viewer, &path).await.code().await, Some(4429));
    watch(&app, &app.operator(), &path).await.until("line").await;
    sockets.pop();
    eventually("a place", async || {
        let mut socket = watch(&app, &viewer, &path).await;
        socket.next().await.map(drop)
    })
    .await;
    open_gate(&app, "end");
    for mut socket in sockets {
        assert_eq!(socket.code().await, Some(1000));
    }
}

#[tokio::test]
async fn what_a_client_says_is_not_looked_at_and_bounded() {
    let app = shell_app().await;
    let path = going_on(&app).await;
    let mut socket = watch(&app, &app.viewer(), &path).await;
    socket.say("hello").await;
    socket.until("line").await;
    let mut other = watch(&app, &app.viewer(), &path).await;
    other.say(&"x".repeat(5_000)).await;
    let (messages, code) = other.rest().await;
    assert!(!messages.iter().any(|message| message["type"] == "end"), "{code:?}");
    open_gate(&app, "end");
    assert_eq!(socket.code().await, Some(1000));
}
