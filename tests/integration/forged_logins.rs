//! Logins that somebody has tampered with: a provider that lies, a thief on the way back, a stranger at
//! the API. Each test first shows that nothing but the lie stands in the way.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ssh_key::PrivateKey;

use crate::support::{
    Answer, Browser, Ca, Home, Login, Person, Provider, Ran, Request, exchange, home_with,
    parameter, visit, wait_until,
};

/// A CA that believes a liar, and bob, whom the liar knows.
struct Scene {
    liar: Provider,
    ca: Ca,
    bob: Person,
}

impl Scene {
    fn new() -> Self {
        Self::with("")
    }

    /// With further lines in the liar's table.
    fn with(lines: &str) -> Self {
        let liar = Provider::liar();
        let home = home_with(&liar.table("clinic", lines));
        Self::on(liar, home)
    }

    fn on(liar: Provider, home: Home) -> Self {
        let ca = Ca::on(home);
        let bob = Person::newcomer(&ca);
        Self { liar, ca, bob }
    }

    fn begin(&self) -> Login {
        Login::by_hand(&self.bob, &[])
    }

    /// How a login goes while the liar follows an order.
    fn login(&self, order: &Value) -> Ran {
        self.liar.tell(order);
        let mut login = self.begin();
        if let Some(url) = login.try_url() {
            let back = visit(&url)
                .and_then(|visit| visit.location)
                .expect("a way back");
            visit(&back).expect("somebody who waits");
        }
        login.ends()
    }

    /// The same on another device.
    fn device_login(&self, order: &Value) -> Ran {
        self.liar.tell(order);
        let mut login = Login::by_hand(&self.bob, &["--device"]);
        let (_, code) = login.device(&self.liar);
        let page = format!("{}/device?user_code={code}", self.liar.issuer);
        assert_eq!(visit(&page).unwrap().status, 200);
        login.ends()
    }

    fn sessions(&self) -> usize {
        self.ca.home.entries("session-begun").len()
    }

    /// Checks that a login works without the lie, does not with it, for a reason of which one of these
    /// words speaks, and works again without it.
    #[track_caller]
    fn refuses(&self, order: &Value, words: &[&str]) {
        self.comes_to_nothing(order, 77, words);
    }

    #[track_caller]
    fn comes_to_nothing(&self, order: &Value, code: i32, words: &[&str]) {
        self.takes(&json!({}));
        let before = self.sessions();
        let ran = self.login(order);
        self.came_to_nothing(order, &ran, code, words);
        assert_eq!(self.sessions(), before, "{order}");
        self.takes(&json!({}));
    }

    #[track_caller]
    fn came_to_nothing(&self, order: &Value, ran: &Ran, code: i32, words: &[&str]) {
        assert_eq!(ran.code, code, "{order}: {ran:?}");
        // What was said before is the address of the page, which has all kinds of words in it.
        let complaint = ran.err.rsplit("hallpass: ").next().unwrap().to_lowercase();
        let named = words.iter().any(|word| complaint.contains(word));
        assert!(named, "{order}: {complaint:?} speaks of none of {words:?}");
    }

    #[track_caller]
    fn takes(&self, order: &Value) {
        let before = self.sessions();
        let ran = self.login(order);
        assert_eq!(ran.code, 0, "{order}: {ran:?}\n{}", self.ca.server_log());
        assert_eq!(self.sessions(), before + 1, "{order}");
    }

    /// Why the newest login came to nothing, for programs that read the log.
    fn newest_code(&self) -> String {
        let refused = self.ca.home.entries("unauthenticated-refused").pop();
        let refused = refused.expect("a refusal");
        let code = &refused["event"]["refused"]["code"];
        code.as_str().unwrap().to_owned()
    }
}

