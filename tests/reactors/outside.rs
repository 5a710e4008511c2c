//! A reactor whose effect is no row of its own, and takes as long as it takes: whoever changes their name is forgotten altogether.

use std::sync::{Arc, Mutex};

use ::commands::reactor::{Reactor, ReactorError, Start, run};
use ::ledger::{Ledger, Recorded};
use ::projections::Projections;
use domain::{Personal, UserEvent, UserId};
use tests::{Database, eventually, within};
use tokio_util::sync::CancellationToken;

use super::support::quick;
use crate::projections::support::{Node, event, registered, user_id};

#[derive(Clone)]
struct Forgetting {
    ledger: Ledger,
    views: Projections,
    done: Arc<Mutex<Vec<i64>>>,
}

impl Reactor for Forgetting {
    const NAME: &'static str = "forgetting";
    const AGGREGATES: &'static [&'static str] = &["user"];
    type Effect = ();

    async fn react(&self, event: &Recorded) -> Result<Option<()>, ReactorError> {
        if event.event_type != "UserRenamed" {
            return Ok(None);
        }
        self.ledger.destroy_subjects(std::slice::from_ref(&event.stream.aggregate_id)).await?;
        let rebuilt = self.views.rebuild("users", |_| {}).await;
        rebuilt.map_err(|error| ReactorError::Passing(error.to_string()))?;
        self.done.lock().unwrap().push(event.position);
        Ok(Some(()))
    }
}

async fn rename(node: &Node, id: UserId) -> i64 {
    node.append(vec![event("user", id, 2, UserEvent::UserRenamed { name: Personal::new(id, "x") })]).await
}

async fn forgotten(node: &Node, id: UserId) {
    eventually("the person is forgotten", async || {
        let row = node.views.users().get(id).await.unwrap()?;
        (row.email == "erased").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_outside_of_the_database_is_done_and_the_cursor_moves() {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let [ada, bob, cyd] = [(); 3].map(|()| user_id());
    for (id, name) in [(ada, "Ada"), (bob, "Bob"), (cyd, "Cyd")] {
        node.append(vec![registered(id, name)]).await;
    }
    let forgetting =
        Forgetting { ledger: node.ledger.clone(), views: node.views.clone(), done: Arc::default() };
    let mut expected = vec![];
    // Each time by a new process, which does nothing a second time.
    for id in [ada, bob] {
        expected.push(rename(&node, id).await);
        let stop = CancellationToken::new();
        let running = run(node.ledger.clone(), forgetting.clone(), Start::Beginning, quick(), stop.clone());
        let running = tokio::spawn(running);
        forgotten(&node, id).await;
        let last = *expected.last().unwrap();
        let cursor = "select position from reactors where name = 'forgetting' and position >= $1";
        eventually("the cursor", async || {
            let query = sqlx::query_scalar::<_, i64>(cursor).bind(last);
            query.fetch_optional(node.ledger.pool()).await.unwrap()
        })
        .await;
        stop.cancel();
        within("the reactor's end", running).await.unwrap();
        assert_eq!(*forgetting.done.lock().unwrap(), expected);
    }
    assert_eq!(node.views.users().get(cyd).await.unwrap().unwrap().name, "Cyd");
}
