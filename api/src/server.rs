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
use commands::supervisor::Supervisor;
use ledger::{KeyCheckError, Presence};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;

use crate::app::{App, Parts, VIEW_PATIENCE};
use crate::artifacts::{artifacts, retention};
use crate::confidential::NothingConfidential;
use crate::config::Settings;
use crate::effects::Effects;
use crate::forgetting::Forgetting;
use crate::housekeeping::Housekeeping;
use crate::mail::{MailError, mailer};
use crate::middleware::headers::{SecurityHeaders, security_headers};
use crate::middleware::rate_limit::RateLimits;
use crate::middleware::{cors, metrics as request_metrics, request_id, request_scope};
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

/// Serves until `shutdown`: then no more jobs are taken, and requests are answered until those that run have ended or were handed back;
/// then requests are drained, and the node is closed.
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
    let background = node.ledger.background();
    let presence = match background.register_node(node.projections.tables()).await {
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
    let mailer = mailer(&node.settings, &background, listener.local_addr()?)?;
    let artifacts = artifacts(&node)?;
    // In this order: new work ends with `shutdown`, requests and what serves them when no job runs any more, and the follower goes last, since
    // requests and jobs that end still wait for their views.
    let (requests_stop, services_stop, follower_stop) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let tasks = Supervisor::default();
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
        kinds: node.kinds.clone(),
        tokens,
        notices: Notices::new(background.clone(), node.projections.clone(), requests_stop.clone()),
        watching: Watching::new(node.commands.clone(), node.projections.clone(), requests_stop.clone()),
        tasks: tasks.clone(),
        stopping: shutdown.clone(),
    });
    let follower = follow(&app, roles, &follower_stop);
    let keys = look_after_keys(&app, &presence, &follower_stop);
    let upkeep = supervised(&tasks, "metrics", &follower_stop, crate::metrics::upkeep);
    let notices = roles.api.then(|| {
        let notices = app.notices.clone();
        supervised(&tasks, "secret notices", &follower_stop, move |stop| notices.clone().run(stop))
    });
    let watching = roles.api.then(|| {
        let watching = app.watching.clone();
        supervised(&tasks, "job watching", &follower_stop, move |stop| watching.clone().run(stop))
    });
    // What has effects outside of the database waits while they are held.
    let working = roles.worker.then(|| {
        let app = app.clone();
        supervised(&tasks, "worker", &shutdown, move |stop| {
            app.effects.clone().then(stop.clone(), worker(&app).run(stop))
        })
    });
    let sums = {
        let commands = app.commands.background();
        supervised(&tasks, "failure sums", &follower_stop, move |stop| {
            commands.clone().record_failure_sums_until(stop)
        })
    };
    let housekeeping = {
        let housekeeping = housekeeping(&app);
        supervised(&tasks, "housekeeping", &services_stop, move |stop| housekeeping.clone().run(stop))
    };
    let scheduling = roles.worker.then(|| {
        let app = app.clone();
        supervised(&tasks, "scheduler", &shutdown, move |stop| {
            app.effects.clone().then(stop.clone(), scheduler(&app).run(stop))
        })
    });
    let retention = retention(&app).filter(|_| roles.worker).map(|retention| {
        let app = app.clone();
        supervised(&tasks, "retention", &services_stop, move |stop| {
            app.effects.clone().then(stop.clone(), retention.clone().run(stop))
        })
    });
    let mailing = roles.worker.then(|| {
        let app = app.clone();
        supervised(&tasks, "mail", &services_stop, move |stop| {
            app.effects.clone().then(stop.clone(), mailer.clone().run(stop))
        })
    });
    let effects = {
        let app = app.clone();
        supervised(&tasks, "effects", &follower_stop, move |stop| app.effects.clone().follow(node_id, stop))
    };
    let reacting = roles.follower.then(|| react(&app, &services_stop));

    tokio::select! {
        () = catch_up(&app) => {}
        () = shutdown.cancelled() => {}
    }
    let mut serving = tokio::spawn(serve(router(&app, roles), listener, requests_stop.clone()));
    let failed = tokio::select! {
        ended = &mut serving => Some(ended),
        () = shutdown.cancelled() => None,
    };
    // Also when the listener failed by itself.
    shutdown.cancel();
    // It may go on for a while before it begins to end, and requests are answered meanwhile.
    let drain = Duration::from_secs(node.settings.worker_drain_seconds.into());
    tokio::join!(wind_down("scheduler", scheduling), wind_down_within("worker", working, drain + WIND_DOWN));
    requests_stop.cancel();
    let served = match failed {
        Some(ended) => ended,
        None => serving.await,
    };
    app.watching.all_left().await;
    services_stop.cancel();
    wind_down("retention", retention).await;
    wind_down("housekeeping", Some(housekeeping)).await;
    for reactor in reacting.into_iter().flatten() {
        wind_down("reactor", Some(reactor)).await;
    }
    wind_down("mail", mailing).await;
    follower_stop.cancel();
    wind_down("failure sums", Some(sums)).await;
    wind_down("notices", notices).await;
    wind_down("watching", watching).await;
    wind_down("follower", Some(follower)).await;
    for task in keys {
        wind_down("keys", Some(task)).await;
    }
    wind_down("effects", Some(effects)).await;
    wind_down("metrics", Some(upkeep)).await;
    drop(app);
    node.close().await;
    served.unwrap_or_else(|error| Err(ServeError::Http(std::io::Error::other(error))))
}

