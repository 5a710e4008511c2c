//! Files that jobs leave: kept, listed and downloaded.

use commands::jobs::{ArtifactPlace, ArtifactStore, S3Bucket};
use ledger::Sha256;
use reqwest::Method;
use serde_json::{Value, json};
use tests::s3::{BUCKET, KEY_ID, S3, SECRET_KEY};
use tests::within;

use super::*;
use api::server::Roles;

/// Nobody runs the jobs but the tests themselves.
async fn idle_app(setup: Setup) -> TestApp {
    TestApp::with(setup.kinds(SHELL).roles(Roles { worker: false, ..Roles::ALL })).await
}

/// The status, the headers and the bytes of a download.
async fn download(client: &Client, path: &str) -> (u16, reqwest::header::HeaderMap, Vec<u8>) {
    let response = within("an answer", client.request(Method::GET, path).send()).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = within("a body", response.bytes()).await.map(|bytes| bytes.to_vec()).unwrap_or_default();
    (status, headers, bytes)
}

/// Every byte there is, many times over.
fn large(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 ^ (n / 65_536) as u8).collect()
}

fn encoded(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'/' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[tokio::test]
async fn files_are_listed_and_come_back_byte_for_byte_whatever_their_names() {
    let app = idle_app(Setup::default()).await;
    let operator = app.operator();
    let path = queue(&operator, script("true")).await;
    let content = large(12_000_000);
    let long = "n".repeat(255);
    let names =
        ["plain.txt", "sub/folder/data.bin", "a b ä\"';%2e%2e.txt", "..hidden/#1", "x\\y?z=1&*", &long];
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (*name, if n == 1 { &content[..] } else { name.as_bytes() }))
        .chain([("empty", &b""[..])])
        .collect();
    app.complete_with(id(&path), &app.artifacts(), &files).await;

    let listed = app.viewer().get(&format!("{path}/artifacts")).await.expect(200);
    let items: Vec<Value> = files
        .iter()
        .map(|(name, content)| {
            json!({"name": name, "size": content.len(), "sha256": Sha256::of(content), "expired": false})
        })
        .collect();
    assert_eq!(listed.json, json!({"items": items, "next": null}));
    let document = operator.get(&path.replace("/jobs/", "/reports/jobs/")).await.expect(200);
    assert_eq!(document.json["artifacts"], listed.json["items"]);
    for (name, content) in &files {
        let (status, headers, bytes) =
            download(&app.viewer(), &format!("{path}/artifacts/{}", encoded(name))).await;
        assert_eq!((status, bytes.len()), (200, content.len()), "{name:?}");
        assert!(bytes == *content, "{name:?}");
        assert_eq!(headers["content-type"], "application/octet-stream");
        assert_eq!(headers["content-length"], content.len().to_string());
        assert_eq!(headers["etag"], format!("\"{}\"", Sha256::of(content)));
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let disposition = headers["content-disposition"].to_str().unwrap();
        assert!(disposition.starts_with("attachment; filename=\""), "{disposition}");
    }
}

