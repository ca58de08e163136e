//! Logins by ID tokens that don't count (OpenID Connect Core 1.0, section 3.1.3.7). Each test first shows that
//! nothing but the lie stands in the way.

use serde_json::{Value, json};

use crate::support::{Provider, Scene, home_with, run, visit};

#[test]
fn a_token_for_another_audience() {
    let scene = Scene::new();
    scene.refuses(&json!({"claims": {"aud": "somebody-else"}}), &["audience"]);
    for (aud, azp) in [
        (json!(["hallpass", "somebody-else"]), Value::Null),
        (json!(["somebody-else"]), Value::Null),
        (json!([]), Value::Null),
        (json!("hallpass"), json!("somebody-else")),
        (json!(["hallpass"]), json!("somebody-else")),
    ] {
        let claims = json!({"claims": {"aud": aud, "azp": azp}});
        let ran = scene.login(&claims);
        scene.came_to_nothing(&claims, &ran, 77, &["audience", "aud", "azp"]);
    }
    scene.takes(&json!({"claims": {"aud": ["hallpass"], "azp": "hallpass"}}));
}

#[test]
fn a_token_with_another_nonce() {
    let scene = Scene::new();
    scene.refuses(&json!({"claims": {"nonce": "another"}}), &["nonce"]);
    scene.refuses(&json!({"claims": {"nonce": null}}), &["nonce"]);
}

#[test]
fn a_token_of_another_issuer() {
    let scene = Scene::new();
    let other = json!({"claims": {"iss": "https://provider.example.org"}});
    scene.refuses(&other, &["issuer"]);
    // Not the same text is not the same issuer.
    let slash = format!("{}/", scene.liar.issuer);
    scene.refuses(&json!({"claims": {"iss": slash}}), &["issuer"]);
}

#[test]
fn a_token_that_is_over() {
    let scene = Scene::new();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    scene.refuses(&json!({"claims": {"exp": now - 300}}), &["expired", "over"]);
}

#[test]
fn a_token_whose_clock_is_ten_minutes_off() {
    let scene = Scene::new();
    scene.refuses(&json!({"shift": 600}), &["clock", "future", "time"]);
    scene.refuses(&json!({"shift": -600}), &["clock", "expired", "over"]);
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let later = json!({"claims": {"nbf": now + 600}});
    scene.refuses(&later, &["clock", "future", "not before", "time"]);
    // No two clocks are the same.
    for seconds in [20, -20] {
        scene.takes(&json!({"shift": seconds}));
    }
}

#[test]
fn a_token_that_nobody_signed() {
    let scene = Scene::new();
    scene.refuses(&json!({"algorithm": "none"}), &["algorithm", "none"]);
    for order in [
        json!({"algorithm": "None"}),
        json!({"algorithm": "nOnE"}),
        json!({"algorithm": ""}),
        json!({"algorithm": "none", "header": {"kid": null}}),
        json!({"tamper": "unsigned"}),
        json!({"header": {"alg": null}}),
    ] {
        let ran = scene.login(&order);
        scene.came_to_nothing(&order, &ran, 77, &["algorithm", "signature", "token"]);
    }
    assert_eq!(scene.sessions(), 2);
}

#[test]
fn a_token_that_is_keyed_with_the_providers_public_key() {
    // The secret of a client that has one is no key either: only who has the private key signs.
    let home = |liar: &Provider| {
        let home = home_with(&liar.table("clinic", "client_secret_file = \"clinic.secret\""));
        let path = home.path().join("clinic.secret");
        std::fs::write(&path, "a secret that the liar knows\n").unwrap();
        run("chmod", ["600", path.to_str().unwrap()]).ok();
        home
    };
    let liar = Provider::liar();
    let home = home(&liar);
    let scene = Scene::on(liar, home);
    scene.refuses(&json!({"algorithm": "HS256"}), &["algorithm"]);
    for secret in [
        json!("der"),
        json!("jwk"),
        json!({"text": "a secret that the liar knows"}),
        json!({"text": ""}),
    ] {
        let order = json!({"algorithm": "HS256", "secret": secret});
        let ran = scene.login(&order);
        scene.came_to_nothing(&order, &ran, 77, &["algorithm"]);
    }
    assert_eq!(scene.sessions(), 2);
}

