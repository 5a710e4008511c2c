//! Reading server-sent events as they come.

use reqwest::{Method, Response};
use serde_json::Value;

use crate::{Client, within};

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEvent {
    /// Its id; empty when it has none.
    pub id: String,
    /// Its kind; empty for what only says that the stream is alive.
    pub kind: String,
    /// Its data, as JSON.
    pub data: Value,
}

/// A stream under way.
#[derive(Debug)]
pub struct EventStream {
    response: Response,
    text: String,
    broke_off: bool,
}

impl Client {
    /// Opens a stream.
    ///
    /// # Panics
    /// When the answer is none.
    pub async fn stream(&self, path: &str) -> EventStream {
        self.try_stream(path).await.unwrap_or_else(|| panic!("{path} is no stream"))
    }

    /// Opens a stream if there is one at the moment.
    ///
    /// # Panics
    /// When there is no answer in time.
    pub async fn try_stream(&self, path: &str) -> Option<EventStream> {
        let response = within("a stream", self.request(Method::GET, path).send()).await.unwrap();
        let kind = response.headers().get("content-type").map(|value| value.as_bytes());
        let is_stream = response.status().is_success() && kind == Some(b"text/event-stream");
        is_stream.then(|| EventStream { response, text: String::new(), broke_off: false })
    }
}

impl EventStream {
    /// The next event; `None` when the stream has ended.
    ///
    /// # Panics
    /// When neither comes in time, or what comes is no event.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = parsed(event);
                self.text = rest.to_owned();
                return Some(event);
            }
            match within("an event or the end", self.response.chunk()).await {
                Ok(chunk) => self.text.push_str(std::str::from_utf8(&chunk?).unwrap()),
                Err(_) => {
                    self.broke_off = true;
                    return None;
                }
            }
        }
    }

    /// The next event of this kind, which must be the next of all that says anything.
    ///
    /// # Panics
    /// When another comes, or the end.
    pub async fn expect(&mut self, kind: &str) -> StreamEvent {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ended before {kind}"));
            if !event.kind.is_empty() {
                assert_eq!(event.kind, kind, "{event:?}");
                return event;
            }
        }
    }

    /// Whether it ended in the middle, instead of being ended by the server.
    #[must_use]
    pub fn broke_off(&self) -> bool {
        self.broke_off
    }

    /// What is left of it, up to its end.
    pub async fn rest(&mut self) -> Vec<StreamEvent> {
        let mut events = vec![];
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parsed(text: &str) -> StreamEvent {
    let mut event = StreamEvent { id: String::new(), kind: String::new(), data: Value::Null };
    for line in text.lines() {
        let (field, value) =
            line.split_once(": ").unwrap_or_else(|| panic!("not a line of an event: {line:?}"));
        match field {
            "id" => value.clone_into(&mut event.id),
            "event" => value.clone_into(&mut event.kind),
            "data" => event.data = serde_json::from_str(value).unwrap(),
            // A comment, or when to come back.
            "" | "retry" => {}
            strange => panic!("there is no field {strange:?}"),
        }
    }
    event
}
