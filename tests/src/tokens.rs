//! Tokens as those have them who got them from Daybook: computed with the instance's own key from what the log says.

use domain::{SessionId, UserId};
use uuid::Uuid;

use crate::{TestApp, eventually};

impl TestApp {
    /// The tokens of the mails to `user` that events of this name asked for, in order, once there are `count` of them.
    pub async fn mail_tokens(&self, event_type: &str, user: UserId, count: usize) -> Vec<String> {
        let mut connection = self.database.connect().await;
        let ids = eventually("the request for a mail", async || {
            let ids: Vec<String> = sqlx::query_scalar(
                "select aggregate_id from events
                 where event_type = $1 and payload->$1->>'user_id' = $2 order by position",
            )
            .bind(event_type)
            .bind(user.to_string())
            .fetch_all(&mut connection)
            .await
            .unwrap();
            (ids.len() >= count).then_some(ids)
        })
        .await;
        let mut tokens = vec![];
        for id in ids {
            tokens.push(self.mail_token(id.parse().unwrap()).await);
        }
        tokens
    }

    /// The token of the mail that the record `id` asked for.
    pub async fn mail_token(&self, id: Uuid) -> String {
        let id = id.simple().to_string();
        let proof = self.ledger.keyed_hash(&["mail token", &id]).await.unwrap();
        format!("dbm_{id}.{proof}")
    }

    /// The refresh token of this generation of a session, whether it was given out or not.
    pub async fn refresh_token(&self, session: SessionId, generation: u32) -> String {
        let (session, generation) = (session.0.simple().to_string(), generation.to_string());
        let proof = self.ledger.keyed_hash(&["refresh token", &session, &generation]).await.unwrap();
        format!("dbr_{session}.{generation}.{proof}")
    }
}
