//! What is said of work that panicked. Its message is not: it may repeat what the work was about, such as a password.

use tokio::task::JoinError;

/// How it is told.
pub(crate) const PANICKED: &str = "it panicked";

/// How a task ended that did not come to its end.
pub(crate) fn cut_short(error: &JoinError) -> &'static str {
    if error.is_panic() { PANICKED } else { "it was given up" }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_without_its_message() {
        let task = tokio::spawn(async { panic!("{}", "hunter2") });
        let error = task.await.unwrap_err();
        assert!(error.to_string().contains("hunter2"), "tokio repeats it: {error}");
        assert_eq!(cut_short(&error), "it panicked");
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        assert_eq!(cut_short(&task.await.unwrap_err()), "it was given up");
    }
}