#[test]
fn a_token_whose_signature_is_wrong() {
    let scene = Scene::new();
    scene.refuses(&json!({"tamper": "signature"}), &["signature"]);
    scene.refuses(&json!({"tamper": "claims"}), &["signature"]);
    // A key's name says nothing of who signed.
    scene.refuses(&json!({"signer": "stranger"}), &["signature"]);
}

#[test]
fn a_token_of_a_key_that_is_not_the_providers() {
    let scene = Scene::new();
    scene.refuses(&json!({"header": {"kid": "unknown"}}), &["key"]);
    // Nor does a token say itself by what it is to be verified.
    for order in [
        json!({"signer": "stranger", "header": {"kid": null}}),
        json!({"signer": "stranger", "header": {"jwk": "own", "kid": "unknown"}}),
        json!({"signer": "stranger", "header": {"jwk": "own", "kid": null}}),
        json!({"signer": "stranger", "header": {"jku": "own", "kid": "unknown"}}),
        json!({"signer": "stranger", "header": {"jku": "own", "jwk": "own"}}),
        json!({"header": {"crit": ["exp"]}}),
    ] {
        let ran = scene.login(&order);
        scene.came_to_nothing(&order, &ran, 77, &["key", "signature", "header", "crit"]);
    }
    assert!(scene.liar.asked("stranger").is_empty());
    assert_eq!(scene.sessions(), 2);
}

#[test]
fn a_token_of_the_providers_key_of_yesterday() {
    let scene = Scene::new();
    scene.takes(&json!({}));
    scene.liar.tell(&json!({"rotate": true}));
    // The new key, which was never seen, works at once.
    scene.takes(&json!({}));
    scene.refuses(&json!({"signer": "retired"}), &["key"]);
}

#[test]
fn unknown_keys_do_not_have_the_provider_asked_for_ever() {
    let scene = Scene::new();
    scene.takes(&json!({}));
    let before = scene.liar.asked("jwks").len();
    let order = json!({"header": {"kid": "unknown"}});
    for _ in 0..10 {
        assert_eq!(scene.login(&order).code, 77);
    }
    let asked = scene.liar.asked("jwks").len() - before;
    assert!(asked <= 6, "{asked}");
}

#[test]
fn each_sound_algorithm_is_taken() {
    let scene = Scene::new();
    for algorithm in ["RS256", "PS256", "ES256", "EdDSA"] {
        scene.takes(&json!({"algorithm": algorithm}));
    }
    // But not with the key of another.
    scene.takes(&json!({}));
    let keys = visit(&format!("{}/jwks", scene.liar.issuer)).unwrap().text;
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let kid = |algorithm: &str| {
        let keys = keys["keys"].as_array().unwrap();
        let key = keys.iter().find(|key| key["alg"] == algorithm).unwrap();
        key["kid"].clone()
    };
    for (algorithm, key) in [("RS256", "PS256"), ("RS256", "ES256"), ("ES256", "RS256")] {
        let order = json!({"algorithm": algorithm, "header": {"kid": kid(key)}});
        let ran = scene.login(&order);
        scene.came_to_nothing(&order, &ran, 77, &["key", "algorithm", "signature"]);
    }
}

#[test]
fn tokens_that_lack_a_claim_or_have_another_shape() {
    let scene = Scene::new();
    let names = [
        json!(null),
        json!(""),
        json!(["bob"]),
        json!(7),
        json!("../alice"),
        json!("bob\nalice"),
        json!("b\u{43e}b"),
        json!("b".repeat(65)),
    ];
    let mut lies: Vec<Value> = names
        .iter()
        .map(|name| json!({"preferred_username": name}))
        .collect();
    for claim in ["iss", "sub", "aud", "exp", "iat"] {
        lies.push(json!({ claim: null }));
        lies.push(json!({ claim: {"a": 1} }));
        lies.push(json!({ claim: true }));
    }
    lies.extend([
        json!({"sub": ""}),
        json!({"sub": "s".repeat(256)}),
        json!({"sub": "line\nbreak"}),
        json!({"sub": 4711}),
        json!({"exp": "tomorrow"}),
        json!({"exp": 1e300}),
        json!({"exp": -1}),
        json!({"iat": 1e300}),
        json!({"nonce": ["a"]}),
    ]);
    scene.takes(&json!({}));
    let mut taken = Vec::new();
    for claims in lies {
        let order = json!({ "claims": claims });
        let ran = scene.login(&order);
        assert!(!ran.err.contains("panicked"), "{ran:?}");
        if ran.code != 77 {
            taken.push((claims, ran.code));
        }
    }
    assert!(taken.is_empty(), "{taken:?}");
    assert_eq!(scene.sessions(), 1);
    scene.takes(&json!({}));
}

