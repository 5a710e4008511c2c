//! One attempt of an `http` kind: the request, redirects, and what is made of the answer.

use std::error::Error as _;
use std::sync::Arc;

use chrono::Utc;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Method, StatusCode};
use url::Url;

use super::Http;
use super::addresses::Refused;
use super::answer::{Answer, KEPT};
use super::filling::{Filling, Secrets};
use super::target;
use crate::jobs::action::Run;
use crate::jobs::circuits::Leave;
use crate::jobs::lines::{Budget, Lines};
use crate::jobs::mask::Patterns;
use crate::jobs::process::{Ending, Finished, Stream};

/// A request on its way, and what is known of the host it is on its way to.
pub(super) struct Exchange<'a> {
    http: &'a Http,
    run: &'a Run<'a>,
    patterns: Arc<Patterns>,
    request: Request,
    leave: Option<Leave>,
}

/// What is sent next.
struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    /// The body holds a secret.
    confidential: bool,
}

impl<'a> Exchange<'a> {
    /// The request for these values. The error is a sentence for whoever asked for the job.
    pub(super) fn new(http: &'a Http, run: &'a Run<'a>) -> Result<Self, String> {
        let values = run.secrets.iter().map(|(_, value)| value.expose());
        let patterns = Arc::new(Patterns::new(values).map_err(|error| error.to_string())?);
        let filling = Filling { values: &run.values, secrets: Secrets::Known(&run.secrets) };
        let request = Request::new(http, filling)?;
        Ok(Self { http, run, patterns, request, leave: None })
    }

    /// Sends the request, and others where it is led to.
    pub(super) async fn run(&mut self) -> Finished {
        let shown = self.http.target.shown(&self.run.values);
        self.run.say(format!("{} {}", self.request.method, self.masked(&shown))).await;
        match self.answered().await {
            Ok(answer) => self.finished(answer).await,
            Err(ending) => Finished::without_process(ending),
        }
    }

    /// A host that let the attempt run out of time has failed; of one that was not waited for nothing is known.
    pub(super) fn ended(self, ending: &Ending) {
        if let Some(leave) = self.leave
            && *ending == Ending::TimedOut
        {
            leave.failed();
        }
    }

    async fn answered(&mut self) -> Result<Answer, Ending> {
        let mut redirects = 0;
        loop {
            let answer = self.asked().await?;
            let location = match answer.headers.get(LOCATION) {
                Some(location) if self.http.redirects > 0 && leads_on(answer.status) => location,
                Some(_) | None => return Ok(answer),
            };
            if redirects == self.http.redirects {
                return Err(last(format!("it was redirected more than {redirects} times")));
            }
            redirects += 1;
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            self.request.redirect(&location, answer.status).map_err(last)?;
            let shown = self.masked(self.request.url.as_str());
            self.run.say(format!("redirected: {} {shown}", self.request.method)).await;
        }
    }

    /// One request and its answer, with leave from the host's circuit.
    async fn asked(&mut self) -> Result<Answer, Ending> {
        self.http.guard.check(&self.request.url).map_err(|refused| last(refused.to_string()))?;
        let client = self.http.client().map_err(passing)?;
        let host = self.request.url.origin().ascii_serialization();
        let leave = self.run.circuits.admit(&host).map_err(|open| Ending::Failed {
            error: format!("{host} was not asked: {open}"),
            is_final: false,
            retry_after: Some(open.retry_after),
        })?;
        self.leave = Some(leave);
        let answer = self.request.send(client).await;
        if let Some(leave) = self.leave.take() {
            tell(leave, &answer);
        }
        answer.map_err(|error| match refusal(&error) {
            Some(refused) => last(refused.to_string()),
            None => passing(self.masked(&format!("{host} gave no answer: {}", sentence(error)))),
        })
    }

    async fn finished(&self, answer: Answer) -> Finished {
        let budget = Arc::new(Budget::new(self.run.max_lines, self.run.output_bytes));
        let mut lines = Lines::new(Stream::Stdout, Arc::clone(&self.patterns), Arc::clone(&budget));
        let mut ready = Vec::new();
        lines.push(&answer.text(), Utc::now(), &mut ready);
        lines.finish(Utc::now(), &mut ready);
        for line in ready {
            // Without a receiver there is no log to put it into.
            let _no_log = self.run.output.send(line).await;
        }
        if answer.cut {
            self.run
                .say(format!("the answer is longer than {} KiB; the rest was not read", KEPT / 1024))
                .await;
        }
        let ending = self.ending(&answer);
        let result = answer.document(&self.patterns);
        Finished { result, dropped_lines: budget.dropped(), ..Finished::without_process(ending) }
    }

