//! What must not be seen is nowhere to be seen: values of secrets, passwords, tokens, keys and codes go through a real `daybook` with all of its
//! logging on, and then everything it wrote, stored and answered is looked through for them, in every form they may have taken.
//!
//! What this cannot see: rows that PostgreSQL has compressed in its files (they are looked through as rows), and memory.

mod forms;
mod places;
mod story;

use rustix::process::Signal;
use tests::Client;

use super::home::Home;
use forms::{Canaries, Search};
use places::{Place, files, tables};
use story::Story;

/// Who may be where, and why.
fn is_meant(canary: &str, place: &Place, home: &Home) -> bool {
    // Without a mail server mails are files, for their owner only.
    let mail = home.data().join("mail");
    canary == "token of a mail" && place.name.starts_with(mail.to_str().unwrap())
}

/// What the interface tells those who may see most.
async fn shown(admin: &Client, secrets: &[String], jobs: &[String], user: &str) -> Vec<Place> {
    let mut paths: Vec<String> = [
        "/metrics",
        "/api/health",
        "/api/projections",
        "/api/secrets",
        "/api/jobs",
        "/api/users",
        "/api/team",
    ]
    .map(str::to_owned)
    .to_vec();
    for (kind, ids) in [("secret", secrets), ("job", jobs), ("user", &[user.to_owned()])] {
        for id in ids {
            paths.extend(["history", "state"].map(|what| format!("/api/audit/{kind}/{id}/{what}")));
        }
    }
    let mut places = vec![];
    for path in paths {
        places.push(Place::answer(&path, &admin.get(&path).await.expect(200)));
    }
    let mut next = Some(String::new());
    while let Some(cursor) = next {
        let page = admin.get(&format!("/api/audit/events?limit=200{cursor}")).await.expect(200);
        next = page.json["next"].as_str().map(|next| format!("&cursor={next}"));
        places.push(Place::answer("/api/audit/events", &page));
    }
    places
}

/// What the command line prints.
async fn printed(home: &Home, secrets: &[String]) -> Vec<Place> {
    let mut places = vec![];
    let state = format!("secret/{}", secrets[0]);
    for arguments in [
        &["events", "--format", "jsonl"][..],
        &["events"],
        &["state", &state],
        &["projections", "verify"],
        &["users", "list", "--json"],
        &["check"],
    ] {
        let ended = home.run(arguments).await.expect(0);
        places.push(Place::new(format!("daybook {arguments:?}"), ended.stdout + &ended.stderr));
    }
    places
}

#[track_caller]
fn nothing_is_seen(places: &[Place], search: &Search, home: &Home) {
    let (mut seen, mut meant) = (vec![], 0);
    for place in places {
        for canary in search.found(&place.bytes) {
            if is_meant(canary, place, home) {
                meant += 1;
            } else {
                seen.push(format!("{canary}: {}", place.name));
            }
        }
    }
    assert!(meant > 0, "what may be seen is found");
    assert!(seen.is_empty(), "seen where it must not be:\n{}", seen.join("\n"));
}

/// That looking finds what is there: the marker is a secret's description and a request's id.
#[track_caller]
fn the_marker_is_seen(places: &[Place], marker: &str) {
    let mut marked = Canaries::default();
    marked.add("marker", marker);
    let search = marked.search();
    let has_it: Vec<&str> = places
        .iter()
        .filter(|place| !search.found(&place.bytes).is_empty())
        .map(|place| place.name.as_str())
        .collect();
    for wanted in [
        "stderr",
        "table public.events",
        "/api/audit/events",
        "/history",
        "/state",
        "daybook [\"events\"",
        "/pg_wal/",
        "/base/",
        "storing",
    ] {
        assert!(has_it.iter().any(|name| name.contains(wanted)), "nothing in {wanted}: {has_it:#?}");
    }
}

#[tokio::test]
async fn values_passwords_and_tokens_are_nowhere_to_be_seen() {
    let mut canaries = Canaries::default();
    let home = story::home(&mut canaries);
    let serving = home.serve().await;
    let password = home.setting("ADMIN_PASSWORD").to_owned();
    let admin = serving.sign_in(&("admin@example.org".to_owned(), password)).await;
    let marker = forms::random_part();
    let mut story = Story {
        canaries: &mut canaries,
        serving: &serving,
        home: &home,
        answers: vec![],
        marker: marker.clone(),
    };
    let secrets = story.secrets(&admin).await;
    story.refusals(&admin).await;
    let jobs = story.jobs(&admin).await;
    let user = story.person().await;
    let mut places = std::mem::take(&mut story.answers);
    admin.delete(&format!("/api/secrets/{}", secrets[2])).await;

    let search = canaries.search();
    places.extend(shown(&admin, &secrets, &jobs, &user).await);
    places.extend(printed(&home, &secrets).await);
    places.extend(tables(&home).await);
    let ended = serving.stop(Signal::TERM).await.expect(0);
    assert!(ended.stderr.contains("\"level\":\"DEBUG\""), "more than usual is logged");
    places.push(Place::new("stdout", ended.stdout));
    places.push(Place::new("stderr", ended.stderr));
    home.is_quiet().await;
    places.extend(files(home.path()));
    nothing_is_seen(&places, &search, &home);
    the_marker_is_seen(&places, &marker);
}
