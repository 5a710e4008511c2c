//! Leave to see a secret for a while: who is told of it, and what.

use std::collections::BTreeSet;
use std::fs;

use chrono::{DateTime, TimeDelta, Utc};
use commands::mail::MailTarget;
use commands::{Context, GrantRequest, NewSecret};
use domain::{
    Description, GrantId, PersonName, Reason, Role, Secret, SecretCommand, SecretEvent, SecretId, SecretName,
    Team, TeamCommand, TeamId, User, UserCommand, UserId,
};
use ledger::{Append, NewEvent, StreamId};
use tests::eventually;
use zeroize::Zeroizing;

use super::post::{PUBLIC_URL, Post, acting, options, to};
use super::server::{MailServer, Received, read_mail};

const VALUE: &str = "canary-4b1d9f";
pub(super) const NAME: &str = "payments/stripe/api-key";

/// A team with two owners and two members, and a secret of theirs.
pub(super) struct Crew {
    pub(super) post: Post,
    pub(super) team: TeamId,
    pub(super) secret: SecretId,
    pub(super) olga: UserId,
    pub(super) oskar: UserId,
    pub(super) grace: UserId,
}

impl Crew {
    pub(super) async fn new() -> Self {
        let post = Post::new().await;
        let mut people = vec![];
        for name in ["olga", "oskar", "grace", "viola"] {
            people.push(post.person(&format!("{name}@example.org")).await);
        }
        let [olga, oskar, grace, viola] = people.try_into().unwrap();
        let team = post.team("crew", olga).await;
        let mut crew = Self { post, team, secret: SecretId(uuid::Uuid::nil()), olga, oskar, grace };
        for (user_id, role) in [(oskar, Role::Owner), (grace, Role::Viewer), (viola, Role::Viewer)] {
            crew.in_team(TeamCommand::AddMember { user_id, role }).await;
        }
        let new = NewSecret {
            name: SecretName::parse(NAME).unwrap(),
            description: Description::parse("").unwrap(),
            tags: vec![],
            expires_at: None,
            max_versions: None,
        };
        let value = Zeroizing::new(VALUE.as_bytes().to_vec());
        let made = crew.post.commands.store_secret(&crew.as_olga(), &new, &value).await.unwrap();
        crew.secret = made.id.parse().unwrap();
        crew
    }

    /// The owner who gives leave.
    pub(super) fn as_olga(&self) -> Context {
        let mut context = acting(self.olga);
        (context.caller.team, context.caller.permissions) = (Some(self.team), Role::Owner.permissions());
        context
    }

    async fn in_team(&self, command: TeamCommand) {
        self.post.commands.execute::<Team>(&self.as_olga(), self.team, None, command).await.unwrap();
    }

    async fn to_secret(&self, command: SecretCommand) {
        self.post.commands.execute::<Secret>(&self.as_olga(), self.secret, None, command).await.unwrap();
    }

    async fn rename(&self, user: UserId, name: &str) {
        let command = UserCommand::Rename { name: PersonName::parse(name).unwrap() };
        self.post.commands.execute::<User>(&acting(user), user, None, command).await.unwrap();
    }

    /// Olga lets somebody see the secret; says at which position.
    pub(super) async fn grant(&self, user_id: UserId, duration: TimeDelta) -> (GrantId, i64) {
        let request = GrantRequest { user_id, duration, reason: Reason::parse("incident №7").unwrap() };
        let made = self.post.commands.grant_reveal(&self.as_olga(), self.secret, request).await.unwrap();
        (made.id, made.done.position.unwrap())
    }

    fn calls(&self) -> String {
        format!("{PUBLIC_URL}/api/secrets/{}", self.secret)
    }
}

/// The mail to this person, which is the only one to them.
pub(super) fn mail_to(inbox: &[Received], name: &str) -> Received {
    let to = format!("<{name}@example.org>");
    let theirs: Vec<_> = inbox.iter().filter(|mail| mail.envelope["to"] == serde_json::json!([to])).collect();
    let [mail] = theirs[..] else { panic!("{} mails to {to}: {inbox:?}", theirs.len()) };
    mail.clone()
}

fn says(mail: &Received, what: &[&str]) {
    for what in what {
        assert!(mail.text.contains(what), "{what}\n\n{}", mail.text);
    }
}

/// Everything that is sent while all of it is done, and another mail after it.
async fn sent(crew: &Crew, done: impl AsyncFnOnce(&Crew)) -> Vec<Received> {
    let server = MailServer::plain();
    let mailer = crew.post.start(to(&server.url()));
    done(crew).await;
    let last = crew.post.ask("last@example.org").await;
    crew.post.becomes(last, "sent").await;
    mailer.stop().await;
    let mut inbox = server.inbox();
    inbox.retain(|mail| mail.envelope["to"][0] != "<last@example.org>");
    inbox
}

