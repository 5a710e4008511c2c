//! Storing what jobs print.

use tests::Database;

use super::*;

/// Index entries of chunks that were read so far, by all that has been counted.
async fn read_of_chunks(database: &Database) -> i64 {
    let sql = "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'job_log_chunks_pkey'";
    sqlx::query_scalar(sql).fetch_one(&mut database.connect().await).await.unwrap()
}

#[tokio::test]
async fn a_chunk_is_stored_without_looking_at_all_that_were_stored_before() {
    let app = TestApp::with(Setup::default().kinds(SHELL).with("MAX_LOG_LINES", 20_000)).await;
    let database = app.database.clone();
    let before = read_of_chunks(&database).await;
    let (path, job) = run(&app.operator(), script("seq 1 16000")).await;
    assert_eq!(job.str("status"), "completed");
    let sql = "select count(*) from job_log_chunks where job_id = $1::uuid";
    let query = sqlx::query_scalar(sql).bind(id(&path));
    let chunks: i64 = query.fetch_one(&mut database.connect().await).await.unwrap();
    assert!(chunks >= 80, "{chunks} chunks");
    // The server counts with some delay: what idle connections have read is counted once they are closed.
    let counted = "select count(*) from pg_stat_activity where datname = current_database()";
    app.stop().await;
    eventually("the connections are closed", async || {
        let left: i64 = sqlx::query_scalar(counted).fetch_one(&mut database.connect().await).await.unwrap();
        (left == 1).then_some(())
    })
    .await;
    let read = read_of_chunks(&database).await - before;
    assert!(read <= 4 * chunks, "{read} entries were read to store {chunks} chunks");
}
