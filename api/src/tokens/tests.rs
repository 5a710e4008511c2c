#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};

use super::*;

const OLD: &str = "the old secret, thirty-two characters or more";
const NEW: &str = "the new secret, thirty-two characters or more";

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn claims() -> Claims {
    Claims { sub: Uuid::from_u128(1), sid: Uuid::from_u128(2), iat: 1000, exp: 4600, jti: None }
}

fn keys(current: &str, previous: Option<&str>) -> TokenKeys {
    TokenKeys::new(current, previous).unwrap()
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token with this header and payload, signed by the current key.
fn signed(keys: &TokenKeys, header: Value, payload: Value) -> String {
    let message = format!("{}.{}", part(&header), part(&payload));
    let pair = Ed25519KeyPair::from_seed_unchecked(keys.current.encoding.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes())))
}

fn header(keys: &TokenKeys) -> Value {
    json!({ "alg": "EdDSA", "typ": "JWT", "kid": keys.current.id })
}

fn payload() -> Value {
    json!({ "iss": "daybook", "aud": "daybook", "sub": Uuid::from_u128(1), "sid": Uuid::from_u128(2), "iat": 1000, "exp": 4600 })
}

#[test]
fn a_token_gives_its_claims_back_until_it_expires() {
    let keys = keys(NEW, None);
    let token = keys.issue(&claims()).unwrap();
    assert_eq!(keys.verify(&token, at(1000)), Ok(claims()));
    assert_eq!(keys.verify(&token, at(4600 + LEEWAY_SECONDS - 1)), Ok(claims()));
    // The second look is answered from the cache, and still knows the time.
    assert_eq!(keys.verify(&token, at(4600 + LEEWAY_SECONDS)), Err(TokenError::Expired));
}

#[test]
fn the_same_secret_gives_the_same_key_on_every_node() {
    let token = keys(NEW, None).issue(&claims()).unwrap();
    assert!(keys(NEW, None).verify(&token, at(1000)).is_ok());
    assert_eq!(keys(NEW, None).jwks(), keys(NEW, None).jwks());
}

#[test]
fn the_previous_key_verifies_and_the_current_one_signs() {
    let old = keys(OLD, None).issue(&claims()).unwrap();
    let rotated = keys(NEW, Some(OLD));
    assert!(rotated.verify(&old, at(1000)).is_ok());
    let new = rotated.issue(&claims()).unwrap();
    assert_eq!(keys(OLD, None).verify(&new, at(1000)), Err(TokenError::UnknownKey));
    assert_eq!(keys(NEW, None).verify(&old, at(1000)), Err(TokenError::UnknownKey));
}

#[test]
fn another_algorithm_is_refused() {
    let keys = keys(NEW, None);
    for alg in ["none", "None", "HS256", "ES256", "EdDSA2", "eddsa"] {
        let mut header = header(&keys);
        header["alg"] = json!(alg);
        let token = signed(&keys, header.clone(), payload());
        assert_eq!(keys.verify(&token, at(1000)), Err(TokenError::WrongAlgorithm), "{alg}");
        let unsigned = format!("{}.{}.", part(&header), part(&payload()));
        assert_eq!(keys.verify(&unsigned, at(1000)), Err(TokenError::WrongAlgorithm), "{alg}");
    }
}

#[test]
fn a_changed_claim_or_signature_is_refused() {
    let keys = keys(NEW, None);
    let token = keys.issue(&claims()).unwrap();
    let [head, _, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let mut other = payload();
    other["sub"] = json!(Uuid::from_u128(9));
    let changed = format!("{head}.{}.{signature}", part(&other));
    assert_eq!(keys.verify(&changed, at(1000)), Err(TokenError::BadSignature));
    let unsigned = format!("{head}.{}.", part(&payload()));
    assert_eq!(keys.verify(&unsigned, at(1000)), Err(TokenError::BadSignature));
    // A refusal is not remembered as a success.
    assert_eq!(keys.verify(&changed, at(1000)), Err(TokenError::BadSignature));
}

#[test]
fn the_header_must_name_a_known_key_and_no_extension() {
    let keys = keys(NEW, None);
    for kid in [json!(null), json!("AAAAAAAAAAA"), json!("")] {
        let mut header = header(&keys);
        header["kid"] = kid;
        assert_eq!(keys.verify(&signed(&keys, header, payload()), at(1000)), Err(TokenError::UnknownKey));
    }
    let mut header = header(&keys);
    header["crit"] = json!(["b64"]);
    assert_eq!(keys.verify(&signed(&keys, header, payload()), at(1000)), Err(TokenError::Malformed));
}

#[test]
fn issuer_audience_and_claims_are_needed() {
    let keys = keys(NEW, None);
    assert!(keys.verify(&signed(&keys, header(&keys), payload()), at(1000)).is_ok());
    for name in ["iss", "aud", "sub", "sid", "exp", "iat"] {
        let mut wrong = payload();
        wrong[name] = json!("other");
        assert_eq!(
            keys.verify(&signed(&keys, header(&keys), wrong), at(1000)),
            Err(TokenError::Malformed),
            "{name}"
        );
        let mut missing = payload();
        missing.as_object_mut().unwrap().remove(name);
        assert_eq!(
            keys.verify(&signed(&keys, header(&keys), missing), at(1000)),
            Err(TokenError::Malformed),
            "no {name}"
        );
    }
}

#[test]
fn rubbish_is_malformed() {
    let keys = keys(NEW, None);
    let long = "a".repeat(MAX_TOKEN_BYTES + 1);
    for token in ["", ".", "..", "a.b.c", "Bearer x", "é.é.é", "e30.e30.e30", &long] {
        assert_eq!(keys.verify(token, at(1000)), Err(TokenError::Malformed), "{token:.20}");
    }
    let token = keys.issue(&claims()).unwrap();
    assert!(keys.verify(&format!("{token}.x"), at(1000)).is_err());
    assert!(keys.verify(&format!("{token}="), at(1000)).is_err());
}

#[test]
fn the_key_set_holds_public_keys_only() {
    let keys = keys(NEW, Some(OLD));
    let jwks = keys.jwks();
    let list = jwks["keys"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[0]["kid"], keys.current.id.as_str());
    assert_eq!((&list[0]["kty"], &list[0]["crv"]), (&json!("OKP"), &json!("Ed25519")));
    let public = URL_SAFE_NO_PAD.decode(list[0]["x"].as_str().unwrap()).unwrap();
    assert_eq!(public.len(), 32);
    assert_eq!(list[0]["kid"], URL_SAFE_NO_PAD.encode(&sha256(&public)[..8]).as_str());
    assert!(list.iter().all(|key| key.get("d").is_none()));
    assert_eq!(TokenKeys::new(NEW, Some(NEW)).unwrap().jwks()["keys"].as_array().unwrap().len(), 1);
}

#[test]
fn debug_shows_key_ids_only() {
    let shown = format!("{:?}", keys(NEW, Some(OLD)));
    assert!(shown.contains("kid") || shown.contains("current"));
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn random_bytes_differ() {
    assert_ne!(random::<32>().unwrap(), random::<32>().unwrap());
}
