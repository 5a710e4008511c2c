//! What holds while a request is dealt with. It is one layer: every layer of this kind copies all that lie below it, for each request.

use std::cell::Cell;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use crate::authenticate::{DAYBOOK_POSITION, recheck};
use crate::problem::Problem;

/// Longer than any wait inside a request: it cuts off what hangs, such as a database that has stopped without closing.
const LIMIT: Duration = Duration::from_secs(45);

tokio::task_local! {
    /// Where in the log is what the request has done; 0 for nowhere.
    static DONE: Cell<i64>;
}

/// What the request is for is done: it is in the log at `position`. From here on it cannot fail as if it were not.
pub(crate) fn done(position: i64) {
    let _ = DONE.try_with(|done| done.set(position));
}

/// Every view that the request reads shows what it demands. A read that took long is answered if its caller may still have the answer.
/// Every request ends: 504 for one that is not answered in time. What it had begun is cut off; an append already under way is stored
/// wholly or not at all. What is done is never answered like what is not.
pub async fn request_scope(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let answered = projections::demanding(recheck(reads, next.run(request)));
    DONE.scope(Cell::new(0), async {
        let response = timeout(LIMIT, answered).await.unwrap_or_else(|_| cut_off());
        match DONE.with(Cell::get) {
            position if position > 0 && response.status().is_server_error() => not_shown(position),
            _ => response,
        }
    })
    .await
}

fn cut_off() -> Response {
    tracing::error!("a request was cut off after {} s", LIMIT.as_secs());
    let detail = "It was not done in time. Whether it was done is not known: read before you repeat it.";
    Problem::gateway_timeout(detail).into_response()
}

/// The write is stored, but its answer failed: a view's table was locked, or the database went away in between.
fn not_shown(position: i64) -> Response {
    let detail = format!(
        "It was done, at position {position} of the log, but the answer cannot be made now. Read before you repeat it, or ask \
         again with the same Idempotency-Key."
    );
    let problem = Problem::quietly_unavailable(detail, Duration::from_secs(1)).with_code("done_not_shown");
    let at = [(HeaderName::from_static(DAYBOOK_POSITION), HeaderValue::from(position))];
    (at, problem).into_response()
}
