//! Providers that don't answer as one: whoever signs in is told so, and nobody else notices.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Scene, visit, wait_until};

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
        let before = scene.liar.asked(endpoint).len();
        // One that gave no answer is left alone for some seconds.
        wait_until("the provider is asked again", || {
            let ran = scene.login(&order);
            scene.came_to_nothing(&order, &ran, 69, &["clinic"]);
            let asked = scene.liar.asked(endpoint).len() > before;
            if !asked {
                std::thread::sleep(Duration::from_secs(1));
            }
            asked
        });
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
