//! Configuration: the environment first, then `daybook.toml`, then defaults; all problems at once, by name.

mod hidden;
mod parse;
mod sources;
mod table;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::connections;
pub use hidden::Hidden;
pub(crate) use parse::MIN_JWT_SECRET_CHARS;
use sources::Reader;
pub use sources::Sources;
pub use table::{SETTINGS, Setting};

/// Where Daybook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Environment {
    /// Missing keys are generated, the private PostgreSQL is allowed.
    #[default]
    Development,
    /// Everything must be given.
    Production,
}

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Registration {
    /// Anyone.
    Open,
    /// Whoever has an invitation.
    #[default]
    Invite,
    /// Nobody.
    Closed,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Something wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct Problem {
    /// The setting, the variable or the file it is about.
    pub name: String,
    /// What is wrong and what is accepted. Never holds a secret.
    pub message: String,
}

impl Problem {
    fn new(name: &str, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), message: message.into() }
    }
}

/// The checked configuration. Each field is the setting of the same name in `SETTINGS`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Development or production.
    pub environment: Environment,
    /// The PostgreSQL server; none means the private one.
    pub database_url: Option<Hidden>,
    /// Connections of this node to its database.
    pub database_connections: u32,
    /// Folder of the private server, the generated keys and unsent mail.
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 picks one.
    pub listen: SocketAddr,
    /// Whether nobody chose `listen`, so that another port may be taken when it is busy.
    pub listen_is_default: bool,
    /// Where people reach Daybook, without a trailing slash.
    pub public_url: Option<String>,
    /// Signs access tokens; none in development means a generated one.
    pub jwt_secret: Option<Hidden>,
    /// Still verifies tokens.
    pub jwt_secret_previous: Option<Hidden>,
    /// Seals; 32 bytes in base64. None in development means a generated one.
    pub encryption_key: Option<Hidden>,
    /// Still opens; 32 bytes in base64.
    pub encryption_key_previous: Option<Hidden>,
    /// Life of an access token in minutes.
    pub access_token_minutes: u32,
    /// Life of a refresh token in days.
    pub refresh_token_days: u32,
    /// Who may make an account.
    pub registration: Registration,
    /// E-mail address of the first instance admin.
    pub admin_email: Option<String>,
    /// Password of the first instance admin.
    pub admin_password: Option<Hidden>,
    /// Origins that browsers may call from; `["*"]` only in development.
    pub cors_origins: Vec<String>,
    /// Whether any rate limit applies.
    pub rate_limit_enabled: bool,
    /// Requests per minute and IP address without a credential.
    pub rate_limit_per_minute: u32,
    /// Requests per minute and user or API key.
    pub rate_limit_authenticated_per_minute: u32,
    /// Retries of a job when nothing else says.
    pub max_job_retries: u32,
    /// Seconds before the first retry.
    pub job_retry_delay_seconds: u32,
    /// Lines kept of one job's log.
    pub max_log_lines: u32,
    /// Jobs one worker runs at a time.
    pub worker_concurrency: u32,
    /// Seconds that running jobs have when their worker is told to stop.
    pub worker_drain_seconds: u32,
    /// The kinds the worker runs; all if none are named.
    pub worker_kinds: Option<Vec<String>>,
    /// Whether the database is a restored copy, so that schedules, mail and jobs are held.
    pub restored: bool,
    /// File with the job kinds.
    pub jobs_file: PathBuf,
    /// Days for which logs and artifacts are kept after their job's end; 0 is for ever.
    pub job_retention_days: u32,
    /// Days after which the addresses of visitors cannot be read any more; 0 is never.
    pub visitor_address_days: u32,
    /// The bucket of artifacts, `s3://bucket/prefix`; none means a folder.
    pub artifacts_url: Option<String>,
    /// Another address than Amazon's.
    pub artifacts_endpoint: Option<String>,
    /// Region of the bucket.
    pub aws_region: Option<String>,
    /// Who asks for the bucket.
    pub aws_access_key_id: Option<String>,
    /// The key to that.
    pub aws_secret_access_key: Option<Hidden>,
    /// Goes with keys that are good for a time.
    pub aws_session_token: Option<Hidden>,
    /// Whether the bucket is part of the host's name.
    pub aws_virtual_hosted_style_request: Option<bool>,
    /// A `tracing` filter.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Mail server; may hold a password.
    pub smtp_url: Option<Hidden>,
    /// Sender of mail.
    pub mail_from: Option<String>,
    /// Where traces go.
    pub otel_exporter_otlp_endpoint: Option<String>,
}

