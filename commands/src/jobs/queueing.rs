//! From what somebody wants to be run to jobs in the queue: one or many, in one append.

use chrono::Datelike as _;
use chrono::{DateTime, SubsecRound as _, Utc};
use domain::{
    ClaimEvent, ClaimKind, ConcurrencyKey, Job, JobCommand, JobId, KindName, Queue, ScheduleId, TeamId,
};
use ledger::{Append, AppendError, NewEvent, StreamId};
use serde_json::{Map, Value};

use super::kinds::{ArgProblem, Kind, Kinds};
use crate::door::first_events;
use crate::idempotency::{HeldKey, claim_event};
use crate::{CommandError, Commands, Context};

/// Jobs queued at a time at most.
pub const MOST_QUEUED: usize = 1_000;
/// The priority of a job that does not say.
pub const USUAL_PRIORITY: u8 = 5;
/// Longest timeout, in seconds: a day.
const LONGEST_TIMEOUT: u32 = 86_400;
/// Most attempts.
const MOST_ATTEMPTS: u32 = 100;
/// Characters of a unique key.
const LONGEST_UNIQUE_KEY: usize = 200;
/// Years that RFC 3339 can write, also after rounding up. Others would break the order of times as texts, by which the queue goes.
const YEARS: std::ops::RangeInclusive<i32> = 0..=9_998;
/// How often a queueing is tried anew because a place in the queue was taken or became free meanwhile.
const MOST_TRIES: usize = 8;

/// What somebody wants to be run, as they said it.
#[derive(Clone, Debug, Default)]
pub struct JobRequest {
    /// What runs.
    pub kind: String,
    /// Its arguments.
    pub args: Map<String, Value>,
    /// 0 to 9; 9 runs first.
    pub priority: Option<u8>,
    /// Not before this moment; at once if none.
    pub run_at: Option<DateTime<Utc>>,
    /// How many failures end it, 1 to 100; as its kind says if none.
    pub max_attempts: Option<u32>,
    /// How long an attempt may take; as its kind says if none.
    pub timeout_seconds: Option<u32>,
    /// Jobs of the team with the same key take turns.
    pub concurrency_key: Option<String>,
    /// Only one job of the kind with this key waits at a time; its arguments stand for it where the kind says that its jobs are unique.
    pub unique_key: Option<String>,
    /// What queues it, if no person does.
    pub schedule_id: Option<ScheduleId>,
}

/// What holds where neither the job nor its kind says anything.
#[derive(Clone, Copy, Debug)]
pub struct JobDefaults {
    /// How many failures end a job.
    pub max_attempts: u32,
    /// The pause after the first failure, in seconds.
    pub retry_delay_seconds: u32,
}

/// A job that may be queued.
#[derive(Clone, Debug)]
pub struct CheckedJob {
    queue: Queue,
    /// What no two waiting jobs of the team and kind have in common.
    place: Option<String>,
}

/// A job that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedJob {
    /// Which.
    pub id: JobId,
    /// It waited before: it is unique, and one like it was asked for.
    pub existing: bool,
}

/// What came of queueing.
#[derive(Clone, Debug)]
pub struct QueuedJobs {
    /// The jobs, in the order asked for.
    pub jobs: Vec<QueuedJob>,
    /// The log's position after it; `None`: all of them waited before.
    pub position: Option<i64>,
    /// Whether this is the answer to an earlier request with the same idempotency key.
    pub replayed: bool,
}

