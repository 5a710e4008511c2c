//! What instance admins change, and the admin who must remain.

use super::*;

fn amend(amendment: Amendment, other_admins: usize) -> UserCommand {
    UserCommand::Amend { amendment, other_admins }
}

fn active(active: bool) -> Amendment {
    Amendment { active: Some(active), ..Amendment::default() }
}

fn admin(admin: bool) -> Amendment {
    Amendment { admin: Some(admin), ..Amendment::default() }
}

#[test]
fn what_is_not_named_or_is_so_already_stays() {
    let user = given::<User>([registered()]);
    for nothing in [Amendment::default(), active(true), admin(false)] {
        assert_eq!(user.decide(amend(nothing, 0)), Ok(vec![]));
    }
    let gone = given::<User>([registered(), deactivated(), UserEvent::AdminGranted {}]);
    for nothing in [active(false), admin(true)] {
        assert_eq!(gone.decide(amend(nothing, 0)), Ok(vec![]));
    }
}

#[test]
fn everything_is_changed_at_once() {
    let name = Some(PersonName::parse("Countess").unwrap());
    let all = Amendment { name, active: Some(false), admin: Some(true), operator: None };
    assert_eq!(
        given::<User>([registered()]).decide(amend(all, 0)),
        Ok(vec![renamed(), deactivated(), UserEvent::AdminGranted {}])
    );
    let back = Amendment { active: Some(true), admin: Some(false), ..Amendment::default() };
    assert_eq!(
        given::<User>([registered(), deactivated(), UserEvent::AdminGranted {}]).decide(amend(back, 0)),
        Ok(vec![UserEvent::UserReactivated {}, UserEvent::AdminRevoked {}])
    );
}

#[test]
fn who_did_it_at_the_command_line_is_said_but_belongs_to_no_account() {
    let by_root = Amendment { operator: Some("root".into()), ..active(false) };
    let operator = Some(Personal::new("operators", "root"));
    assert_eq!(
        given::<User>([registered()]).decide(amend(by_root, 0)),
        Ok(vec![UserEvent::UserDeactivated { operator }])
    );
}

#[test]
fn the_last_admin_stays_one_who_can_sign_in() {
    let last = given::<User>([registered_as(true)]);
    assert!(last.is_active_admin());
    let rename = Amendment { name: Some(PersonName::parse("Countess").unwrap()), ..Amendment::default() };
    assert_eq!(last.decide(amend(rename.clone(), 0)), Ok(vec![renamed()]));
    let both = Amendment { active: Some(false), ..admin(false) };
    let with_name = Amendment { active: Some(false), ..rename };
    for not_any_more in [active(false), admin(false), both, with_name] {
        let refused = last.decide(amend(not_any_more.clone(), 0));
        assert_eq!(refused, Err(UserError::LastAdmin), "{not_any_more:?}");
        assert!(last.decide(amend(not_any_more, 1)).is_ok());
    }
    assert_eq!(
        last.decide(UserCommand::Erase { other_admins: 0, subjects: [].into() }),
        Err(UserError::LastAdmin)
    );
    assert!(last.decide(UserCommand::Erase { other_admins: 1, subjects: [].into() }).is_ok());
}

#[test]
fn who_is_no_admin_or_cannot_sign_in_is_not_the_last_one() {
    let others = [
        given::<User>([registered()]),
        given::<User>([registered_as(true), deactivated()]),
        given::<User>([registered_as(true), UserEvent::AdminRevoked {}]),
    ];
    for user in others {
        assert!(!user.is_active_admin());
        let both = Amendment { active: Some(false), ..admin(false) };
        assert!(user.decide(amend(both, 0)).is_ok());
        assert!(user.decide(UserCommand::Erase { other_admins: 0, subjects: [].into() }).is_ok());
    }
    let again = [registered_as(true), deactivated(), UserEvent::UserReactivated {}];
    assert!(given::<User>(again).is_active_admin());
}

#[test]
fn what_an_account_would_become_is_told_without_changing_it() {
    let user = given::<User>([registered()]);
    assert!(user.after(&amend(admin(true), 0)).is_active_admin());
    assert!(!user.is_active_admin());
    let last = given::<User>([registered_as(true)]);
    assert!(last.after(&amend(admin(false), 0)).is_active_admin(), "it would be refused");
    assert!(!last.after(&amend(admin(false), 1)).is_active_admin());
    assert!(last.after(&UserCommand::Erase { other_admins: 1, subjects: [].into() }).is_erased());
}
