//! How the jobs of a kind are queued, tried again and kept within bounds, whatever they do.

use serde::Serialize;

use super::KindProblem;
use super::section::Section;
use crate::jobs::limits::Limits;

/// The longest pause before the first retry, in seconds: a day.
const LONGEST_DELAY: u32 = 86_400;
/// The longest pause there may be between two attempts, in seconds: a week.
const LONGEST_CAP: u32 = 604_800;
const MOST_AT_ONCE: u32 = 1_000;
const MIB: u64 = 1024 * 1024;

/// The settings that every kind has, whatever its type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindSettings {
    /// The pause after the first failure, in seconds; the configuration's if none.
    pub retry_delay_seconds: Option<u32>,
    /// By how much each pause is longer than the one before.
    pub retry_factor: f64,
    /// The longest pause, in seconds.
    pub retry_cap_seconds: u32,
    /// By what share of itself a pause may be longer or shorter, so that what failed together does not come again together.
    pub retry_jitter: f64,
    /// Exit codes after which a job is not tried again.
    pub final_exit_codes: Vec<i32>,
    /// How many jobs with the same concurrency key run at once.
    pub concurrency_limit: u32,
    /// Only one job with the same arguments waits at a time, of each team.
    pub unique: bool,
    /// What the process of an attempt may use.
    pub limits: Limits,
    /// Output that is stored of an attempt, in KiB; 2 for each line that may be stored if none.
    pub output_kb: Option<u32>,
    /// Files that are kept of an attempt, in MiB.
    pub artifacts_mb: u32,
}

impl Default for KindSettings {
    fn default() -> Self {
        Self {
            retry_delay_seconds: None,
            retry_factor: 2.0,
            retry_cap_seconds: 3_600,
            retry_jitter: 0.1,
            final_exit_codes: Vec::new(),
            concurrency_limit: 1,
            unique: false,
            limits: Limits::default(),
            output_kb: None,
            artifacts_mb: 100,
        }
    }
}

pub(super) fn read(section: &mut Section<'_>, problems: &mut Vec<KindProblem>) -> KindSettings {
    let usual = KindSettings::default();
    let codes = section.wholes("final_exit_codes", 1..=255, problems).unwrap_or_default();
    KindSettings {
        retry_delay_seconds: section.whole("retry_delay_seconds", LONGEST_DELAY, problems),
        retry_factor: section.real("retry_factor", 1.0..=10.0, problems).unwrap_or(usual.retry_factor),
        retry_cap_seconds: section
            .whole("retry_cap_seconds", LONGEST_CAP, problems)
            .unwrap_or(usual.retry_cap_seconds),
        retry_jitter: section.real("retry_jitter", 0.0..=1.0, problems).unwrap_or(usual.retry_jitter),
        final_exit_codes: codes.into_iter().map(u32::cast_signed).collect(),
        concurrency_limit: section
            .whole("concurrency_limit", MOST_AT_ONCE, problems)
            .unwrap_or(usual.concurrency_limit),
        unique: section.flag("unique", problems).unwrap_or(usual.unique),
        limits: limits(section, problems),
        output_kb: section.whole("output_kb", 1_048_576, problems),
        artifacts_mb: section
            .whole_within("artifacts_mb", 0..=10_240, problems)
            .unwrap_or(usual.artifacts_mb),
    }
}

fn limits(section: &mut Section<'_>, problems: &mut Vec<KindProblem>) -> Limits {
    let Some(mut section) = section.section("limits", problems) else { return Limits::default() };
    let mut whole = |key, range| section.whole_within(key, range, problems).map(u64::from);
    let limits = Limits {
        // A runtime needs some to start at all.
        memory_bytes: whole("memory_mb", 16..=1_048_576).map(|mb| mb * MIB),
        cpu_seconds: whole("cpu_seconds", 1..=86_400),
        // Standard streams, the dynamic linker's and the program's own.
        open_files: whole("open_files", 16..=1_048_576),
        file_bytes: whole("file_mb", 1..=1_048_576).map(|mb| mb * MIB),
        processes: whole("processes", 1..=65_536),
    };
    section.finish(problems);
    limits
}
