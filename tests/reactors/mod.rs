//! The reactors' stories, each in its file, and what they share.

mod support;

mod crashes;
mod failures;
mod following;
mod outside;
