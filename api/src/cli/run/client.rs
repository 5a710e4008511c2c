//! Daybook as a program asks it: over its API, with a key.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use commands::SecretFolder;
use domain::Reason;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::Failure;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one answer may take; the server gives up after 45 s by itself.
const ANSWER: Duration = Duration::from_secs(50);
/// How long a request is repeated that Daybook asks to repeat later.
const PATIENCE: Duration = Duration::from_secs(120);
/// The wait where Daybook does not say how long, and the shortest.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Bytes of an answer; a page and a value are both far below.
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;
/// Items of a page: the most there are.
const PAGE: &str = "200";
/// Pages of a list: more secrets than any program gets.
const MOST_PAGES: usize = 50;

/// A client with a key.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
}

/// A secret as lists have it.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    id: String,
    pub(super) name: String,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Listed>,
    next: Option<String>,
}

/// A value: text, or base64 of bytes that are none.
#[derive(Deserialize)]
struct Value {
    value: Option<Zeroizing<String>>,
    value_base64: Option<Zeroizing<String>>,
}

impl Value {
    fn into_bytes(self) -> Option<Zeroizing<Vec<u8>>> {
        match (self.value, self.value_base64) {
            (Some(text), None) => Some(Zeroizing::new(text.as_bytes().to_vec())),
            (None, Some(text)) => BASE64.decode(text.as_bytes()).map(Zeroizing::new).ok(),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }
}

/// What a refusal says.
#[derive(Default, Deserialize)]
struct Problem {
    #[serde(default)]
    detail: String,
}

impl Client {
    /// A client of the Daybook at `url`. The key goes to another machine in clear only if `insecure`.
    pub(super) fn new(url: &str, key: &str, team: Option<&str>, insecure: bool) -> Result<Self, Failure> {
        let base = Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        let base = base.filter(|url| url.has_host() && url.username().is_empty() && url.password().is_none());
        let base = base.ok_or_else(|| {
            Failure::Usage("DAYBOOK_URL must be an address such as https://daybook.example.org".to_owned())
        })?;
        let (is_clear, stays_here) = (base.scheme() == "http", is_this_machine(&base));
        if is_clear && !stays_here && !insecure {
            let message = format!(
                "{base} would get the API key over http, for all on the way to read: use https (--insecure to go on all the same)"
            );
            return Err(Failure::Usage(message));
        }
        let mut builder = commands::http::builder().map_err(Failure::unreachable)?;
        // A proxy would read the key where there is no TLS, and what goes to this machine is none of its business.
        if is_clear || stays_here {
            builder = builder.no_proxy();
        }
        let http = builder
            .user_agent(concat!("daybook-run/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers(key, team)?)
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .build();
        Ok(Self { http: http.map_err(Failure::unreachable)?, base })
    }

    /// The secrets of a folder.
    pub(super) async fn list(&self, folder: &SecretFolder) -> Result<Vec<Listed>, Failure> {
        let mut found = vec![];
        let mut cursor: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut url = self.url(&["secrets"])?;
            url.query_pairs_mut().extend_pairs([("limit", PAGE), ("fields", "id,name")]);
            if !folder.as_str().is_empty() {
                url.query_pairs_mut().append_pair("prefix", folder.as_str());
            }
            url.query_pairs_mut().extend_pairs(cursor.iter().map(|cursor| ("cursor", cursor)));
            let page: Page = self.get(url, &format!("the secrets under {folder}")).await?;
            found.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                return Ok(found);
            }
        }
        Err(Failure::No(format!("there are too many secrets under {folder}")))
    }

    /// A secret's value. Daybook records the reading.
    pub(super) async fn value(
        &self,
        secret: &Listed,
        reason: &Reason,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut url = self.url(&["secrets", &secret.id, "value"])?;
        url.query_pairs_mut().append_pair("reason", reason.as_str());
        let value: Value = self.get(url, &secret.name).await?;
        value.into_bytes().ok_or_else(|| self.strange(&secret.name))
    }

    fn url(&self, path: &[&str]) -> Result<Url, Failure> {
        let mut url = self.base.clone();
        url.set_query(None);
        url.set_fragment(None);
        // It has a host, so it has segments.
        let mut segments = url.path_segments_mut().map_err(|()| self.strange("the address"))?;
        segments.pop_if_empty().push("api").extend(path);
        drop(segments);
        Ok(url)
    }