impl Settings {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// All problems, each with the name of the setting.
    pub fn load(sources: &Sources) -> Result<Self, Vec<Problem>> {
        let (settings, problems) = Self::examine(sources);
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// Reads everything and tells all problems. A setting that has one has no useful value here; the others can be looked at
    /// further.
    pub fn examine(sources: &Sources) -> (Self, Vec<Problem>) {
        let mut reader = Reader::new(sources);
        let settings = Self::read(&mut reader);
        settings.check_together(&mut reader);
        if settings.production() {
            settings.check_production(&mut reader);
        }
        (settings, reader.into_problems())
    }

    /// Whether this is production.
    pub fn production(&self) -> bool {
        self.environment == Environment::Production
    }

    fn read(reader: &mut Reader) -> Self {
        let environment = reader.required("ENVIRONMENT", parse::environment);
        Self {
            environment,
            database_url: reader.optional("DATABASE_URL", parse::database_url),
            database_connections: reader
                .required("DATABASE_CONNECTIONS", parse::number(connections::FEWEST..=connections::MOST)),
            data_dir: reader.required("DATA_DIR", parse::path),
            listen: reader.optional("LISTEN", parse::listen).unwrap_or((Ipv4Addr::LOCALHOST, 0).into()),
            listen_is_default: !reader.is_set("LISTEN"),
            public_url: reader.optional("PUBLIC_URL", parse::http_url),
            jwt_secret: reader.optional("JWT_SECRET", parse::jwt_secret),
            jwt_secret_previous: reader.optional("JWT_SECRET_PREVIOUS", parse::jwt_secret),
            encryption_key: reader.optional("ENCRYPTION_KEY", parse::encryption_key),
            encryption_key_previous: reader.optional("ENCRYPTION_KEY_PREVIOUS", parse::encryption_key),
            access_token_minutes: reader.required("ACCESS_TOKEN_MINUTES", parse::number(1..=1440)),
            refresh_token_days: reader.required("REFRESH_TOKEN_DAYS", parse::number(1..=365)),
            registration: reader.required("REGISTRATION", parse::registration),
            admin_email: reader.optional("ADMIN_EMAIL", parse::email),
            admin_password: reader.optional("ADMIN_PASSWORD", parse::hidden),
            cors_origins: reader.optional("CORS_ORIGINS", parse::origins).unwrap_or_default(),
            rate_limit_enabled: reader.required("RATE_LIMIT_ENABLED", parse::boolean),
            rate_limit_per_minute: reader.required("RATE_LIMIT_PER_MINUTE", parse::number(1..=1_000_000)),
            rate_limit_authenticated_per_minute: reader
                .required("RATE_LIMIT_AUTHENTICATED_PER_MINUTE", parse::number(1..=1_000_000)),
            max_job_retries: reader.required("MAX_JOB_RETRIES", parse::number(0..=100)),
            job_retry_delay_seconds: reader.required("JOB_RETRY_DELAY_SECONDS", parse::number(0..=86_400)),
            max_log_lines: reader.required("MAX_LOG_LINES", parse::number(1..=1_000_000)),
            worker_concurrency: reader.required("WORKER_CONCURRENCY", parse::number(1..=1024)),
            worker_drain_seconds: reader.required("WORKER_DRAIN_SECONDS", parse::number(0..=3_600)),
            worker_kinds: reader.optional("WORKER_KINDS", parse::kind_names),
            restored: reader.required("RESTORED", parse::boolean),
            jobs_file: reader.required("JOBS_FILE", parse::path),
            job_retention_days: reader.required("JOB_RETENTION_DAYS", parse::number(0..=36_500)),
            visitor_address_days: reader.required("VISITOR_ADDRESS_DAYS", parse::number(0..=36_500)),
            artifacts_url: reader.optional("ARTIFACTS_URL", parse::bucket),
            artifacts_endpoint: reader.optional("ARTIFACTS_ENDPOINT", parse::http_url),
            aws_region: reader.optional("AWS_REGION", parse::word),
            aws_access_key_id: reader.optional("AWS_ACCESS_KEY_ID", parse::word),
            aws_secret_access_key: reader.optional("AWS_SECRET_ACCESS_KEY", parse::hidden),
            aws_session_token: reader.optional("AWS_SESSION_TOKEN", parse::hidden),
            aws_virtual_hosted_style_request: reader
                .optional("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", parse::boolean),
            log_level: reader.required("LOG_LEVEL", parse::log_level),
            log_format: reader
                .optional("LOG_FORMAT", parse::log_format)
                .unwrap_or(default_format(environment)),
            smtp_url: reader.optional("SMTP_URL", parse::smtp_url),
            mail_from: reader.optional("MAIL_FROM", parse::mailbox),
            otel_exporter_otlp_endpoint: reader.optional("OTEL_EXPORTER_OTLP_ENDPOINT", parse::http_url),
        }
    }

    fn check_together(&self, reader: &mut Reader) {
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        for (name, other) in [(keys[0], keys[1]), (keys[1], keys[0])] {
            if self.artifacts_url.is_some() && reader.is_set(other) && !reader.is_set(name) {
                reader.problem(name, format!("must be set with {other}"));
            }
        }
        if reader.is_set("ARTIFACTS_ENDPOINT") && !reader.is_set("ARTIFACTS_URL") {
            reader.problem("ARTIFACTS_URL", "must be set with ARTIFACTS_ENDPOINT");
        }
        if self.smtp_url.is_some() && !reader.is_set("MAIL_FROM") {
            reader.problem("MAIL_FROM", "must be set with SMTP_URL");
        }
    }

    fn check_production(&self, reader: &mut Reader) {
        for name in ["DATABASE_URL", "JWT_SECRET", "ENCRYPTION_KEY"] {
            if !reader.is_set(name) {
                reader.problem(name, "must be set in production");
            }
        }
        if self.cors_origins == ["*"] {
            reader.problem("CORS_ORIGINS", "must not be * in production; list the origins");
        }
    }
}

fn default_format(environment: Environment) -> LogFormat {
    match environment {
        Environment::Development => LogFormat::Text,
        Environment::Production => LogFormat::Json,
    }
}
