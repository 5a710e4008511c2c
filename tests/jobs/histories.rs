//! Random histories: whatever several nodes and people do to jobs at once, each ends as the rules have it.

use chrono::Utc;
use commands::{CommandError, Commands, Context};
use domain::{Ending, Failure, Job, JobCommand, JobEvent, JobId, JobStatus, LogDigest};
use futures::future::join_all;
use serde_json::json;

use super::nodes::{batch, edge, job_events};
use super::*;
use crate::ledger::support::{Rng, Seed};

const KINDS: &str = "[jobs.nothing]\ncommand = ['true']\nmax_attempts = 3\nretry_delay_seconds = 1\n";
const JOBS: usize = 10;
const NODES: usize = 4;
/// What each node does.
const STEPS: usize = 120;

/// Some ending of an attempt.
fn finish(attempt: u32, rng: &mut Rng) -> JobCommand {
    let ending = match rng.below(10) {
        0..3 => Ending::Succeeded { result: None, artifacts: vec![] },
        3 => Ending::Cancelled,
        n => {
            // The pause after a failure is passed by asking for another try.
            Ending::Failed(Failure { error: "no".to_owned(), is_final: n == 9, ..Failure::default() })
        }
    };
    JobCommand::Finish { attempt, ending, log: LogDigest::default(), at: Utc::now(), dice: 0.5 }
}

/// Something that a node, or somebody, might do. Attempts are mostly those that might run, and sometimes others.
fn step(node: usize, rng: &mut Rng) -> JobCommand {
    let attempt = 1 + rng.below(8) as u32;
    let at = Utc::now();
    match rng.below(100) {
        0..35 => JobCommand::Start { worker: format!("node-{node}"), at },
        35..60 => finish(attempt, rng),
        60..72 => JobCommand::Lose { attempt, at },
        72..80 => JobCommand::HandBack { attempt, log: LogDigest::default(), at },
        80..86 => JobCommand::Cancel,
        _ => JobCommand::Retry { at },
    }
}

