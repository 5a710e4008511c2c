#![allow(clippy::unwrap_used)]

use super::*;

/// Made with libxcrypt's `crypt`, and with the reference implementation of argon2.
const BCRYPT: &str = "$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";
const BCRYPT_OF_80_DIGITS: &str = "$2b$04$abcdefghijklmnopqrstuum2G75IXDN/xsgbNa/hCiPSKyIHQd70S";
const BCRYPT_OF_BEFORE: &str = "$2b$04$abcdefghijklmnopqrstuurVuonhdASGxouTT2vs6aczD1rdQw2kq";
const BCRYPT_OF_TWO_PART_ACCENT: &str = "$2y$04$abcdefghijklmnopqrstuuS1MdCHINljP7tjMh60EcFYSgYUNxnUm";
const ARGON2_OF_TWO_PART_ACCENT: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c2l4dGVlbmJ5dGVzc2FsdA$h2N9akLG/lHd3JYFXXzPtv6DoKayJ4iWU05sR8fahXg";
const PRESENT: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c2l4dGVlbmJ5dGVzc2FsdA$g35b5pQMsgXzaA7dWB5Ru9izMOVoMukKX1a4Q9O+0us";

const RIGHT: Verdict = Verdict { right: true, outdated: false };
const OUTDATED: Verdict = Verdict { right: true, outdated: true };
const WRONG: Verdict = Verdict { right: false, outdated: false };

async fn verify(text: &str, hash: &str) -> Verdict {
    Passwords::new().verify(Password::typed(text.to_owned()), Some(hash.to_owned())).await.unwrap()
}

#[tokio::test]
async fn the_right_password_verifies_and_no_other() {
    let hash = Passwords::new().hash(Password::typed("correct horse battery".to_owned())).await.unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert_eq!(verify("correct horse battery", &hash).await, RIGHT);
    assert_eq!(verify("correct horse batterz", &hash).await, WRONG);
    assert_eq!(verify("correct horse", PRESENT).await, RIGHT);
}

#[tokio::test]
async fn nobody_has_no_password() {
    assert!(!StoredHash::parse(NOBODY).unwrap().is_outdated(), "it takes as long as a present one");
    assert_eq!(Passwords::new().verify(Password::typed(String::new()), None).await.unwrap(), WRONG);
}

#[tokio::test]
async fn hashes_of_older_systems_verify_and_are_outdated() {
    let of_the_same = [
        &BCRYPT.replace("2b", "2a"),
        BCRYPT,
        &BCRYPT.replace("2b", "2y"),
        "$argon2id$v=19$m=65536,t=3,p=4$TDRCg7JR2Ax7TayWdfCf6Q$242AFxQYUEov8+XuTc95M9/bSsACuMewCLX0syrIIW0",
        "$argon2i$v=19$m=102400,t=2,p=8$c2l4dGVlbmJ5dGVzc2FsdA$wWHb6btEguAGKWlR5d+wrzVn4iayeq1ecdCXKyPTUdQ",
        "$argon2id$v=16$m=19456,t=2,p=1$c2l4dGVlbmJ5dGVzc2FsdA$EQJKVpVSI88zXyUK/WfEXYNK2vbLrxebLf7ugELuIuQ",
    ];
    for hash in of_the_same {
        assert_eq!(verify("correct horse", hash).await, OUTDATED, "{hash}");
        assert_eq!(verify("correct horze", hash).await, WRONG, "{hash}");
    }
    for prefix in ["2a", "2b", "2y"] {
        let hash = format!("${prefix}$06$QWERTYUIOPASDFGHJKLZXup/ZH6h6.RHpyuVirw1cvTmZzI2J6TDG");
        assert_eq!(verify("old führung 🚲", &hash).await, OUTDATED, "{prefix}");
    }
}

/// The old systems looked at 72 bytes, and at nothing behind a NUL. A new hash would make the rest count, right or wrong.
#[tokio::test]
async fn what_bcrypt_has_not_seen_does_not_become_part_of_a_new_hash() {
    let digits = "0123456789".repeat(8);
    assert_eq!(verify(&digits, BCRYPT_OF_80_DIGITS).await, RIGHT);
    assert_eq!(verify(&format!("{}wrong", &digits[..72]), BCRYPT_OF_80_DIGITS).await, RIGHT);
    assert_eq!(verify(&digits[..72], BCRYPT_OF_80_DIGITS).await, OUTDATED);
    assert_eq!(verify(&digits[..71], BCRYPT_OF_80_DIGITS).await, WRONG);
    assert_eq!(verify("before", BCRYPT_OF_BEFORE).await, OUTDATED);
    assert_eq!(verify("before\0after", BCRYPT_OF_BEFORE).await, RIGHT);
    assert_eq!(verify("\0before", BCRYPT_OF_BEFORE).await, WRONG);
    assert_eq!(verify("", BCRYPT_OF_BEFORE).await, WRONG);
}

#[tokio::test]
async fn an_accent_is_the_same_however_it_was_typed() {
    let (one, two) = ("\u{e9}lodie", "e\u{301}lodie");
    let hash = Passwords::new().hash(Password::typed(two.to_owned())).await.unwrap();
    assert_eq!((verify(one, &hash).await, verify(two, &hash).await), (RIGHT, RIGHT));
    // Older systems hashed what came; their hash is right for that alone, until a new one takes its place.
    for old in [ARGON2_OF_TWO_PART_ACCENT, BCRYPT_OF_TWO_PART_ACCENT] {
        assert_eq!((verify(one, old).await, verify(two, old).await), (WRONG, OUTDATED), "{old}");
    }
}

