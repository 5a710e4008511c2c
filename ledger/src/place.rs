//! Where a node runs and on which database server: what tells a database from a copy of it.

use std::os::unix::fs::MetadataExt as _;
use std::time::UNIX_EPOCH;

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgConnectOptions, PgRow};

use crate::Ledger;
use crate::nodes::host_name;

/// The present timeline, as names of log files begin with it; and whether there is a target of recovery, which a standby that took over has
/// none of.
const HISTORY: &str = "select case when not pg_is_in_recovery() \
     then ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end, \
     exists (select from pg_settings where setting <> '' and name in ('recovery_target', 'recovery_target_lsn', \
         'recovery_target_name', 'recovery_target_time', 'recovery_target_xid'))";
/// SQLSTATE of what this database user may not know.
const NOT_ALLOWED: &str = "42501";

/// See the module. Of a node that stopped without taking leave it is what it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The machine's name, and its id (machine-id(5)) if it has one.
    pub(crate) host: String,
    pub(crate) machine: Option<String>,
    /// Of the server's data: the same on every copy of its files.
    pub(crate) system_identifier: Option<String>,
    /// Which line of its history: another one after a promotion, and after a point-in-time recovery.
    pub(crate) timeline: Option<i32>,
    /// Whether the server is set to recover up to a point. Asked of the server that we use only.
    pub(crate) recovered: bool,
    /// The database's own, on that server.
    pub(crate) database: Oid,
    /// Which folder the data is in, where that is on this machine: its inode, and when that was made.
    pub(crate) folder: Option<String>,
    /// Host (or folder of the socket), port and database.
    pub(crate) address: String,
    /// When the server was started.
    pub(crate) server_started_at: DateTime<Utc>,
}

impl Place {
    /// This process' place.
    pub(crate) async fn here(ledger: &Ledger) -> Result<Self, sqlx::Error> {
        let mut connection = ledger.pool().acquire().await?;
        let (database, server_started_at) = sqlx::query_as(
            "select oid, pg_postmaster_start_time() from pg_database where datname = current_database()",
        )
        .fetch_one(&mut *connection)
        .await?;
        let connect = ledger.connector().present_options();
        let local = is_local(&connect);
        let system_identifier = known(
            sqlx::query_scalar("select system_identifier::text from pg_control_system()")
                .fetch_one(&mut *connection)
                .await,
        )?;
        let (timeline, recovered) = sqlx::query_as(HISTORY).fetch_one(&mut *connection).await?;
        // Without a row for a user who may not know it: that is no error in the server's log.
        let directory: Option<String> =
            sqlx::query_scalar("select setting from pg_settings where name = 'data_directory'")
                .fetch_optional(&mut *connection)
                .await?;
        Ok(Self {
            host: host_name(),
            machine: machine_id(),
            system_identifier,
            timeline,
            recovered,
            database,
            folder: directory.filter(|_| local).and_then(|directory| folder_id(&directory)),
            address: address(&connect),
            server_started_at,
        })
    }

    /// The place in a row of `node_places`.
    pub(crate) fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            host: row.try_get("host")?,
            machine: row.try_get("machine")?,
            system_identifier: row.try_get("system_identifier")?,
            timeline: row.try_get("timeline")?,
            recovered: false,
            database: row.try_get("database")?,
            folder: row.try_get("folder")?,
            address: row.try_get("address")?,
            server_started_at: row.try_get("server_started_at")?,
        })
    }

    /// Why the database that we use is a copy of the one which `last` used; `None` where it is the same, or that cannot be told.
    pub(crate) fn copied_from(&self, last: &Self) -> Option<&'static str> {
        if differ(self.system_identifier.as_ref(), last.system_identifier.as_ref()) {
            return Some("its database was on another server");
        }
        if self.database != last.database {
            return Some("its database was another one, of which this is a restored dump");
        }
        // The very server it spoke to.
        if self.server_started_at == last.server_started_at {
            return None;
        }
        let same_machine = self.host == last.host || same(self.machine.as_ref(), last.machine.as_ref());
        // After a failover, the server that took over has another folder, and may have another address.
        let promoted = differ(self.timeline.as_ref(), last.timeline.as_ref()) && !self.recovered;
        if same_machine && promoted {
            return None;
        }
        if let (Some(here), Some(there)) = (&self.folder, &last.folder) {
            return (here != there).then_some("its database server had its data in another folder");
        }
        if self.address == last.address {
            // What is local on another machine is another server.
            let local = self.address.starts_with("local ");
            return (local && !same_machine)
                .then_some("it was on another machine, with a database server there");
        }
        Some("it reached its database at another address")
    }
}

fn same<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
    one.is_some() && one == other
}

fn differ<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

