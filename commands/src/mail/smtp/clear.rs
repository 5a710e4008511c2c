//! The way to a server before TLS has begun, and under it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The type of the record with which a TLS client begins (RFC 8446, section 5.1). No SMTP command begins with it.
const HANDSHAKE: u8 = 22;

/// A connection that gives out one byte at a time until TLS begins.
///
/// lettre reads answers through a buffer, and keeps the buffer when TLS begins. So whatever somebody in between had slipped in
/// behind the clear answer to `STARTTLS` would be taken for the server's first words under TLS. With single bytes nothing is ever
/// read ahead: what stands behind that answer reaches the TLS library, which refuses it.
#[derive(Debug)]
pub(super) struct Clear {
    tcp: TcpStream,
    clear: bool,
}

impl Clear {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, clear: true }
    }
}

impl AsyncRead for Clear {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.clear {
            return Pin::new(&mut self.tcp).poll_read(context, buffer);
        }
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut self.tcp).poll_read(context, &mut one))?;
        buffer.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Clear {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.clear &= bytes.first() != Some(&HANDSHAKE);
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

impl AsyncTokioStream for Clear {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }
}
