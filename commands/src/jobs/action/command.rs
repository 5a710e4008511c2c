//! The type `command`: a process, from an argument list.
//!
//! An argument is a template. A value stays within its argument, no shell ever sees it, and it does not make an argument start with `-`
//! unless its parameter allows that.

use std::sync::Arc;

use super::{Action, BoxFuture, Run};
use crate::jobs::kinds::template::Template;
use crate::jobs::kinds::{ArgProblem, Reading, Values};
use crate::jobs::process::{self, Attempt, Finished};

#[derive(Debug)]
struct Command(Vec<Template>);

/// Reads `command = ["program", "{argument}"]`.
pub(super) fn read(reading: &mut Reading<'_, '_>) -> Option<Arc<dyn Action>> {
    if !reading.has("command") {
        reading.problem("command", "is missing");
    }
    let texts = reading.list("command")?;
    if texts.first().is_none_or(|program| program.trim().is_empty()) {
        reading.problem("command", "needs a program as its first element");
    }
    let mut templates = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        match argument(index, text, reading) {
            Ok(template) => templates.push(template),
            Err(message) => reading.problem(&format!("command[{index}]"), &message),
        }
    }
    Some(Arc::new(Command(templates)))
}

fn argument(index: usize, text: &str, reading: &Reading<'_, '_>) -> Result<Template, String> {
    if text.contains('\0') {
        return Err("must not contain NUL".to_owned());
    }
    let template = Template::parse(text)?;
    if index == 0 && template.params().next().is_some() {
        return Err("the program cannot be a parameter".to_owned());
    }
    if template.secrets().next().is_some() {
        return Err("a command gets its secrets as environment variables: arguments can be seen".to_owned());
    }
    reading.knows_all_of(&template)?;
    Ok(template)
}

impl Action for Command {
    /// Given values that would be taken for options.
    fn check(&self, values: &Values) -> Vec<ArgProblem> {
        let arguments = self
            .0
            .iter()
            .filter(|template| template.fill(values).is_some_and(|filled| filled.starts_with('-')));
        let mut names: Vec<&str> = arguments.filter_map(|template| template.first_shown(values)).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !values.may_lead_with_dash(name));
        names.into_iter().map(|name| ArgProblem::new(name, "must not start with `-`")).collect()
    }

    fn outline(&self, values: &Values) -> Vec<String> {
        self.0.iter().filter_map(|template| template.fill(values)).collect()
    }

    fn run<'a>(&'a self, run: Run<'a>) -> BoxFuture<'a, Finished> {
        let attempt = Attempt {
            argv: self.outline(&run.values),
            env: run.secrets,
            plain_env: run.plain_env,
            directory: run.directory,
            job_id: run.job_id,
            attempt: run.attempt,
            timeout: run.timeout,
            max_lines: run.max_lines,
            max_output_bytes: run.output_bytes,
            limits: run.limits,
            max_artifact_bytes: run.artifacts_bytes,
            grace: run.grace,
            working_root: run.working_root,
        };
        Box::pin(process::run(attempt, run.watchdog, run.output, run.stop, run.keep))
    }
}