#[test]
fn hashes_that_cannot_be_checked_here_are_refused_in_words() {
    let salt_and_hash = "$c2l4dGVlbmJ5dGVzc2FsdA$g35b5pQMsgXzaA7dWB5Ru9izMOVoMukKX1a4Q9O+0us";
    let argon2 = |head: &str| format!("{head}{salt_and_hash}");
    let cases = [
        (String::new(), "must be an argon2id"),
        ("correct horse".into(), "must be an argon2id"),
        ("$1$abcdefgh$5fEqUUPrdcP6tQf0J9WBU1".into(), "must be an argon2id"),
        ("$5$salt$hash".into(), "must be an argon2id"),
        (BCRYPT.replace("2b", "2x"), "must be an argon2id"),
        (BCRYPT.replace("2b", "2"), "must be an argon2id"),
        (argon2("$argon2d$v=19$m=19456,t=2,p=1"), "must be an argon2id"),
        (argon2("$argon2id$m=19456,t=2,p=1"), "must say which version"),
        (argon2("$argon2id$v=17$m=19456,t=2,p=1"), "must say which version"),
        (argon2("$argon2id$v=19$m=19456,t=2,p=1,keyid=QUJD"), "was made with a secret"),
        (argon2("$argon2id$v=19$m=1,t=2,p=1"), "is an argon2 hash with parts missing"),
        ("$argon2id$v=19$m=19456,t=2,p=1$c2l4dGVlbmJ5dGVzc2FsdA".into(), "is an argon2 hash with parts"),
        (argon2("$argon2id$v=19$m=19456,t=2,p=1$"), "is not a well-formed argon2"),
        ("$argon2id$".into(), "is not a well-formed argon2"),
        (argon2("$argon2id$v=19$m=262145,t=1,p=1"), "costs too much"),
        (argon2("$argon2id$v=19$m=1024,t=17,p=1"), "costs too much"),
        (argon2("$argon2id$v=19$m=1024,t=2,p=17"), "costs too much"),
        (argon2("$argon2id$v=19$m=262144,t=5,p=1"), "costs too much"),
        (argon2("$argon2id$v=19$m=4294967295,t=4294967295,p=1"), "costs too much"),
        (BCRYPT.replace("$05$", "$03$"), "has a cost of 3"),
        (BCRYPT.replace("$05$", "$16$"), "has a cost of 16"),
        (BCRYPT.replace("$05$", "$+5$"), "is not a well-formed bcrypt"),
        (BCRYPT.replace("$05$", "$5$"), "is not a well-formed bcrypt"),
        (BCRYPT.replace('Q', "!").replace("abc", "a!c"), "is not a well-formed bcrypt"),
        (format!("{BCRYPT}x"), "is not a well-formed bcrypt"),
        (BCRYPT[..59].to_owned(), "is not a well-formed bcrypt"),
        (BCRYPT.replace("abcd", "ab\u{e9}"), "is not a well-formed bcrypt"),
    ];
    for (text, reason) in cases {
        let said = StoredHash::parse(&text).unwrap_err().0;
        assert!(said.starts_with(reason), "{text}: {said}");
    }
    for bound in ["$04$", "$15$"] {
        assert!(StoredHash::parse(&BCRYPT.replace("$05$", bound)).is_ok(), "{bound}");
    }
    assert!(StoredHash::parse(&argon2("$argon2id$v=19$m=262144,t=4,p=16")).is_ok());
}

#[tokio::test]
async fn a_hash_that_came_another_way_and_costs_too_much_is_not_checked() {
    let hash = BCRYPT.replace("$05$", "$31$");
    let said =
        Passwords::new().verify(Password::typed("x".to_owned()), Some(hash.clone())).await.unwrap_err();
    assert!(said.to_string().contains("a cost of 31") && !said.to_string().contains(&hash), "{said}");
}

/// Some systems wrote a salt whose last character has bits behind the salt's end.
#[tokio::test]
async fn bits_behind_the_salts_end_mean_nothing() {
    let odd = BCRYPT.replace("stuu", "stuv");
    assert_ne!(odd, BCRYPT);
    assert_eq!(verify("correct horse", &odd).await, OUTDATED);
}

#[test]
fn nothing_of_a_hash_is_printed() {
    let shown = [PRESENT, BCRYPT].map(|hash| format!("{:?}", StoredHash::parse(hash).unwrap()));
    assert_eq!(shown, ["StoredHash(argon2)", "StoredHash(bcrypt)"]);
}

#[tokio::test]
async fn a_full_queue_says_so() {
    let passwords = Passwords::new();
    passwords.waiting.store(MOST_WAITING, Ordering::Relaxed);
    let refused = passwords.hash(Password::typed("x".to_owned())).await;
    assert!(matches!(refused, Err(PasswordError::Busy)));
    let refused = passwords.verify(Password::typed("x".to_owned()), Some(BCRYPT.to_owned())).await;
    assert!(matches!(refused, Err(PasswordError::Busy)));
    assert_eq!(passwords.waiting.load(Ordering::Relaxed), MOST_WAITING);
}
