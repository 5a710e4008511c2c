//! Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 could not reach what it needs.

use tests::Database;

use super::home::Home;

#[tokio::test]
async fn wrong_usage_is_2_and_touches_nothing() {
    let home = Home::new();
    for arguments in [
        &[][..],
        &["dance"],
        &["serve", "--roles", "cook"],
        &["events", "--from", "0"],
        &["events", "--from", "one"],
        &["events", "--format", "xml"],
        &["events", "--aggregate", "secret"],
        &["events", "--follow", "--aggregate", "secret/0198c5a0-0000-7000-8000-000000000000"],
        &["state", "secret"],
        &["state", "secret/x", "--as-of", "yesterday"],
        &["admin", "create"],
        &["admin", "create", "--email", "nobody"],
        &["keys"],
        &["projections", "rebuild"],
    ] {
        let ended = home.run(arguments).await.expect(2);
        assert!(!ended.stderr.is_empty(), "{arguments:?}");
    }
    assert!(!home.data().exists());
    assert!(home.run(&["--help"]).await.expect(0).stdout.contains("projections"));
    assert!(home.run(&["--version"]).await.expect(0).stdout.starts_with("daybook "));
}

#[tokio::test]
async fn a_database_out_of_reach_is_3() {
    let nowhere = Home::new().with("DATABASE_URL", "postgres://daybook@127.0.0.1:1/daybook");
    let missing = Database::empty().await.url().to_owned();
    // The database was dropped with the value; the server is there.
    let missing = Home::new().with("DATABASE_URL", missing);
    for home in [&nowhere, &missing] {
        let (serve, events, migrate, check) = tokio::join!(
            home.run(&["serve"]),
            home.run(&["events"]),
            home.run(&["migrate"]),
            home.run(&["check"])
        );
        for ended in [serve, events, migrate] {
            assert!(ended.expect(3).stderr.starts_with("daybook: "));
        }
        let ended = check.expect(1);
        assert!(ended.stdout.starts_with("DATABASE_URL: "), "{}", ended.stdout);
    }
}

#[tokio::test]
async fn one_database_answers_yes_no_and_never() {
    let database = Database::empty().await;
    let home = Home::new().with("DATABASE_URL", database.url());
    home.run(&["migrate"]).await.expect(0);
    assert_eq!(home.run(&["migrate"]).await.expect(0).stdout, "the tables are up to date\n");
    let absent = "secret/0198c5a0-0000-7000-8000-000000000000";
    for arguments in [&["state", absent][..], &["events", "--aggregate", absent]] {
        let ended = home.run(arguments).await.expect(1);
        assert!(ended.stderr.contains(absent), "{}", ended.stderr);
    }
    for arguments in [
        &["projections", "rebuild", "no-such-view"][..],
        &["projections", "verify", "no-such-view"],
        &["state", absent, "--as-of", "1"],
        &["state", absent, "--as-of", "-1"],
        &["state", absent, "--as-of", "2999-01-01T00:00:00Z"],
    ] {
        home.run(arguments).await.expect(2);
    }
    assert_eq!(home.run(&["events"]).await.expect(0).stdout, "", "an empty log");
    home.run(&["projections", "verify"]).await.expect(0);
    assert!(!home.data().join("postgres").exists());
}
