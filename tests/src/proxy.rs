//! A way to the database that can stop to forward without a word, as a network does that drops packets.

use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards connections to a server's Unix socket.
pub struct Proxy {
    folder: TempDir,
    behind: PgConnectOptions,
    swallows: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Before the server of these options.
    ///
    /// # Panics
    /// When the server has no Unix socket, or there can be none here.
    #[must_use]
    pub fn before(behind: PgConnectOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!(".s.PGSQL.{}", behind.get_port());
        let server = behind.get_socket().unwrap().join(&name);
        let listener = UnixListener::bind(folder.path().join(&name)).unwrap();
        let swallows = watch::Sender::new(false);
        let accepting = tokio::spawn(accept(listener, server, swallows.clone()));
        Self { folder, behind, swallows, accepting }
    }

    /// How to connect through it.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        self.behind.clone().socket(self.folder.path())
    }

    /// From now on nothing is forwarded, and nobody is told: connections stay open, new ones get no answer.
    pub fn swallow(&self) {
        self.swallows.send_replace(true);
    }

    /// New connections are forwarded again. Those from before stay dead, without a word.
    pub fn heal(&self) {
        self.swallows.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: UnixListener, server: PathBuf, swallows: watch::Sender<bool>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (server, mut swallowing) = (server.clone(), swallows.subscribe());
        connections.spawn(async move {
            if *swallowing.borrow_and_update() {
                return std::future::pending().await;
            }
            let Ok(server) = UnixStream::connect(server).await else { return };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::select! {
                () = forward(&mut from_client, &mut to_server) => {}
                () = forward(&mut from_server, &mut to_client) => {}
                // Keeps both ends open for as long as the proxy is there.
                () = begins(&mut swallowing) => std::future::pending().await,
            }
        });
    }
}

async fn forward(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin)) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn begins(swallowing: &mut watch::Receiver<bool>) {
    let _ = swallowing.wait_for(|swallows| *swallows).await;
}
