//! How much happened: the trail counted by day, actor and type.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::Audit;
use crate::confined::Whose;
use crate::error::ReadError;
use crate::table_names::sql;
use crate::team_reader::TeamReader;

/// Events counted at most; the latest ones.
const MOST_COUNTED: i64 = 500_000;
/// Actors of a day at most.
const MOST_ACTORS: usize = 100;

/// By the trail's own index; what is in a group is counted where it is.
const COUNT: &str = "
with counted as (
    select left(row->>'at', 10) as day, actor, aggregate_type, event_type from {audit}
    where position > $1 and position <= $2 and ($3::text is null or team_id = $3)
    order by position desc limit $4)
select day, actor, aggregate_type, event_type, count(*) from counted group by 1, 2, 3, 4";

/// Which events are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivityFilter {
    /// Recorded at or after this moment.
    pub from: DateTime<Utc>,
    /// Recorded before this moment.
    pub to: DateTime<Utc>,
    /// Before this position.
    pub before: i64,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The days on which something happened, oldest first.
    pub days: Vec<ActivityDay>,
    /// Whether everything was counted.
    pub complete: bool,
}

/// What happened on a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivityDay {
    /// Which, such as `2026-03-01`.
    pub day: String,
    /// Events.
    pub events: u64,
    /// Who did how much, the busiest first: a hundred at most.
    pub by_actor: Vec<(String, u64)>,
    /// Aggregate type and event type, and how often, the most frequent first.
    pub by_type: Vec<((String, String), u64)>,
}

/// Day, actor, aggregate type, event type, count.
type Counted = (String, String, String, String, i64);

impl TeamReader<'_, Audit> {
    /// How much happened in the team, or in the whole instance.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn activity(&self, filter: &ActivityFilter) -> Result<Activity, ReadError> {
        let place = |moment: DateTime<Utc>| {
            let before = moment.checked_sub_signed(TimeDelta::microseconds(1)).unwrap_or(moment);
            self.ledger.position_at(before)
        };
        let (after, up_to) = (place(filter.from).await?, place(filter.to).await?.min(filter.before - 1));
        let team = match self.whose {
            Whose::Team(team) => Some(team.to_string()),
            Whose::Instance => None,
        };
        let mut connection = self.connection().await?;
        let query = sqlx::query_as(sql(COUNT)).bind(after).bind(up_to).bind(team).bind(MOST_COUNTED + 1);
        let counted: Vec<Counted> = query.fetch_all(&mut *connection).await?;
        let all: i64 = counted.iter().map(|(.., count)| count).sum();
        Ok(Activity { days: days(counted), complete: all <= MOST_COUNTED })
    }
}

/// Counts of a day: by actor, and by aggregate type and event type.
type Counts = (BTreeMap<String, u64>, BTreeMap<(String, String), u64>);

fn days(counted: Vec<Counted>) -> Vec<ActivityDay> {
    let mut days: BTreeMap<String, Counts> = BTreeMap::new();
    for (day, actor, aggregate_type, event_type, count) in counted {
        let (actors, types) = days.entry(day).or_default();
        *actors.entry(actor).or_default() += count.cast_unsigned();
        *types.entry((aggregate_type, event_type)).or_default() += count.cast_unsigned();
    }
    let day = |(day, (actors, types)): (String, Counts)| {
        let events = types.values().sum();
        let mut by_actor = most_first(actors);
        by_actor.truncate(MOST_ACTORS);
        ActivityDay { day, events, by_actor, by_type: most_first(types) }
    };
    days.into_iter().map(day).collect()
}

/// Equal ones in the order of their names.
fn most_first<K>(counts: BTreeMap<K, u64>) -> Vec<(K, u64)> {
    let mut all: Vec<(K, u64)> = counts.into_iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_by_day_and_the_most_come_first() {
        let count = |day: &str, actor: &str, event: &str, count| -> Counted {
            (day.into(), actor.into(), "job".into(), event.into(), count)
        };
        let counted = vec![
            count("2026-03-02", "user:a", "JobQueued", 2),
            count("2026-03-01", "user:a", "JobQueued", 1),
            count("2026-03-02", "system", "JobStarted", 4),
            count("2026-03-02", "user:a", "JobStarted", 1),
        ];
        let found = days(counted);
        assert_eq!(
            found.iter().map(|day| (day.day.as_str(), day.events)).collect::<Vec<_>>(),
            [("2026-03-01", 1), ("2026-03-02", 7)]
        );
        assert_eq!(found[1].by_actor, [("system".into(), 4), ("user:a".into(), 3)]);
        assert_eq!(
            found[1].by_type,
            [(("job".into(), "JobStarted".into()), 5), (("job".into(), "JobQueued".into()), 2)]
        );
    }

    #[test]
    fn a_day_names_a_hundred_actors_and_counts_all() {
        let counted = (0..150).map(|n| {
            ("2026-03-01".to_owned(), format!("user:{n:03}"), "user".to_owned(), "SignedIn".to_owned(), 1)
        });
        let found = days(counted.collect());
        assert_eq!((found[0].by_actor.len(), found[0].events), (100, 150));
    }
}
