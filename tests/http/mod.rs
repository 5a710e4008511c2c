//! Daybook over HTTP.

mod audit;
mod auth;
mod cookies;
mod edge;
mod erasure;
mod idempotency;
mod invitations;
mod names;
mod newcomers;
mod nodes;
mod openapi;
mod outage;
mod permissions;
mod refresh;
mod secret_lists;
mod secrets;
mod sessions;
mod smoke;
mod support;
mod teams;
mod users;
