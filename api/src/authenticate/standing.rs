//! What an answer rests on that goes on for long: looked at again while it does.

use std::sync::Arc;

use domain::{JobId, Permission, TeamId, UserId};
use projections::JobRow;
use uuid::Uuid;

use super::{Identity, active_user, speaking_for};
use crate::app::App;
use crate::credential::Brought;
use crate::problem::Problem;

/// Somebody's right to an answer that has begun.
#[derive(Clone)]
pub struct Standing {
    app: App,
    brought: Brought,
    user_id: UserId,
    team: TeamId,
    permission: Permission,
}

impl Identity {
    /// The caller's right to what `permission` gives in the team they speak for, to be looked at again.
    ///
    /// # Errors
    /// 403 for somebody who is in no team.
    pub fn standing(&self, permission: Permission) -> Result<Standing, Problem> {
        let (app, brought) = (self.app.clone(), self.brought.clone());
        Ok(Standing { app, brought, user_id: self.user_id, team: self.team()?, permission })
    }

    /// Looks again who this is, after they have waited: as at the beginning of a request. What they may do is what they may do now.
    ///
    /// # Errors
    /// What a new request would be refused with.
    pub async fn look_again(&mut self) -> Result<(), Problem> {
        let credential = self.brought.check_again(&self.app).await?;
        self.user = active_user(&self.app, self.user_id).await?;
        let team = self.context.caller.team;
        let speaking = speaking_for(&self.app, team, &self.user, &credential, self.user_id).await?;
        self.context.caller.permissions = speaking.permissions;
        self.withheld = speaking.withheld;
        Ok(())
    }

    /// Who counts where each client has a share of what is there: the person, with all their sessions and API keys. Else somebody with
    /// many keys would have it all.
    #[must_use]
    pub fn client(&self) -> Uuid {
        self.user_id.0
    }
}

impl Standing {
    /// The job as the team's own view has it.
    ///
    /// # Errors
    /// 404 when the team has no such job; 503.
    pub async fn job(&self, id: JobId) -> Result<Arc<JobRow>, Problem> {
        let row = self.app.projections.jobs().of(self.team).get(id).await?;
        row.ok_or_else(|| Problem::not_found().with_code("job_not_found"))
    }

    /// Looks again, as at the beginning of a request: the token has not expired, session or key are still good, so are the account,
    /// the membership and the permission. It asks memory unless something of this has changed.
    ///
    /// # Errors
    /// What a new request would be refused with.
    pub async fn check(&self) -> Result<(), Problem> {
        let credential = self.brought.check_again(&self.app).await?;
        let user = active_user(&self.app, self.user_id).await?;
        let speaking = speaking_for(&self.app, Some(self.team), &user, &credential, self.user_id).await?;
        if speaking.permissions.contains(self.permission) {
            return Ok(());
        }
        Err(Problem::forbidden(format!("The permission {} is missing.", self.permission)))
    }
}
