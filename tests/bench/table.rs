//! Measuring, and the one table at the end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::span;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Per second.
    pub(crate) rate: f64,
    /// Median, in milliseconds.
    pub(crate) p50: f64,
    /// 95 of 100 took at most this, in milliseconds.
    pub(crate) p95: f64,
    /// 99 of 100 took at most this, in milliseconds.
    pub(crate) p99: f64,
}

impl Measured {
    /// From the microseconds that each took, all within so many seconds.
    pub(crate) fn of(mut took: Vec<u32>, seconds: f64) -> Self {
        took.sort_unstable();
        let at = |part: f64| f64::from(took[((took.len() - 1) as f64 * part) as usize]) / 1000.0;
        Self { rate: took.len() as f64 / seconds, p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

/// How long something took, in words, from the microseconds that each took.
pub(crate) fn spread(mut took: Vec<u32>) -> String {
    took.sort_unstable();
    let at = |part: f64| f64::from(took[((took.len() - 1) as f64 * part) as usize]) / 1000.0;
    format!("p50 {:.1} ms, p95 {:.1} ms, most {:.1} ms", at(0.5), at(0.95), at(1.0))
}

/// What was measured, and how it compares with its floor: the ratio and the goal.
type Row = (String, Measured, Option<(f64, String)>);

/// The rows so far, and what does not fit into rows.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Table {
    /// One more row; `floor` is what it is held against, with its name and the goal.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        measured: Measured,
        floor: Option<(Measured, &str)>,
    ) {
        let against = floor.map(|(floor, goal)| (measured.rate / floor.rate, goal.to_owned()));
        let row = (name.into(), measured, against);
        eprintln!("{}", line(&row));
        self.rows.push(row);
    }

    /// A line below the rows.
    pub(crate) fn note(&mut self, note: String) {
        eprintln!("{note}");
        self.notes.push(note);
    }
}

fn line((name, measured, against): &Row) -> String {
    let (ratio, goal) = match against {
        Some((ratio, goal)) => (format!("{ratio:.2}x"), goal.as_str()),
        None => ("floor".to_owned(), ""),
    };
    format!(
        "{name:<58} {:>10.0} {:>9.2} {:>9.2} {ratio:>8}  {goal}",
        measured.rate, measured.p50, measured.p99
    )
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<58} {:>10} {:>9} {:>9} {:>8}  goal",
            "what", "per second", "p50 ms", "p99 ms", "ratio"
        )?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", line(row)))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// Lets `callers` run their work again and again, all at once, and counts what ends within the span.
pub(crate) async fn measure<C, F>(callers: Vec<C>, work: F) -> Measured
where
    C: Send + 'static,
    F: AsyncWork<C>,
{
    let phase = Arc::new(AtomicU8::new(WARMING));
    let tasks: Vec<_> = callers
        .into_iter()
        .map(|mut caller| {
            let (phase, work) = (Arc::clone(&phase), work.clone());
            tokio::spawn(async move {
                let mut took: Vec<u32> = vec![];
                loop {
                    let began = phase.load(Ordering::Relaxed);
                    if began == OVER {
                        return took;
                    }
                    let start = Instant::now();
                    work.once(&mut caller).await;
                    if began == MEASURING && phase.load(Ordering::Relaxed) == MEASURING {
                        took.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
                    }
                }
            })
        })
        .collect();
    pause(span() / 10).await;
    phase.store(MEASURING, Ordering::Relaxed);
    let start = Instant::now();
    pause(span()).await;
    phase.store(OVER, Ordering::Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    let mut took = vec![];
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    Measured::of(took, seconds)
}

#[expect(clippy::disallowed_methods, reason = "the span of a measurement is a span of time")]
pub(crate) async fn pause(span: Duration) {
    tokio::time::sleep(span).await;
}

/// One piece of work of one caller.
pub(crate) trait AsyncWork<C>: Clone + Send + Sync + 'static {
    /// Does it.
    fn once(&self, caller: &mut C) -> impl Future<Output = ()> + Send;
}