#[tokio::test]
async fn the_person_and_every_owner_are_told_and_nobody_else() {
    let crew = Crew::new().await;
    crew.rename(crew.grace, "Grace Høpper").await;
    let (grant, position) = crew.grant(crew.grace, TimeDelta::minutes(60)).await;
    let until = (Utc::now() + TimeDelta::minutes(60)).format("%Y-%m-%d").to_string();
    let inbox = sent(&crew, async |crew| {
        for user in [crew.grace, crew.olga, crew.oskar] {
            crew.post.becomes_for(position, user, "sent").await;
        }
    })
    .await;
    assert_eq!(inbox.len(), 3, "{inbox:?}");
    let (team, calls) = (format!("\nDaybook-Team: {}\n", crew.team), crew.calls());
    let facts = [
        format!("    secret    {NAME}\n"),
        format!("    who       Grace Høpper ({})\n", crew.grace),
        format!("    given by  Somebody ({})\n", crew.olga),
        format!("    until     {until}"),
        "    because   incident №7\n".to_owned(),
        team,
    ];
    for mail in &inbox {
        says(mail, &facts.each_ref().map(String::as_str));
        assert!(!mail.text.contains(VALUE) && !mail.headers.contains(VALUE), "{}", mail.text);
    }
    let person = mail_to(&inbox, "grace");
    assert!(person.headers.contains(&format!("Subject: You may see the secret {NAME}\r\n")));
    says(&person, &[&format!("\nGET {calls}/value\n"), "Every reading is recorded"]);
    assert!(!person.text.contains("DELETE"), "{}", person.text);
    for owner in ["olga", "oskar"] {
        let mail = mail_to(&inbox, owner);
        assert!(mail.headers.contains(&format!("Subject: Leave to see the secret {NAME}\r\n")));
        says(&mail, &[&format!("\nDELETE {calls}/grants/{grant}\n"), "Every reading is recorded"]);
    }
}

#[tokio::test]
async fn an_owner_who_may_see_it_anyway_gets_one_mail_and_so_do_the_others() {
    let crew = Crew::new().await;
    let (_, to_another) = crew.grant(crew.oskar, TimeDelta::minutes(5)).await;
    let inbox = sent(&crew, async |crew| {
        crew.post.becomes_for(to_another, crew.oskar, "sent").await;
        crew.post.becomes_for(to_another, crew.olga, "sent").await;
    })
    .await;
    assert_eq!(inbox.len(), 2, "{inbox:?}");
    says(&mail_to(&inbox, "oskar"), &["you may see the value"]);
    says(&mail_to(&inbox, "olga"), &["somebody was given leave"]);
}

/// What was granted is ended by `ending` before any mail is sent.
async fn ended(duration: TimeDelta, reason: &str, ending: impl AsyncFnOnce(&Crew, GrantId)) {
    let crew = Crew::new().await;
    let (grant, position) = crew.grant(crew.grace, duration).await;
    ending(&crew, grant).await;
    let inbox = sent(&crew, async |crew| {
        assert_eq!(crew.post.becomes_for(position, crew.grace, "skipped").await.reason(), reason);
        for owner in [crew.olga, crew.oskar] {
            crew.post.becomes_for(position, owner, "sent").await;
        }
    })
    .await;
    assert_eq!(inbox.len(), 2, "{inbox:?}");
    for owner in ["olga", "oskar"] {
        let mail = mail_to(&inbox, owner);
        says(&mail, &["It is not open any more.", &format!("\nGET {}/access\n", crew.calls()), NAME]);
        assert!(!mail.text.contains("DELETE"), "{}", mail.text);
    }
}

const ENDED: &str = "the grant was ended, the secret put away, or the person has left the team";

#[tokio::test]
async fn of_what_was_ended_only_owners_are_told() {
    ended(TimeDelta::minutes(9), ENDED, async |crew, id| {
        crew.to_secret(SecretCommand::WithdrawGrant { id }).await;
    })
    .await;
    ended(TimeDelta::minutes(9), ENDED, async |crew, _| crew.to_secret(SecretCommand::Delete).await).await;
    ended(TimeDelta::minutes(9), ENDED, async |crew, _| {
        crew.in_team(TeamCommand::RemoveMember { user_id: crew.grace }).await;
    })
    .await;
}

