//! What holds while a request is dealt with. It is one layer: every layer of this kind copies all that lie below it, for each request.

use std::time::Duration;

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use crate::authenticate::recheck;
use crate::problem::Problem;

/// Longer than any wait inside a request: it cuts off what hangs, such as a database that has stopped without closing.
const LIMIT: Duration = Duration::from_secs(45);

/// Every view that the request reads shows what it demands. A read that took long is answered if its caller may still have the answer.
/// Every request ends: 504 for one that is not answered in time. What it had begun is cut off; an append already under way is stored
/// wholly or not at all.
pub async fn request_scope(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let answered = projections::demanding(recheck(reads, next.run(request)));
    match timeout(LIMIT, answered).await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!("a request was cut off after {} s", LIMIT.as_secs());
            let detail =
                "It was not done in time. Whether it was done is not known: read before you repeat it.";
            Problem::gateway_timeout(detail).into_response()
        }
    }
}