// The ID token (OpenID Connect Core 1.0, section 3.1.3.7).

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
fn a_client_whose_clock_is_ten_minutes_off() {
    let scene = Scene::new();
    scene.takes(&json!({}));
    for offset in ["+10m", "-10m"] {
        let mut command = scene.bob.command();
        command
            .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1")
            .env("FAKETIME", offset);
        let ran = Login::by_hand_with(command, &[]).ends();
        assert_eq!(ran.code, 77, "{ran:?}");
        assert!(ran.err.contains("clock"), "{ran:?}");
        assert_eq!(scene.newest_code(), "clock-skew");
    }
    assert_eq!(scene.sessions(), 1);
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
        crate::support::run("chmod", ["600", path.to_str().unwrap()]).ok();
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
    for claims in lies {
        let order = json!({ "claims": claims });
        let ran = scene.login(&order);
        assert_eq!(ran.code, 77, "{order}: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{ran:?}");
    }
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

// The way there and back (RFC 6749, 7636, 9207; RFC 9700).

#[test]
fn what_is_asked_for_can_be_neither_guessed_nor_taken_over() {
    let scene = Scene::new();
    scene.takes(&json!({}));
    scene.takes(&json!({}));
    let (asked, redeemed) = (scene.liar.asked("authorize"), scene.liar.asked("token"));
    assert_eq!((asked.len(), redeemed.len()), (2, 2));
    for (asked, redeemed) in asked.iter().zip(&redeemed) {
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["client_id"], "hallpass");
        assert_eq!(asked["code_challenge_method"], "S256");
        assert_eq!(asked["scope"], "openid profile");
        let redirect = asked["redirect_uri"].as_str().unwrap();
        let port = redirect
            .strip_prefix("http://127.0.0.1:")
            .and_then(|rest| rest.strip_suffix("/callback"));
        assert!(port.unwrap().parse::<u16>().is_ok(), "{redirect}");
        assert_eq!(redeemed["redirect_uri"], redirect);
        assert_eq!(redeemed["grant_type"], "authorization_code");
        // RFC 7636, section 4.1.
        assert!(redeemed["code_verifier"].as_str().unwrap().len() >= 43);
        // A verifier or a secret has no business in a browser.
        assert!(asked["code_verifier"].is_null() && asked["client_secret"].is_null());
    }
    for name in ["state", "nonce", "code_challenge"] {
        let (one, other) = (
            asked[0][name].as_str().unwrap(),
            asked[1][name].as_str().unwrap(),
        );
        assert!(one.len() >= 22 && one != other, "{name}: {one} {other}");
    }
    let verifier = |place: usize| redeemed[place]["code_verifier"].clone();
    assert_ne!(verifier(0), verifier(1));
}

#[test]
fn a_way_back_from_another_issuer() {
    let scene = Scene::new();
    let other = json!({"redirect": {"iss": "https://provider.example.org"}});
    scene.refuses(&other, &["provider"]);
    // It said that it always names itself.
    scene.refuses(&json!({"redirect": {"iss": null}}), &["provider"]);
    assert_eq!(scene.newest_code(), "provider-mix-up");
    // Nor was the code shown to anybody.
    let redeemed = scene.liar.asked("token").len();
    assert_eq!(redeemed, scene.sessions());
}

#[test]
fn a_provider_that_sends_one_to_another_does_not_get_that_ones_code() {
    let (mallory, honest) = (Provider::liar(), Provider::liar());
    let tables = mallory.table("mallory", "") + &honest.table("honest", "");
    let ca = Ca::on(home_with(&tables));
    let bob = Person::newcomer(&ca);
    let mut login = Login::by_hand(&bob, &["--provider", "mallory"]);
    // Mallory's page sends the browser on to the honest one's, which sends it back with its own code.
    let elsewhere = login.url().replacen(&mallory.issuer, &honest.issuer, 1);
    let back = visit(&elsewhere).unwrap().location.unwrap();
    visit(&back).unwrap();
    let ran = login.ends();
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(mallory.asked("token").is_empty() && honest.asked("token").is_empty());
    assert!(ca.home.entries("session-begun").is_empty());
}

