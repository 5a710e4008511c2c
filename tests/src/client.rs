//! An HTTP client that speaks for one person.

use std::net::SocketAddr;

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::within;

/// Speaks for one person, for a team where told so.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, where it is JSON; null otherwise.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

impl Client {
    /// A client of the node at `address`.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn new(address: SocketAddr, token: Option<String>) -> Self {
        let http = commands::http::builder().unwrap().no_proxy().build().unwrap();
        Self { http, base: format!("http://{address}"), token, headers: vec![] }
    }

    /// The same person with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The token it sends; empty when there is none.
    #[must_use]
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// The same person, speaking to another node.
    #[must_use]
    pub fn speaking_to(&self, address: SocketAddr) -> Self {
        Self { base: format!("http://{address}"), ..self.clone() }
    }

    /// The same person, sending one more header with every request.
    #[must_use]
    pub fn with_header(&self, name: &str, value: impl ToString) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_string()));
        client
    }

    /// A request to be changed before it is sent with [`Client::send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
    }

    /// Sends it. Of an answer that goes on without an end only the beginning is looked at.
    ///
    /// # Panics
    /// When nothing comes back in time.
    pub async fn send(&self, request: RequestBuilder) -> Reply {
        let response = within("an answer", request.send()).await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let endless = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let text = match endless {
            true => String::new(),
            false => within("a body", response.text()).await.unwrap(),
        };
        Reply { status, headers, json: serde_json::from_str(&text).unwrap_or_default(), text }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    /// PUT with a JSON body.
    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::PUT, path).json(&body)).await
    }

    /// PATCH with a JSON body.
    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::PATCH, path).json(&body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path)).await
    }
}

impl Reply {
    /// The same reply, after making sure of its status.
    ///
    /// # Panics
    /// When it has another one; says what came.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// A header's text; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let name: Option<HeaderName> = name.parse().ok();
        name.and_then(|name| self.headers.get(name)).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// A field of the body as text; empty when it is not there or no text.
    #[must_use]
    pub fn str(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    /// The fields that a 422 names.
    #[must_use]
    pub fn fields(&self) -> Vec<&str> {
        let errors = self.json["errors"].as_array();
        errors.into_iter().flatten().filter_map(|error| error["field"].as_str()).collect()
    }
}