/// What is refused to this database user is not known.
fn known<T>(answer: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if error
                .as_database_error()
                .and_then(|error| error.code())
                .is_some_and(|code| code == NOT_ALLOWED) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// machine-id(5). Containers have none of their own, or that of their image; then the name has to do.
fn machine_id() -> Option<String> {
    let id = std::fs::read_to_string("/etc/machine-id").ok()?;
    let id = id.trim();
    (id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// A copy of a folder is another folder, whatever it is called and wherever it is mounted.
fn folder_id(path: &str) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    let made = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    Some(format!("{}:{}", metadata.ino(), made.map_or(0, |made| made.as_nanos())))
}

fn is_local(connect: &PgConnectOptions) -> bool {
    let host = connect.get_host();
    connect.get_socket().is_some()
        || host.starts_with('/')
        || ["localhost", "127.0.0.1", "::1"].contains(&host)
}

fn address(connect: &PgConnectOptions) -> String {
    let host =
        connect.get_socket().map_or_else(|| connect.get_host().to_owned(), |path| path.display().to_string());
    let local = if is_local(connect) { "local " } else { "" };
    format!("{local}{host}:{}/{}", connect.get_port(), connect.get_database().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A node in a container that reaches its database by name.
    fn container() -> Place {
        Place {
            host: "4f2a".to_owned(),
            machine: None,
            system_identifier: Some("7".to_owned()),
            timeline: Some(1),
            recovered: false,
            database: Oid(16_384),
            folder: None,
            address: "db:5432/daybook".to_owned(),
            server_started_at: DateTime::UNIX_EPOCH,
        }
    }

    fn private() -> Place {
        Place {
            host: "laptop".to_owned(),
            machine: Some("m".to_owned()),
            folder: Some("12:34".to_owned()),
            address: "local /home/x/.daybook/postgres:5432/daybook".to_owned(),
            ..container()
        }
    }

    fn later(place: Place) -> Place {
        Place { server_started_at: DateTime::from_timestamp(60, 0).unwrap(), ..place }
    }

    #[test]
    fn what_happens_to_one_database_makes_no_copy_of_it() {
        let (was, host) = (container(), |name: &str| name.to_owned());
        for (what, now) in [
            ("a restart", was.clone()),
            ("a new container", Place { host: host("77b0"), ..was.clone() }),
            ("both restarted", later(Place { host: host("77b0"), ..was.clone() })),
            ("a failover behind one name", later(Place { timeline: Some(2), ..was.clone() })),
            (
                "a failover to another name",
                later(Place { timeline: Some(2), address: host("db2:5432/daybook"), ..was.clone() }),
            ),
            (
                "a user who may know less",
                later(Place { system_identifier: None, timeline: None, ..was.clone() }),
            ),
            (
                "another way to the same server",
                Place { address: host("10.0.0.7:5432/daybook"), ..was.clone() },
            ),
        ] {
            assert_eq!(now.copied_from(&was), None, "{what}");
        }
        let was = private();
        for (what, now) in [
            ("a restart of the machine", later(was.clone())),
            (
                "its folder in a new container",
                later(Place { host: host("77b0"), machine: None, ..was.clone() }),
            ),
            ("a standby on the same machine that took over", {
                later(Place {
                    timeline: Some(2),
                    folder: Some(host("56:78")),
                    address: host("local /x:5433/daybook"),
                    ..was.clone()
                })
            }),
            ("its folder renamed", later(Place { address: host("local /x:5432/daybook"), ..was.clone() })),
        ] {
            assert_eq!(now.copied_from(&was), None, "{what}");
        }
    }

    #[test]
    fn a_copy_is_told_from_the_original() {
        let text = |text: &str| text.to_owned();
        for (what, was, now) in [
            (
                "a dump on another server",
                container(),
                Place { system_identifier: Some(text("8")), ..container() },
            ),
            ("a dump on the same server", container(), Place { database: Oid(99), ..container() }),
            (
                "files beside the original",
                private(),
                later(Place { folder: Some(text("56:78")), ..private() }),
            ),
            (
                "a recovery to a point in time, beside the original",
                private(),
                later(Place { timeline: Some(2), recovered: true, folder: Some(text("56:78")), ..private() }),
            ),
            (
                "files on another port",
                Place { folder: None, ..private() },
                later(Place { folder: None, address: text("local /x:5433/daybook"), ..private() }),
            ),
            (
                "files on another machine, reached there as here",
                Place { folder: None, ..private() },
                later(Place { folder: None, host: text("other"), machine: Some(text("o")), ..private() }),
            ),
            (
                "a base backup with another name",
                container(),
                later(Place {
                    host: text("77b0"),
                    timeline: Some(2),
                    address: text("copy:5432/daybook"),
                    ..container()
                }),
            ),
        ] {
            assert!(now.copied_from(&was).is_some(), "{what}");
        }
    }
}