#[test]
fn a_way_back_with_another_state_changes_nothing() {
    let scene = Scene::new();
    for state in [json!("another"), json!(null), json!("")] {
        scene.liar.tell(&json!({"redirect": {"state": state}}));
        let mut login = scene.begin();
        let url = login.url();
        let back = visit(&url).unwrap().location.unwrap();
        let answer = visit(&back).unwrap();
        assert!(
            answer.status >= 400 && !answer.text.contains("Signed in"),
            "{answer:?}"
        );
        assert_eq!(scene.liar.asked("token").len(), scene.sessions());
        // Whoever is meant still comes.
        scene.liar.tell(&json!({}));
        let before = scene.sessions();
        let back = visit(&url).unwrap().location.unwrap();
        assert_eq!(visit(&back).unwrap().status, 200);
        login.ends().ok();
        assert_eq!(scene.sessions(), before + 1);
    }
}

#[test]
fn whoever_else_comes_to_the_way_back_changes_nothing() {
    let scene = Scene::new();
    let mut login = scene.begin();
    let url = login.url();
    let back = visit(&url).unwrap().location.unwrap();
    let (address, rest) = back
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let ask = |text: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut answer = String::new();
        // It may hang up on whoever makes no sense, before all is sent.
        stream.write_all(text.as_bytes()).ok();
        stream.read_to_string(&mut answer).ok();
        answer
    };
    for text in [
        "GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /callback HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        format!("POST /{rest} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
        format!("GET /{rest}&state=other HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /elsewhere/{rest} HTTP/1.1\r\nHost: x\r\n\r\n"),
        "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
        "GET /".to_owned() + &"a".repeat(100_000) + " HTTP/1.1\r\n\r\n",
    ] {
        let answer = ask(&text);
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    // One that connects and says nothing keeps nobody waiting for long.
    let silent = TcpStream::connect(address).unwrap();
    assert_eq!(visit(&back).unwrap().status, 200);
    drop(silent);
    login.ends().ok();
    assert_eq!(scene.sessions(), 1);
    // It is over: nobody listens any more.
    assert!(visit(&back).is_none());
}

#[test]
fn a_code_that_was_used_already() {
    let scene = Scene::new();
    let mut first = scene.begin();
    let back = visit(&first.url()).unwrap().location.unwrap();
    visit(&back).unwrap();
    first.ends().ok();
    let code = parameter(&back, "code");
    // A careless provider takes it again, and for anybody: the token is that of the first login.
    let order = json!({"redirect": {"code": code}, "careless": true});
    scene.refuses(&order, &["nonce"]);
    // One that looks gives nothing.
    let order = json!({"redirect": {"code": code}});
    scene.refuses(&order, &["invalid_grant"]);
}

#[test]
fn a_code_that_was_used_already_at_a_real_provider() {
    let provider = Provider::start();
    let ca = Ca::on(home_with(&provider.table("clinic", "")));
    let bob = Person::newcomer(&ca);
    let caught = |login: &mut Login| {
        let browser = Browser::caught("bob");
        browser.open(&login.url(), "");
        browser.page()
    };
    let mut first = Login::by_hand(&bob, &[]);
    let used = caught(&mut first);
    visit(&used).unwrap();
    first.ends().ok();
    let mut second = Login::by_hand(&bob, &[]);
    let fresh = caught(&mut second);
    let (used, code) = (parameter(&used, "code"), parameter(&fresh, "code"));
    visit(&fresh.replace(&code, &used)).unwrap();
    second.ends().fails_with(77, "invalid_grant");
    assert_eq!(ca.home.entries("session-begun").len(), 1);
}

