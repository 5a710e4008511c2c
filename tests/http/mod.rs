//! Daybook over HTTP.

mod api_key_limits;
mod api_keys;
mod audit;
mod auth;
mod device;
mod edge;
mod idempotency;
mod log;
mod nodes;
mod openapi;
mod outage;
mod permissions;
mod secrecy;
mod secret_lists;
mod secrets;
mod smoke;
mod support;
mod two_factor;
mod two_factor_teams;
