//! What mails say. A letter is made from its event at the moment it is sent, and stored nowhere: with it goes a token that only the
//! mailbox may have.

use chrono::{DateTime, Utc};
use domain::{GrantId, Role, SecretId, TeamId, UserId};

/// What a mail is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The way to a new password.
    PasswordReset,
    /// The way to show that an address is theirs.
    EmailVerification,
    /// The way into a team.
    Invitation,
    /// They have a new password.
    PasswordChanged,
    /// They have no second factor any more.
    TwoFactorOff,
    /// They may see a secret for a while.
    RevealGranted,
    /// Somebody may see a secret of their team for a while.
    RevealGrantNotice,
}

impl Kind {
    /// In names of files.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::PasswordReset => "password-reset",
            Self::EmailVerification => "verify-email",
            Self::Invitation => "invitation",
            Self::PasswordChanged => "password-changed",
            Self::TwoFactorOff => "two-factor-off",
            Self::RevealGranted => "reveal-granted",
            Self::RevealGrantNotice => "reveal-grant-notice",
        }
    }
}

/// A mail before it has a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) kind: Kind,
    pub(super) to: String,
    pub(super) subject: String,
    pub(super) text: String,
}

/// Leave to see a secret for a while, as letters tell of it. People are named as readers know them.
#[derive(Clone, Debug)]
pub(super) struct Leave {
    pub(super) team: TeamId,
    pub(super) secret: SecretId,
    pub(super) grant: GrantId,
    /// What the secret was called then.
    pub(super) name: String,
    pub(super) grantee: String,
    pub(super) given_by: String,
    pub(super) at: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
    pub(super) reason: String,
    /// Whether it has not ended by now.
    pub(super) is_open: bool,
}

/// Writes letters for one instance.
#[derive(Clone, Debug)]
pub(super) struct Letters {
    /// Where people reach it, without a trailing slash.
    pub(super) public_url: String,
}

fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// Texts that people chose are lines, and are made to be lines whatever was stored.
fn line(text: &str) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    text.chars().map(|c| if breaks(c) { ' ' } else { c }).collect()
}

impl Letters {
    fn link(&self, page: &str, token: &str) -> String {
        format!("{}/{page}?token={token}", self.public_url)
    }

    /// For whoever has no page to open: the same by the API.
    fn call(&self, path: &str, body: &str) -> String {
        format!(
            "Or, without a browser, send the token to the API:\n\n\
             POST {}{path}\nContent-Type: application/json\n\n{body}\n",
            self.public_url
        )
    }

