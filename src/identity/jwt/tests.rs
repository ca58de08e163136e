use std::process::Command;

use proptest::prelude::*;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What signs, and its JWK.
struct Signing {
    jwk: Value,
    sign: Box<Sign>,
}

type Sign = dyn Fn(&[u8]) -> Vec<u8>;

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, crv: &str) -> Signing {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    Signing {
        jwk: json!({"kty": "EC", "crv": crv, "x": b64(x), "y": b64(y), "kid": "one"}),
        sign: Box::new(move |text| pair.sign(&random, text).unwrap().as_ref().to_vec()),
    }
}

fn p256() -> Signing {
    ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")
}

fn ed25519() -> Signing {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let x = b64(pair.public_key());
    Signing {
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "one"}),
        sign: Box::new(move |text| pair.sign(text).as_ref().to_vec()),
    }
}

/// An RSA key, which ring can't make.
fn rsa_pkcs8(bits: &str) -> Vec<u8> {
    let bits = format!("rsa_keygen_bits:{bits}");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", &bits])
        .output()
        .unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(&made.stdout).unwrap();
    key.secret_pkcs8_der().to_vec()
}

fn rsa(document: &[u8], padding: &'static dyn RsaEncoding) -> Signing {
    let pair = RsaKeyPair::from_pkcs8(document).unwrap();
    let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
    Signing {
        jwk: json!({"kty": "RSA", "n": b64(n), "e": b64(e), "kid": "one"}),
        sign: Box::new(move |text| {
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(padding, &SystemRandom::new(), text, &mut signature)
                .unwrap();
            signature
        }),
    }
}

fn payload() -> Value {
    json!({
        "iss": "https://issuer", "aud": "us", "sub": "alice", "nonce": "n",
        "iat": NOW, "exp": NOW + 300,
    })
}

fn signed(signing: &Signing, header: &Value, payload: &Value) -> String {
    let text = format!("{}.{}", b64(header.to_string()), b64(payload.to_string()));
    let signature = (signing.sign)(text.as_bytes());
    format!("{text}.{}", b64(signature))
}

fn es256(signing: &Signing, payload: &Value) -> String {
    signed(signing, &json!({"alg": "ES256", "kid": "one"}), payload)
}

fn keys(jwks: &[&Value]) -> Jwks {
    Jwks::parse(json!({ "keys": jwks }).to_string().as_bytes()).unwrap()
}

fn expected() -> Expected<'static> {
    Expected {
        issuer: Some("https://issuer"),
        audience: "us",
        nonce: Some("n"),
        max_age: None,
    }
}

fn verified(token: &str, keys: &Jwks) -> Result<Claims, JwtError> {
    verify(token, keys, &expected(), Timestamp::from_secs(NOW))
}

/// What becomes of a token in which one claim is another; `null` takes it away.
fn with(claim: &str, value: Value) -> Result<Claims, JwtError> {
    let signing = p256();
    let mut payload = payload();
    match value {
        Value::Null => drop(payload.as_object_mut().unwrap().remove(claim)),
        value => payload[claim] = value,
    }
    verified(&es256(&signing, &payload), &keys(&[&signing.jwk]))
}

#[test]
fn each_algorithm_is_verified_with_its_own_kind_of_key_alone() {
    let document = rsa_pkcs8("2048");
    let paddings: [(&str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &RSA_PKCS1_SHA256),
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS384", &RSA_PSS_SHA384),
        ("PS512", &RSA_PSS_SHA512),
    ];
    let rsa = paddings.map(|(alg, padding)| (alg, rsa(&document, padding)));
    let others = [
        ("ES256", p256()),
        ("ES384", ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")),
        ("EdDSA", ed25519()),
    ];
    let all: Vec<_> = rsa.into_iter().chain(others).collect();
    for (alg, signing) in &all {
        let token = signed(signing, &json!({"alg": alg, "kid": "one"}), &payload());
        let claims = verified(&token, &keys(&[&signing.jwk])).unwrap();
        assert_eq!(claims.subject(), "alice", "{alg}");
        for (other, _) in all.iter().filter(|(other, _)| other != alg) {
            let token = signed(signing, &json!({"alg": other, "kid": "one"}), &payload());
            assert!(
                verified(&token, &keys(&[&signing.jwk])).is_err(),
                "{alg} as {other}"
            );
        }
        // The key says what it is for.
        let mut jwk = signing.jwk.clone();
        jwk["alg"] = json!("other");
        assert!(matches!(
            verified(&token, &keys(&[&jwk])),
            Err(JwtError::UnknownKey(_))
        ));
    }
}

#[test]
fn none_and_the_public_key_as_a_secret_are_no_signatures() {
    let signing = p256();
    let keys = keys(&[&signing.jwk]);
    for alg in ["none", "None", "NONE", "", "HS256", "ES256K", "es256"] {
        let header = json!({"alg": alg, "kid": "one"});
        let text = format!("{}.{}", b64(header.to_string()), b64(payload().to_string()));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, signing.jwk.to_string().as_bytes());
        let tag = hmac::sign(&secret, text.as_bytes());
        for signature in [String::new(), b64(tag.as_ref())] {
            assert_eq!(
                verified(&format!("{text}.{signature}"), &keys).unwrap_err(),
                JwtError::Algorithm(alg.to_owned())
            );
        }
    }
}

