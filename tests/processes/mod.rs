//! Real `daybook` processes in folders of their own, as people and service managers run them.

mod answers;
mod auditing;
mod canaries;
mod check_log;
mod check_values;
mod configuration;
mod core_dumps;
mod database_user;
pub(crate) mod home;
mod keys;
mod killed;
mod nodes;
mod operating;
mod people;
mod process;
mod restored;
mod run;
mod secrets_import;
mod start;
mod users;
mod walk;
mod workers;

use process::Process;
