//! The table: every operation, and what becomes of it for whom.

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Is {
    /// 2xx.
    Ok,
    /// 403.
    Forbidden,
    /// 404: it belongs to another team.
    Hidden,
}

use Is::{Forbidden as No, Hidden, Ok as Yes};

/// Who asks. The admin and the last one speak for teams of their own, and ask for what belongs to the team of the others.
pub(super) const EVERYBODY: [&str; 6] = ["owner", "operator", "viewer", "auditor", "admin", "other_team"];

/// Anybody may ask, signed in or not.
const PUBLIC: [Is; 6] = [Yes; 6];
/// Whoever is signed in: what is asked for is one's own.
const SIGNED_IN: [Is; 6] = [Yes; 6];
const READ_LIST: [Is; 6] = [Yes, Yes, Yes, No, Yes, Yes];
const READ_ONE: [Is; 6] = [Yes, Yes, Yes, No, Hidden, Hidden];
const READ_OR_AUDIT_ONE: [Is; 6] = [Yes, Yes, Yes, Yes, Hidden, Hidden];
const MAKE: [Is; 6] = [Yes, Yes, No, No, Yes, Yes];
const CHANGE_ONE: [Is; 6] = [Yes, Yes, No, No, Hidden, Hidden];
const AUDIT_LIST: [Is; 6] = [Yes, No, No, Yes, Yes, Yes];
const AUDIT_ONE: [Is; 6] = [Yes, No, No, Yes, Yes, Hidden];
/// What owners do with their team.
const OWNER: [Is; 6] = [Yes, No, No, No, Yes, Yes];
/// What owners do with somebody or something in their team.
const OWNER_ONE: [Is; 6] = [Yes, No, No, No, Hidden, Hidden];
const ADMIN: [Is; 6] = [No, No, No, No, Yes, No];

