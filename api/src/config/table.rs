//! The configuration table (design.md section 5) as data: read by the loader, and shown by the documentation.

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Name of the environment variable; the key in `daybook.toml` is the same in lower case.
    pub name: &'static str,
    /// What holds when it is not set, as shown to people. Never empty.
    pub default: &'static str,
    /// What it means, and what it accepts.
    pub meaning: &'static str,
    /// Whether `default` is itself a value (it is then parsed like one) or a description of what happens.
    pub literal: bool,
}

impl Setting {
    /// The key of this setting in `daybook.toml`.
    pub fn key(&self) -> String {
        self.name.to_ascii_lowercase()
    }
}

const fn value(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default, meaning, literal: true }
}

const fn described(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default, meaning, literal: false }
}

/// Every setting, in the order of the documentation.
pub const SETTINGS: &[Setting] = &[
    value(
        "ENVIRONMENT",
        "development",
        "`development` or `production`; production refuses generated keys, the private server and wildcards",
    ),
    described(
        "DATABASE_URL",
        "private server",
        "PostgreSQL 15 or newer: `postgres://...` or `key=value` pairs, as for psql; see Production",
    ),
    value(
        "DATABASE_CONNECTIONS",
        "20",
        "connections of this node to the server, 12 to 1000; all nodes together must fit into the server's `max_connections`",
    ),
    value(
        "DATA_DIR",
        "./.daybook",
        "private server, generated development keys (0600), mail that is not sent",
    ),
    value(
        "LISTEN",
        "127.0.0.1:8080",
        "`address:port`, `localhost:port` or `:port` (loopback); port 0 picks one; the address is printed and logged",
    ),
    described("PUBLIC_URL", "from LISTEN", "where people reach Daybook, for links in mail"),
    described("JWT_SECRET", "generated in development", "signs access tokens; 32 characters or more"),
    described("JWT_SECRET_PREVIOUS", "none", "still verifies tokens while JWT_SECRET is being changed"),
    described(
        "ENCRYPTION_KEY",
        "generated in development",
        "seals secrets and personal data; 32 bytes, base64",
    ),
    described(
        "ENCRYPTION_KEY_PREVIOUS",
        "none",
        "still opens what was sealed before ENCRYPTION_KEY was changed",
    ),
    value("ACCESS_TOKEN_MINUTES", "60", "life of an access token, 1 to 1440"),
    value("REFRESH_TOKEN_DAYS", "7", "life of a refresh token, 1 to 365"),
    value("REGISTRATION", "invite", "`open`, `invite` or `closed`"),
    described("ADMIN_EMAIL", "chosen at first start", "the first instance admin, made on first start"),
    described("ADMIN_PASSWORD", "generated, printed once", "the first instance admin's password"),
    described(
        "CORS_ORIGINS",
        "none",
        "comma-separated allow-list of `scheme://host[:port]`; `*` in development only",
    ),
    value("RATE_LIMIT_ENABLED", "true", "`true` or `false`; also the strict limit on sign-in"),
    value("RATE_LIMIT_PER_MINUTE", "60", "requests per minute and IP without a credential"),
    value("RATE_LIMIT_AUTHENTICATED_PER_MINUTE", "600", "requests per minute and user or API key"),
    value(
        "MAX_JOB_RETRIES",
        "3",
        "failures that end a job whose kind and request do not say, 0 to 100; 0 counts as 1",
    ),
    value("JOB_RETRY_DELAY_SECONDS", "60", "wait before the first retry, 0 to 86400"),
    value("MAX_LOG_LINES", "2000", "lines kept of one job, 1 to 1000000"),
    value("WORKER_CONCURRENCY", "8", "jobs that one worker runs at the same time, 1 to 1024"),
    value(
        "WORKER_DRAIN_SECONDS",
        "10",
        "how long running jobs may go on when a worker is told to stop, before they are handed back, 0 to 3600",
    ),
    described("WORKER_KINDS", "all", "kinds that the worker runs, comma-separated"),
    value(
        "RESTORED",
        "false",
        "`true` or `false`; `true` on a restored copy: schedules, mail and jobs are held at every start until `daybook effects release`",
    ),
    value("JOBS_FILE", "daybook.toml", "where the job kinds are"),
    value(
        "JOB_RETENTION_DAYS",
        "30",
        "how long logs and artifacts of jobs are kept after the jobs' end, 0 to 36500; 0 is for ever",
    ),
    value(
        "VISITOR_ADDRESS_DAYS",
        "90",
        "how long addresses of people who did not sign in can be read in the audit log, 0 to 36500; 0 is for ever",
    ),
    described(
        "ARTIFACTS_URL",
        "DATA_DIR/artifacts/",
        "where files are kept that jobs leave, `s3://bucket/prefix`; needed where workers are on several machines",
    ),
    described(
        "ARTIFACTS_ENDPOINT",
        "Amazon's",
        "address of another service that speaks S3, `http(s)://host:port`",
    ),
    described("AWS_REGION", "us-east-1", "region of the bucket"),
    described("AWS_ACCESS_KEY_ID", "from the machine's role", "who asks for the bucket"),
    described("AWS_SECRET_ACCESS_KEY", "from the machine's role", "the key to that"),
    described("AWS_SESSION_TOKEN", "none", "goes with keys that are good for a time"),
    described(
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
        "false",
        "`true` where the bucket is part of the host's name (with ARTIFACTS_ENDPOINT: part of it)",
    ),
    value("LOG_LEVEL", "info", "`error` to `trace`, or a filter such as `info,sqlx=warn`"),
    described("LOG_FORMAT", "text in development, json in production", "`text` or `json`"),
    described(
        "SMTP_URL",
        "mail is written to DATA_DIR/mail/",
        "`smtp://` or `smtps://`, with user and password if needed",
    ),
    described("MAIL_FROM", "none", "sender of mail; needed with SMTP_URL"),
    described("OTEL_EXPORTER_OTLP_ENDPOINT", "off", "where traces go, `http(s)://host:port`"),
];

/// The setting of that name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}
