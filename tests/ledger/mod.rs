//! The ledger's stories, each in its file, and what they share.

pub(crate) mod support;

mod append_only;
mod basics;
mod connection_lost;
mod connections;
mod crowd;
mod destroying;
mod dumps;
mod erasure;
mod foreign_transaction;
mod group_commit;
mod hearing;
mod keys;
mod migrate;
mod pressure;
mod reading;
mod rotation;
mod scrubbing;
pub(crate) mod sealing;
mod server_killed;
mod store;
mod times;
mod two_nodes;
mod wrapping;
