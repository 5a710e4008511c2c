//! `daybook serve`.

use clap::{Args, ValueEnum};
use ledger::{Held, KeyCheckError};
use tokio::net::TcpListener;

use super::signals::Caught;
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
        // From here on a signal ends what was begun in order, also while the private server is being made.
        let signals = Caught::begin()?;
        let shutdown = signals.shutdown.clone();
        let mut settings = settings()?;
        settings.restored |= self.restored;
        crate::logging::init(&settings).map_err(Failure::unreachable)?;
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
        signals.reload_kinds_of(&node);
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
