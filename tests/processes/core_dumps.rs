//! Nothing that runs here leaves an image of its memory on a disk.

use std::fs;

use rustix::process::Signal;
use serde_json::json;
use tests::eventually;

use super::home::Home;

const KINDS: &str = r#"
[jobs.limits]
command = ["sh", "-c", "ulimit -S -c; ulimit -H -c"]
max_attempts = 1
"#;

/// The soft and the hard limit of a core's size, as the kernel has them of the process.
fn limits(pid: u32) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn neither_the_node_nor_its_server_nor_a_job_dumps_its_memory() {
    let home = Home::new().file(KINDS);
    let serving = home.serve().await;
    let admin = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    for pid in [serving.process.pid(), home.postgres().unwrap()] {
        assert_eq!(limits(pid), ["0", "0"], "{pid}");
    }
    // The watchdogs too, and the server's own processes.
    for pid in home.processes() {
        assert_eq!(limits(pid), ["0", "0"], "{pid}");
    }
    let job = admin.post("/api/jobs", json!({"kind": "limits"})).await.expect(201);
    let log = eventually("the job's end", async || {
        let ended = admin.get(&format!("/api/jobs/{}", job.str("id"))).await.expect(200);
        if ended.json["finished_at"].is_null() {
            return None;
        }
        Some(admin.get(&format!("/api/jobs/{}/logs", job.str("id"))).await.expect(200))
    })
    .await;
    let lines = log.json["items"].as_array().unwrap().iter().filter(|line| line["stream"] == "stdout");
    let lines: Vec<&str> = lines.map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(lines[..2], ["0", "0"], "{}", log.text);
    serving.stop(Signal::TERM).await.expect(0);
    home.is_quiet().await;
}
