//! Other queues in PostgreSQL, at their defaults, on the same server: jobs that do nothing. Each is installed by its own ecosystem's
//! installer; one that cannot be is left out, and that is said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::site::Site;
use super::{CONCURRENCIES, Floor};
use crate::peer::run_quietly;
use crate::table::{Measured, Table};

const PYTHON: &str = include_str!("queue_peers.py");
const NODE: &str = include_str!("queue_peer.mjs");
const PYTHON_PACKAGES: [&str; 3] =
    ["procrastinate==3.10.0", "pgqueuer[asyncpg]==1.6.0", "psycopg[binary,pool]"];
const NODE_PACKAGE: &str = "graphile-worker@0.18.0";
/// Jobs of one measurement.
const JOBS: usize = 3_000;

pub(super) async fn run(table: &mut Table, site: &Site, floor: &Floor) {
    let folder = std::env::current_exe().unwrap().with_file_name("bench-queues");
    let python = python(&folder);
    let node = node(&folder);
    for (name, program) in [("procrastinate", &python), ("pgqueuer", &python), ("graphile-worker", &node)] {
        let program = match program {
            Ok(program) => program,
            Err(why) => {
                table.note(format!("{name} was not measured: {why}"));
                continue;
            }
        };
        for (concurrency, floor) in CONCURRENCIES.into_iter().zip(floor.claims) {
            let database = format!("{}_{concurrency}", name.replace('-', "_"));
            drop(site.another_database(&database).await);
            match measured(program, name, &site.url(&database), concurrency).await {
                Ok(measured) => {
                    table.add(
                        format!("{name}: no-op jobs, {concurrency} at a time"),
                        measured,
                        Some((floor, "")),
                    );
                }
                Err(why) => table.note(format!("{name} at {concurrency} was not measured: {why}")),
            }
        }
    }
}

/// A program and what comes before its own arguments.
type Program = (PathBuf, PathBuf);

fn python(folder: &Path) -> Result<Program, String> {
    let python = folder.join("python/bin/python");
    if !folder.join("python/ready").exists() {
        run_quietly(Command::new("python3").args(["-m", "venv"]).arg(folder.join("python")))?;
        run_quietly(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES))?;
        std::fs::write(folder.join("python/ready"), "").map_err(|error| error.to_string())?;
    }
    let script = folder.join("queue_peers.py");
    std::fs::write(&script, PYTHON).map_err(|error| error.to_string())?;
    Ok((python, script))
}

fn node(folder: &Path) -> Result<Program, String> {
    let place = folder.join("node");
    let script = place.join("queue_peer.mjs");
    if !place.join("ready").exists() {
        std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
        let install = ["install", "--silent", "--no-audit", "--no-fund", NODE_PACKAGE];
        run_quietly(Command::new("npm").args(install).arg("--prefix").arg(&place))?;
        std::fs::write(place.join("ready"), "").map_err(|error| error.to_string())?;
    }
    std::fs::write(&script, NODE).map_err(|error| error.to_string())?;
    Ok(("node".into(), script))
}

/// The program says how long all of them took, in seconds.
async fn measured(
    (program, script): &Program,
    name: &str,
    url: &str,
    concurrency: usize,
) -> Result<Measured, String> {
    let mut command = Command::new(program);
    command.arg(script).args([name, url, &JOBS.to_string(), &concurrency.to_string()]).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let seconds = said.lines().last().and_then(|line| line.trim().parse::<f64>().ok());
    match seconds.filter(|_| output.status.success()) {
        // What each took, it does not know.
        Some(seconds) => {
            Ok(Measured { rate: JOBS as f64 / seconds, p50: f64::NAN, p95: f64::NAN, p99: f64::NAN })
        }
        None => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