async fn order(commands: &Commands, app: &TestApp, job: JobId, command: JobCommand) -> bool {
    let context = Context::system(Some(app.people.team));
    match commands.execute::<Job>(&context, job, None, command).await {
        Ok(_) => true,
        Err(CommandError::Refused(_) | CommandError::Contended) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A node that does this and that.
async fn roam(app: &TestApp, node: usize, jobs: &[JobId], mut rng: Rng) {
    let commands = Commands::new(&app.database.ledger());
    for _ in 0..STEPS {
        let job = jobs[rng.below(jobs.len() as u64) as usize];
        order(&commands, app, job, step(node, &mut rng)).await;
    }
}

/// The rules once more, in the plainest words: where a job stands after its events. Says what is wrong with them.
fn replay(events: &[JobEvent]) -> Result<(JobStatus, u32), String> {
    let (mut status, mut attempt) = (None, 0);
    for (place, event) in events.iter().enumerate() {
        let wrong = |why: &str| Err(format!("{why} at {place}: {events:?}"));
        let of = |given: u32| given == attempt && status == Some(JobStatus::Running);
        status = Some(match event {
            JobEvent::JobQueued { .. } if place == 0 => JobStatus::Pending,
            JobEvent::JobQueued { .. } => return wrong("queued twice"),
            JobEvent::JobStarted { attempt: given, .. } => {
                if status != Some(JobStatus::Pending) || *given != attempt + 1 {
                    return wrong("a gap, or two at once");
                }
                attempt = *given;
                JobStatus::Running
            }
            JobEvent::JobCompleted { attempt, .. } if of(*attempt) => JobStatus::Completed,
            JobEvent::JobAttemptFailed { attempt, .. }
            | JobEvent::JobLost { attempt, .. }
            | JobEvent::JobHandedBack { attempt, .. }
                if of(*attempt) =>
            {
                JobStatus::Pending
            }
            JobEvent::JobFailed { attempt, .. } if of(*attempt) => JobStatus::Failed,
            // What the loss of a worker, before it, leads to.
            JobEvent::JobFailed { log: None, .. }
                if matches!(events[place - 1], JobEvent::JobLost { .. }) =>
            {
                JobStatus::Failed
            }
            JobEvent::JobCancelRequested {} if status == Some(JobStatus::Running) => JobStatus::Running,
            JobEvent::JobCancelled { attempt: given, .. }
                if *given == attempt && status.is_some_and(|status| !status.is_final()) =>
            {
                JobStatus::Cancelled
            }
            JobEvent::JobRetried { .. }
                if matches!(status, Some(JobStatus::Failed | JobStatus::Cancelled | JobStatus::Pending)) =>
            {
                JobStatus::Pending
            }
            JobEvent::JobCompleted { .. }
            | JobEvent::JobAttemptFailed { .. }
            | JobEvent::JobLost { .. }
            | JobEvent::JobHandedBack { .. }
            | JobEvent::JobFailed { .. }
            | JobEvent::JobCancelRequested {}
            | JobEvent::JobCancelled { .. }
            | JobEvent::JobRetried { .. } => return wrong("out of place"),
        });
    }
    Ok((status.unwrap_or(JobStatus::Pending), attempt))
}

/// Brings a job to its end, wherever it stands.
async fn settle(app: &TestApp, job: JobId) {
    loop {
        let (status, attempt) = replay(&of_job(app, job).await).unwrap();
        let at = Utc::now();
        let command = match status {
            JobStatus::Running => JobCommand::Finish {
                attempt,
                ending: Ending::Succeeded { result: None, artifacts: vec![] },
                log: LogDigest::default(),
                at,
                dice: 0.5,
            },
            JobStatus::Pending => {
                // Should it wait for its time.
                order(&app.commands, app, job, JobCommand::Retry { at }).await;
                JobCommand::Start { worker: "last".to_owned(), at: Utc::now() }
            }
            JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => return,
        };
        assert!(order(&app.commands, app, job, command).await, "nobody else is there");
    }
}

async fn of_job(app: &TestApp, job: JobId) -> Vec<JobEvent> {
    let stream = ledger::StreamId::new("job", job);
    let events = app.ledger.read_stream(&stream, 0, None, 1_000).await.unwrap();
    events.into_iter().map(|event| event.payload.read().unwrap()).collect()
}

#[tokio::test]
async fn whatever_happens_each_job_ends_once_and_its_attempts_are_numbered_without_gaps() {
    let seed = Seed::new();
    let app = edge(KINDS).await;
    let operator = app.operator();
    let paths = batch(&operator, vec![json!({"kind": "nothing"}); JOBS]).await;
    let jobs: Vec<JobId> = paths.iter().map(|path| JobId(id(path).parse().unwrap())).collect();
    join_all((0..NODES).map(|node| roam(&app, node, &jobs, seed.rng()))).await;
    for job in &jobs {
        settle(&app, *job).await;
    }
    let operator = operator.with_header("daybook-position", app.ledger.head().await.unwrap());
    let mut attempts = 0;
    for (job, path) in jobs.iter().zip(&paths) {
        let events = of_job(&app, *job).await;
        let (status, attempt) = replay(&events).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert!(status.is_final(), "{events:?}");
        attempts += attempt;
        let shown = operator.get(path).await.expect(200);
        assert_eq!(
            (shown.str("status"), &shown.json["attempt"]),
            (status.as_str(), &json!(attempt)),
            "{events:?}"
        );
        assert_eq!(
            (shown.json["finished_at"].is_string(), &shown.json["next_attempt_at"]),
            (true, &Value::Null)
        );
        let told = operator.get(&format!("{path}/attempts")).await.expect(200);
        let told = told.json["items"].as_array().unwrap().clone();
        let numbers: Vec<_> =
            told.iter().map(|attempt| attempt["attempt"].as_u64().unwrap() as u32).collect();
        assert_eq!(numbers, (1..=attempt).collect::<Vec<_>>());
        assert!(told.iter().all(|attempt| attempt["outcome"] != "running"), "{told:?}");
    }
    assert!(attempts > JOBS as u32, "something happened");
    assert!(job_events(&app).await.len() > 5 * JOBS);
}