    async fn get<T: DeserializeOwned>(&self, url: Url, what: &str) -> Result<T, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let (status, body) = loop {
            let response = self.http.get(url.clone()).send().await.map_err(|error| self.away(error))?;
            let status = response.status();
            let wait = wait(&response);
            let body = self.body(response, what).await?;
            match wait {
                Some(wait) if Instant::now() + wait < deadline => sleep(wait).await,
                _ => break (status, body),
            }
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|_| self.strange(what));
        }
        Err(self.refused(status, &body, what))
    }

    async fn body(&self, mut response: Response, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let length = response.content_length().unwrap_or_default();
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(LARGEST_ANSWER);
        let mut body = Zeroizing::new(Vec::with_capacity(length));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.away(error))? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(self.strange(what));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn refused(&self, status: StatusCode, body: &[u8], what: &str) -> Failure {
        let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
        let number = status.as_u16();
        let detail = if problem.detail.is_empty() { format!("status {number}") } else { problem.detail };
        match number {
            300..=399 => Failure::No(format!("{} leads elsewhere: give the address it leads to", self.base)),
            401 => Failure::No(format!("{} does not accept the API key: {detail}", self.base)),
            429 | 500.. => Failure::Unreachable(format!("{what}: {detail}")),
            _ => Failure::No(format!("{what}: {detail}")),
        }
    }

    fn away(&self, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        let mut message = format!("{} cannot be reached: {error}", self.base);
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Failure::Unreachable(message)
    }

    /// Something else answers there.
    fn strange(&self, what: &str) -> Failure {
        Failure::Unreachable(format!("{} does not answer as Daybook does about {what}", self.base))
    }
}

/// Whether what is sent there stays on this machine.
fn is_this_machine(url: &Url) -> bool {
    // IPv6 addresses stand in brackets.
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn headers(key: &str, team: Option<&str>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    let bearer = Zeroizing::new(format!("Bearer {key}"));
    let mut bearer = HeaderValue::from_str(&bearer)
        .map_err(|_| Failure::Usage("DAYBOOK_API_KEY is not an API key".to_owned()))?;
    bearer.set_sensitive(true);
    headers.insert(AUTHORIZATION, bearer);
    if let Some(team) = team {
        let team = HeaderValue::from_str(team)
            .map_err(|_| Failure::Usage("the team must be a slug or an id".to_owned()))?;
        headers.insert("daybook-team", team);
    }
    Ok(headers)
}

/// How long to wait before asking again, where Daybook says that this helps.
fn wait(response: &Response) -> Option<Duration> {
    let later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    let seconds = response.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok()?.parse().ok());
    let asked = seconds.map_or(SHORTEST_WAIT, Duration::from_secs);
    later.contains(&response.status()).then_some(asked.max(SHORTEST_WAIT))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bytes(json: &str) -> Option<Vec<u8>> {
        serde_json::from_str::<Value>(json).unwrap().into_bytes().map(|value| value.to_vec())
    }

    #[test]
    fn a_value_is_text_or_base64() {
        assert_eq!(bytes(r#"{"id": "x", "version": 1, "value": "a"}"#), Some(b"a".to_vec()));
        assert_eq!(
            bytes(r#"{"id": "x", "version": 1, "value": null, "value_base64": "/w=="}"#),
            Some(vec![0xff])
        );
        assert_eq!(bytes(r#"{"value_base64": "not base64"}"#), None);
        assert_eq!(bytes(r#"{"value": "a", "value_base64": "YQ=="}"#), None);
        assert_eq!(bytes("{}"), None);
    }

    #[test]
    fn an_address_is_http_without_a_password_and_may_have_a_path() {
        let path = |url: &str| Client::new(url, "key", None, false).ok()?.url(&["secrets"]).ok();
        assert_eq!(path("https://x/daybook/").unwrap().as_str(), "https://x/daybook/api/secrets");
        assert_eq!(path("http://[::1]:8080?x=1#y").unwrap().as_str(), "http://[::1]:8080/api/secrets");
        for wrong in ["", "x", "ftp://x", "file:///x", "https://user@x", "https://:pw@x"] {
            assert!(path(wrong).is_none(), "{wrong}");
        }
    }
    #[test]
    fn the_key_leaves_the_machine_in_clear_only_if_that_is_asked_for() {
        let refused = |url: &str, insecure| match Client::new(url, "key", None, insecure) {
            Ok(_) => false,
            Err(Failure::Usage(message)) => message.contains("--insecure"),
            Err(failure) => panic!("{url}: {failure}"),
        };
        for here in
            ["http://localhost:1", "http://LOCALHOST", "http://127.9.9.9", "http://[::1]:80", "http://127.1"]
        {
            assert!(!refused(here, false), "{here}");
        }
        for away in
            ["http://10.0.0.1", "http://daybook.example.org", "http://localhost.example.org", "http://[::]"]
        {
            assert!(refused(away, false) && !refused(away, true), "{away}");
            assert!(!refused(&away.replace("http:", "https:"), false), "{away}");
        }
    }
}