#[test]
fn what_is_no_list_of_words_is_neither_a_group_nor_a_second_factor() {
    let scene = Scene::with("mfa_amr = [\"otp\"]\nmfa_acr = [\"loa2\"]");
    for claims in [
        json!({"amr": null, "groups": null}),
        json!({"amr": {"otp": true}, "groups": {"administrators": true}}),
        json!({"amr": [["otp"]], "groups": [["administrators"]]}),
        json!({"amr": ["OTP", "otp ", "not-otp"], "groups": ["ADMINISTRATORS", "a,b", "../x", ""]}),
        json!({"amr": 1, "acr": ["loa"], "groups": 1}),
    ] {
        let order = json!({ "claims": claims });
        let ran = scene.login(&order);
        if ran.code != 0 {
            assert_eq!(ran.code, 77, "{order}: {ran:?}");
            continue;
        }
        let begun = scene.ca.home.entries("session-begun").pop().unwrap();
        assert!(begun["event"]["mfa"].is_null(), "{order}: {begun}");
        assert_eq!(begun["event"]["groups"], json!([]), "{order}");
    }
    scene.takes(&json!({"claims": {"amr": ["otp"]}}));
    let begun = scene.ca.home.entries("session-begun").pop().unwrap();
    assert!(!begun["event"]["mfa"].is_null(), "{begun}");
}

#[test]
fn whoever_signed_in_there_too_long_ago_must_do_so_again() {
    let scene = Scene::with("max_age = \"8h\"");
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    scene.takes(&json!({"claims": {"auth_time": now - 7 * 3600}}));
    assert_eq!(scene.liar.asked("authorize")[0]["max_age"], "28800");
    for auth_time in [
        json!(null),
        json!(now - 9 * 3600),
        json!("now"),
        json!(now + 600),
    ] {
        let order = json!({"claims": {"auth_time": auth_time}});
        scene.refuses(&order, &["auth_time", "signed in", "from the future"]);
    }
}

#[test]
fn what_is_no_token_at_all() {
    let scene = Scene::new();
    let parts = "eyJhbGciOiJkaXIifQ..aaaa.bbbb.cccc";
    for text in [
        "",
        "a",
        "a.b",
        "a.b.c",
        "..",
        "e30.e30.",
        "bm90IGpzb24.bm90IGpzb24.AAAA",
        parts,
        "\u{0}.\u{0}.\u{0}",
    ] {
        let order = json!({ "id_token": text });
        let ran = scene.login(&order);
        assert!(matches!(ran.code, 69 | 77), "{order}: {ran:?}");
    }
    let order = json!({"id_token": "e30.".repeat(200_000)});
    let ran = scene.login(&order);
    assert!(matches!(ran.code, 69 | 77), "{} {}", ran.code, ran.err);
    for order in [
        json!({"token": {"merge": {"id_token": null}}}),
        json!({"token": {"merge": {"id_token": 7}}}),
    ] {
        scene.comes_to_nothing(&order, 69, &["clinic"]);
    }
}

#[test]
fn the_token_of_a_login_on_another_device_is_checked_as_well() {
    let scene = Scene::new();
    assert_eq!(scene.device_login(&json!({})).code, 0);
    for (order, words) in [
        (json!({"claims": {"aud": "somebody-else"}}), "audience"),
        (json!({"algorithm": "none"}), "algorithm"),
        (json!({"signer": "stranger"}), "signature"),
        (json!({"shift": -600}), "expired"),
    ] {
        let ran = scene.device_login(&order);
        scene.came_to_nothing(&order, &ran, 77, &[words, "over"]);
    }
    assert_eq!(scene.sessions(), 1);
}