impl JobRequest {
    /// What is to be queued for `team_id` at `now`.
    ///
    /// # Errors
    /// Every problem there is, by field.
    pub fn checked(
        self,
        kinds: &Kinds,
        defaults: JobDefaults,
        team_id: TeamId,
        now: DateTime<Utc>,
    ) -> Result<CheckedJob, Vec<ArgProblem>> {
        let mut problems = Problems(vec![]);
        let name = problems.note("kind", KindName::parse(&self.kind).map_err(|invalid| invalid.0));
        let kind = kinds.get(&self.kind);
        match kind {
            None if name.is_some() => problems.say("kind", "is not one that can run; see /api/jobs/kinds"),
            None => {}
            Some(kind) => problems.0.extend(kind.validate(&self.args).err().unwrap_or_default()),
        }
        let usual = kind.map_or(1, Kind::timeout_seconds);
        let timeout_seconds =
            problems.within("timeout_seconds", self.timeout_seconds, usual, LONGEST_TIMEOUT);
        let usual = kind.and_then(Kind::max_attempts).unwrap_or(defaults.max_attempts.max(1));
        let max_attempts = problems.within("max_attempts", self.max_attempts, usual, MOST_ATTEMPTS);
        let priority = self.priority.unwrap_or(USUAL_PRIORITY);
        if priority > 9 {
            problems.say("priority", "must be 0 to 9");
        }
        if self.run_at.is_some_and(|run_at| !YEARS.contains(&run_at.year())) {
            problems.say("run_at", "must be of the years 0000 to 9998");
        }
        let key = self.concurrency_key.as_deref().map(ConcurrencyKey::parse).transpose();
        let concurrency_key = problems.note("concurrency_key", key.map_err(|invalid| invalid.0)).flatten();
        let length = self.unique_key.as_ref().map_or(1, |key| key.chars().count());
        if !(1..=LONGEST_UNIQUE_KEY).contains(&length) {
            problems.say("unique_key", "must have 1 to 200 characters");
        }
        let place = place(&self, kind);
        let (Some(name), Some(kind), []) = (name, kind, &problems.0[..]) else { return Err(problems.0) };
        let queue = Queue {
            team_id,
            kind: name,
            args: self.args,
            priority,
            // To the millisecond, as times are shown.
            run_at: self.run_at.unwrap_or(now).trunc_subsecs(3),
            max_attempts,
            timeout_seconds,
            retry_delay_seconds: kind.retry_delay_seconds().unwrap_or(defaults.retry_delay_seconds),
            backoff: kind.backoff(),
            concurrency_key,
            concurrency_limit: kind.concurrency_limit(),
            unique: None,
            schedule_id: self.schedule_id,
        };
        Ok(CheckedJob { queue, place })
    }
}

/// What no two waiting jobs of the kind have in common, if there is to be such a thing.
fn place(request: &JobRequest, kind: Option<&Kind>) -> Option<String> {
    match (&request.unique_key, kind) {
        (Some(key), _) => Some(format!("key {key}")),
        (None, Some(kind)) if kind.is_unique() => {
            let mut args: Vec<_> =
                request.args.iter().map(|(name, value)| (name, value.to_string())).collect();
            args.sort_unstable();
            Some(format!("args {args:?}"))
        }
        (None, _) => None,
    }
}

/// What is wrong with a request, by field.
struct Problems(Vec<ArgProblem>);

impl Problems {
    fn say(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(ArgProblem { field: field.to_owned(), message: message.into() });
    }

    fn note<T>(&mut self, field: &str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|message| self.say(field, message)).ok()
    }

    fn within(&mut self, field: &str, given: Option<u32>, usual: u32, most: u32) -> u32 {
        let value = given.unwrap_or(usual);
        if !(1..=most).contains(&value) {
            self.say(field, format!("must be 1 to {most}"));
        }
        value
    }
}