#[test]
fn a_code_that_a_thief_took_on_its_way() {
    let scene = Scene::new();
    let eve = Person::newcomer(&scene.ca);
    let (mut bobs, mut eves) = (scene.begin(), Login::by_hand(&eve, &[]));
    let stolen = visit(&bobs.url()).unwrap().location.unwrap();
    let own = visit(&eves.url()).unwrap().location.unwrap();
    // With bob's state, eve's client does not know it; with her own, the code is another login's,
    // which the provider sees by its challenge.
    let code = (parameter(&own, "code"), parameter(&stolen, "code"));
    let planted = own.replace(&code.0, &code.1);
    visit(&planted).unwrap();
    eves.ends().fails_with(77, "invalid_grant");
    // And we by its nonce, where the provider does not look.
    scene.liar.tell(&json!({"careless": true}));
    let mut eves = Login::by_hand(&eve, &[]);
    let own = visit(&eves.url()).unwrap().location.unwrap();
    let planted = own.replace(&parameter(&own, "code"), &code.1);
    visit(&planted).unwrap();
    eves.ends().fails_with(77, "nonce");
    assert_eq!(scene.sessions(), 0);
    visit(&stolen).unwrap();
    bobs.ends().ok();
}

#[test]
fn what_the_provider_says_is_wrong_is_shown_harmlessly() {
    let scene = Scene::new();
    let evil = "\u{1b}[2J<script>alert(1)</script>\r\nhallpass: Signed in as alice";
    let order = json!({"redirect": {
        "code": null, "error": "access_denied", "error_description": evil,
    }});
    scene.liar.tell(&order);
    let mut login = scene.begin();
    let back = visit(&login.url()).unwrap().location.unwrap();
    let page = visit(&back).unwrap();
    assert!(!page.text.contains("<script>"), "{page:?}");
    let ran = login.ends();
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(
        ran.err.contains("access_denied") && !ran.err.contains('\u{1b}'),
        "{ran:?}"
    );
    assert!(!ran.err.contains("\nhallpass: Signed in"), "{ran:?}");

    let body = json!({"error": evil, "error_description": evil}).to_string();
    let order = json!({"token": {"status": 400, "body": body}});
    let ran = scene.login(&order);
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(!ran.err.contains('\u{1b}'), "{ran:?}");
    assert!(!ran.err.contains("\nhallpass: Signed in"), "{ran:?}");
    assert!(!scene.ca.server_log().contains('\u{1b}'));
}

// A provider that does not answer as one.

/// How endpoints go wrong that answer at once.
fn wrong_answers() -> Vec<Value> {
    vec![
        json!("hang-up"),
        json!({"status": 500, "body": "<html>sorry</html>", "type": "text/html"}),
        json!({"status": 503, "body": ""}),
        json!({"body": ""}),
        json!({"body": "<html>Please sign in to the hotel's network</html>", "type": "text/html"}),
        json!({"body": "[]"}),
        json!({"body": "null"}),
        json!({"body": "{}"}),
        json!({"body": "\u{0}"}),
        json!({"body": "[".repeat(100_000)}),
        json!({"status": 302, "body": "", "headers": {"Location": "http://127.0.0.1:1/"}}),
        json!("flood"),
    ]
}

/// Has one endpoint go wrong in each way, with a CA that never saw it right.
fn goes_wrong(endpoint: &str) {
    let scene = Scene::new();
    for answer in wrong_answers() {
        let order = json!({ endpoint: answer });
        let ran = scene.login(&order);
        scene.came_to_nothing(&order, &ran, 69, &["clinic"]);
    }
    assert_eq!(scene.sessions(), 0);
    // Once it is right again, nobody has to do anything for that.
    let start = Instant::now();
    while scene.login(&json!({})).code != 0 {
        assert!(start.elapsed() < Duration::from_secs(90));
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn a_provider_whose_metadata_is_wrong() {
    goes_wrong("discovery");
}

#[test]
fn a_provider_whose_keys_are_wrong() {
    goes_wrong("jwks");
}

#[test]
fn a_provider_whose_tokens_are_wrong() {
    goes_wrong("token");
}

#[test]
fn a_provider_that_never_answers_keeps_nobody_waiting() {
    for order in [
        json!({"token": "stare"}),
        json!({"token": "trickle"}),
        json!({"jwks": "stare"}),
        json!({"discovery": "stare"}),
    ] {
        // Another one each, since what was seen once is kept for a while.
        let scene = Scene::new();
        let carol = scene.ca.enrol("carol", &["on-call"]);
        scene.liar.tell(&order);
        let begun = Instant::now();
        let mut login = scene.begin();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_secs(1));
                let asked = Instant::now();
                carol.hallpass(["whoami"]).ok();
                assert!(asked.elapsed() < Duration::from_secs(5));
            });
            if let Some(url) = login.try_url() {
                visit(&visit(&url).unwrap().location.unwrap()).unwrap();
            }
        });
        let ran = login.ends();
        scene.came_to_nothing(&order, &ran, 69, &["clinic"]);
        assert!(begun.elapsed() < Duration::from_secs(45), "{order}");
        assert_eq!(scene.sessions(), 0);
    }
}