#[tokio::test]
async fn a_file_that_is_known_already_is_not_sent_again() {
    let app = idle_app(Setup::default()).await;
    let path = queue(&app.operator(), script("true")).await;
    app.complete_with(id(&path), &app.artifacts(), &[("a.txt", b"hello")]).await;
    let path = format!("{path}/artifacts/a.txt");
    let (_, headers, _) = download(&app.viewer(), &path).await;
    let client = app.viewer().with_header("if-none-match", headers["etag"].to_str().unwrap());
    let (status, _, bytes) = download(&client, &path).await;
    assert_eq!((status, bytes.len()), (304, 0));
    let client =
        app.viewer().with_header("if-none-match", "\"other\"").with_header("accept-encoding", "gzip");
    let (status, headers, bytes) = download(&client, &path).await;
    assert_eq!((status, bytes.as_slice()), (200, &b"hello"[..]));
    assert!(!headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn names_lead_nowhere_else_and_other_teams_see_nothing() {
    let app = idle_app(Setup::default()).await;
    let (first, second) =
        (queue(&app.operator(), script("true")).await, queue(&app.operator(), script("true")).await);
    app.complete_with(id(&first), &app.artifacts(), &[("a.txt", b"hello")]).await;
    app.complete_with(id(&second), &app.artifacts(), &[("b.txt", b"there")]).await;
    let team = app.people.team;
    for name in [
        "b.txt",
        "..%2Fa.txt",
        "%2e%2e%2F%2e%2e%2F.place",
        "%2Fetc%2Fpasswd",
        "a.txt%00",
        "a.txt%2F",
        "A.TXT",
        "%FF",
        &format!("..%2F..%2F{team}%2F{}%2F1%2Fb.txt", id(&second)),
    ] {
        let reply = app.operator().get(&format!("{first}/artifacts/{name}")).await;
        assert_eq!(reply.status, 404, "{name}: {}", reply.text);
    }
    for path in [
        format!("{first}/artifacts"),
        format!("{first}/artifacts/a.txt"),
        first.replace("/jobs/", "/reports/jobs/"),
    ] {
        app.other_team().get(&path).await.expect(404);
        app.auditor().get(&path).await.expect(403);
        app.anon().get(&path).await.expect(401);
        app.viewer().get(&path).await.expect(200);
    }
    let nothing = queue(&app.operator(), script("true")).await;
    assert_eq!(app.viewer().get(&format!("{nothing}/artifacts")).await.expect(200).json["items"], json!([]));
}

#[tokio::test]
async fn a_file_that_is_not_what_it_was_does_not_pass_for_it() {
    let app = idle_app(Setup::default()).await;
    let path = queue(&app.operator(), script("true")).await;
    app.complete_with(
        id(&path),
        &app.artifacts(),
        &[("changed", b"hello"), ("longer", b"hello"), ("gone", b"x")],
    )
    .await;
    let folder = app.folder().join(format!("data/artifacts/{}/{}/1", app.people.team, id(&path)));
    std::fs::write(folder.join("changed"), "hellO").unwrap();
    std::fs::write(folder.join("longer"), "hello, world").unwrap();
    std::fs::remove_file(folder.join("gone")).unwrap();
    for name in ["longer", "gone"] {
        let reply = app.viewer().get(&format!("{path}/artifacts/{name}")).await.expect(404);
        assert_eq!(reply.str("code"), "artifact_lost");
    }
    let request = app.viewer().request(Method::GET, &format!("{path}/artifacts/changed"));
    let response = within("an answer", request.send()).await;
    // The bytes are withheld: the connection ends before what was promised.
    let whole = match response {
        Ok(response) => within("a body", response.bytes()).await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole);
}

fn bucket(s3: &S3) -> Setup {
    Setup::default()
        .with("ARTIFACTS_URL", format!("s3://{BUCKET}/day/book"))
        .with("ARTIFACTS_ENDPOINT", format!("http://{}", s3.address))
        .with("AWS_ACCESS_KEY_ID", KEY_ID)
        .with("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
}

fn bucket_store(app: &TestApp, s3: &S3) -> ArtifactStore {
    let bucket = S3Bucket::parse(&format!("s3://{BUCKET}/day/book")).unwrap();
    let bucket = bucket
        .at(Some(format!("http://{}", s3.address)))
        .with("AWS_ACCESS_KEY_ID", Some(KEY_ID))
        .with("AWS_SECRET_ACCESS_KEY", Some(SECRET_KEY));
    ArtifactStore::open(&app.ledger, &ArtifactPlace::S3(bucket)).unwrap()
}

#[tokio::test]
async fn a_bucket_keeps_small_and_large_files_and_gives_them_back() {
    let s3 = S3::start().await;
    let app = idle_app(bucket(&s3)).await;
    let path = queue(&app.operator(), script("true")).await;
    let content = large(11_000_000);
    let files: [(&str, &[u8]); 3] = [("small.txt", b"hello"), ("sub/large ä", &content), ("empty", b"")];
    app.complete_with(id(&path), &bucket_store(&app, &s3), &files).await;
    let prefix = format!("day/book/{}/{}/1", app.people.team, id(&path));
    let keys: Vec<String> = s3.objects().into_keys().collect();
    assert_eq!(
        keys,
        ["empty", "small.txt", "sub/large%20%C3%A4"].map(|name| format!("{prefix}/{name}")),
        "{:#?}",
        s3.requests()
    );
    assert!(s3.requests().iter().any(|request| request.contains("partNumber=3")), "in parts");
    for (name, content) in files {
        let (status, _, bytes) =
            download(&app.viewer(), &format!("{path}/artifacts/{}", encoded(name))).await;
        assert!(status == 200 && bytes == content, "{name}: {status}");
    }
    s3.replace(&format!("{prefix}/small.txt"), b"other content");
    let reply = app.viewer().get(&format!("{path}/artifacts/small.txt")).await.expect(404);
    assert_eq!(reply.str("code"), "artifact_lost");
    s3.fail(true);
    let reply = app.viewer().get(&format!("{path}/artifacts/empty")).await.expect(503);
    assert!(!reply.text.contains(SECRET_KEY) && !reply.text.contains(BUCKET), "{}", reply.text);
}

#[tokio::test]
async fn what_a_bucket_refuses_is_not_told_of_as_kept() {
    let s3 = S3::start().await;
    let app = idle_app(bucket(&s3)).await;
    let path = queue(&app.operator(), script("true")).await;
    s3.fail(true);
    app.complete_with(id(&path), &bucket_store(&app, &s3), &[("a.txt", b"hello")]).await;
    assert_eq!(app.viewer().get(&format!("{path}/artifacts")).await.expect(200).json["items"], json!([]));
    app.viewer().get(&format!("{path}/artifacts/a.txt")).await.expect(404);
}

#[tokio::test]
async fn a_node_does_not_look_in_its_own_place_for_what_is_in_another() {
    let s3 = S3::start().await;
    let app = idle_app(Setup::default()).await;
    let path = queue(&app.operator(), script("true")).await;
    app.complete_with(id(&path), &bucket_store(&app, &s3), &[("a.txt", b"hello")]).await;
    let reply = app.viewer().get(&format!("{path}/artifacts/a.txt")).await.expect(404);
    assert_eq!(reply.str("code"), "artifact_elsewhere");
    let other = app.another_node(bucket(&s3).kinds(SHELL)).await;
    let client = app.viewer().speaking_to(other.address);
    assert_eq!(download(&client, &format!("{path}/artifacts/a.txt")).await.2, b"hello");
}

#[tokio::test]
async fn what_a_job_leaves_in_its_folder_is_kept_also_of_one_that_fails() {
    let app = shell_app().await;
    let operator = app.operator();
    let body = r#"cd "$DAYBOOK_ARTIFACTS"; mkdir sub; head -c 6000000 /dev/urandom > sub/data; echo hello > a.txt
        ln -s /etc/passwd link; sha256sum < sub/data; sleep 0"#;
    for (ending, status) in [("", "completed"), ("; exit 3", "failed")] {
        let (path, job) = run(&operator, script(&format!("{body}{ending}"))).await;
        assert_eq!(job.str("status"), status);
        let listed = operator.get(&format!("{path}/artifacts")).await.expect(200).json;
        let names: Vec<&str> =
            listed["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a.txt", "sub/data"], "{listed}");
        let (_, _, bytes) = download(&app.viewer(), &format!("{path}/artifacts/sub/data")).await;
        let printed = texts(&operator, &path, "stdout").await.remove(0);
        assert_eq!(printed.split_whitespace().next().unwrap(), Sha256::of(&bytes), "as the job saw it");
        assert_eq!(bytes.len(), 6_000_000);
        let (_, _, bytes) = download(&app.viewer(), &format!("{path}/artifacts/a.txt")).await;
        assert_eq!(bytes, b"hello\n");
        let ended = history(&app, &path).await.pop().unwrap();
        assert!(ended.payload.to_string().contains(&Sha256::of(b"hello\n")), "{ended:?}");
    }
}
