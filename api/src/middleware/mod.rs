//! What happens to every request around its handler.
//!
//! Layers from the outside in (the last `.layer` call of a router is the outermost): request id, metrics, security
//! headers, CORS, compression, panic catcher, request scope, then the routes.

pub mod client_ip;
pub mod cors;
pub mod headers;
pub mod metrics;
pub mod rate_limit;
pub mod request_id;
pub mod request_scope;
