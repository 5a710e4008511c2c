//! People made for one test, each with an account, an address and a session of their own.

use api::tokens::Claims;
use chrono::Utc;
use commands::{About, Context, FirstTeam, NewAccount, NewPassword, Password, StoredHash};
use domain::{Actor, Email, PersonName, Role, Team, TeamCommand, TeamId, UserId};
use tests::{Client, PASSWORD, TestApp};
use tokio::sync::OnceCell;

/// Somebody who was not there before, signed in.
pub(crate) struct Newcomer {
    pub(crate) id: UserId,
    pub(crate) email: String,
    pub(crate) client: Client,
    pub(crate) refresh_token: String,
}

/// An account with the usual password, to be changed: active, verified, in no team.
pub(crate) async fn account(email: &str) -> NewAccount {
    // Hashed once: it takes far longer than everything else about an account.
    static HASH: OnceCell<String> = OnceCell::const_new();
    let hash = HASH.get_or_init(async || {
        let password = Password::choose(PASSWORD.to_owned(), &About::default()).unwrap();
        commands::Passwords::new().hash(password).await.unwrap()
    });
    NewAccount {
        email: Email::parse(email).unwrap(),
        name: PersonName::parse(email.split('@').next().unwrap()).unwrap(),
        password: NewPassword::Hash(StoredHash::parse(hash.await).unwrap()),
        admin: false,
        email_verified: true,
        active: true,
        team: FirstTeam::None,
    }
}

/// Makes the account and signs its person in.
pub(crate) async fn registered(app: &TestApp, account: NewAccount) -> Newcomer {
    let email = account.email.to_string();
    let made = app.commands.register(&api::node::registrar(), account).await.unwrap();
    let id = made.id.parse().unwrap();
    let (client, refresh_token) = signed_in(app, id).await;
    Newcomer { id, email, client, refresh_token }
}

/// Somebody with this address and in no team.
pub(crate) async fn newcomer(app: &TestApp, email: &str) -> Newcomer {
    registered(app, account(email).await).await
}

/// Somebody with this address, in this team alone.
pub(crate) async fn member(app: &TestApp, team: TeamId, role: Role, email: &str) -> Newcomer {
    let newcomer = newcomer(app, email).await;
    take_in(app, team, newcomer.id, role).await;
    newcomer
}

/// One more session of this person, and its refresh token. What the client asks for shows everything that has happened so far.
pub(crate) async fn signed_in(app: &TestApp, user: UserId) -> (Client, String) {
    let mut context = api::node::registrar().acting_as(Actor::User(user));
    context.subject = Some(user.to_string());
    let begun = app.commands.start_session(&context, user, vec![], 7).await.unwrap();
    app.projections.settle(begun.position.unwrap(), tests::LIMIT).await.unwrap();
    let now = Utc::now().timestamp();
    let claims = Claims { sub: user.0, sid: begun.session_id.0, iat: now, exp: now + 3_600, jti: None };
    (app.anon().with_token(&app.tokens().issue(&claims).unwrap()), begun.refresh_token.to_string())
}

/// Takes a person into a team, without asking anybody.
pub(crate) async fn take_in(app: &TestApp, team: TeamId, user_id: UserId, role: Role) {
    let mut context = Context::system(Some(team));
    context.caller.permissions = Role::Owner.permissions();
    let command = TeamCommand::AddMember { user_id, role };
    let done = app.commands.execute::<Team>(&context, team, None, command).await.unwrap();
    app.projections.settle(done.position.unwrap(), tests::LIMIT).await.unwrap();
}

/// The token that the mail of an invitation carries.
pub(crate) async fn invitation_token(app: &TestApp, team: TeamId, invitation: &str) -> String {
    let (team, invitation) = (team.0.simple().to_string(), invitation.replace('-', ""));
    let proof = app.ledger.keyed_hash(&["invitation", &team, &invitation]).await.unwrap();
    format!("dbi_{team}.{invitation}.{proof}")
}

/// The code that a device with this shared key (in base32) shows at the moment (RFC 6238).
pub(crate) fn totp_code(secret: &str) -> String {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits: String = secret.chars().map(|c| format!("{:05b}", LETTERS.find(c).unwrap())).collect();
    let key: Vec<u8> = bits
        .as_bytes()
        .chunks_exact(8)
        .map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 2).unwrap())
        .collect();
    let step = Utc::now().timestamp().unsigned_abs() / 30;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let mac = ring::hmac::sign(&key, &step.to_be_bytes());
    let at = usize::from(mac.as_ref()[19] & 15);
    let number = u32::from_be_bytes(mac.as_ref()[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}
