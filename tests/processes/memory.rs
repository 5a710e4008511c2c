//! What a server takes of memory is bounded by what it holds, in bytes.

use serde_json::json;
use tests::{Client, eventually};

use super::home::Home;

/// Each leaves the numbers of a result of 1 MiB, which take 16 MiB and more as a tree.
const KINDS: &str = r#"
[jobs.numbers]
command = ["sh", "-c", "(printf '[1'; head -c 1040000 /dev/zero | sed 's/\\x00\\x00/,1/g'; printf ']') > $DAYBOOK_RESULT"]
max_attempts = 1
"#;
const JOBS: usize = 16;
/// How much more than at rest it may ever take, in MiB. As trees the results alone take more than 256.
const MOST_MIB: u64 = 160;

/// The most memory the process has ever used, in MiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn all_jobs(client: &Client) -> usize {
    let (mut found, mut cursor) = (0, String::new());
    loop {
        let page = client.get(&format!("/api/jobs?limit=200{cursor}")).await.expect(200);
        found += page.json["items"].as_array().unwrap().len();
        match page.json["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn large_results_take_their_bytes_and_not_many_times_as_many() {
    let home = Home::new().file(KINDS).with("WORKER_CONCURRENCY", 2);
    let serving = home.serve().await;
    let client = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    let pid = serving.process.pid();
    let rest = peak(pid);
    for _ in 0..JOBS {
        client.post("/api/jobs", json!({"kind": "numbers"})).await.expect(201);
    }
    eventually("all have their results", async || {
        let open = async |status: &str| {
            let path = format!("/api/jobs?limit=1&fields=id&status={status}");
            client.get(&path).await.expect(200).json["items"].as_array().unwrap().len()
        };
        (open("pending").await + open("running").await == 0).then_some(())
    })
    .await;
    let (worked, _) = (peak(pid), assert_eq!(all_jobs(&client).await, JOBS));
    let listed = peak(pid);
    client.post("/api/projections/jobs/rebuild", json!({})).await.expect(202);
    eventually("the view is rebuilt", async || {
        let views = client.get("/api/projections").await.expect(200);
        let jobs =
            views.json["items"].as_array().unwrap().iter().find(|view| view["name"] == "jobs").cloned();
        (jobs.unwrap()["state"] == "live").then_some(())
    })
    .await;
    let rebuilt = peak(pid);
    assert!(
        rebuilt < rest + MOST_MIB,
        "{rest} MiB at rest, {worked} after the jobs, {listed} after a list, {rebuilt} after a rebuild"
    );
}
