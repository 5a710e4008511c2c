//! What jobs can do.

use std::collections::BTreeMap;

use axum::extract::State;
use commands::jobs::KindInfo;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::App;
use crate::authenticate::Can;
use crate::authenticate::needs::JobsRead;
use crate::extract::Json;
use crate::list::Page;

/// A kind of job.
#[derive(Debug, Serialize, ToSchema)]
pub struct KindBody {
    /// Its name.
    pub name: String,
    /// What does it: `command`, `http`, or a type that was added.
    #[serde(rename = "type")]
    pub action_type: String,
    /// What it does.
    pub description: String,
    /// What it takes: name, type, whether it is required, and its bounds.
    #[schema(value_type = Vec<Object>)]
    pub params: Value,
    /// Environment variable (or name in the templates) and the team's secret it is filled with.
    pub secrets: BTreeMap<String, String>,
    /// How long an attempt may take, unless the job says otherwise.
    pub timeout_seconds: u32,
    /// How many failures end a job, unless it says otherwise.
    pub max_attempts: Option<u32>,
    /// The pause after a job's first failure; the configuration's if null.
    pub retry_delay_seconds: Option<u32>,
    /// By how much each pause is longer than the one before.
    pub retry_factor: f64,
    /// The longest pause.
    pub retry_cap_seconds: u32,
    /// By what share of itself a pause may be longer or shorter.
    pub retry_jitter: f64,
    /// Exit codes after which a job is not tried again.
    pub final_exit_codes: Vec<i32>,
    /// How many jobs with the same concurrency key run at once.
    pub concurrency_limit: u32,
    /// Of each team only one job with the same arguments waits at a time.
    pub unique: bool,
    /// What each process of an attempt may use; null where nothing is said.
    pub limits: LimitsBody,
    /// Output that is stored of an attempt, in KiB; 2 for each line that may be stored if null.
    pub output_kb: Option<u32>,
    /// Files that are kept of an attempt, in MiB.
    pub artifacts_mb: u32,
}

/// What a process may use.
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitsBody {
    /// Memory it may write to, in bytes: heap, private mappings and stacks of threads. What it asks for beyond is refused.
    pub memory_bytes: Option<u64>,
    /// Processor time, in seconds.
    pub cpu_seconds: Option<u64>,
    /// Files open at once.
    pub open_files: Option<u64>,
    /// The largest file it may write, in bytes.
    pub file_bytes: Option<u64>,
    /// Processes of the user it runs as.
    pub processes: Option<u64>,
}

impl From<KindInfo> for KindBody {
    fn from(info: KindInfo) -> Self {
        let settings = info.settings;
        Self {
            params: serde_json::to_value(info.params).unwrap_or_default(),
            name: info.name,
            action_type: info.action_type,
            description: info.description,
            secrets: info.secrets,
            timeout_seconds: info.timeout_seconds,
            max_attempts: info.max_attempts,
            retry_delay_seconds: settings.retry_delay_seconds,
            retry_factor: settings.retry_factor,
            retry_cap_seconds: settings.retry_cap_seconds,
            retry_jitter: settings.retry_jitter,
            final_exit_codes: settings.final_exit_codes,
            concurrency_limit: settings.concurrency_limit,
            unique: settings.unique,
            limits: LimitsBody {
                memory_bytes: settings.limits.memory_bytes,
                cpu_seconds: settings.limits.cpu_seconds,
                open_files: settings.limits.open_files,
                file_bytes: settings.limits.file_bytes,
                processes: settings.limits.processes,
            },
            output_kb: settings.output_kb,
            artifacts_mb: settings.artifacts_mb,
        }
    }
}

/// What can run, with its parameters.
#[utoipa::path(
    get, path = "/jobs/kinds", tag = "jobs",
    responses((status = 200, description = "All kinds", body = Page<KindBody>)),
)]
pub async fn kinds(State(app): State<App>, _caller: Can<JobsRead>) -> Json<Page<KindBody>> {
    Json(Page { items: app.kinds.now().iter().map(|kind| kind.info().into()).collect(), next: None })
}
