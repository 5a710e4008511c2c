//! The type `http`: a request, from templates.
//!
//! ```toml
//! [jobs.ping]
//! type = "http"
//! method = "POST"                              # GET unless given
//! url = "https://api.example.org/v1/{item}"    # values never change scheme, host or path; {secret:NAME} may stand here too
//! headers = { Authorization = "Bearer {secret:API_TOKEN}", X-Day = "{day}" }
//! body = '{"day": "{day}", "as": "{{day}}"}'   # braces stand for themselves, except around a name; {{name}} is {name}
//! params = { item.type = "string", day.type = "string" }
//! secrets = { API_TOKEN = "api-token" }        # name in the templates <- secret of the job's team
//! success_codes = [200, 201]                   # 200 to 299 unless given
//! retry_codes = [409, 503]                     # 429 and 500 to 599 unless given; anything else ends the job
//! follow_redirects = 3                         # 0 to 10, none unless given
//! allow_private = ["10.0.0.0/8", "127.0.0.1"]  # none unless given
//! ```
//!
//! The body is JSON if its `Content-Type` says so, or if there is none and it is; a form likewise. A header that names an optional parameter
//! which was not given is left out. The status, some headers and at most 64 KiB of the answer's body become the log and the result,
//! `{"status": 200, "headers": {...}, "body": ...}`. `Retry-After` is honoured.
//!
//! A host that fails five times in a row is left alone for half a minute (see [`crate::jobs::circuits`]). Only public addresses are asked,
//! unless `allow_private` has them. A redirect leads on to another host without the secrets. Proxies of the environment are not used.

mod addresses;
mod answer;
mod content;
mod exchange;
mod filling;
mod headers;
mod target;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Method};

use super::{Action, BoxFuture, Run};
use crate::jobs::kinds::{ArgProblem, Reading, Values};
use crate::jobs::process::{Ending, Finished};
use addresses::{Guard, Network};
use answer::Codes;
use content::Content;
use exchange::Exchange;
use filling::Filling;
use headers::Headers;
use target::Target;

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(10);
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// Settings that mean something to processes only.
const OF_COMMANDS: [&str; 4] = ["env", "limits", "final_exit_codes", "artifacts_mb"];

#[derive(Debug)]
struct Http {
    method: Method,
    target: Target,
    headers: Headers,
    content: Option<Content>,
    success: Codes,
    retry: Codes,
    redirects: u32,
    guard: Guard,
    /// Made when it is first needed: setting up TLS takes some milliseconds.
    client: OnceLock<Result<Client, String>>,
}

pub(super) fn read(reading: &mut Reading<'_, '_>) -> Option<Arc<dyn Action>> {
    for key in OF_COMMANDS.into_iter().filter(|key| reading.has(key)).collect::<Vec<_>>() {
        reading.problem(key, "is only for commands");
    }
    let what = "one of GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS";
    let known = |text: &str| METHODS.into_iter().find(|method| method.as_str() == text);
    let method = reading.get("method", what, |value| known(value.as_str()?)).unwrap_or(Method::GET);
    let target = target(reading);
    let headers = Headers::read(reading);
    let content = content(&method, &headers, reading);
    let success = codes("success_codes", reading).unwrap_or(Codes::Success);
    let retry = codes("retry_codes", reading).unwrap_or(Codes::Passing);
    let redirects = reading.whole("follow_redirects", 0..=10).unwrap_or(0);
    let guard = guard(reading);
    let target = target?;
    refuse_unused(&target, &headers, content.as_ref(), reading);
    let client = OnceLock::new();
    Some(Arc::new(Http { method, target, headers, content, success, retry, redirects, guard, client }))
}

fn target(reading: &mut Reading<'_, '_>) -> Option<Target> {
    if !reading.has("url") {
        reading.problem("url", "is missing");
    }
    let text = reading.text("url")?;
    Target::read(&text, reading).map_err(|message| reading.problem("url", &message)).ok()
}

fn content(method: &Method, headers: &Headers, reading: &mut Reading<'_, '_>) -> Option<Content> {
    let text = reading.text("body")?;
    if [Method::GET, Method::HEAD].contains(method) {
        reading.problem("body", &format!("a {method} request has none"));
    }
    let read = Content::read(&text, headers.content_type(), reading);
    read.map_err(|message| reading.problem("body", &message)).ok()
}

fn codes(key: &'static str, reading: &mut Reading<'_, '_>) -> Option<Codes> {
    let codes = reading.wholes(key, 100..=599)?;
    if codes.is_empty() && key == "success_codes" {
        reading.problem(key, "must not be empty");
    }
    Some(Codes::These(codes))
}

fn guard(reading: &mut Reading<'_, '_>) -> Guard {
    let mut networks: Vec<Network> = Vec::new();
    for (index, text) in reading.list("allow_private").unwrap_or_default().into_iter().enumerate() {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(()) => {
                let message = "must be an address, or a network like 10.0.0.0/8";
                reading.problem(&format!("allow_private[{index}]"), message);
            }
        }
    }
    Guard::new(networks)
}

/// A secret that is used is recorded as used: none is asked for to no purpose.
fn refuse_unused(
    target: &Target,
    headers: &Headers,
    content: Option<&Content>,
    reading: &mut Reading<'_, '_>,
) {
    let templates = headers.templates().chain([target.template()]).chain(content.map(Content::template));
    let used: Vec<&str> = templates.flat_map(|template| template.secrets()).collect();
    let unused: Vec<String> =
        reading.secrets().filter(|name| !used.contains(name)).map(|name| format!("secrets.{name}")).collect();
    for key in unused {
        reading.problem(&key, "is used nowhere: write {secret:NAME} in the url, a header or the body");
    }
}

impl Http {
    fn client(&self) -> Result<&Client, String> {
        let client = self.client.get_or_init(|| {
            let builder = crate::http::builder().map_err(|error| error.to_string())?;
            let builder = builder.redirect(Policy::none()).no_proxy().referer(false).connect_timeout(CONNECT);
            // A connection of its own for each request: what it leads to has just been judged, and it has not gone stale.
            let builder = builder.pool_max_idle_per_host(0).dns_resolver(self.guard.clone());
            let agent = concat!("daybook/", env!("CARGO_PKG_VERSION"));
            builder.user_agent(agent).build().map_err(|error| error.to_string())
        });
        client.as_ref().map_err(|error| format!("no HTTP client could be made: {error}"))
    }

    async fn attempt(&self, run: Run<'_>) -> Finished {
        let mut exchange = match Exchange::new(self, &run) {
            Ok(exchange) => exchange,
            Err(error) => return Finished::without_process(Ending::CouldNotStart { error }),
        };
        let finished = run.until_stopped(exchange.run()).await;
        exchange.ended(&finished.ending);
        finished
    }
}

impl Action for Http {
    fn check(&self, values: &Values) -> Vec<ArgProblem> {
        let filling = Filling::masked(values);
        let mut problems = self.headers.check(values);
        let astray = self.target.astray(filling);
        problems.extend(
            astray.into_iter().map(|name| ArgProblem::new(name, "must not be empty, `.` or `..` in a path")),
        );
        problems.sort_by(|left, right| left.field.cmp(&right.field));
        problems.dedup();
        problems
    }

    fn outline(&self, values: &Values) -> Vec<String> {
        vec![self.method.to_string(), self.target.shown(values)]
    }

    fn run<'a>(&'a self, run: Run<'a>) -> BoxFuture<'a, Finished> {
        Box::pin(self.attempt(run))
    }
}

#[cfg(test)]
mod tests;
