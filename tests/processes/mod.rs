//! Real `daybook` processes in folders of their own, as people and service managers run them.

mod answers;
mod auditing;
mod beside;
mod canaries;
mod check_log;
mod check_values;
#[cfg(target_os = "linux")]
mod clocks;
mod configuration;
mod core_dumps;
mod database_user;
mod frozen;
pub(crate) mod home;
mod keys;
mod killed;
mod memory;
mod nodes;
mod operating;
mod people;
mod process;
mod restored;
mod run;
mod secrets_import;
mod start;
mod stopping;
mod upgrade;
mod users;
mod walk;
mod workers;

use process::Process;
