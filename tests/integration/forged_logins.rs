//! Logins that somebody else has a hand in: on the way there and back (RFC 6749, 7636, 9207, 9700), and at
//! the API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;

use crate::support::{
    Answer, Browser, Ca, Login, Person, Provider, Request, Scene, exchange, home_with, parameter,
    visit, wait_until,
};

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
        assert_eq!(scene.ca.home.newest_code(), "clock-skew");
    }
    assert_eq!(scene.sessions(), 1);
}

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
    assert_eq!(scene.ca.home.newest_code(), "provider-mix-up");
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

fn fresh_key() -> PrivateKey {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).unwrap();
    PrivateKey::from(Ed25519Keypair::from_seed(&seed))
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
