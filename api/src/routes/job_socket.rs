//! Watching a job as it runs: its lines, its progress and where it stands, over WebSocket (RFC 6455).
//!
//! A browser cannot see the status of a handshake that was refused. So what a client must know is said by a close code, after a handshake
//! that is accepted; only what no client of ours meets is an ordinary problem.

mod presence;
mod session;

use axum::extract::ws::{
    CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
};
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::Response;
use domain::{JobId, Permission};
use serde::Deserialize;
use tokio::time::{Duration, timeout};

use self::session::Session;
use crate::app::App;
use crate::authenticate::{Identity, InAddress};
use crate::extract::{Path, Query};
use crate::problem::Problem;
use crate::watching::{Watch, WatchPlace};

/// Bytes of what a client may say: nothing that it says is looked at.
const LONGEST_MESSAGE: usize = 4 * 1024;
/// Bytes that are gathered before they are written, and that may wait to be written.
const WRITTEN_AT_ONCE: usize = 32 * 1024;
const WAIT_TO_BE_WRITTEN: usize = 256 * 1024;
/// How long a client may take to say good-bye.
const FAREWELL: Duration = Duration::from_secs(2);

/// For the document: what there is to say of the socket, which OpenAPI has no words for.
pub const DESCRIPTION: &str = "\
**Watching a job.** `GET /ws/jobs/{id}` is a WebSocket. It is opened with `?ticket=` (good once and for 60 s: `POST /api/auth/ws-ticket`), with \
`?token=` (an access token or an API key), or with the header `Authorization`; never by cookie. `?team=` names the team where the header \
`Daybook-Team` would; a ticket has its own. `?after=` is the number of the last line the client knows: without it, the log is told from its \
beginning. Each message is a JSON text: `{\"type\":\"status\",\"status\":\"running\",\"attempt\":1,...}` first and whenever that changes, \
`{\"type\":\"line\",\"seq\":1,\"attempt\":1,\"at\":\"...\",\"stream\":\"stdout\",\"text\":\"...\"}` in order, without a gap and none twice, through \
all attempts, `{\"type\":\"progress\",\"attempt\":1,\"progress\":0.4}`, and `{\"type\":\"end\"}` when the job has ended and everything was sent; the \
socket is closed then (1000). Other close codes: 4401 no good ticket or token, or none any more; 4403 no permission, or none any more; 4404 no \
such job in the team; 4408 the reader is too slow; 4429 too many sockets of one person; 1001 the node stops; 1011 and 1013 something is \
wrong here for the moment. After any of the last five, open it again with `?after=`: nothing is missed and nothing repeated.";

/// From where on, and who asks.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketQuery {
    after: Option<u64>,
    ticket: Option<zeroize::Zeroizing<String>>,
    token: Option<zeroize::Zeroizing<String>>,
    team: Option<String>,
}

/// What is said when a socket is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Goodbye {
    code: u16,
    reason: &'static str,
}

impl Goodbye {
    const DONE: Self = Self { code: 1000, reason: "the job has ended" };
    const CLOSING: Self = Self { code: 1001, reason: "the node stops" };
    const TOO_SLOW: Self = Self { code: 4408, reason: "the reader is too slow" };
    const SILENT: Self = Self { code: 4408, reason: "the client does not answer" };
    const LEFT: Self = Self { code: 1000, reason: "the client has left" };

    /// Why somebody is not let in; the problem itself where it is one for an ordinary answer.
    fn refusing(problem: Problem) -> Result<Self, Problem> {
        let code = match problem.status().as_u16() {
            401 => 4401,
            403 => 4403,
            404 => 4404,
            429 if problem.code() == "too_many_watching" => 4429,
            _ => return Err(problem),
        };
        Ok(Self { code, reason: problem.code() })
    }

    /// Why somebody is not told any more.
    fn ending(problem: &Problem) -> Self {
        let code = match problem.status().as_u16() {
            401 => 4401,
            // Whoever has left the team does not know of it any more, but has known of the job.
            403 | 404 => 4403,
            503 | 504 => 1013,
            _ => 1011,
        };
        Self { code, reason: problem.code() }
    }
}

/// The handshake.
pub async fn watch(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<SocketQuery>,
    Handshake { upgrade, parts }: Handshake,
) -> Result<Response, Problem> {
    let after = query.after.unwrap_or(0);
    let upgrade = upgrade
        .max_message_size(LONGEST_MESSAGE)
        .max_frame_size(LONGEST_MESSAGE)
        .write_buffer_size(WRITTEN_AT_ONCE)
        .max_write_buffer_size(WAIT_TO_BE_WRITTEN);
    match admit(&app, parts, &id, query).await {
        Ok(admitted) => {
            let closing = app.watching.closing().clone();
            Ok(upgrade.on_upgrade(async move |mut socket| {
                let Admitted { standing, watch, job, place } = admitted;
                let session = Session::new(&app, standing, watch, job, after);
                let goodbye = session.run(&mut socket, &closing).await;
                tracing::debug!(code = goodbye.code, reason = goodbye.reason, "a socket is closed");
                let labels = [("code", goodbye.code.to_string()), ("reason", goodbye.reason.to_owned())];
                metrics::counter!("job_sockets_closed_total", &labels).increment(1);
                close(socket, goodbye).await;
                drop(place);
            }))
        }
        Err(problem) => {
            let goodbye = Goodbye::refusing(problem)?;
            Ok(upgrade.on_upgrade(async move |socket| close(socket, goodbye).await))
        }
    }
}

/// Somebody who may watch.
struct Admitted {
    standing: crate::authenticate::Standing,
    watch: Watch,
    job: JobId,
    place: WatchPlace,
}

async fn admit(app: &App, parts: Parts, id: &str, query: SocketQuery) -> Result<Admitted, Problem> {
    let SocketQuery { ticket, token, team, .. } = query;
    let caller = Identity::in_address(parts, app, InAddress { ticket, token, team }).await?;
    caller.require(Permission::JobsRead).await?;
    let no_such_job = || Problem::not_found().with_code("job_not_found");
    let job: JobId = id.parse().map_err(|_| no_such_job())?;
    let team = caller.team()?;
    app.projections.jobs().of(team).get(job).await?.ok_or_else(no_such_job)?;
    let standing = caller.standing(Permission::JobsRead)?;
    let place = app.watching.place(caller.client())?;
    // Before the session looks at anything: what happens after that is told.
    let watch = app.watching.watch(team, job);
    Ok(Admitted { standing, watch, job, place })
}

/// Says good-bye, and waits a little for the client to do so: else what was sent last might be lost with the connection.
async fn close(mut socket: WebSocket, goodbye: Goodbye) {
    let farewell = async {
        let frame = CloseFrame { code: goodbye.code, reason: goodbye.reason.into() };
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    if timeout(FAREWELL, farewell).await.is_err() {
        tracing::debug!("a socket was cut off: the client did not say good-bye");
    }
}

/// What a handshake brings, besides its query.
pub struct Handshake {
    upgrade: WebSocketUpgrade,
    parts: Parts,
}

impl FromRequestParts<App> for Handshake {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let upgrade = WebSocketUpgrade::from_request_parts(parts, app).await.map_err(refusal)?;
        Ok(Self { upgrade, parts: parts.clone() })
    }
}

fn refusal(rejection: WebSocketUpgradeRejection) -> Problem {
    match rejection {
        WebSocketUpgradeRejection::ConnectionNotUpgradable(cause) => Problem::internal(cause),
        _ => Problem::upgrade_required(),
    }
}
