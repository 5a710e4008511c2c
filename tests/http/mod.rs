//! Daybook over HTTP.

mod smoke;
