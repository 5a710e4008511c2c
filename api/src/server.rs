//! A running node: HTTP, follower and worker, until it is told to stop.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use commands::Shredding;
use commands::jobs::{ArtifactError, Worker};
use commands::reactor::{self, Reactor, ReactorOptions};
use commands::schedules::Scheduler;
use ledger::{KeyCheckError, Presence};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;

use crate::app::{App, Parts};
use crate::artifacts::{artifacts, retention};
use crate::confidential::NothingConfidential;
use crate::config::Settings;
use crate::effects::Effects;
use crate::forgetting::Forgetting;
use crate::mail::{MailError, mailer};
use crate::middleware::headers::{SecurityHeaders, security_headers};
use crate::middleware::rate_limit::RateLimits;
use crate::middleware::{cors, metrics as request_metrics, request_id, time_limit};
use crate::node::Node;
use crate::notices::Notices;
use crate::problem::{catch_panic, no_such_method, no_such_path};
use crate::queue::ViewQueue;
use crate::routes;
use crate::schedules::ViewSchedules;
use crate::tokens::{TokenError, TokenKeys};
use crate::watching::Watching;

/// How long requests under way may take to end after the stop signal.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the worker and the follower may take to end after that.
const WIND_DOWN: Duration = Duration::from_secs(20);

/// What a node does at a time that nobody waits for.
const MOST_IN_BACKGROUND: usize = 256;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Answers HTTP. Without it only `/livez`, `/readyz`, `/api/health` and `/metrics` are there.
    pub api: bool,
    /// Runs jobs and sends mail.
    pub worker: bool,
    /// Folds events into views.
    pub follower: bool,
}

impl Roles {
    /// Everything: what `daybook serve` does unless told otherwise.
    pub const ALL: Self = Self { api: true, worker: true, follower: true };
}

