//! Where a request comes from.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::Extensions;
use axum::http::request::Parts;

/// The peer's address. Headers such as `X-Forwarded-For` are not believed: anyone can send them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientIp(pub IpAddr);

impl ClientIp {
    /// From the connection. Without one (a server that does not tell, `oneshot` in a test) all callers are `0.0.0.0`, and
    /// share one limit.
    pub fn of(extensions: &Extensions) -> Self {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
        Self(peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ClientIp {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::http::Request;

    use super::*;

    async fn of(peer: Option<&str>) -> String {
        let mut request = Request::builder().header("x-forwarded-for", "203.0.113.9");
        if let Some(peer) = peer {
            request = request.extension(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        ClientIp::from_request_parts(&mut parts, &()).await.unwrap().0.to_string()
    }

    #[tokio::test]
    async fn the_peer_counts_and_not_a_header() {
        assert_eq!(of(Some("192.0.2.7:4000")).await, "192.0.2.7");
        assert_eq!(of(Some("[::ffff:192.0.2.7]:4000")).await, "192.0.2.7");
        assert_eq!(of(Some("[2001:db8::1]:4000")).await, "2001:db8::1");
        assert_eq!(of(None).await, "0.0.0.0");
    }
}