#[test]
fn a_token_that_was_changed_does_not_count() {
    let signing = p256();
    let keys = keys(&[&signing.jwk]);
    let token = es256(&signing, &payload());
    let [header, body, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("{token}");
    };
    let mut other = payload();
    other["sub"] = json!("mallory");
    let changed = format!("{header}.{}.{signature}", b64(other.to_string()));
    assert_eq!(verified(&changed, &keys).unwrap_err(), JwtError::Signature);
    // Another key of the same name.
    let forged = es256(&p256(), &payload());
    assert_eq!(verified(&forged, &keys).unwrap_err(), JwtError::Signature);
    // In DER, which JWS does not take.
    let der = ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, "P-256");
    let keys_of_der = super::tests::keys(&[&der.jwk]);
    assert_eq!(
        verified(&es256(&der, &payload()), &keys_of_der).unwrap_err(),
        JwtError::Signature
    );
    for broken in [
        "",
        ".",
        "..",
        "a.b",
        &token[..token.len() - 1],
        &format!("{token}="),
        &format!("{token}.{signature}"),
        &format!("{header}.{body}"),
        &format!("{header}.{body}."),
        &format!(" {token}"),
        &format!("{token}\n"),
        &format!("{}.{body}.{signature}", b64("[]")),
    ] {
        assert!(verified(broken, &keys).is_err(), "{broken:?}");
    }
    let huge = format!("{header}.{}.{signature}", "A".repeat(LARGEST));
    assert_eq!(verified(&huge, &keys).unwrap_err(), JwtError::TooLarge);
}

