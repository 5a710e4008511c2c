//! `daybook serve`.

use clap::{Args, ValueEnum};
use ledger::{Held, KeyCheckError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Failure, settings};
use crate::config::Settings;
use crate::node::{FirstAdmin, Node, first_admin};
use crate::server::{self, Roles, ServeError};

/// Ports tried after the default one when nothing was configured.
const NEIGHBOURING_PORTS: u16 = 50;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// What this node does
    #[arg(long, value_enum, value_delimiter = ',', default_value = "api,worker,follower")]
    roles: Vec<Role>,
    /// The database is a restored copy: hold schedules, mail and jobs until they are released
    #[arg(long)]
    restored: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Answers HTTP
    Api,
    /// Runs jobs and sends mail
    Worker,
    /// Folds events into views
    Follower,
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut settings = settings()?;
        settings.restored |= self.restored;
        crate::logging::init(&settings).map_err(Failure::unreachable)?;
        // From here on a signal ends what was begun, also while the private server is being made.
        let shutdown = stop_signals()?;
        let listener = listen(&settings).await?;
        let address = listener.local_addr()?;
        let node = tokio::select! {
            node = Node::open(settings) => node?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let admin = match first_admin(&node).await {
            Ok(admin) => admin,
            Err(error) => {
                node.close().await;
                return Err(error.into());
            }
        };
        not_yet(&node.settings);
        let held = match node.ledger.hold_effects_of_a_copy(node.settings.restored).await {
            Ok(held) => held,
            Err(error) => {
                node.close().await;
                return Err(Failure::unreachable(error));
            }
        };
        if let Err(failure) = banner(&node, address, admin.as_ref(), held.as_ref()) {
            node.close().await;
            return Err(failure);
        }
        tracing::info!(%address, "listening");
        let roles = Roles {
            api: self.roles.contains(&Role::Api),
            worker: self.roles.contains(&Role::Worker),
            follower: self.roles.contains(&Role::Follower),
        };
        server::run(node, roles, listener, shutdown).await.map_err(Failure::from)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Keys(KeyCheckError::Missing(_)) => Self::No(error.to_string()),
            _ => Self::unreachable(error),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever asks twice does not want to wait; the watchdogs clean up"
)]
fn stop_signals() -> Result<CancellationToken, Failure> {
    let shutdown = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind)?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if shutdown.is_cancelled() {
                    std::process::exit(130);
                }
                tracing::info!("stopping");
                shutdown.cancel();
            }
        });
    }
    Ok(shutdown)
}

/// The configured address; where none is configured, the next free port from the default one, so that two instances in two
/// folders run side by side.
async fn listen(settings: &Settings) -> Result<TcpListener, Failure> {
    let mut address = settings.listen;
    let last = if settings.listen_is_default { address.port() + NEIGHBOURING_PORTS } else { address.port() };
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && address.port() < last => {
                address.set_port(address.port() + 1);
            }
            Err(error) => {
                return Err(Failure::Unreachable(format!("cannot listen on {address} (LISTEN): {error}")));
            }
        }
    }
}

/// Settings of the contract that nothing uses yet are accepted, and said to be so.
fn not_yet(settings: &Settings) {
    let set = [("OTEL_EXPORTER_OTLP_ENDPOINT", settings.otel_exporter_otlp_endpoint.is_some())];
    for (name, _) in set.into_iter().filter(|(_, set)| *set) {
        tracing::warn!(name, "this version does not use the setting yet");
    }
}

fn banner(
    node: &Node,
    address: std::net::SocketAddr,
    admin: Option<&FirstAdmin>,
    held: Option<&Held>,
) -> Result<(), Failure> {
    say!("Daybook {} at http://{address}", env!("CARGO_PKG_VERSION"));
    say!("  API      http://{address}/docs");
    say!("  data     {}", node.settings.data_dir.display());
    if let Some(admin) = admin {
        say!("  admin    {}", admin.email);
        if let Some(password) = &admin.password {
            say!("  password {password}   (shown this once)");
        }
    }
    if let Some(held) = held {
        say!("  HELD     schedules, mail and jobs: {}", held.because);
        say!("           to let them go on: daybook effects release");
    }
    Ok(())
}