#[test]
fn metadata_that_is_another_providers() {
    for (change, words) in [
        (json!({"issuer": "https://provider.example.org"}), "issuer"),
        (json!({"issuer": null}), "issuer"),
        (json!({"token_endpoint": null}), "token"),
        (json!({"authorization_endpoint": null}), "authorization"),
        (json!({"jwks_uri": null}), "jwks"),
        // Where anybody on the way could read or change it.
        (
            json!({"token_endpoint": "http://provider.example.org/token"}),
            "http",
        ),
        (
            json!({"jwks_uri": "http://provider.example.org/jwks"}),
            "http",
        ),
        (
            json!({"authorization_endpoint": "http://provider.example.org/"}),
            "http",
        ),
        (
            json!({"authorization_endpoint": "javascript:alert(1)"}),
            "authorization",
        ),
        (
            json!({"authorization_endpoint": "file:///etc/passwd"}),
            "authorization",
        ),
        (json!({"authorization_endpoint": "--help"}), "authorization"),
    ] {
        let scene = Scene::new();
        let order = json!({"discovery": {"merge": change}});
        let ran = scene.login(&order);
        scene.came_to_nothing(&order, &ran, 69, &[words, "clinic"]);
        assert_eq!(scene.sessions(), 0);
    }
}

// The API itself.

fn fresh_key() -> PrivateKey {
    let seed = ring::rand::SystemRandom::new();
    let mut bytes = [0; 32];
    ring::rand::SecureRandom::fill(&seed, &mut bytes).unwrap();
    PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&bytes))
}

fn post<'a>(ca: &'a Ca, key: &'a PrivateKey, target: &str, body: &Value) -> Request<'a> {
    Request::new(ca, key, "POST", target).json(body)
}

/// Begins a login with a key, as far as the way back: its name there and what came back.
fn begun(scene: &Scene, key: &PrivateKey) -> (Value, Value) {
    let ask = json!({"redirect": "http://127.0.0.1:9/callback"});
    let begun = post(&scene.ca, key, "/v1/login", &ask).send().json();
    let back = visit(begun["url"].as_str().unwrap())
        .unwrap()
        .location
        .unwrap();
    let issuer = &scene.liar.issuer;
    let answer = json!({"code": parameter(&back, "code"), "state": begun["state"], "iss": issuer});
    (begun["login"].clone(), answer)
}

fn finish(ca: &Ca, key: &PrivateKey, login: &Value, redirect: &Value) -> Answer {
    let ask = json!({"login": login, "redirect": redirect});
    post(ca, key, "/v1/login/finish", &ask).send()
}

