//! Replacing a large table of data keys by a copy of what is left in it, while it is used.
//!
//! `vacuum full` locks the table for as long as it takes, which beyond some hundred thousand keys is longer than an append waits. A
//! copy is made piece by piece; a trigger mirrors what changes meanwhile. Only the exchange needs the table for itself, for moments.
//!
//! If we crash in here, the copy and its trigger are left over: both go on being right, and the next scrubbing begins by dropping them.

use sqlx::{Connection as _, Executor as _, PgConnection};

/// Rows that are copied, and locked against changes, in one transaction.
const CHUNK: i64 = 5_000;

/// The order matters: a trigger without its table would refuse what it is to mirror.
const DROP: &str =
    "drop trigger if exists data_keys_are_mirrored on data_keys; drop table if exists data_keys_copy";

const BEGIN: &str = "create table data_keys_copy (like data_keys including defaults including constraints including storage); \
    alter table data_keys_copy add constraint data_keys_copy_pkey primary key (id); \
    create index data_keys_copy_by_key_id on data_keys_copy (key_id, id); \
    create trigger data_keys_are_mirrored after insert or update or delete on data_keys \
        for each row execute function data_keys_are_mirrored()";

/// Where the next piece ends; nothing when there is none.
const END: &str = "select max(id) from \
    (select id from data_keys where $1::text is null or id > $1 order by id limit $2) chunk";

/// The rows stay locked until they are in the copy: one that is destroyed meanwhile is destroyed afterwards, in both; one that was
/// destroyed before is not seen any more.
const COPY: &str = "insert into data_keys_copy select * from data_keys \
    where ($1::text is null or id > $1) and id <= $2 for share on conflict (id) do nothing";

/// A copy that is not whole is not used, whatever the reason.
const EXCHANGE: &str = "lock table data_keys in access exclusive mode; \
    do $$ begin \
        if (select count(*) from data_keys) <> (select count(*) from data_keys_copy) then \
            raise exception 'the copy of the data keys is not whole'; \
        end if; \
    end $$; \
    drop trigger data_keys_are_mirrored on data_keys; \
    drop table data_keys; \
    alter table data_keys_copy rename to data_keys; \
    alter table data_keys rename constraint data_keys_copy_pkey to data_keys_pkey; \
    alter index data_keys_copy_by_key_id rename to data_keys_by_key_id; \
    create trigger retired_keys_are_not_stored before insert on data_keys \
        for each row execute function retired_keys_are_not_stored()";

/// What earlier roles were granted, and how the table is stored and analysed, is kept.
const KEEP: &str = "do $$ declare granted record; begin \
    for granted in select a.privilege_type, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee \
        from pg_class c, aclexplode(c.relacl) a where c.oid = 'data_keys'::regclass and a.grantee <> c.relowner loop \
        execute format('grant %s on data_keys_copy to %s', granted.privilege_type, granted.grantee); \
    end loop; end $$; \
    alter table data_keys_copy alter column wrapped set statistics 0";

/// Replaces the table by a copy of it.
pub(super) async fn replace(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    in_one(connection, DROP).await?;
    in_one(connection, &format!("{BEGIN}; {KEEP}")).await?;
    let outcome = copy_and_exchange(connection).await;
    if outcome.is_err() {
        // At best: the next attempt drops it otherwise.
        let _ = in_one(connection, DROP).await;
    }
    outcome
}

async fn copy_and_exchange(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut after: Option<String> = None;
    loop {
        let end = sqlx::query_scalar(END).bind(&after).bind(CHUNK).fetch_one(&mut *connection).await?;
        let Some(end): Option<String> = end else { break };
        sqlx::query(COPY).bind(&after).bind(&end).execute(&mut *connection).await?;
        after = Some(end);
    }
    connection.execute("analyze data_keys_copy").await?;
    in_one(connection, EXCHANGE).await
}

async fn in_one(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    transaction.execute(sqlx::raw_sql(sql)).await?;
    transaction.commit().await
}
