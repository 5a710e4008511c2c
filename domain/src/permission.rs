//! The permission table as data: which role may do what.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal, scope $scope:literal;)*) => {
        /// One thing that may be allowed. Those marked as scopes can be given to an API key.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Permission {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Permission {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name used in scopes, problems and the audit trail.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether an API key may carry it.
            #[must_use]
            pub fn is_scope(self) -> bool {
                match self { $(Self::$name => $scope,)* }
            }
        }
    };
}

permissions! {
    /// See which secrets there are: their names.
    SecretsList = "secrets:list", scope true;
    /// See secrets' metadata and versions, never values. Brings the list along.
    SecretsRead = "secrets:read", scope true;
    /// Store, change and delete secrets.
    SecretsWrite = "secrets:write", scope true;
    /// Read a secret's value; recorded.
    SecretsReveal = "secrets:reveal", scope true;
    /// Have a secret's value while running, without showing it to anybody; recorded. A job's own.
    SecretsUse = "secrets:use", scope false;
    /// See jobs and their logs.
    JobsRead = "jobs:read", scope true;
    /// Queue and cancel jobs.
    JobsRun = "jobs:run", scope true;
    /// Read the audit trail of the team.
    AuditRead = "audit:read", scope true;
    /// See the team and its members.
    TeamRead = "team:read", scope true;
    /// Change the team and its members.
    TeamWrite = "team:write", scope true;
    /// Read the audit trail of the whole instance.
    AuditInstance = "audit:instance", scope false;
    /// See, change and erase users.
    UsersManage = "users:manage", scope false;
    /// Make an account without being asked who one is (open registration, the command line).
    UsersRegister = "users:register", scope false;
    /// Make teams.
    TeamsMake = "teams:make", scope false;
    /// See and rebuild views.
    ViewsManage = "views:manage", scope false;
    /// Drain workers.
    WorkersManage = "workers:manage", scope false;
    /// Start and finish jobs: workers only.
    JobsWork = "jobs:work", scope false;
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A member's part in a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, members included.
    Owner,
    /// Secrets and jobs.
    Operator,
    /// Metadata and logs, no values.
    Viewer,
    /// The audit trail only, everything of it.
    Auditor,
}

impl Role {
    /// The name used in the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
        }
    }

    /// What the role allows within its team.
    #[must_use]
    pub fn permissions(self) -> Permissions {
        ROLE_TABLE
            .iter()
            .filter(|(role, _)| *role == self)
            .flat_map(|(_, permissions)| permissions.iter().copied())
            .collect()
    }
}

use Permission::{
    AuditInstance, AuditRead, JobsRead, JobsRun, JobsWork, SecretsList, SecretsRead, SecretsReveal,
    SecretsUse, SecretsWrite, TeamRead, TeamWrite, TeamsMake, UsersManage, UsersRegister, ViewsManage,
    WorkersManage,
};

/// What each role allows within its team.
pub const ROLE_TABLE: &[(Role, &[Permission])] = &[
    (
        Role::Owner,
        &[
            SecretsList,
            SecretsRead,
            SecretsWrite,
            SecretsReveal,
            JobsRead,
            JobsRun,
            AuditRead,
            TeamRead,
            TeamWrite,
        ],
    ),
    (Role::Operator, &[SecretsList, SecretsRead, SecretsWrite, SecretsReveal, JobsRead, JobsRun, TeamRead]),
    (Role::Viewer, &[SecretsList, SecretsRead, JobsRead, TeamRead]),
    (Role::Auditor, &[AuditRead]),
];

/// What an instance admin may do besides what the team roles give: nothing here reveals a secret.
const ADMIN: &[Permission] = &[AuditInstance, UsersManage, TeamsMake, ViewsManage, WorkersManage];

/// A set of permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u32);

impl Permissions {
    /// What an instance admin may do besides the team roles.
    #[must_use]
    pub fn admin() -> Self {
        ADMIN.iter().copied().collect()
    }

    /// What the system itself may do: queue jobs when they are scheduled, run them, make the first accounts and teams, and what an operator at its command line
    /// asks for.
    #[must_use]
    pub fn system() -> Self {
        [JobsRun, JobsWork, UsersManage, UsersRegister, TeamsMake].into_iter().collect()
    }

    /// What a job may do while it runs.
    #[must_use]
    pub fn job() -> Self {
        [SecretsUse].into_iter().collect()
    }

    /// What a schedule may do when its time has come: make the job that was asked for.
    #[must_use]
    pub fn schedule() -> Self {
        [JobsRun, JobsWork].into_iter().collect()
    }

    /// What an API key of these scopes may do, as far as its maker may.
    #[must_use]
    pub fn of_scopes(scopes: impl IntoIterator<Item = Permission>) -> Self {
        let given: Self = scopes.into_iter().collect();
        let listed = given.contains(SecretsRead).then_some(SecretsList);
        given.union(listed.into_iter().collect())
    }