impl Commands {
    /// Queues jobs, 1,000 at most, in one append: all or none. Of those that are unique and wait already, the one that waits stands in
    /// the answer.
    ///
    /// # Errors
    /// See [`CommandError`]; nothing was queued unless it says that this is unknown.
    pub async fn queue_jobs(
        &self,
        context: &Context,
        jobs: Vec<CheckedJob>,
    ) -> Result<QueuedJobs, CommandError> {
        let held = match self.hold_key(context, "job").await? {
            Ok(held) => held,
            Err(earlier) => return Ok(replayed(&earlier.owner_id, earlier.position)),
        };
        for _ in 0..MOST_TRIES {
            let (events, queued) = self.queueing_events(context, &jobs, held.as_ref()).await?;
            if events.is_empty() {
                return Ok(QueuedJobs { jobs: queued, position: None, replayed: false });
            }
            let append = Append { events, metadata: context.metadata(), data_keys: vec![] };
            match self.ledger.append(append).await {
                Ok(done) => {
                    return Ok(QueuedJobs { jobs: queued, position: Some(done.position), replayed: false });
                }
                // A place was taken or became free meanwhile, or another node used the key.
                Err(AppendError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(held) = &held
                && let Some(earlier) = self.earlier(held).await?
            {
                return Ok(replayed(&earlier.owner_id, earlier.position));
            }
        }
        Err(CommandError::Contended)
    }

    /// The events that queue jobs, for storing alongside others, and the jobs they make (or that wait already).
    pub(crate) async fn queueing_events(
        &self,
        context: &Context,
        jobs: &[CheckedJob],
        held: Option<&HeldKey>,
    ) -> Result<(Vec<NewEvent>, Vec<QueuedJob>), CommandError> {
        let (mut events, mut queued) = (vec![], Vec::with_capacity(jobs.len()));
        // Claimed in this very append, by stream.
        let mut claimed: std::collections::HashMap<String, JobId> = std::collections::HashMap::new();
        for job in jobs {
            let id = JobId(self.new_id());
            let mut queue = job.queue.clone();
            if let Some(place) = &job.place {
                let value = [&*queue.team_id.to_string(), queue.kind.as_str(), place];
                let stream = self.claim_stream(ClaimKind::JobPlace, &value).await?;
                let waiting = match claimed.get(&stream.aggregate_id) {
                    Some(waiting) => Some(*waiting),
                    None => self.claim_place(&stream, id, &mut events).await?,
                };
                if let Some(waiting) = waiting {
                    // Whoever may not queue is not told what waits.
                    context.caller.require_in(Some(queue.team_id), domain::Permission::JobsRun)?;
                    queued.push(QueuedJob { id: waiting, existing: true });
                    continue;
                }
                claimed.insert(stream.aggregate_id.clone(), id);
                queue.unique = Some(stream.aggregate_id);
            }
            events.extend(first_events::<Job>(context, id, JobCommand::Queue(queue)).await?);
            queued.push(QueuedJob { id, existing: false });
        }
        if let Some(held) = held {
            events.push(held.used_for(&StreamId::new("job", written(&queued)))?);
        }
        Ok((events, queued))
    }

    /// Takes the place for `job`; or says which job waits in it.
    async fn claim_place(
        &self,
        stream: &StreamId,
        job: JobId,
        events: &mut Vec<NewEvent>,
    ) -> Result<Option<JobId>, CommandError> {
        let (length, last) = self.last_claim(stream).await?;
        if let Some(ClaimEvent::Claimed { owner_id, .. }) = last {
            let waiting =
                owner_id.parse().map_err(|_| CommandError::Event(format!("{owner_id} is no job's id")))?;
            return Ok(Some(waiting));
        }
        let event = ClaimEvent::Claimed {
            kind: ClaimKind::JobPlace,
            owner_type: "job".to_owned(),
            owner_id: job.to_string(),
        };
        events.push(claim_event(stream.clone(), length + 1, &event)?);
        Ok(None)
    }

    /// The event that frees the place that a job holds.
    pub(super) async fn free_place(&self, claim: &str) -> Result<NewEvent, CommandError> {
        let stream = StreamId::new("claim", claim);
        let length = self.ledger.stream_length(&stream).await?;
        claim_event(stream, length + 1, &ClaimEvent::Released {})
    }
}

/// Jobs as an idempotency key remembers them: their ids, `=` before those that waited before.
fn written(jobs: &[QueuedJob]) -> String {
    let one = |job: &QueuedJob| format!("{}{}", if job.existing { "=" } else { "" }, job.id);
    jobs.iter().map(one).collect::<Vec<_>>().join(",")
}

fn replayed(written: &str, position: i64) -> QueuedJobs {
    let one = |text: &str| {
        let id = text.trim_start_matches('=').parse().ok()?;
        Some(QueuedJob { id, existing: text.starts_with('=') })
    };
    let jobs = written.split(',').filter_map(one).collect();
    QueuedJobs { jobs, position: Some(position), replayed: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_remembers_all_jobs_and_which_waited_before() {
        let job = |existing| QueuedJob { id: JobId(uuid::Uuid::now_v7()), existing };
        let jobs = vec![job(false), job(true), job(false)];
        assert_eq!(replayed(&written(&jobs), 7).jobs, jobs);
        // As keys that were used for one job have it, also from before there were several.
        let one = job(false);
        assert_eq!(replayed(&one.id.to_string(), 7).jobs, [one]);
    }
}
