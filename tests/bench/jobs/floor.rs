//! The floor: what a queue in PostgreSQL cannot do without. A job is claimed durably, so that nobody else has it, and deleted durably.

use sqlx::{Connection as _, PgConnection};

use super::site::Site;
use super::{CONCURRENCIES, Floor};
use crate::http::CONNECTIONS;
use crate::table::{AsyncWork, Table, measure};

/// More than are claimed within the longest span.
const ROWS: i64 = 300_000;

const TABLE: &str =
    "create table bench_jobs (id bigint primary key, payload jsonb not null, claimed_at timestamptz);
                     create table bench_inserts (id uuid primary key, payload jsonb not null)";
const FILL: &str = "insert into bench_jobs select n, '{\"kind\": \"noop\"}' from generate_series(1, $1) n";
const CLAIM: &str = "update bench_jobs set claimed_at = now() where id = \
                     (select id from bench_jobs where claimed_at is null order by id for update skip locked limit 1) \
                     returning id";

pub(super) async fn run(table: &mut Table, site: &Site) -> Floor {
    let options = site.another_database("floor").await;
    let mut first = PgConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(TABLE).execute(&mut first).await.unwrap();
    let mut claims = vec![];
    for concurrency in CONCURRENCIES {
        sqlx::raw_sql("truncate bench_jobs").execute(&mut first).await.unwrap();
        sqlx::query(FILL).bind(ROWS).execute(&mut first).await.unwrap();
        sqlx::raw_sql("vacuum analyze bench_jobs").execute(&mut first).await.unwrap();
        let measured = measure(connections(&options, concurrency).await, ClaimAndDelete).await;
        table.add(format!("claim + delete, two commits a job, {concurrency} connections"), measured, None);
        claims.push(measured);
    }
    let insert = measure(connections(&options, CONNECTIONS).await, Insert).await;
    table.add(format!("one-row durable INSERTs, {CONNECTIONS} connections"), insert, None);
    first.close().await.unwrap();
    Floor { claims: claims.try_into().unwrap(), insert }
}

async fn connections(options: &sqlx::postgres::PgConnectOptions, number: usize) -> Vec<PgConnection> {
    let mut connections = vec![];
    for _ in 0..number {
        connections.push(PgConnection::connect_with(options).await.unwrap());
    }
    connections
}

#[derive(Clone)]
struct ClaimAndDelete;

impl AsyncWork<PgConnection> for ClaimAndDelete {
    async fn once(&self, connection: &mut PgConnection) {
        // Each statement is a transaction.
        let id: i64 = sqlx::query_scalar(CLAIM).fetch_one(&mut *connection).await.unwrap();
        sqlx::query("delete from bench_jobs where id = $1").bind(id).execute(connection).await.unwrap();
    }
}

#[derive(Clone)]
struct Insert;

impl AsyncWork<PgConnection> for Insert {
    async fn once(&self, connection: &mut PgConnection) {
        let query = sqlx::query("insert into bench_inserts values ($1, '{\"kind\": \"noop\"}')");
        query.bind(uuid::Uuid::now_v7()).execute(connection).await.unwrap();
    }
}