    /// What someone who registers may do: make an account and the team that comes with it.
    #[must_use]
    pub fn registration() -> Self {
        [UsersRegister, TeamsMake].into_iter().collect()
    }

    /// Whether `permission` is in the set.
    #[must_use]
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & bit(permission) != 0
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether everything in this set is in `other`.
    #[must_use]
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Both sets together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<T: IntoIterator<Item = Permission>>(permissions: T) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | bit(permission)))
    }
}

fn bit(permission: Permission) -> u32 {
    1 << permission as u32
}

/// The whole table as text, one line a permission, for the golden file and for documentation.
#[must_use]
pub fn permission_matrix() -> String {
    let columns = [
        ("owner", Role::Owner.permissions()),
        ("operator", Role::Operator.permissions()),
        ("viewer", Role::Viewer.permissions()),
        ("auditor", Role::Auditor.permissions()),
        ("admin", Permissions::admin()),
        ("job", Permissions::job()),
        ("system", Permissions::system()),
    ];
    let mut text = format!("{:<16}", "permission");
    for (name, _) in columns {
        let _ = write!(text, "{name:<10}");
    }
    for permission in Permission::ALL {
        text.truncate(text.trim_end().len());
        let _ = write!(text, "\n{:<16}", permission.as_str());
        for (_, granted) in columns {
            let _ = write!(text, "{:<10}", if granted.contains(*permission) { "yes" } else { "-" });
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_in_the_table_once() {
        for role in [Role::Owner, Role::Operator, Role::Viewer, Role::Auditor] {
            assert_eq!(ROLE_TABLE.iter().filter(|(r, _)| *r == role).count(), 1);
        }
    }

    #[test]
    fn being_admin_reveals_no_secret() {
        assert!(!Permissions::admin().contains(SecretsReveal));
        assert!(!Permissions::admin().contains(SecretsRead));
    }

    #[test]
    fn only_owners_change_members_and_only_auditors_and_owners_audit() {
        for (role, permissions) in ROLE_TABLE {
            assert_eq!(permissions.contains(&TeamWrite), *role == Role::Owner);
            assert_eq!(permissions.contains(&AuditRead), matches!(role, Role::Owner | Role::Auditor));
        }
    }

    #[test]
    fn team_roles_give_nothing_of_the_instance() {
        for (_, permissions) in ROLE_TABLE {
            assert!(permissions.iter().all(|p| p.is_scope()));
        }
    }

    #[test]
    fn sets_are_what_was_put_into_them() {
        let all: Permissions = Permission::ALL.iter().copied().collect();
        for (place, permission) in Permission::ALL.iter().enumerate() {
            let one: Permissions = [*permission, *permission].into_iter().collect();
            for (other_place, other) in Permission::ALL.iter().enumerate() {
                assert_eq!(one.contains(*other), place == other_place, "{permission} {other}");
            }
            assert!(all.contains(*permission) && !Permissions::default().contains(*permission));
        }
    }

    #[test]
    fn sets_are_cut_joined_and_compared() {
        let set = |permissions: &[Permission]| permissions.iter().copied().collect::<Permissions>();
        let (left, right) = (set(&[SecretsRead, JobsRead]), set(&[JobsRead, JobsWork]));
        assert_eq!(left.intersection(right), set(&[JobsRead]));
        assert_eq!(left.union(right), set(&[SecretsRead, JobsRead, JobsWork]));
        assert_eq!(left.intersection(Permissions::default()), Permissions::default());
        assert_eq!(left.union(Permissions::default()), left);
        assert!(set(&[JobsRead]).is_within(left) && left.is_within(left));
        assert!(!left.is_within(right) && !right.is_within(left));
        assert!(Permissions::default().is_within(Permissions::default()));
        assert!(!left.is_within(Permissions::default()));
    }

    #[test]
    fn registering_makes_accounts_and_teams_and_nothing_else() {
        let made: Permissions = [UsersRegister, TeamsMake].into_iter().collect();
        assert_eq!(Permissions::registration(), made);
        assert!(made.is_within(Permissions::system()));
    }

    #[test]
    fn every_name_is_one_permissions_and_scopes_are_what_teams_give() {
        for permission in Permission::ALL {
            let named = Permission::ALL.iter().filter(|other| other.as_str() == permission.as_str());
            assert_eq!(named.count(), 1, "{permission}");
            let given = ROLE_TABLE.iter().any(|(_, permissions)| permissions.contains(permission));
            assert_eq!(permission.is_scope(), given, "{permission}");
            let stored = serde_json::to_string(permission).ok();
            assert_eq!(stored, Some(format!("\"{permission}\"")));
        }
    }
}
