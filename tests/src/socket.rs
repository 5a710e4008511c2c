//! Watching over WebSocket.

use std::net::SocketAddr;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::within;

/// Bytes that the client's side of a connection takes that nobody reads.
const RECEIVE_BUFFER: u32 = 4_096;

/// A socket under way.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    code: Option<u16>,
}

impl Socket {
    /// Opens a socket at this path of the node, with these headers.
    ///
    /// # Errors
    /// The status and the body of the answer when the handshake is refused.
    ///
    /// # Panics
    /// When there is no answer in time, or it is none.
    pub async fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, (u16, Value)> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
        let connection = within("a connection", socket.connect(address)).await.unwrap();
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match within("a handshake", client_async(request, connection)).await {
            Ok((stream, _)) => Ok(Self { stream, code: None }),
            Err(Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Err((answer.status().as_u16(), serde_json::from_slice(body).unwrap_or_default()))
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// The next message; `None` when the socket was closed.
    ///
    /// # Panics
    /// When neither comes in time.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match within("a message or the end", self.stream.next()).await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
                Ok(Message::Close(frame)) => {
                    self.code = frame.map(|frame| frame.code.into());
                    return None;
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// The next message of this type, whatever comes before.
    ///
    /// # Panics
    /// When the socket is closed before.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            let message = message.unwrap_or_else(|| panic!("closed before {kind}: {:?}", self.code));
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// All that is still said, up to the end, and the code it was closed with if the server said one.
    pub async fn rest(&mut self) -> (Vec<Value>, Option<u16>) {
        let mut messages = vec![];
        while let Some(message) = self.next().await {
            messages.push(message);
        }
        (messages, self.code)
    }

    /// The code it is closed with, whatever is said before.
    pub async fn code(&mut self) -> Option<u16> {
        self.rest().await.1
    }

    /// Says something.
    ///
    /// # Panics
    /// When the connection is lost.
    pub async fn say(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.unwrap();
    }
}
