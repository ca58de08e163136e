//! A touch of a FIDO2 key as the second factor of a session: by stock ssh-keygen, and by a key of which
//! the test knows all.

use std::process::Command;

use serde_json::{Value, json};
use ssh_key::PrivateKey;

use crate::fido2::{SK_PROVIDER, home_that_demands, stock_key};
use crate::support::{
    Answer, Authenticator, Ca, Folder, Login, Person, Provider, Ran, Request, TOUCHED, VERIFIED,
    run, visit,
};

/// Somebody touched the key, whom it knew.
const KNOWN: u8 = TOUCHED | VERIFIED;

/// A CA whose patients only those may read who show a second factor that was verified lately, a liar who
/// takes everybody for bob, and bob, whose FIDO2 key is enrolled.
struct Scene {
    _liar: Provider,
    ca: Ca,
    bob: Person,
    key: Authenticator,
}

impl Scene {
    fn new() -> Self {
        let liar = Provider::liar();
        let home = home_that_demands("context.mfa.verified && context.mfa.age < 120");
        let path = home.path().join("hallpass.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text + &liar.table("clinic", "")).unwrap();
        let ca = Ca::on(home);
        let bob = Person::newcomer(&ca);
        sign_in(&bob);
        let key = Authenticator::ed25519();
        let public = bob.folder.write("software.pub", key.line());
        let add = ["user", "key", "add", "bob", public.to_str().unwrap()];
        ca.admin().hallpass(add).ok();
        Self {
            _liar: liar,
            ca,
            bob,
            key,
        }
    }

    /// A touch by this key for a request by the session's key, as the docs say.
    fn touch<'a>(
        &'a self,
        session: &'a PrivateKey,
        key: &Authenticator,
        flags: u8,
        counter: u32,
    ) -> Request<'a> {
        let request = Request::new(&self.ca, session, "POST", "/v1/sessions/touch");
        let touch = self.signed(
            session,
            (&request.time, &request.nonce),
            key,
            flags,
            counter,
        );
        request.json(&json!({ "touch": touch }))
    }

    fn signed(
        &self,
        session: &PrivateKey,
        (time, nonce): (&str, &str),
        key: &Authenticator,
        flags: u8,
        counter: u32,
    ) -> String {
        let message = format!(
            "hallpass-touch-v1\naudience {}\nsession {}\ntime {time}\nnonce {nonce}\n",
            self.ca.fingerprint,
            session.fingerprint(ssh_key::HashAlg::Sha256),
        );
        key.armored("hallpass-touch-v1", message.as_bytes(), flags, counter)
    }

    /// What becomes of one by bob's key.
    fn send(&self, flags: u8, counter: u32) -> Answer {
        let session = self.bob.session_key();
        self.touch(&session, &self.key, flags, counter).send()
    }

    fn reads_patients(&self) -> Ran {
        let ask = "request patients-read --purpose incident --reason INC-1";
        self.bob.hallpass(ask.split(' '))
    }
}

pub(crate) fn sign_in(person: &Person) {
    let mut login = Login::by_hand(person, &[]);
    let back = visit(&login.url()).unwrap().location.unwrap();
    visit(&back).unwrap();
    login.ends().ok();
}

/// `hallpass login` with these options, where stock ssh-keygen finds its key.
fn touched(person: &Person, options: &[&str]) -> Ran {
    let askpass = person.folder.write("askpass", "#!/bin/sh\necho 1234\n");
    run("chmod", ["+x", askpass.to_str().unwrap()]).ok();
    let mut command = person.command();
    command
        .arg("login")
        .args(options)
        .env("SSH_SK_PROVIDER", SK_PROVIDER)
        .env("SSH_ASKPASS", askpass)
        .env("SSH_ASKPASS_REQUIRE", "force");
    Ran::of(&mut command)
}

fn newest(ca: &Ca, kind: &str) -> Value {
    let mut entries = ca.home.entries(kind);
    entries.pop().unwrap_or_else(|| panic!("no {kind}"))["event"].take()
}

#[test]
fn a_stock_fido2_key_is_the_second_factor_of_a_session() {
    let scene = Scene::new();
    let Scene { ca, bob, .. } = &scene;
    scene.reads_patients().fails_with(77, "Use your FIDO2 key.");
    let options = ["-t", "ed25519-sk", "-O", "verify-required"];
    let key = stock_key(ca, bob, "stock", &options);

    let ran = touched(bob, &["--touch", &key]);
    assert!(ran.err.contains("Touch your FIDO2 key."), "{ran:?}");
    let said = ran.ok();
    assert!(
        said.contains("bob") && said.contains("second factor 0 s ago"),
        "{said}"
    );
    // Nobody had to sign in once more.
    assert_eq!(ca.home.entries("session-begun").len(), 1);
    scene.reads_patients().ok();
    let logged = newest(ca, "session-touched");
    assert_eq!(logged["mfa"]["verified"], true);
    assert_eq!(logged["counter"], 0x1234_5678);
    assert_eq!(logged["by"]["requester"], "bob");
    assert_eq!(logged["by"]["method"], "clinic");
    let issued = newest(ca, "certificate-issued");
    let told = &issued["decision"]["circumstances"];
    assert_eq!(
        (&told["mfa"]["verified"], &told["method"]),
        (&json!(true), &json!("clinic"))
    );
    assert_eq!(told["key_type"], "ssh-ed25519");

    // A new session has none until it is shown again.
    sign_in(bob);
    bob.forget_issued();
    scene.reads_patients().fails_with(77, "Use your FIDO2 key.");
}