#[test]
fn a_login_is_finished_once_by_the_key_that_began_it_and_by_no_other() {
    let scene = Scene::new();
    let (own, other) = (fresh_key(), fresh_key());
    let (login, redirect) = begun(&scene, &own);
    // Whoever saw all that went over the wire has no key.
    let stolen = finish(&scene.ca, &other, &login, &redirect);
    assert!(matches!(stolen.status, 401 | 403), "{stolen:?}");
    let ask = json!({"login": login, "redirect": redirect});
    let request = post(&scene.ca, &own, "/v1/login/finish", &ask);
    let bytes = request.bytes();
    let answer = exchange(&scene.ca, &bytes).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["session"]["name"], "bob");
    // The same bytes, and the same question anew.
    assert_eq!(exchange(&scene.ca, &bytes).unwrap().status, 401);
    let again = finish(&scene.ca, &own, &login, &redirect);
    assert!(matches!(again.status, 401 | 403), "{again:?}");
    assert_eq!(scene.sessions(), 1);
    assert_eq!(scene.liar.asked("token").len(), 1);
    // The other key is still a stranger's.
    let whoami = Request::new(&scene.ca, &other, "GET", "/v1/whoami");
    assert_eq!(whoami.send().status, 401);
}

#[test]
fn a_guess_at_the_state_is_the_only_one() {
    let scene = Scene::new();
    let key = fresh_key();
    let (login, redirect) = begun(&scene, &key);
    let mut guessed = redirect.clone();
    guessed["state"] = "a guess".into();
    let (status, kind, _) = finish(&scene.ca, &key, &login, &guessed).problem();
    assert_eq!((status, kind.as_str()), (403, "wrong-state"));
    let late = finish(&scene.ca, &key, &login, &redirect);
    assert!(matches!(late.status, 401 | 403), "{late:?}");
    assert!(scene.liar.asked("token").is_empty());
    assert_eq!(scene.sessions(), 0);
}

#[test]
fn a_code_is_sent_to_this_machine_and_nowhere_else() {
    let scene = Scene::new();
    let key = fresh_key();
    for redirect in [
        "https://provider.example.org/callback",
        "http://provider.example.org/callback",
        "http://127.0.0.1.example.org:80/callback",
        "http://127.0.0.1:80@example.org/callback",
        "http://localhost:80/callback",
        "http://127.0.0.1/callback",
        "http://127.0.0.1:0/callback",
        "http://127.0.0.1:65536/callback",
        "http://127.0.0.1:80/callback/../x",
        "http://127.0.0.1:80/callback?x=y",
        "http://127.0.0.1:80/callback#x",
        "http://127.0.0.1:80/callback&client_id=x",
        "hallpass://callback",
        "",
    ] {
        let ask = json!({"redirect": redirect});
        let answer = post(&scene.ca, &key, "/v1/login", &ask).send();
        assert_eq!(answer.status, 400, "{redirect}: {answer:?}");
    }
    assert!(scene.liar.asked("authorize").is_empty());
}

#[test]
fn a_key_that_is_somebodys_already_signs_in_for_nobody_else() {
    let scene = Scene::new();
    let carol = scene.ca.enrol("carol", &["on-call"]);
    let ask = json!({"redirect": "http://127.0.0.1:9/callback"});
    let answer = post(&scene.ca, &carol.key, "/v1/login", &ask).send();
    assert!((400..500).contains(&answer.status), "{answer:?}");
    // Nor that of a session: whoever signs in next is not who the first was.
    scene.takes(&json!({}));
    let key = scene.bob.session_key();
    let answer = post(&scene.ca, &key, "/v1/login", &ask).send();
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_eq!(scene.sessions(), 1);
}

#[test]
fn a_login_that_waits_ends_with_the_server() {
    let scene = Scene::new();
    let mut login = scene.begin();
    let back = visit(&login.url()).unwrap().location.unwrap();
    let address = scene.ca.address().to_owned();
    let Scene { liar, ca, .. } = scene;
    let ca = Ca::at(ca.kill(), &address);
    let page = visit(&back).unwrap();
    assert!(page.text.contains("Not signed in"), "{page:?}");
    let ran = login.ends();
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(ca.home.entries("session-begun").is_empty());
    assert!(liar.asked("token").is_empty());
    wait_until("the end", || ca.home.entries("server-started").len() == 2);
}