/// Every operation: method, path, whether it is public, and what becomes of it for each of [`EVERYBODY`].
pub(super) const OPERATIONS: &[(&str, &str, bool, [Is; 6])] = &[
    ("POST", "/api/auth/register", true, PUBLIC),
    ("POST", "/api/auth/login", true, PUBLIC),
    ("POST", "/api/auth/refresh", true, PUBLIC),
    ("POST", "/api/auth/logout", false, SIGNED_IN),
    ("POST", "/api/auth/logout-all", false, SIGNED_IN),
    ("GET", "/api/auth/me", false, SIGNED_IN),
    ("PATCH", "/api/auth/me", false, SIGNED_IN),
    ("POST", "/api/auth/ws-ticket", false, SIGNED_IN),
    ("POST", "/api/auth/password", false, SIGNED_IN),
    ("POST", "/api/auth/password-reset", true, PUBLIC),
    ("POST", "/api/auth/password-reset/confirm", true, PUBLIC),
    ("POST", "/api/auth/verify-email", true, PUBLIC),
    ("POST", "/api/auth/verify-email/resend", false, SIGNED_IN),
    ("POST", "/api/auth/2fa", false, SIGNED_IN),
    ("POST", "/api/auth/2fa/confirm", false, SIGNED_IN),
    ("DELETE", "/api/auth/2fa", false, SIGNED_IN),
    ("GET", "/api/auth/sessions", false, SIGNED_IN),
    ("DELETE", "/api/auth/sessions/{id}", false, SIGNED_IN),
    ("POST", "/api/auth/api-keys", false, SIGNED_IN),
    ("GET", "/api/auth/api-keys", false, SIGNED_IN),
    ("DELETE", "/api/auth/api-keys/{id}", false, SIGNED_IN),
    ("GET", "/api/auth/users/{id}", false, ADMIN),
    ("GET", "/api/users", false, ADMIN),
    ("GET", "/api/users/{id}", false, ADMIN),
    ("PATCH", "/api/users/{id}", false, ADMIN),
    ("POST", "/api/users/{id}/erase", false, ADMIN),
    ("GET", "/api/team", false, READ_LIST),
    ("PATCH", "/api/team", false, OWNER),
    ("PATCH", "/api/team/members/{user_id}", false, OWNER_ONE),
    ("DELETE", "/api/team/members/{user_id}", false, OWNER_ONE),
    ("POST", "/api/team/invitations", false, OWNER),
    ("GET", "/api/team/invitations", false, OWNER),
    ("DELETE", "/api/team/invitations/{id}", false, OWNER_ONE),
    ("GET", "/api/teams", false, SIGNED_IN),
    ("POST", "/api/teams", false, ADMIN),
    ("POST", "/api/teams/join", false, SIGNED_IN),
    ("POST", "/api/secrets", false, MAKE),
    ("GET", "/api/secrets", false, READ_LIST),
    ("GET", "/api/secrets/changes", false, READ_LIST),
    ("GET", "/api/secrets/{id}", false, READ_ONE),
    ("PATCH", "/api/secrets/{id}", false, CHANGE_ONE),
    ("DELETE", "/api/secrets/{id}", false, CHANGE_ONE),
    ("POST", "/api/secrets/{id}/restore", false, CHANGE_ONE),
    ("POST", "/api/secrets/{id}/destroy", false, CHANGE_ONE),
    ("GET", "/api/secrets/{id}/value", false, CHANGE_ONE),
    ("PUT", "/api/secrets/{id}/value", false, CHANGE_ONE),
    ("GET", "/api/secrets/{id}/versions", false, READ_ONE),
    ("GET", "/api/secrets/{id}/access", false, READ_OR_AUDIT_ONE),
    ("POST", "/api/secrets/{id}/grants", false, OWNER_ONE),
    ("GET", "/api/secrets/{id}/grants", false, READ_ONE),
    ("DELETE", "/api/secrets/{id}/grants/{grant_id}", false, OWNER_ONE),
    ("GET", "/api/jobs/kinds", false, READ_LIST),
    ("POST", "/api/jobs", false, MAKE),
    ("GET", "/api/jobs", false, READ_LIST),
    ("GET", "/api/jobs/{id}", false, READ_ONE),
    ("POST", "/api/jobs/batch", false, MAKE),
    ("POST", "/api/jobs/bulk", false, MAKE),
    ("POST", "/api/jobs/pause", false, MAKE),
    ("POST", "/api/jobs/resume", false, MAKE),
    ("GET", "/api/jobs/pauses", false, READ_LIST),
    ("POST", "/api/jobs/{id}/cancel", false, CHANGE_ONE),
    ("POST", "/api/jobs/{id}/retry", false, CHANGE_ONE),
    ("GET", "/api/jobs/{id}/attempts", false, READ_ONE),
    ("GET", "/api/workers", false, READ_LIST),
    ("POST", "/api/workers/{name}/drain", false, ADMIN),
    ("POST", "/api/workers/{name}/resume", false, ADMIN),
    ("GET", "/api/jobs/logs", false, READ_LIST),
    ("GET", "/api/jobs/{id}/logs", false, READ_ONE),
    ("GET", "/api/jobs/{id}/artifacts", false, READ_ONE),
    ("GET", "/api/jobs/{id}/artifacts/{name}", false, READ_ONE),
    ("GET", "/api/reports/jobs", false, READ_LIST),
    ("GET", "/api/reports/jobs/{id}", false, READ_ONE),
    ("GET", "/api/reports/activity", false, AUDIT_LIST),
    ("POST", "/api/schedules", false, MAKE),
    ("GET", "/api/schedules", false, READ_LIST),
    ("GET", "/api/schedules/{id}", false, READ_ONE),
    ("PATCH", "/api/schedules/{id}", false, CHANGE_ONE),
    ("DELETE", "/api/schedules/{id}", false, CHANGE_ONE),
    ("GET", "/api/schedules/{id}/preview", false, READ_ONE),
    ("GET", "/api/audit/events", false, AUDIT_LIST),
    ("GET", "/api/audit/secret-access", false, AUDIT_LIST),
    ("GET", "/api/audit/{aggregate_type}/{id}/history", false, AUDIT_ONE),
    ("GET", "/api/audit/{aggregate_type}/{id}/state", false, AUDIT_ONE),
    ("GET", "/api/projections", false, ADMIN),
    ("POST", "/api/projections/{name}/rebuild", false, ADMIN),
    ("POST", "/api/effects/release", false, ADMIN),
    ("GET", "/api/health", true, PUBLIC),
    ("GET", "/livez", true, PUBLIC),
    ("GET", "/readyz", true, PUBLIC),
    ("GET", "/metrics", true, PUBLIC),
];
