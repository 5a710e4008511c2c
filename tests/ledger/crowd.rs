//! Many writers on few streams, some of whom give up at random moments, under a follower that watches all the while.

use std::time::Duration;

use ::ledger::Append;
use tests::Database;
use tokio::time::timeout;

use super::support::{Crowd, Journal, Outcome, Seed, Watcher, assert_whole_log, named, whole_log};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_writers_on_eight_streams_with_random_cancellations() {
    let seed = Seed::new();
    let database = Database::new().await;
    let ledger = database.ledger();
    let watcher = Watcher::start(&ledger, seed.rng());
    let crowd = Crowd { node: "one", writers: 64, streams: 8, each: 8, dropped: 25 };
    let journal = crowd.start(&ledger, &seed).finish().await;
    let log = whole_log(&ledger).await;
    let attempts = journal.attempts();
    assert_whole_log(&log, &attempts);
    assert_eq!(watcher.seen(log.len() as i64).await, log);
    assert_eq!(journal.stored(), 64 * 8);
    assert_eq!(journal.lost(), Vec::<String>::new(), "nothing was wrong with the database");
    // The story was told: some met conflicts, some were dropped, and of those some were stored and some were not.
    let met = |outcome: &Outcome| attempts.iter().filter(|attempt| attempt.outcome == *outcome).count();
    assert!(met(&Outcome::NotStored) > 0 && met(&Outcome::Unknown) > 0);
}

/// Every moment at which a caller may be dropped, on streams of its own so that nothing else can refuse it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_dropped_at_every_moment_have_stored_all_or_nothing() {
    let seed = Seed::new();
    let database = Database::new().await;
    let ledger = database.ledger();
    let journal = Journal::default();
    let tried = async |name: &str, append: Append, patience: Duration| {
        let number = journal.begin(name, &append);
        if let Ok(outcome) = timeout(patience, ledger.append(append)).await {
            journal.settle(number, &outcome);
        }
    };
    // Connects, so that the moments are spread over the append itself.
    tried("first", named("first", &[("first", 1)]), Duration::MAX).await;
    let mut rng = seed.rng();
    let all = (0..600).map(|n| (n, Duration::from_micros(rng.below(100) * rng.below(100) * 4)));
    let all: Vec<_> = all.collect();
    futures::future::join_all(all.into_iter().map(async |(n, patience)| {
        let (name, x, y) = (format!("dropped {n}"), format!("x{n}"), format!("y{n}"));
        let append = named(&name, &[(&x, 1), (&y, 1), (&x, 2), (&y, 2)]);
        tried(&name, append, patience).await;
    }))
    .await;
    // Whatever was sent before is settled by now, since the lane works in order.
    tried("last", named("last", &[("last", 1)]), Duration::MAX).await;
    assert_whole_log(&whole_log(&ledger).await, &journal.attempts());
}