    fn ending(&self, answer: &Answer) -> Ending {
        let status = answer.status;
        if self.http.success.have(status) {
            return Ending::Exited { code: 0 };
        }
        let passing = self.http.retry.have(status);
        Ending::Failed {
            error: format!("it was answered {status}"),
            is_final: !passing,
            retry_after: passing.then(|| answer.retry_after(Utc::now())).flatten(),
        }
    }

    fn masked(&self, text: &str) -> String {
        let masked = String::from_utf8_lossy(&self.patterns.mask(text.as_bytes())).replace('\0', "\u{FFFD}");
        masked.replace(['\n', '\r'], " ")
    }
}

impl Request {
    fn new(http: &Http, filling: Filling<'_>) -> Result<Self, String> {
        let url = http.target.fill(filling)?;
        let mut headers = http.headers.fill(filling)?;
        let body = http.content.as_ref().map(|content| content.fill(filling)).transpose()?;
        if let Some(content) = &http.content
            && !headers.contains_key(CONTENT_TYPE)
        {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content.media_type()));
        }
        let confidential =
            http.content.as_ref().is_some_and(|content| content.template().secrets().next().is_some());
        Ok(Self { method: http.method.clone(), url, headers, body, confidential })
    }

    async fn send(&self, client: &Client) -> Result<Answer, reqwest::Error> {
        let mut sending = client.request(self.method.clone(), self.url.clone()).headers(self.headers.clone());
        if let Some(body) = &self.body {
            sending = sending.body(body.clone());
        }
        Answer::read(sending.send().await?).await
    }

    /// The request that an answer leads to, RFC 9110 section 15.4: to another host without secrets. The error is a sentence.
    fn redirect(&mut self, location: &str, status: StatusCode) -> Result<(), String> {
        let url = self.url.join(location).map_err(|_| "it was redirected to what is no URL")?;
        if !["http", "https"].contains(&url.scheme()) || url.as_str().len() > target::LONGEST {
            return Err("it was redirected to a URL that cannot be asked".to_owned());
        }
        let keeps_method = matches!(status.as_u16(), 307 | 308)
            || (status != StatusCode::SEE_OTHER && self.method != Method::POST)
            || self.method == Method::HEAD;
        if !keeps_method {
            self.method = Method::GET;
            self.body = None;
            self.headers.remove(CONTENT_TYPE);
            self.headers.remove(CONTENT_LENGTH);
        }
        if url.origin() != self.url.origin() {
            if self.confidential && self.body.is_some() {
                return Err("it was redirected to another host, which must not get the secrets in its body"
                    .to_owned());
            }
            let secret: Vec<_> = self
                .headers
                .iter()
                .filter(|(_, value)| value.is_sensitive())
                .map(|(name, _)| name.clone())
                .collect();
            for name in secret {
                self.headers.remove(name);
            }
        }
        self.url = url;
        Ok(())
    }
}

/// What the answer says of the host that was asked.
fn tell(leave: Leave, answer: &Result<Answer, reqwest::Error>) {
    match answer {
        Ok(answer) if answer.status.is_server_error() => leave.failed(),
        Ok(_) => leave.succeeded(),
        // Nothing was asked of it.
        Err(error) if refusal(error).is_some() => drop(leave),
        Err(_) => leave.failed(),
    }
}

fn leads_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// It would not be different the next time.
fn last(error: String) -> Ending {
    Ending::Failed { error, is_final: true, retry_after: None }
}

fn passing(error: String) -> Ending {
    Ending::Failed { error, is_final: false, retry_after: None }
}

/// The resolver's refusal, if that is what is behind the error.
fn refusal(error: &reqwest::Error) -> Option<&Refused> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        cause = error.source();
    }
    None
}

/// What went wrong, to its bottom. Without the URL, which may hold a secret.
fn sentence(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let further = error.to_string();
        if !text.contains(&further) {
            text = format!("{text}: {further}");
        }
        cause = error.source();
    }
    text
}