/// A task under watch, which is given the token that it is to stop with.
fn supervised<T: Future<Output = ()> + Send + 'static>(
    tasks: &Supervisor,
    name: &'static str,
    stop: &CancellationToken,
    run: impl Fn(CancellationToken) -> T + Send + Sync + 'static,
) -> JoinHandle<()> {
    let token = stop.clone();
    tasks.spawn(name, stop.clone(), move || run(token.clone()))
}

/// A node that does not follow still hears what others have folded: its cache rests on that.
fn follow(app: &App, roles: Roles, stop: &CancellationToken) -> JoinHandle<()> {
    let projections = app.projections.clone();
    if roles.follower {
        supervised(&app.tasks, "follower", stop, move |stop| projections.clone().run(stop))
    } else {
        supervised(&app.tasks, "view news", stop, move |stop| {
            let projections = projections.clone();
            async move { projections.listen(stop).await }
        })
    }
}

/// Whatever a node does, it opens what keys have sealed: it forgets those that others destroy, scrubs what is left of them, and follows
/// rotations.
fn look_after_keys(app: &App, presence: &Presence, stop: &CancellationToken) -> [JoinHandle<()>; 3] {
    let (hearing, present, scrubbing) = {
        let ledger = app.ledger.background();
        (ledger.clone(), ledger.clone(), ledger)
    };
    let presence = presence.clone();
    [
        supervised(&app.tasks, "destroyed keys", stop, move |stop| {
            let ledger = hearing.clone();
            async move { ledger.hear_destroyed_keys(stop).await }
        }),
        supervised(&app.tasks, "node heartbeat", stop, move |stop| {
            let (ledger, presence) = (present.clone(), presence.clone());
            async move { ledger.stay_registered(presence, stop).await }
        }),
        supervised(&app.tasks, "key scrubbing", stop, move |stop| {
            let ledger = scrubbing.clone();
            async move { ledger.scrub_destroyed_keys(stop).await }
        }),
    ]
}

/// What was destroyed, and who was erased, is seen to by nodes that look after views, also where the command came no further than
/// saying so.
fn react(app: &App, stop: &CancellationToken) -> [JoinHandle<()>; 2] {
    let (ledger, forgetting) = (app.ledger.background(), forgetting(app));
    let shredding = Shredding(app.commands.background());
    [
        see_to(&app.tasks, "forgetting", &ledger, forgetting, stop),
        see_to(&app.tasks, "shredding", &ledger, shredding, stop),
    ]
}

fn see_to<R: Reactor + Clone>(
    tasks: &Supervisor,
    name: &'static str,
    ledger: &ledger::Ledger,
    reactor: R,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let ledger = ledger.clone();
    supervised(tasks, name, stop, move |stop| {
        let (start, options) = (reactor::Start::Beginning, ReactorOptions::default());
        reactor::run(ledger.clone(), reactor.clone(), start, options, stop)
    })
}

fn housekeeping(app: &App) -> Housekeeping {
    Housekeeping {
        ledger: app.ledger.clone(),
        commands: app.commands.background(),
        projections: app.projections.clone(),
        mail_folder: app.settings.data_dir.join("mail"),
        visitor_address_days: app.settings.visitor_address_days,
    }
}

fn forgetting(app: &App) -> Forgetting {
    let (commands, projections) = (app.commands.background(), app.projections.clone());
    Forgetting { commands, projections, key_uses: app.key_uses.clone() }
}

/// The first answer waits until the views have what is in the log already: the first admin can sign in with the password that was just
/// printed. Views that need longer answer nobody until they have caught up.
async fn catch_up(app: &App) {
    if let Err(behind) = app.projections.fresh(VIEW_PATIENCE).await {
        tracing::warn!(view = behind.view, "listening before the views have caught up with the log");
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
        artifacts: Some(app.artifacts.over(&app.ledger.background())),
        supervisor: app.tasks.clone(),
        ..commands::jobs::WorkerOptions::default()
    };
    Worker::new(&app.commands.background(), app.kinds.clone(), ViewQueue::new(&app.projections), options)
}

fn scheduler(app: &App) -> Scheduler<ViewSchedules> {
    let shown = ViewSchedules::new(&app.projections);
    Scheduler::new(&app.commands.background(), app.kinds.clone(), app.job_defaults(), shown)
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
        .layer(from_fn(request_scope::request_scope))
        .layer(catch_panic())
        .layer(CompressionLayer::new().compress_when(NothingConfidential::default()))
        .layer(cors::cors(&app.settings.cors_origins))
        .layer(from_fn_with_state(security, security_headers))
        .layer(from_fn(request_metrics::count))
        .layer(from_fn(request_id::request_id))
}
