#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const SECRET: &str = "a secret of more than thirty-two characters";

fn sources(environment: &[(&str, &str)]) -> Sources {
    let environment = environment.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    Sources { environment, file: "/nonexistent/daybook.toml".into() }
}

fn load(environment: &[(&str, &str)]) -> Result<Settings, Vec<Problem>> {
    Settings::load(&sources(environment))
}

/// Loads with a `daybook.toml` of this text.
fn load_with_file(text: &str, environment: &[(&str, &str)]) -> Result<Settings, Vec<Problem>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("daybook.toml");
    std::fs::write(&file, text).unwrap();
    Settings::load(&Sources { file, ..sources(environment) })
}

fn names(result: Result<Settings, Vec<Problem>>) -> Vec<String> {
    result.unwrap_err().into_iter().map(|problem| problem.name).collect()
}

fn message(name: &str, value: &str) -> String {
    let problems = load(&[(name, value)]).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].name, name);
    problems[0].message.clone()
}

#[test]
fn nothing_configured_gives_the_documented_defaults() {
    let settings = load(&[]).unwrap();
    assert_eq!(settings.environment, Environment::Development);
    assert_eq!(settings.listen, "127.0.0.1:8080".parse().unwrap());
    assert!(settings.listen_is_default && settings.rate_limit_enabled);
    assert_eq!(settings.data_dir, PathBuf::from("./.daybook"));
    assert_eq!((settings.access_token_minutes, settings.refresh_token_days), (60, 7));
    assert_eq!((settings.rate_limit_per_minute, settings.rate_limit_authenticated_per_minute), (60, 600));
    assert_eq!((settings.max_job_retries, settings.job_retry_delay_seconds), (3, 60));
    assert_eq!((settings.max_log_lines, settings.worker_concurrency), (2000, 8));
    assert_eq!(settings.registration, Registration::Invite);
    assert_eq!(settings.log_format, LogFormat::Text);
    assert!(
        settings.database_url.is_none() && settings.jwt_secret.is_none() && settings.cors_origins.is_empty()
    );
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let file = "listen = \"127.0.0.1:1\"\nmax_log_lines = 5\nrate_limit_enabled = false\n";
    let settings = load_with_file(file, &[("LISTEN", "[::1]:2")]).unwrap();
    assert_eq!(settings.listen, "[::1]:2".parse().unwrap());
    assert!(!settings.listen_is_default);
    assert_eq!(settings.max_log_lines, 5);
    assert!(!settings.rate_limit_enabled);
    assert_eq!(settings.worker_concurrency, 8);
}

#[test]
fn job_tables_in_the_file_are_not_settings() {
    let file = "cors_origins = [\"https://a.example\", \"http://localhost:3000\"]\n[jobs.nightly-report]\ncommand = [\"true\"]\n";
    let settings = load_with_file(file, &[]).unwrap();
    assert_eq!(settings.cors_origins, ["https://a.example", "http://localhost:3000"]);
}

#[test]
fn unknown_and_wrongly_shaped_keys_of_the_file_are_problems() {
    let found = names(load_with_file("lissten = 1\nLISTEN = \":0\"\n[log_level]\na = 1\n", &[]));
    assert_eq!(found, ["LISTEN", "lissten", "LOG_LEVEL"]);
}

#[test]
fn a_file_that_is_not_toml_is_a_problem_that_does_not_quote_it() {
    let problems = load_with_file("jwt_secret = \"hunter2hunter2\nlisten = 1", &[]).unwrap_err();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.name.ends_with("daybook.toml"));
    assert!(problem.message.contains("line 1"), "{problem}");
    assert!(!problem.to_string().contains("hunter2"), "{problem}");
}

#[test]
fn all_problems_are_reported_at_once_by_name() {
    let found = names(load(&[
        ("ENVIRONMENT", "staging"),
        ("LISTEN", "8080"),
        ("JWT_SECRET", "short"),
        ("ENCRYPTION_KEY", "c2hvcnQ="),
        ("ACCESS_TOKEN_MINUTES", "0"),
        ("CORS_ORIGINS", "https://a.example/path"),
        ("RATE_LIMIT_ENABLED", "yes"),
        ("MAX_JOB_RETRIES", "101"),
        ("WORKER_CONCURRENCY", "-1"),
        ("LOG_LEVEL", "infoo"),
        ("SMTP_URL", "mail.example"),
    ]));
    let expected = [
        "ENVIRONMENT",
        "LISTEN",
        "JWT_SECRET",
        "ENCRYPTION_KEY",
        "ACCESS_TOKEN_MINUTES",
        "CORS_ORIGINS",
        "RATE_LIMIT_ENABLED",
        "MAX_JOB_RETRIES",
        "WORKER_CONCURRENCY",
        "LOG_LEVEL",
        "SMTP_URL",
    ];
    assert_eq!(found, expected);
}

