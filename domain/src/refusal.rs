//! What every refusal of a command tells the edge.

/// Why a command was refused, in the terms an answer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The thing does not exist (or is deleted).
    NotFound,
    /// It exists, but not in a state that allows this.
    Conflict,
}

/// A business refusal: not a fault. Its `Display` is a sentence for the caller.
pub trait Refusal: std::error::Error + Send + Sync + 'static {
    /// Which status it becomes.
    fn kind(&self) -> RefusalKind;
    /// A stable word for programs, `snake_case`.
    fn code(&self) -> &'static str;
}
