//! Appending beside one-row durable INSERTs.

use ledger::private::PrivateServer;
use ledger::{Append, Keyring, Ledger, Metadata, NewEvent, Options, StreamId};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool};
use uuid::Uuid;

use crate::table::{AsyncWork, Measured, Table, measure};

/// Connections of the floor's callers: 256 of them share these, as they would in a service.
const CONNECTIONS: u32 = 150;

/// The floor of 64 callers.
pub(crate) async fn run(table: &mut Table) -> Measured {
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let server = PrivateServer::start_or_join(folder.path()).await.unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect_with(server.connect_options())
        .await
        .unwrap();
    sqlx::raw_sql(FLOOR_TABLE).execute(&pool).await.unwrap();
    let ledger = Ledger::new(server.connect_options(), Keyring::new(&[7; 32], None), &Options::default());
    ledger.migrate().await.unwrap();

    let mut of_64 = None;
    for callers in [1, 8, 64, 256] {
        let floor = measure(vec![(); callers], Insert(pool.clone())).await;
        of_64 = of_64.or(Some(floor).filter(|_| callers == 64));
        table.add(format!("one-row durable INSERTs, {callers} callers"), floor, None);
        let streams = (0..callers).map(|_| (Uuid::now_v7(), 0)).collect();
        let appended = measure(streams, AppendOne(ledger.clone())).await;
        let goal = match callers {
            1 => "0.6x",
            64 => "3x, p99 below",
            _ => "",
        };
        table.add(format!("append, checked sequence, {callers} callers"), appended, Some((floor, goal)));
    }
    load_then_append(table, &pool, &ledger).await;
    pool.close().await;
    ledger.close().await;
    server.stop().await;
    of_64.expect("64 callers are among them")
}

const FLOOR_TABLE: &str = "
    create table floor (id uuid not null, sequence bigint not null, event_type text not null, payload json not null,
                        metadata json not null, at timestamptz not null default now(), primary key (id, sequence));";

fn payload() -> Value {
    json!({"SecretStored": {"team_id": Uuid::now_v7(), "name": "payments/stripe/api-key", "description": "what it is for",
        "tags": ["prod", "payments"], "expires_at": null, "sealed": "x".repeat(120)}})
}

fn metadata() -> Metadata {
    Metadata {
        actor: format!("user:{}", Uuid::now_v7()),
        team_id: Some(Uuid::now_v7().to_string()),
        request_id: Some(Uuid::now_v7().to_string()),
        ..Metadata::default()
    }
}

#[derive(Clone)]
struct Insert(PgPool);

impl AsyncWork<()> for Insert {
    async fn once(&self, (): &mut ()) {
        insert(&mut self.0.acquire().await.unwrap(), Uuid::now_v7(), 1).await;
    }
}

async fn insert(connection: &mut PgConnection, id: Uuid, sequence: i64) {
    let query = sqlx::query(
        "insert into floor (id, sequence, event_type, payload, metadata) values ($1, $2, $3, $4, $5)",
    );
    let query = query.bind(id).bind(sequence).bind("SecretStored").bind(payload());
    query.bind(serde_json::to_value(metadata().to_map()).unwrap()).execute(connection).await.unwrap();
}

/// The next event of each caller's own stream, with its sequence checked.
#[derive(Clone)]
struct AppendOne(Ledger);

fn next(id: Uuid, sequence: i64) -> Append {
    let event = NewEvent {
        stream: StreamId::new("secret", id),
        sequence,
        event_type: "SecretStored".into(),
        event_version: "1".into(),
        payload: payload().into(),
    };
    Append { events: vec![event], metadata: metadata(), data_keys: vec![] }
}

impl AsyncWork<(Uuid, i64)> for AppendOne {
    async fn once(&self, (id, sequence): &mut (Uuid, i64)) {
        *sequence += 1;
        self.0.append(next(*id, *sequence)).await.unwrap();
    }
}

/// Loading ten events and appending the eleventh, each time another stream: with one explicit transaction, and with the ledger.
async fn load_then_append(table: &mut Table, pool: &PgPool, ledger: &Ledger) {
    const STREAMS: usize = 256;
    let mut ids = vec![];
    for _ in 0..STREAMS {
        let id = Uuid::now_v7();
        let mut ten = next(id, 1);
        ten.events = (1..=10).flat_map(|sequence| next(id, sequence).events).collect();
        ledger.append(ten).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        for sequence in 1..=10 {
            insert(&mut connection, id, sequence).await;
        }
        ids.push(id);
    }
    let streams = || (0..64).map(|caller| (ids[caller * 4], 10)).collect::<Vec<_>>();
    let floor: Measured = measure(streams(), LoadInTransaction(pool.clone())).await;
    table.add("load 10, insert 1 in one transaction, 64 callers", floor, None);
    let measured = measure(streams(), LoadThenAppend(ledger.clone())).await;
    table.add("load 10, append 1 with expected sequence, 64 callers", measured, Some((floor, "1.5x")));
}

#[derive(Clone)]
struct LoadInTransaction(PgPool);

impl AsyncWork<(Uuid, i64)> for LoadInTransaction {
    async fn once(&self, (id, last): &mut (Uuid, i64)) {
        let mut connection = self.0.acquire().await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        let loaded: Vec<(i64, Value)> = sqlx::query_as(
            "select sequence, payload from floor where id = $1 and sequence > $2 order by sequence",
        )
        .bind(*id)
        .bind(*last - 10)
        .fetch_all(&mut *transaction)
        .await
        .unwrap();
        *last = loaded.last().unwrap().0 + 1;
        insert(&mut transaction, *id, *last).await;
        transaction.commit().await.unwrap();
    }
}

#[derive(Clone)]
struct LoadThenAppend(Ledger);

impl AsyncWork<(Uuid, i64)> for LoadThenAppend {
    async fn once(&self, (id, last): &mut (Uuid, i64)) {
        let loaded = self.0.read_stream(&StreamId::new("secret", *id), *last - 10, None, 10).await.unwrap();
        *last = loaded.last().unwrap().sequence + 1;
        self.0.append(next(*id, *last)).await.unwrap();
    }
}