/// Why a server ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The keys are no longer those the database needs, or it is out of reach.
    #[error(transparent)]
    Keys(#[from] KeyCheckError),
    /// The token keys cannot be used.
    #[error("JWT_SECRET cannot be used: {0}")]
    Tokens(#[from] TokenError),
    /// Mail cannot be sent as it is configured.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The place of artifacts cannot be used.
    #[error("artifacts cannot be kept: {0}")]
    Artifacts(#[from] ArtifactError),
    /// The listener failed.
    #[error("the HTTP listener failed: {0}")]
    Http(#[from] std::io::Error),
}

/// Serves until `shutdown`: then requests are drained, running jobs handed back, and the node is closed.
///
/// # Errors
/// See [`ServeError`].
pub async fn run(
    node: Node,
    roles: Roles,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    crate::metrics::install();
    let presence = match node.ledger.register_node().await {
        Ok(presence) => presence,
        Err(error) => {
            node.close().await;
            return Err(error.into());
        }
    };
    let tokens = TokenKeys::new(
        node.keys.jwt_secret.expose(),
        node.keys.jwt_secret_previous.as_ref().map(crate::config::Hidden::expose),
    )?;
    let mailer = mailer(&node.settings, &node.ledger, listener.local_addr()?)?;
    let artifacts = artifacts(&node)?;
    let effects = Effects::load(&node.ledger).await.map_err(KeyCheckError::from)?;
    let node_id = presence.id();
    let app = App::new(Parts {
        artifacts,
        effects: effects.clone(),
        limits: RateLimits::new(&node.settings),
        key_uses: node.key_uses(),
        background: Arc::new(Semaphore::new(MOST_IN_BACKGROUND)),
        settings: node.settings.clone(),
        ledger: node.ledger.clone(),
        commands: node.commands.clone(),
        projections: node.projections.clone(),
        kinds: Arc::clone(&node.kinds),
        tokens,
        notices: Notices::new(node.ledger.clone(), node.projections.clone(), shutdown.clone()),
        watching: Watching::new(node.commands.clone(), node.projections.clone(), shutdown.clone()),
    });
    // The follower goes last: requests and jobs that end still wait for their views.
    let follower_stop = CancellationToken::new();
    let follower = follow(&node, roles, follower_stop.clone());
    let keys = look_after_keys(&node, presence, follower_stop.clone());
    let upkeep = tokio::spawn(crate::metrics::upkeep(follower_stop.clone()));
    let notices = roles.api.then(|| tokio::spawn(app.notices.clone().run(follower_stop.clone())));
    let watching = roles.api.then(|| tokio::spawn(app.watching.clone().run(follower_stop.clone())));
    let worker = roles.worker.then(|| held(&effects, &shutdown, worker(&app).run(shutdown.clone())));
    let retention = retention(&app).filter(|_| roles.worker);
    let retention = retention.map(|retention| held(&effects, &shutdown, retention.run(shutdown.clone())));
    let scheduler = roles.worker.then(|| held(&effects, &shutdown, scheduler(&app).run(shutdown.clone())));
    let forgetting = roles.follower.then(|| see_to(&node, forgetting(&node), &shutdown));
    let shredding = roles.follower.then(|| see_to(&node, Shredding(node.commands.clone()), &shutdown));
    let mailer = roles.worker.then(|| held(&effects, &shutdown, mailer.run(shutdown.clone())));
    let effects = tokio::spawn(effects.follow(node_id, follower_stop.clone()));

    tokio::select! {
        () = catch_up(&app) => {}
        () = shutdown.cancelled() => {}
    }
    let served = serve(router(&app, roles), listener, shutdown.clone()).await;
    // Also when the listener failed by itself.
    shutdown.cancel();
    app.watching.all_left().await;
    wind_down("scheduler", scheduler).await;
    // It may go on for a while before it begins to end.
    let drain = Duration::from_secs(node.settings.worker_drain_seconds.into());
    wind_down_within("worker", worker, drain + WIND_DOWN).await;
    wind_down("retention", retention).await;
    wind_down("forgetting", forgetting).await;
    wind_down("shredding", shredding).await;
    wind_down("mail", mailer).await;
    follower_stop.cancel();
    wind_down("notices", notices).await;
    wind_down("watching", watching).await;
    wind_down("follower", Some(follower)).await;
    wind_down("effects", Some(effects)).await;
    wind_down("keys", Some(keys)).await;
    wind_down("metrics", Some(upkeep)).await;
    drop(app);
    node.close().await;
    served
}

/// Does `work`, which has effects outside of the database, while they are not held.
fn held(
    effects: &Effects,
    stop: &CancellationToken,
    work: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(effects.clone().then(stop.clone(), work))
}

/// A node that does not follow still hears what others have folded: its cache rests on that.
fn follow(node: &Node, roles: Roles, stop: CancellationToken) -> JoinHandle<()> {
    let projections = node.projections.clone();
    if roles.follower {
        tokio::spawn(projections.run(stop))
    } else {
        tokio::spawn(async move { projections.listen(stop).await })
    }
}

/// Whatever a node does, it opens what keys have sealed: it forgets those that others destroy, scrubs what is left of them, and follows
/// rotations.
fn look_after_keys(node: &Node, presence: Presence, stop: CancellationToken) -> JoinHandle<()> {
    let ledger = node.ledger.clone();
    tokio::spawn(async move {
        tokio::join!(
            ledger.hear_destroyed_keys(stop.clone()),
            ledger.stay_registered(presence, stop.clone()),
            ledger.scrub_destroyed_keys(stop),
        );
    })
}

/// What was destroyed, and who was erased, is seen to by nodes that look after views, also where the command came no further than
/// saying so.
fn see_to<R: Reactor>(node: &Node, reactor: R, stop: &CancellationToken) -> JoinHandle<()> {
    let start = reactor::Start::Beginning;
    tokio::spawn(reactor::run(node.ledger.clone(), reactor, start, ReactorOptions::default(), stop.clone()))
}

fn forgetting(node: &Node) -> Forgetting {
    let (commands, projections) = (node.commands.clone(), node.projections.clone());
    Forgetting { commands, projections, key_uses: node.key_uses() }
}

/// The first answer waits until the views have what is in the log already: whoever was just told of the first admin's password
/// may use it. Views that need longer serve what they have.
async fn catch_up(app: &App) {
    if let Ok(head) = app.ledger.head().await
        && app.wait(head, false).await.is_err()
    {
        tracing::warn!(head, "serving before the views have caught up with the log");
    }
}

async fn serve(router: Router, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let stop = shutdown.clone();
    let server = axum::serve(listener, service)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .into_future();
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map_err(ServeError::from),
        () = shutdown.cancelled() => {}
    }
    match timeout(DRAIN, server).await {
        Ok(ended) => ended.map_err(ServeError::from),
        Err(_) => {
            tracing::warn!("requests that did not end in time were cut off");
            Ok(())
        }
    }
}

async fn wind_down(part: &str, task: Option<JoinHandle<()>>) {
    wind_down_within(part, task, WIND_DOWN).await;
}

async fn wind_down_within(part: &str, task: Option<JoinHandle<()>>, patience: Duration) {
    let Some(task) = task else { return };
    match timeout(patience, task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(part, %error, "a part ended badly"),
        Err(_) => tracing::warn!(part, "a part did not end in time"),
    }
}

fn worker(app: &App) -> Worker<ViewQueue> {
    let settings = &app.settings;
    let options = commands::jobs::WorkerOptions {
        concurrency: settings.worker_concurrency as usize,
        max_log_lines: u64::from(settings.max_log_lines),
        working_root: settings.data_dir.join("work"),
        directory: Some(jobs_folder(settings)),
        drain: Duration::from_secs(settings.worker_drain_seconds.into()),
        only: settings.worker_kinds.clone(),
        artifacts: Some(app.artifacts.clone()),
        ..commands::jobs::WorkerOptions::default()
    };
    Worker::new(&app.commands, Arc::clone(&app.kinds), ViewQueue::new(&app.projections), options)
}

fn scheduler(app: &App) -> Scheduler<ViewSchedules> {
    let shown = ViewSchedules::new(&app.projections);
    Scheduler::new(&app.commands, Arc::clone(&app.kinds), app.job_defaults(), shown)
}

/// Commands are written from where they are described: a script beside `JOBS_FILE` is found.
fn jobs_folder(settings: &Settings) -> PathBuf {
    match settings.jobs_file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn router(app: &App, roles: Roles) -> Router {
    let (routes, _) = if roles.api { routes::routes(app) } else { routes::operations_only(app) };
    let security = SecurityHeaders { strict_transport: app.settings.production() };
    // The last layer is the outermost.
    routes
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn(time_limit::time_limit))
        .layer(catch_panic())
        .layer(CompressionLayer::new().compress_when(NothingConfidential::default()))
        .layer(cors::cors(&app.settings.cors_origins))
        .layer(from_fn_with_state(security, security_headers))
        .layer(from_fn(request_metrics::count))
        .layer(from_fn(request_id::request_id))
}
