//! Back pressure: a full queue makes callers wait, and every wait has an end. The log stands still while another session
//! holds the lock that orders appends; callers are polled one after the other, so who is where in the queue is known.

use std::pin::Pin;
use std::time::Duration;

use ::ledger::connect::Cause;
use ::ledger::{AppendError, Appended, Keyring, Ledger, Options};
use futures::future::join_all;
use sqlx::PgConnection;
use tests::{Database, within};

use super::support::{Journal, LOCK, assert_whole_log, lane_waits, named, whole_log};

/// As in `ledger/src/lane.rs`: places in the queue.
const QUEUE: usize = 1_024;

type Caller<'a> = Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + 'a>>;

struct Story {
    database: Database,
    ledger: Ledger,
    journal: Journal,
}

impl Story {
    /// The log stands still until the connection ends or releases the lock.
    async fn begin(patience: Duration) -> (Self, PgConnection) {
        let database = Database::new().await;
        let options = Options { connections: 2, patience, ..Options::default() };
        let ledger = database.ledger_with(Keyring::new(database.encryption_key(), None), &options);
        let mut holder = database.connect().await;
        sqlx::query("select pg_advisory_lock($1)").bind(LOCK).execute(&mut holder).await.unwrap();
        (Self { database, ledger, journal: Journal::default() }, holder)
    }

    /// A caller for whom the lane already waits.
    async fn first(&self) -> Caller<'_> {
        let mut first = self.caller("first").await;
        lane_waits(&self.database, &mut first).await;
        first
    }

    /// A caller who has taken its place, if there was one.
    async fn caller(&self, name: &str) -> Caller<'_> {
        let append = named(name, &[(name, 1), (name, 2)]);
        let attempt = self.journal.begin(name, &append);
        let mut caller: Caller<'_> = Box::pin(async move {
            let outcome = self.ledger.append(append).await;
            self.journal.settle(attempt, &outcome);
            outcome
        });
        // The runtime lets a task do only so much in one go, and then nothing has a place.
        tokio::task::yield_now().await;
        assert!(futures::poll!(&mut caller).is_pending());
        caller
    }

    async fn callers(&self, of: &str, number: usize) -> Vec<Caller<'_>> {
        let mut callers = vec![];
        for n in 0..number {
            callers.push(self.caller(&format!("{of} {n}")).await);
        }
        callers
    }

    async fn check(&self) {
        assert_whole_log(&whole_log(&self.ledger).await, &self.journal.attempts());
    }
}

async fn release(holder: &mut PgConnection) {
    sqlx::query("select pg_advisory_unlock_all()").execute(holder).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait_and_the_wait_ends() {
    let (story, mut holder) = Story::begin(Duration::from_millis(300)).await;
    let first = story.first().await;
    let queued = story.callers("queued", QUEUE).await;
    let beyond = story.callers("beyond", 10).await;
    let (given_up, still_there): (Vec<_>, Vec<_>) =
        queued.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    for outcome in within("an end of the wait", join_all(beyond)).await {
        assert_eq!(outcome, Err(AppendError::Overloaded));
    }
    // Their places are theirs until the lane comes by, which finds nobody there.
    drop(given_up);
    release(&mut holder).await;
    within("the first", first).await.unwrap();
    for (n, caller) in still_there {
        assert!(within("the queued", caller).await.is_ok(), "{n}");
    }
    let log = whole_log(&story.ledger).await;
    assert_eq!(log.len(), 2 + QUEUE, "two of the first, two of each that stayed, none of those who gave up");
    story.check().await;
}

#[tokio::test]
async fn a_caller_who_waits_for_a_place_gets_it_when_there_is_one() {
    let (story, mut holder) = Story::begin(Duration::from_secs(60)).await;
    let first = story.first().await;
    let queued = story.callers("queued", QUEUE).await;
    let beyond = story.callers("beyond", 100).await;
    drop(story.callers("gave up", 10).await);
    release(&mut holder).await;
    let all = std::iter::once(first).chain(queued).chain(beyond);
    for outcome in within("everybody's turn", join_all(all)).await {
        outcome.unwrap();
    }
    assert_eq!(whole_log(&story.ledger).await.len(), 2 * (1 + QUEUE + 100));
    story.check().await;
}

/// Takes 8 s, which is how long the lane waits for the database.
#[tokio::test]
async fn a_log_that_stands_still_is_reported_and_goes_on_afterwards() {
    let (story, mut holder) = Story::begin(Duration::from_secs(60)).await;
    let first = story.first().await;
    let second = story.caller("second").await;
    let error = within("an end of the lane's patience", first).await.unwrap_err();
    // The server gave up before we did, and says that it has stored nothing.
    assert_eq!(error, AppendError::NotDone(Cause::StatementTimeout));
    assert!(error.is_passing());
    release(&mut holder).await;
    within("the second", second).await.unwrap();
    assert_eq!(whole_log(&story.ledger).await.len(), 2, "the server had given up before we did");
    story.check().await;
}
