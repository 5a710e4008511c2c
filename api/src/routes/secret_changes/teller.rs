//! Who tells one client of changes: a task with a queue to the client's connection.
//!
//! The queue is limited, and so is the time that the task waits for a reader who lags. It looks again and again whether the client
//! may still hear; whatever ends it, nothing of what is in the queue is sent any more.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::Event;
use futures::Stream;
use futures::stream::unfold;
use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::authenticate::Standing;
use crate::notices::{Deaf, Listener, Notices, SecretNotice};
use crate::places::Place;
use crate::problem::Problem;

/// Events that wait for the connection at most.
const QUEUE: usize = 128;
/// How long a reader may take nothing of a full queue.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often somebody's right to hear is looked at while nothing happens.
const CHECK: Duration = Duration::from_millis(500);
/// Silence is broken after this long, so that nothing between here and the client thinks the connection dead.
const SILENCE: Duration = Duration::from_secs(15);
/// How soon a client that was cut off comes back by itself.
const RETRY: Duration = Duration::from_secs(1);

/// What comes before the changes that happen from now on.
pub(super) enum Beginning {
    /// Nothing.
    Now,
    /// What was missed.
    With(Vec<SecretNotice>),
    /// Nothing, up to this position and beyond where the listener begins: the client knows it from another node.
    Ahead(i64),
    /// What was missed is not told any more.
    Anew,
}

/// Why a stream ends.
#[derive(Debug)]
enum Ended {
    /// The client has gone.
    Left,
    /// The client does not read as fast as things happen.
    TooSlow,
    /// The client may not hear any more.
    Refused(Problem),
    /// The node stops.
    Closing,
}

impl From<Deaf> for Ended {
    fn from(deaf: Deaf) -> Self {
        match deaf {
            Deaf::FellBehind => Self::TooSlow,
            Deaf::Ended => Self::Closing,
        }
    }
}

/// Tells one client.
pub(super) struct Teller {
    pub(super) notices: Notices,
    pub(super) listener: Listener,
    pub(super) standing: Standing,
    pub(super) prefix: Option<String>,
    /// Free again when the stream has ended, also while its last bytes are still under way.
    #[expect(dead_code, reason = "it is held, and that is all")]
    pub(super) place: Place,
}

impl Teller {
    /// Begins; the result is the body of the answer.
    pub(super) fn start(self, beginning: Beginning) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
        let (queue, events) = channel(QUEUE);
        let ended = CancellationToken::new();
        tokio::spawn(self.run(queue, beginning, ended.clone()));
        unfold((events, ended), next_event)
    }

    async fn run(self, queue: Sender<Event>, beginning: Beginning, ended: CancellationToken) {
        // Whatever way this ends, the stream does.
        let _ended = ended.drop_guard();
        let closing = self.notices.closing().clone();
        let from = self.listener.from();
        let telling = Telling { teller: self, queue: &queue, told: from, last: Instant::now() };
        let why = tokio::select! {
            biased;
            () = closing.cancelled() => Ended::Closing,
            () = queue.closed() => Ended::Left,
            why = telling.run(beginning) => why,
        };
        match why {
            Ended::Refused(problem) => {
                tracing::debug!(code = problem.code(), "a stream of changes was ended")
            }
            Ended::Left | Ended::TooSlow | Ended::Closing => {
                tracing::debug!(?why, "a stream of changes ended")
            }
        }
    }
}

async fn next_event(
    (mut events, ended): (Receiver<Event>, CancellationToken),
) -> Option<(Result<Event, Infallible>, (Receiver<Event>, CancellationToken))> {
    tokio::select! {
        biased;
        () = ended.cancelled() => None,
        event = events.recv() => event.map(|event| (Ok(event), (events, ended))),
    }
}

/// A stream under way.
struct Telling<'a> {
    teller: Teller,
    queue: &'a Sender<Event>,
    /// The client knows everything up to this position.
    told: i64,
    /// When something was sent last.
    last: Instant,
}

impl Telling<'_> {
    async fn run(mut self, beginning: Beginning) -> Ended {
        let Err(why) = self.tell(beginning).await;
        why
    }

    async fn tell(&mut self, beginning: Beginning) -> Result<Infallible, Ended> {
        self.begin(beginning).await?;
        let mut ticks = interval(CHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = self.teller.listener.next() => self.pass_on(&*notice?).await?,
                _ = ticks.tick() => self.look().await?,
            }
        }
    }

    async fn begin(&mut self, beginning: Beginning) -> Result<(), Ended> {
        match beginning {
            Beginning::Now => {}
            Beginning::Ahead(position) => self.told = position,
            Beginning::With(missed) => {
                for notice in missed {
                    if self.wants(&notice) {
                        self.send(change(&notice)).await?;
                    }
                }
            }
            Beginning::Anew => self.send(said("reset", self.told)).await?,
        }
        self.send(said("ready", self.told).retry(RETRY)).await
    }

    async fn pass_on(&mut self, notice: &SecretNotice) -> Result<(), Ended> {
        if notice.position <= self.told {
            return Ok(());
        }
        self.told = notice.position;
        if self.wants(notice) { self.send(change(notice)).await } else { Ok(()) }
    }

    fn wants(&self, notice: &SecretNotice) -> bool {
        self.teller.prefix.as_ref().is_none_or(|prefix| notice.is_within(prefix))
    }

    /// Looks after the stream while nothing happens.
    async fn look(&mut self) -> Result<(), Ended> {
        self.check().await?;
        if self.last.elapsed() < SILENCE {
            return Ok(());
        }
        // Where the log is by now, so that a client of a quiet team need not go far back when it returns. What was told up to
        // there is in the queue of the listener already.
        let reached = self.teller.notices.told();
        while let Some(notice) = self.teller.listener.next_now()? {
            self.pass_on(&notice).await?;
        }
        self.told = self.told.max(reached);
        self.send(Event::default().comment("nothing new").id(self.told.to_string())).await
    }

    async fn send(&mut self, event: Event) -> Result<(), Ended> {
        let place = timeout(PATIENCE, self.queue.reserve()).await.map_err(|_| Ended::TooSlow)?;
        let place = place.map_err(|_| Ended::Left)?;
        // After the waiting: it is now that it matters.
        self.check().await?;
        place.send(event);
        self.last = Instant::now();
        Ok(())
    }

    async fn check(&self) -> Result<(), Ended> {
        self.teller.standing.check().await.map_err(Ended::Refused)
    }
}

fn change(notice: &SecretNotice) -> Event {
    let data = serde_json::to_string(notice).unwrap_or_default();
    Event::default().event("secret").id(notice.position.to_string()).data(data)
}

/// Something about the stream itself.
fn said(what: &str, position: i64) -> Event {
    Event::default().event(what).id(position.to_string()).data(json!({ "position": position }).to_string())
}