#[test]
fn production_refuses_what_it_would_have_to_make_up_and_wildcards() {
    let found = names(load(&[("ENVIRONMENT", "production"), ("CORS_ORIGINS", "*")]));
    assert_eq!(found, ["DATABASE_URL", "JWT_SECRET", "ENCRYPTION_KEY", "CORS_ORIGINS"]);
    let complete = [
        ("ENVIRONMENT", "production"),
        ("DATABASE_URL", "postgres://db/daybook"),
        ("JWT_SECRET", SECRET),
        ("ENCRYPTION_KEY", KEY),
    ];
    assert_eq!(load(&complete).unwrap().log_format, LogFormat::Json);
}

#[test]
fn a_wrong_value_in_production_is_reported_once() {
    let found = names(load(&[
        ("ENVIRONMENT", "production"),
        ("DATABASE_URL", "mysql://x"),
        ("JWT_SECRET", SECRET),
        ("ENCRYPTION_KEY_FILE", "/nonexistent/key"),
    ]));
    assert_eq!(found, ["ENCRYPTION_KEY_FILE", "DATABASE_URL"]);
}

#[test]
fn a_value_may_come_from_a_file_less_one_newline() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n\n")).unwrap();
    let settings = load(&[("JWT_SECRET_FILE", file.to_str().unwrap())]).unwrap();
    assert_eq!(settings.jwt_secret.unwrap().expose(), format!("{SECRET}\n"));
}

#[test]
fn a_value_given_twice_is_a_problem() {
    let found =
        names(load(&[("ENVIRONMENT", "production"), ("JWT_SECRET", SECRET), ("JWT_SECRET_FILE", "/x")]));
    assert_eq!(found, ["JWT_SECRET", "DATABASE_URL", "ENCRYPTION_KEY"]);
}

#[test]
fn an_empty_variable_is_not_set() {
    assert!(load(&[("JWT_SECRET", ""), ("LISTEN", "")]).unwrap().listen_is_default);
}

#[test]
fn secrets_show_neither_in_problems_nor_in_debug() {
    for (name, value) in [
        ("JWT_SECRET", "hunter2"),
        ("ENCRYPTION_KEY", "hunter2"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("SMTP_URL", "u:hunter2@h"),
    ] {
        assert!(!message(name, value).contains("hunter2"));
    }
    let settings = load(&[
        ("JWT_SECRET", SECRET),
        ("DATABASE_URL", "postgres://u:hunter2@h/d"),
        ("ADMIN_PASSWORD", "hunter2"),
    ])
    .unwrap();
    let shown = format!("{settings:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(SECRET), "{shown}");
}

#[test]
fn listen_accepts_a_bare_port_as_loopback() {
    for (text, expected) in [
        (":0", "127.0.0.1:0"),
        ("localhost:81", "127.0.0.1:81"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::]:80", "[::]:80"),
    ] {
        assert_eq!(load(&[("LISTEN", text)]).unwrap().listen, expected.parse().unwrap());
    }
    for text in ["8080", "::1", "localhost", ":99999", "example.com:80", "::1:80"] {
        message("LISTEN", text);
    }
}

#[test]
fn origins_are_compared_as_browsers_send_them() {
    for text in ["https://a.example", "http://localhost:3000,https://b.example", "*", "http://[::1]:3000"] {
        assert!(load(&[("CORS_ORIGINS", text)]).is_ok(), "{text}");
    }
    for text in [
        "a.example",
        "https://a.example/",
        "https://*.example",
        "null",
        "ftp://a",
        "https://A.example",
        "https://a:443",
        "*,https://a",
        "https://u@a",
    ] {
        message("CORS_ORIGINS", text);
    }
}

#[test]
fn urls_filters_and_addresses_are_checked() {
    assert_eq!(
        load(&[("PUBLIC_URL", "https://d.example/base/")]).unwrap().public_url.unwrap(),
        "https://d.example/base"
    );
    for text in ["d.example", "ftp://d.example", "https://d.example?x=1", "https://u:p@d.example", "/path"] {
        message("PUBLIC_URL", text);
    }
    for text in ["debug", "info,sqlx=warn", "warn,api::middleware=trace", "off"] {
        assert!(load(&[("LOG_LEVEL", text)]).is_ok(), "{text}");
    }
    message("LOG_LEVEL", "info,sqlx=loud");
    assert!(load(&[("SMTP_URL", "smtps://u:p@mail:465"), ("MAIL_FROM", "Daybook <d@example.org>")]).is_ok());
    assert_eq!(names(load(&[("SMTP_URL", "smtp://mail")])), ["MAIL_FROM"]);
    for text in ["someone", "@host", "a@b@c", "a b@c"] {
        message("ADMIN_EMAIL", text);
    }
}

#[test]
fn keys_may_be_standard_or_url_safe_base64() {
    for key in
        [KEY, "__________________________________________8", "//////////////////////////////////////////8="]
    {
        assert!(load(&[("ENCRYPTION_KEY", key)]).is_ok(), "{key}");
    }
}

#[test]
fn the_table_names_every_setting_once_and_its_defaults_are_valid() {
    let names: std::collections::BTreeSet<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(names.len(), SETTINGS.len());
    assert!(SETTINGS.iter().all(|setting| !setting.default.is_empty() && !setting.meaning.is_empty()));
    let literal: Vec<_> = SETTINGS
        .iter()
        .filter(|setting| setting.literal)
        .map(|setting| (setting.name, setting.default))
        .collect();
    load(&literal).unwrap();
}
