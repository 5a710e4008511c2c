//! Every request has an end, also when something below it hangs.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use crate::problem::Problem;

/// Longer than any wait inside a request: it cuts off what hangs, such as a database that has stopped without closing.
const LIMIT: Duration = Duration::from_secs(45);

/// Answers 504 for a request that is not answered in time. What it had begun is cut off; an append already under way is stored
/// wholly or not at all.
pub async fn time_limit(request: Request, next: Next) -> Response {
    match timeout(LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!("a request was cut off after {} s", LIMIT.as_secs());
            let detail =
                "It was not done in time. Whether it was done is not known: read before you repeat it.";
            Problem::gateway_timeout(detail).into_response()
        }
    }
}
