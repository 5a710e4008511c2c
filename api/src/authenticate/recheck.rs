//! A process that was stopped in the middle of a request does not know what happened meanwhile: before it gives an answer away that
//! took long, it looks again who is asking.

use std::cell::RefCell;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use domain::{Caller, Permissions, TeamId, UserId};
use ledger::uptime;
use projections::FRESH_FOR;

use super::{active_user, speaking_for};
use crate::app::App;
use crate::credential::Brought;
use crate::problem::Problem;

tokio::task_local! {
    /// Who is asking, once that is known.
    static ALLOWED: RefCell<Option<Allowed>>;
}

/// What a request was allowed on, and when that was looked at.
struct Allowed {
    app: App,
    brought: Brought,
    user_id: UserId,
    team: Option<TeamId>,
    permissions: Permissions,
    at: Duration,
}

impl Allowed {
    fn is_old(&self) -> bool {
        uptime().saturating_sub(self.at) >= FRESH_FOR
    }

    async fn check(&self) -> Result<(), Problem> {
        let credential = self.brought.check_again(&self.app).await?;
        let user = active_user(&self.app, self.user_id).await?;
        let speaking = speaking_for(&self.app, self.team, &user, &credential, self.user_id).await?;
        if self.permissions.intersection(speaking.permissions) == self.permissions {
            return Ok(());
        }
        Err(Problem::forbidden("What you may do has changed while this was under way. Ask again."))
    }
}

/// Notes who is asking and what they may do, for [`recheck`].
pub(super) fn note(app: &App, brought: &Brought, caller: &Caller, user_id: UserId) {
    let _ = ALLOWED.try_with(|allowed| {
        let (app, brought) = (app.clone(), brought.clone());
        let (team, permissions, at) = (caller.team, caller.permissions, uptime());
        allowed.replace(Some(Allowed { app, brought, user_id, team, permissions, at }));
    });
}

/// Runs a request, and refuses the answer to one that `reads` and took long if its caller would be refused by now. What a write has done
/// is done.
pub(crate) async fn recheck(reads: bool, request: impl Future<Output = Response>) -> Response {
    let answered = async {
        let response = request.await;
        let allowed = ALLOWED.with(|allowed| allowed.take());
        match allowed.filter(|allowed| reads && response.status().is_success() && allowed.is_old()) {
            Some(allowed) => match allowed.check().await {
                Ok(()) => response,
                Err(problem) => problem.into_response(),
            },
            None => response,
        }
    };
    ALLOWED.scope(RefCell::new(None), answered).await
}