    pub(super) fn password_reset(&self, to: String, token: &str, expires_at: DateTime<Utc>) -> Letter {
        let link = self.link("reset-password", token);
        let call = self.call(
            "/api/auth/password-reset/confirm",
            &format!(r#"{{"token": "{token}", "new_password": "..."}}"#),
        );
        let text = format!(
            "Hello,\n\n\
             somebody, most likely you, asked to choose a new password for your account at\n{url}\n\n\
             To do so, open this address before {until}. It works once.\n\n{link}\n\n{call}\n\
             If it was not you, there is nothing to do: your password stays as it is.\n",
            url = self.public_url,
            until = moment(expires_at),
        );
        Letter { kind: Kind::PasswordReset, to, subject: "Choose a new password".into(), text }
    }

    pub(super) fn email_verification(&self, to: String, token: &str, expires_at: DateTime<Utc>) -> Letter {
        let link = self.link("verify-email", token);
        let call = self.call("/api/auth/verify-email", &format!(r#"{{"token": "{token}"}}"#));
        let text = format!(
            "Hello,\n\n\
             this address was given for an account at\n{url}\n\n\
             To confirm that it is yours, open this address before {until}. It works once.\n\n{link}\n\n{call}\n\
             If you know nothing of it, there is nothing to do.\n",
            url = self.public_url,
            until = moment(expires_at),
        );
        Letter { kind: Kind::EmailVerification, to, subject: "Confirm your e-mail address".into(), text }
    }

    pub(super) fn invitation(
        &self,
        to: String,
        team: &str,
        role: Role,
        token: &str,
        expires_at: DateTime<Utc>,
    ) -> Letter {
        let team = line(team);
        let link = self.link("join", token);
        let call = self.call(
            "/api/auth/register",
            &format!(
                r#"{{"email": "...", "name": "...", "password": "...", "invitation_token": "{token}"}}"#
            ),
        );
        let text = format!(
            "Hello,\n\n\
             you are invited to join the team\n\n    {team}\n\nas {role} at\n{url}\n\n\
             To join, open this address before {until}. It works once, and for this e-mail address only.\n\n{link}\n\n{call}\n\
             If you have an account already, sign in and send it to this call instead:\n\n\
             POST {url}/api/teams/join\nContent-Type: application/json\n\n{{\"invitation_token\": \"{token}\"}}\n\n\
             If you do not want to join, there is nothing to do.\n",
            role = role.as_str(),
            url = self.public_url,
            until = moment(expires_at),
        );
        Letter { kind: Kind::Invitation, to, subject: format!("Join the team {team}"), text }
    }

    pub(super) fn password_changed(&self, to: String, at: DateTime<Utc>, user: UserId) -> Letter {
        let what = "The password of your account was changed, by somebody who was signed in and knew the old one.\n\
                    All sessions were ended.";
        self.notice(Kind::PasswordChanged, to, "Your password was changed", what, at, user)
    }

    pub(super) fn password_was_reset(&self, to: String, at: DateTime<Utc>, user: UserId) -> Letter {
        let what = "The password of your account was changed, by means of a link that was sent to this address.\n\
                    All sessions were ended.";
        self.notice(Kind::PasswordChanged, to, "Your password was changed", what, at, user)
    }

    pub(super) fn two_factor_disabled(&self, to: String, at: DateTime<Utc>, user: UserId) -> Letter {
        let what = "The second factor of your account was switched off, by somebody who was signed in and had a code.";
        self.notice(Kind::TwoFactorOff, to, "Your second factor was switched off", what, at, user)
    }

    pub(super) fn two_factor_was_reset(&self, to: String, at: DateTime<Utc>, user: UserId) -> Letter {
        let what = "The second factor of your account was switched off, by an operator of the instance.\n\
                    All sessions were ended.";
        self.notice(Kind::TwoFactorOff, to, "Your second factor was switched off", what, at, user)
    }

    /// To whoever may see the secret.
    pub(super) fn reveal_granted(&self, to: String, leave: &Leave) -> Letter {
        let text = format!(
            "Hello,\n\n\
             you may see the value of a secret for a while.\n\n{what}\n\
             This is the call:\n\nGET {url}/api/secrets/{secret}/value\nDaybook-Team: {team}\n\n\
             Every reading is recorded, and the owners of the team were told. It ends by itself.\n",
            what = self.told(leave),
            url = self.public_url,
            secret = leave.secret,
            team = leave.team,
        );
        let subject = format!("You may see the secret {}", line(&leave.name));
        Letter { kind: Kind::RevealGranted, to, subject, text }
    }

    /// To whoever owns the team.
    pub(super) fn reveal_grant_notice(&self, to: String, leave: &Leave) -> Letter {
        let calls = format!("{}/api/secrets/{}", self.public_url, leave.secret);
        let end = if leave.is_open {
            format!("It ends by itself. To end it at once:\n\nDELETE {calls}/grants/{}", leave.grant)
        } else {
            format!("It is not open any more. This is who has seen the secret:\n\nGET {calls}/access")
        };
        let text = format!(
            "Hello,\n\n\
             somebody was given leave to see the value of a secret of your team for a while. Every reading is recorded.\n\n{what}\n\
             {end}\nDaybook-Team: {team}\n",
            what = self.told(leave),
            team = leave.team,
        );
        let subject = format!("Leave to see the secret {}", line(&leave.name));
        Letter { kind: Kind::RevealGrantNotice, to, subject, text }
    }

    fn told(&self, leave: &Leave) -> String {
        format!(
            "    secret    {name}\n    who       {grantee}\n    until     {until}\n    because   {reason}\n    \
             given by  {given_by}\n    when      {when}\n    at        {url}\n",
            name = line(&leave.name),
            grantee = line(&leave.grantee),
            until = moment(leave.until),
            reason = line(&leave.reason),
            given_by = line(&leave.given_by),
            when = moment(leave.at),
            url = self.public_url,
        )
    }

    fn notice(
        &self,
        kind: Kind,
        to: String,
        subject: &str,
        what: &str,
        at: DateTime<Utc>,
        user: UserId,
    ) -> Letter {
        let text = format!(
            "Hello,\n\n{what}\n\n    account   {user}\n    at        {url}\n    when      {when}\n\n\
             If it was you, or you asked for it, there is nothing to do. If not, choose a new password at once\n\
             (POST {url}/api/auth/password-reset sends a mail to this address), and tell an administrator.\n",
            url = self.public_url,
            when = moment(at),
        );
        Letter { kind, to, subject: subject.to_owned(), text }
    }
}
