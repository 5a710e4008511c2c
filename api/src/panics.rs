//! What a panic leaves in the log: where it was, and its message only where that is a constant of the program.
//!
//! A message with something filled in may repeat what the code was about: `unwrap` shows the error, and slicing a text shows the
//! text.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

/// In place of a message that was put together.
const WITHHELD: &str = "(not shown: it may hold values)";

/// Makes all panics of this process be logged, in place of what Rust prints. Before there is a log they are told on standard error.
pub fn log_them() {
    std::panic::set_hook(Box::new(|panic| {
        let (place, message) = (place(panic), message(panic.payload()));
        if tracing::dispatcher::has_been_set() {
            match backtrace() {
                Some(backtrace) => tracing::error!(place, cause = message, backtrace, "panicked"),
                None => tracing::error!(place, cause = message, "panicked"),
            }
        } else {
            eprintln!("daybook: panicked at {place}: {message}");
        }
    }));
}

/// A panic's message as far as it may be told.
pub fn message(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or(WITHHELD)
}

fn place(panic: &PanicHookInfo<'_>) -> String {
    panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string)
}

/// Where `RUST_BACKTRACE` asks for one. It has names of functions and files, no values.
fn backtrace() -> Option<String> {
    let backtrace = Backtrace::capture();
    (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(work: impl FnOnce() + std::panic::UnwindSafe) -> &'static str {
        message(&*std::panic::catch_unwind(work).unwrap_err())
    }

    #[test]
    fn only_constants_are_told() {
        assert_eq!(told(|| panic!("the disk is on fire")), "the disk is on fire");
        assert_eq!(told(|| panic!("{}", "hunter2")), WITHHELD);
        assert_eq!(told(|| "x".parse::<u8>().map(|_| ()).map_err(|_| "hunter2").unwrap()), WITHHELD);
        let text = "hünter2".to_owned();
        assert_eq!(told(move || drop(text[..2].to_owned())), WITHHELD);
        assert_eq!(told(|| std::panic::panic_any("hunter2".to_owned())), WITHHELD);
    }
}