#[test]
fn what_stands_twice_is_not_taken() {
    let signing = p256();
    let keys = keys(&[&signing.jwk]);
    let token = |header: &str, payload: &str| {
        let text = format!("{}.{}", b64(header), b64(payload));
        let signature = (signing.sign)(text.as_bytes());
        format!("{text}.{}", b64(signature))
    };
    let (header, body) = (r#"{"alg":"ES256","kid":"one"}"#, payload().to_string());
    assert!(verified(&token(header, &body), &keys).is_ok());
    let twice = format!(r#"{{"sub":"mallory",{}"#, &body[1..]);
    assert!(verified(&token(header, &twice), &keys).is_err());
    let twice = r#"{"alg":"ES256","alg":"none","kid":"one"}"#;
    assert!(verified(&token(twice, &body), &keys).is_err());
    for crit in [r#"["b64"],"b64":false"#, "[]", "null"] {
        let header = format!(r#"{{"alg":"ES256","kid":"one","crit":{crit}}}"#);
        let error = verified(&token(&header, &body), &keys).unwrap_err();
        assert_eq!(error, JwtError::Critical, "{crit}");
    }
}

#[test]
fn the_key_is_the_one_that_is_named_and_never_the_tokens_own() {
    let (one, mut two) = (p256(), p256());
    two.jwk["kid"] = json!("two");
    let both = keys(&[&one.jwk, &two.jwk]);
    assert!(verified(&es256(&one, &payload()), &both).is_ok());
    let named = |kid: &str| signed(&two, &json!({"alg": "ES256", "kid": kid}), &payload());
    assert!(verified(&named("two"), &both).is_ok());
    assert_eq!(
        verified(&named("one"), &both).unwrap_err(),
        JwtError::Signature
    );
    assert_eq!(
        verified(&named("three"), &both).unwrap_err(),
        JwtError::UnknownKey(Some("three".to_owned()))
    );
    // A token brings no key.
    let own = json!({"alg": "ES256", "kid": "three", "jwk": two.jwk, "jku": "https://mallory"});
    assert!(verified(&signed(&two, &own, &payload()), &both).is_err());
    // Where none is named, there must be one alone.
    let unnamed = signed(&one, &json!({"alg": "ES256"}), &payload());
    assert!(verified(&unnamed, &keys(&[&one.jwk, &ed25519().jwk])).is_ok());
    assert_eq!(
        verified(&unnamed, &both).unwrap_err(),
        JwtError::UnknownKey(None)
    );
}

#[test]
fn keys_that_are_weak_or_for_something_else_are_none() {
    let usable = |change: fn(&mut Value)| {
        let signing = p256();
        let mut jwk = signing.jwk.clone();
        change(&mut jwk);
        verified(&es256(&signing, &payload()), &keys(&[&jwk])).is_ok()
    };
    assert!(usable(|jwk| jwk["use"] = json!("sig")));
    assert!(usable(|jwk| jwk["key_ops"] = json!(["verify"])));
    assert!(!usable(|jwk| jwk["use"] = json!("enc")));
    assert!(!usable(|jwk| jwk["key_ops"] = json!(["encrypt"])));
    assert!(!usable(|jwk| jwk["crv"] = json!("P-521")));
    assert!(!usable(|jwk| jwk["x"] = json!("AAAA")));
    assert!(!usable(|jwk| jwk["kty"] = json!("oct")));
    let weak = json!({"kty": "RSA", "n": b64([0xff; 128]), "e": "AQAB"});
    assert!(keys(&[&weak]).0.is_empty());
    let padded = json!({"kty": "RSA", "n": b64([[0; 200], [0xff; 200]].concat()), "e": "AQAB"});
    assert!(keys(&[&padded]).0.is_empty());
    assert!(Jwks::parse(b"{}").is_err() && Jwks::parse(b"[]").is_err());
    let many = vec![p256().jwk; MOST_KEYS + 1];
    assert!(Jwks::parse(json!({ "keys": many }).to_string().as_bytes()).is_err());
}

const MOST_KEYS: usize = 100;

#[test]
fn a_token_is_by_the_issuer_for_us_and_for_this_login() {
    use JwtError::{Audience, Claim, Issuer, Nonce, Party};
    let is = |claim: &str, value: Value, error: JwtError| {
        assert_eq!(
            with(claim, value.clone()).unwrap_err(),
            error,
            "{claim} {value}"
        );
    };
    is(
        "iss",
        json!("https://issuer/"),
        Issuer("https://issuer/".to_owned()),
    );
    is("iss", Value::Null, Claim("iss"));
    is("aud", json!("them"), Audience("them".to_owned()));
    is("aud", json!(["them"]), Audience("them".to_owned()));
    is("aud", Value::Null, Audience(String::new()));
    is("aud", json!("USx"), Audience("USx".to_owned()));
    is("aud", json!(["us", "them"]), Party);
    is("azp", json!("them"), Party);
    is("azp", json!(["us"]), Party);
    is("nonce", json!("m"), Nonce);
    is("nonce", Value::Null, Nonce);
    is("sub", Value::Null, Claim("sub"));
    is("sub", json!(""), Claim("sub"));
    is("sub", json!("a\nb"), Claim("sub"));
    is("sub", json!("x".repeat(2049)), Claim("sub"));
    is("sub", json!(7), Claim("sub"));
    assert!(with("aud", json!(["us"])).is_ok());
    assert!(with("azp", json!("us")).is_ok());
}

#[test]
fn clocks_may_differ_by_a_minute() {
    let at = Timestamp::from_secs;
    for (claim, value, error) in [
        ("exp", NOW - 59, None),
        ("exp", NOW - 60, Some(JwtError::Expired(at(NOW - 60)))),
        ("exp", NOW - 600, Some(JwtError::Expired(at(NOW - 600)))),
        ("iat", NOW + 60, None),
        ("iat", NOW + 61, Some(JwtError::NotYet(at(NOW + 61)))),
        ("iat", NOW + 600, Some(JwtError::NotYet(at(NOW + 600)))),
        ("nbf", NOW + 60, None),
        ("nbf", NOW + 600, Some(JwtError::NotYet(at(NOW + 600)))),
    ] {
        assert_eq!(with(claim, json!(value)).err(), error, "{claim} {value}");
    }
    for claim in ["iat", "auth_time"] {
        let late = JwtError::NotYet(at(NOW + 600));
        assert_eq!(with(claim, json!(NOW + 600)).err(), Some(late), "{claim}");
    }
    assert_eq!(
        with("iat", Value::Null).unwrap_err(),
        JwtError::Claim("iat")
    );
    for wrong in [json!("tomorrow"), json!(-1), json!(1e300)] {
        assert!(with("exp", wrong.clone()).is_err(), "{wrong}");
        assert!(with("nbf", wrong.clone()).is_err(), "{wrong}");
    }
    assert_eq!(
        with("exp", Value::Null).unwrap_err(),
        JwtError::Claim("exp")
    );
}

#[test]
fn somebody_must_have_signed_in_lately_where_that_is_asked_for() {
    let signing = p256();
    let keys = keys(&[&signing.jwk]);
    let recent = Expected {
        max_age: Some(Duration::from_secs(3600)),
        ..expected()
    };
    let signed_in = |at: Option<u64>| {
        let mut payload = payload();
        if let Some(at) = at {
            payload["auth_time"] = json!(at);
        }
        let token = es256(&signing, &payload);
        verify(&token, &keys, &recent, Timestamp::from_secs(NOW)).err()
    };
    assert_eq!(signed_in(Some(NOW - 3600)), None);
    assert_eq!(signed_in(Some(NOW - 3660)), Some(JwtError::TooOld));
    assert_eq!(signed_in(None), Some(JwtError::Claim("auth_time")));
}

#[test]
fn claims_are_found_by_name_or_by_pointer() {
    let signing = p256();
    let mut payload = payload();
    payload["groups"] = json!(["a", 7, "b"]);
    payload["kubernetes.io"] = json!({"namespace": "clinic", "roles": ["x"]});
    payload["a/b"] = json!("slash");
    let claims = verified(&es256(&signing, &payload), &keys(&[&signing.jwk])).unwrap();
    assert_eq!(claims.texts("groups"), ["a", "b"]);
    assert_eq!(claims.texts("sub"), ["alice"]);
    assert_eq!(claims.text("/kubernetes.io/namespace"), Some("clinic"));
    assert_eq!(claims.texts("/kubernetes.io/roles"), ["x"]);
    assert_eq!(claims.text("/a~1b"), Some("slash"));
    assert_eq!(claims.text("/kubernetes.io/other"), None);
    assert_eq!(claims.text("groups"), None);
}

#[test]
fn a_workloads_token_has_no_nonce_and_names_no_party() {
    let signing = p256();
    let keys = keys(&[&signing.jwk]);
    let mut payload = payload();
    payload["azp"] = json!("them");
    payload["aud"] = json!(["us", "them"]);
    payload.as_object_mut().unwrap().remove("iss");
    let token = es256(&signing, &payload);
    let workload = Expected {
        issuer: None,
        nonce: None,
        ..expected()
    };
    let now = Timestamp::from_secs(NOW);
    assert!(verify(&token, &keys, &workload, now).is_ok());
    assert!(verify(&token, &keys, &expected(), now).is_err());
}

proptest! {
    /// Whatever is signed, and whatever the keys are.
    #[test]
    fn no_signed_text_panics(payload: Vec<u8>, part: Vec<u8>, claims in "[a-z0-9\"{}:,.\\[\\]]{0,60}") {
        let signing = ed25519();
        let text = |payload: &[u8]| {
            let text = format!("{}.{}", b64(r#"{"alg":"EdDSA","kid":"one"}"#), b64(payload));
            format!("{text}.{}", b64((signing.sign)(text.as_bytes())))
        };
        let good = super::tests::keys(&[&signing.jwk]);
        let _ = verified(&text(&payload), &good);
        let _ = verified(&text(claims.as_bytes()), &good);
        let odd = json!(format!(r#"{{"sub":"a","exp":{part:?},"aud":{claims:?}}}"#));
        let _ = verified(&text(odd.as_str().unwrap().as_bytes()), &good);
        let rsa = json!({"kty": "RSA", "n": b64([&[1; 256], &part[..]].concat()), "e": b64(&part)});
        let header = json!({"alg": "RS256"});
        let _ = verified(&signed(&signing, &header, &super::tests::payload()), &super::tests::keys(&[&rsa]));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}", bytes: Vec<u8>, other: Vec<u8>) {
        let keys = Jwks::default();
        let _ = verified(&text, &keys);
        let _ = verified(&format!("{}.{}.{text}", b64(&bytes), b64(&other)), &keys);
        let header = b64(r#"{"alg":"ES256"}"#);
        let _ = verified(&format!("{header}.{}.{}", b64(&bytes), b64(&other)), &keys);
        let _ = unverified_issuer(&format!("{header}.{}.", b64(&bytes)));
        let _ = Jwks::parse(&bytes);
        let _ = Claims::parse(&bytes);
    }
}