#[tokio::test]
async fn of_what_ended_by_itself_only_owners_are_told() {
    ended(TimeDelta::milliseconds(1), "it has expired", async |_, _| {
        let over = Utc::now() + TimeDelta::milliseconds(1);
        eventually("its time is over", async || (Utc::now() > over).then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn an_owner_is_told_of_their_own_leave_also_when_it_was_ended() {
    let crew = Crew::new().await;
    let (id, position) = crew.grant(crew.oskar, TimeDelta::minutes(5)).await;
    crew.to_secret(SecretCommand::WithdrawGrant { id }).await;
    let inbox = sent(&crew, async |crew| {
        for owner in [crew.olga, crew.oskar] {
            crew.post.becomes_for(position, owner, "sent").await;
        }
    })
    .await;
    assert_eq!(inbox.len(), 2, "{inbox:?}");
    says(&mail_to(&inbox, "oskar"), &["somebody was given leave", "It is not open any more."]);
}

#[tokio::test]
async fn an_owner_who_was_erased_gets_none_and_the_others_do() {
    let crew = Crew::new().await;
    let (_, position) = crew.grant(crew.grace, TimeDelta::minutes(5)).await;
    crew.post.ledger.destroy_subjects(&[crew.olga.to_string()]).await.unwrap();
    let inbox = sent(&crew, async |crew| {
        let mail = crew.post.becomes_for(position, crew.olga, "skipped").await;
        assert_eq!(mail.reason(), "the recipient was erased");
        for user in [crew.grace, crew.oskar] {
            crew.post.becomes_for(position, user, "sent").await;
        }
    })
    .await;
    assert_eq!(inbox.len(), 2, "{inbox:?}");
    // Who gave it has no name any more.
    says(&mail_to(&inbox, "oskar"), &[&format!("    given by  {}\n", crew.olga)]);
}

#[tokio::test]
async fn who_is_an_owner_no_more_was_one_when_it_was_given_and_is_told() {
    let crew = Crew::new().await;
    // The first mailer queues, and sends to nobody.
    let down = crew.post.start(to("smtp://127.0.0.1:9"));
    let (_, position) = crew.grant(crew.grace, TimeDelta::minutes(5)).await;
    crew.post.becomes_for(position, crew.oskar, "queued").await;
    down.stop().await;
    let demoted = TeamCommand::ChangeRole { user_id: crew.oskar, role: Role::Viewer };
    crew.in_team(demoted).await;
    let inbox = sent(&crew, async |crew| {
        crew.post.becomes_for(position, crew.oskar, "sent").await;
        crew.post.becomes_for(position, crew.olga, "sent").await;
        crew.post.becomes_for(position, crew.grace, "sent").await;
    })
    .await;
    assert_eq!(inbox.len(), 3, "{inbox:?}");
}

/// A grant as nobody can give one: with a reason of several lines.
async fn strange_grant(crew: &Crew) -> i64 {
    let stream = StreamId::new("secret", crew.secret);
    let now: DateTime<Utc> = Utc::now();
    let event = SecretEvent::RevealGranted {
        grant_id: GrantId(uuid::Uuid::now_v7()),
        user_id: crew.grace,
        granted_at: now,
        until: now + TimeDelta::minutes(5),
        reason: "x\r\n\nDELETE everything\u{2028}\u{0}y".into(),
        name: "a\r\nBcc: eve@example.org\r\n\r\nb".into(),
    };
    let event = NewEvent {
        sequence: crew.post.ledger.stream_length(&stream).await.unwrap() + 1,
        stream,
        event_type: "RevealGranted".into(),
        event_version: "1".into(),
        payload: serde_json::to_value(event).unwrap().into(),
    };
    let [made] = crew.post.ledger.read(0, 1).await.unwrap().try_into().unwrap();
    let mut metadata = made.metadata;
    (metadata.actor, metadata.team_id) = (format!("user:{}", crew.olga), Some(crew.team.to_string()));
    (metadata.subject, metadata.ip, metadata.user_agent) = (None, None, None);
    let append = Append { events: vec![event], metadata, data_keys: vec![] };
    crew.post.ledger.append(append).await.unwrap();
    crew.post.ledger.head().await.unwrap()
}

#[tokio::test]
async fn what_people_wrote_is_one_line_whatever_was_stored() {
    let crew = Crew::new().await;
    let mut position = 0;
    let inbox = sent(&crew, async |crew| {
        position = strange_grant(crew).await;
        for user in [crew.grace, crew.olga, crew.oskar] {
            crew.post.becomes_for(position, user, "sent").await;
        }
    })
    .await;
    for mail in &inbox {
        says(
            mail,
            &["    because   x   DELETE everything  y\n", "    secret    a  Bcc: eve@example.org    b\n"],
        );
        assert!(!mail.headers.lines().any(|line| line.starts_with("Bcc")), "{}", mail.headers);
    }
    assert_eq!(inbox.len(), 3);
}

#[tokio::test]
async fn as_files_each_has_a_name_of_its_own() {
    let crew = Crew::new().await;
    let folder = tempfile::tempdir().unwrap();
    let mailer = crew.post.start(options(MailTarget::Folder(folder.path().to_owned())));
    let (_, position) = crew.grant(crew.grace, TimeDelta::minutes(5)).await;
    for user in [crew.grace, crew.olga, crew.oskar] {
        crew.post.becomes_for(position, user, "sent").await;
    }
    mailer.stop().await;
    let names: BTreeSet<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = [
        format!("{position}-reveal-granted-{}.eml", crew.grace),
        format!("{position}-reveal-grant-notice-{}.eml", crew.olga),
        format!("{position}-reveal-grant-notice-{}.eml", crew.oskar),
    ];
    assert_eq!(names, expected.into());
    for (user, email) in [(crew.olga, "olga@example.org"), (crew.oskar, "oskar@example.org")] {
        let file = folder.path().join(format!("{position}-reveal-grant-notice-{user}.eml"));
        let (headers, text) = read_mail(&fs::read_to_string(file).unwrap());
        assert!(headers.contains(&format!("To: {email}\r\n")), "{headers}");
        assert!(text.contains(NAME) && !text.contains(VALUE), "{text}");
    }
}
