//! Daybook over HTTP.

mod audit;
mod auth;
mod cookies;
mod device;
mod edge;
mod erasure;
mod idempotency;
mod invitations;
mod log;
mod newcomers;
mod nodes;
mod openapi;
mod outage;
mod permissions;
mod recovery;
mod refresh;
mod secrecy;
mod secret_lists;
mod secrets;
mod sessions;
mod smoke;
mod support;
mod teams;
mod two_factor;
mod two_factor_teams;
