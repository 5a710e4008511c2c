//! Daybook over HTTP.

mod audit;
mod auth;
mod edge;
mod idempotency;
mod invitations;
mod newcomers;
mod nodes;
mod openapi;
mod outage;
mod permissions;
mod secret_lists;
mod secrets;
mod smoke;
mod support;
mod teams;
