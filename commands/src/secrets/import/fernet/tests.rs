#![allow(clippy::unwrap_used)]

use aes::cipher::BlockModeEncrypt as _;
use proptest::prelude::*;

use super::*;

/// Of the specification's examples.
const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
const OTHER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const HELLO: &str =
    "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";

/// A token as the specification makes it.
fn token(key: &str, time: u64, vector: [u8; 16], plain: &[u8]) -> String {
    let key = BASE64URL.decode(key).unwrap();
    let cipher = cbc::Encryptor::<Aes128>::new_from_slices(&key[16..], &vector).unwrap();
    let mut sealed = vec![0; plain.len() + 16];
    sealed[..plain.len()].copy_from_slice(plain);
    let sealed = cipher.encrypt_padded::<Pkcs7>(&mut sealed, plain.len()).unwrap();
    let mut token = vec![VERSION];
    token.extend(time.to_be_bytes());
    token.extend(vector);
    token.extend_from_slice(sealed);
    let mac = Hmac::<Sha256>::new_from_slice(&key[..16]).unwrap().chain_update(&token).finalize();
    token.extend_from_slice(&mac.into_bytes());
    BASE64URL.encode(token)
}

fn opened(keys: &str, token: &str) -> Result<Vec<u8>, TokenError> {
    FernetKeys::parse(keys).unwrap().open(token.as_bytes()).map(|plain| plain.to_vec())
}

/// `generate.json` and `verify.json` of <https://github.com/fernet/spec>.
#[test]
fn the_specifications_token_is_made_and_opened() {
    let vector: [u8; 16] = std::array::from_fn(|at| u8::try_from(at).unwrap());
    assert_eq!(token(KEY, 499_162_800, vector, b"hello"), HELLO);
    assert_eq!(opened(KEY, HELLO).unwrap(), b"hello");
    assert_eq!(opened(KEY.trim_end_matches('='), HELLO.trim_end_matches('=')).unwrap(), b"hello");
}

/// `invalid.json` of the specification, without the two that are wrong by their age only.
#[test]
fn the_specifications_wrong_tokens_are_refused() {
    use TokenError::{Malformed, Unopened};
    for (what, token, why) in [
        (
            "incorrect mac",
            "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAl1-szkFVzXTuGb4hR8AKtwcaX1YdykQUFBQUFBQUFBQQ==",
            Unopened,
        ),
        ("too short", "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPA==", Malformed),
        (
            "invalid base64",
            "%%%%%%%%%%%%%AECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAl1-szkFVzXTuGb4hR8AKtwcaX1YdykRtfsH-p1YsUD2Q==",
            Malformed,
        ),
        (
            "payload size not multiple of block size",
            "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPOm73QeoCk9uGib28Xe5vz6oxq5nmxbx_v7mrfyudzUm",
            Unopened,
        ),
        (
            "payload padding error",
            "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0ODz4LEpdELGQAad7aNEHbf-JkLPIpuiYRLQ3RtXatOYREu2FWke6CnJNYIbkuKNqOhw==",
            Unopened,
        ),
        (
            "incorrect IV",
            "gAAAAAAdwJ6xBQECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAkLhFLHpGtDBRLRTZeUfWgHSv49TF2AUEZ1TIvcZjK1zQ==",
            Unopened,
        ),
    ] {
        assert_eq!(opened(KEY, token), Err(why), "{what}");
    }
}

/// The other two of `invalid.json`: a clock that was ahead, and a token that is too old for a session.
#[test]
fn the_age_of_a_token_does_not_matter() {
    for token in [
        "gAAAAAAdwStRAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAnja1xKYyhd-Y6mSkTOyTGJmw2Xc2a6kBd-iX9b_qXQcw==",
        "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAl1-szkFVzXTuGb4hR8AKtwcaX1YdykRtfsH-p1YsUD2Q==",
    ] {
        assert_eq!(opened(KEY, token), Ok(vec![]));
    }
}

#[test]
fn a_token_of_any_of_several_keys_is_opened_and_of_another_key_is_not() {
    let both = format!("{OTHER_KEY},\n {KEY}\n");
    assert_eq!(opened(&both, HELLO).unwrap(), b"hello");
    assert_eq!(opened(OTHER_KEY, HELLO), Err(TokenError::Unopened));
    assert_eq!(FernetKeys::default().open(HELLO.as_bytes()).err(), Some(TokenError::Unopened));
}

#[test]
fn keys_that_are_none_are_named_by_their_number() {
    let wrong = |text: &str| FernetKeys::parse(text).err();
    assert_eq!(wrong(""), Some(FernetKeyError::Count));
    assert_eq!(wrong(" \n"), Some(FernetKeyError::Count));
    assert_eq!(wrong(&[KEY; 101].join(",")), Some(FernetKeyError::Count));
    assert_eq!(wrong(&format!("{KEY},")), Some(FernetKeyError::Malformed(2)));
    assert_eq!(wrong(&format!("{KEY},c2hvcnQ=,{KEY}")), Some(FernetKeyError::Malformed(2)));
    assert_eq!(wrong("not base64url at all: 32 characters"), Some(FernetKeyError::Malformed(1)));
}

proptest! {
    #[test]
    fn what_was_put_into_a_token_comes_out(
        plain in proptest::collection::vec(any::<u8>(), 0..200),
        vector in any::<[u8; 16]>(),
        time in any::<u64>(),
    ) {
        prop_assert_eq!(opened(KEY, &token(KEY, time, vector, &plain)), Ok(plain));
    }

    #[test]
    fn a_token_that_was_changed_or_cut_is_not_opened(at in 0..73_usize, bit in 0..8_u32, cut in 1..73_usize) {
        let mut bytes = BASE64URL.decode(HELLO).unwrap();
        bytes[at] ^= 1 << bit;
        prop_assert!(opened(KEY, &BASE64URL.encode(&bytes)).is_err());
        bytes[at] ^= 1 << bit;
        bytes.truncate(73 - cut);
        prop_assert!(opened(KEY, &BASE64URL.encode(&bytes)).is_err());
    }
}