#[test]
fn a_key_that_counts_back_is_locked_and_no_factor_any_more() {
    let scene = Scene::new();
    let answer = scene.send(KNOWN, 7);
    assert_eq!(answer.status, 200, "{answer:?}");
    scene.reads_patients().ok();
    scene.bob.forget_issued();
    assert_eq!(scene.send(KNOWN, 7).status, 401);
    let logged = newest(&scene.ca, "counter-went-back");
    assert_eq!(
        (&logged["user"], &logged["counter"]),
        (&json!("bob"), &json!(7))
    );
    // The session lasts; what the key had said counts no more.
    assert!(scene.bob.hallpass(["whoami"]).ok().contains("bob"));
    scene.reads_patients().fails_with(77, "Use your FIDO2 key.");
    assert_eq!(scene.send(KNOWN, 100).status, 401);

    let lock = format!("key/{}", scene.key.fingerprint());
    scene.ca.admin().hallpass(["unlock", &lock]).ok();
    assert_eq!(scene.send(KNOWN, 101).status, 200);
    scene.reads_patients().ok();
}

#[test]
fn what_a_key_says_is_what_policy_is_told_also_after_a_restart() {
    let mut scene = Scene::new();
    assert_eq!(scene.send(TOUCHED, 1).status, 200);
    scene.reads_patients().fails_with(77, "Use your FIDO2 key.");
    assert_eq!(scene.send(KNOWN, 2).status, 200);
    let address = scene.ca.address().to_owned();
    let session = scene.bob.session_key();
    let again = scene.touch(&session, &scene.key, KNOWN, 3).bytes();
    scene.ca = Ca::at(scene.ca.stop(), &address);
    scene.reads_patients().ok();
    assert_eq!(
        crate::support::exchange(&scene.ca, &again).unwrap().status,
        200
    );
    // It was good once.
    assert_eq!(
        crate::support::exchange(&scene.ca, &again).unwrap().status,
        401
    );
    // When the key is taken from bob, it is no factor any more.
    scene.bob.forget_issued();
    let remove = ["user", "key", "remove", "bob", &scene.key.fingerprint()];
    scene.ca.admin().hallpass(remove).ok();
    scene.reads_patients().fails_with(77, "Use your FIDO2 key.");
}

#[test]
fn a_touch_is_good_for_one_request_of_one_session_of_the_keys_owner() {
    let scene = Scene::new();
    let Scene { ca, bob, key, .. } = &scene;
    let wrong = |answer: Answer, words: &str| {
        let (status, kind, detail) = answer.problem();
        assert_eq!((status, kind.as_str()), (403, "wrong-touch"), "{detail}");
        assert!(detail.contains(words), "{detail}");
    };
    let session = bob.session_key();
    // Of another request.
    let other = Request::new(ca, &session, "POST", "/v1/sessions/touch");
    let touch = scene.signed(&session, (&other.time, &other.nonce), key, KNOWN, 1);
    let moved = Request::new(ca, &session, "POST", "/v1/sessions/touch");
    let moved = moved.json(&json!({ "touch": touch }));
    wrong(moved.send(), "not made for this request");
    // Of another time: nonces are forgotten.
    let request = Request::new(ca, &session, "POST", "/v1/sessions/touch");
    let early = Request::new(ca, &session, "POST", "/v1/sessions/touch").at(-30);
    let touch = scene.signed(&session, (&early.time, &request.nonce), key, KNOWN, 1);
    wrong(
        request.json(&json!({ "touch": touch })).send(),
        "not made for this request",
    );
    // In the namespace of requests.
    let request = Request::new(ca, &session, "POST", "/v1/sessions/touch");
    let touch = key.armored(
        "hallpass-request-v1",
        request.message().as_bytes(),
        KNOWN,
        1,
    );
    wrong(
        request.json(&json!({ "touch": touch })).send(),
        "not made for this request",
    );
    // Of a key that is nobody's, and of somebody else's.
    let stranger = Authenticator::ed25519();
    let by = |key: &Authenticator| scene.touch(&session, key, KNOWN, 1).send();
    wrong(by(&stranger), "hallpass user key add bob");
    ca.enrol("carol", &["on-call"]);
    let folder = Folder::new();
    let public = folder.write("carol.pub", stranger.line());
    let add = ["user", "key", "add", "carol", public.to_str().unwrap()];
    ca.admin().hallpass(add).ok();
    wrong(by(&stranger), "is not enrolled for bob");
    // Nobody touched it.
    wrong(by_flags(&scene, &session, 0), "not made for this request");
    // Not a FIDO2 key at all.
    let request = Request::new(ca, &session, "POST", "/v1/sessions/touch");
    wrong(
        request.json(&json!({"touch": "none"})).send(),
        "no SSH signature",
    );
    // An enrolled key has no session to touch for.
    let admin = ca.admin();
    wrong(scene.touch(&admin.key, key, KNOWN, 1).send(), "is enrolled");
    assert!(ca.home.entries("session-touched").is_empty());
    // None of it was counted.
    assert_eq!(scene.send(KNOWN, 1).status, 200);
    // A session that is over takes none.
    let late = scene.touch(&session, key, KNOWN, 2).bytes();
    bob.hallpass(["logout"]).ok();
    assert_eq!(crate::support::exchange(ca, &late).unwrap().status, 401);
}

fn by_flags(scene: &Scene, session: &PrivateKey, flags: u8) -> Answer {
    scene.touch(session, &scene.key, flags, 1).send()
}

#[test]
fn what_can_t_be_touched_is_named() {
    let scene = Scene::new();
    let bob = &scene.bob;
    bob.hallpass(["login", "--touch"])
        .fails_with(66, "no FIDO2 key is known here");
    let plain = bob.folder.join("plain");
    let mut make = Command::new("ssh-keygen");
    make.args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&plain);
    Ran::of(&mut make).ok();
    bob.hallpass(["login", "--touch", plain.to_str().unwrap()])
        .fails_with(66, "is no FIDO2 key");
}
