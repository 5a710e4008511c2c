//! The read side's stories (D5, D6, D7), each in its file, and what they share.

pub(crate) mod support;

mod cache;
mod cli;
mod faults;
mod follower;
mod isolation;
mod property;
mod queue;
mod reading;
mod rebuild;
mod states;
mod verify;
