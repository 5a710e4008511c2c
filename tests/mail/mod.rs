//! Mail: real events, a real database, and a real mail server (`server.py`), which is a process of its own and can be told to misbehave.

mod files;
mod grants;
mod grants_once;
mod journey;
mod killed;
mod letters;
mod limits;
mod once;
mod post;
mod privacy;
mod refusals;
pub(crate) mod server;
