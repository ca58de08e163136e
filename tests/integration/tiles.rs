//! The log as others check it, over the API (C2SP tlog-tiles), and what is asked of it in malice.

use std::collections::HashSet;

use hallpass::audit::{Frontier, record_hash};
use serde_json::Value;

use crate::support::{Answer, Ca, Person};

fn get(ca: &Ca, person: &Person, target: &str) -> Answer {
    person.asks(ca, "GET", target).send()
}

/// A log of more than a whole tile.
fn grown() -> (Ca, Person, u64) {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    // Refusals are entries, too.
    while ca.home.log().len() < 260 {
        for _ in 0..50 {
            let refused = get(&ca, &bob, "/v1/users");
            assert_eq!(refused.status, 403, "{refused:?}");
        }
    }
    let note = get(&ca, &bob, "/v1/log/checkpoint").body;
    let size = note.lines().nth(1).unwrap().parse().unwrap();
    (ca, bob, size)
}

#[test]
fn tiles_and_bundles_are_those_of_the_entries() {
    let (ca, bob, size) = grown();
    let alice = ca.admin();
    let bodies = ca.home.lines();
    let leaves: Vec<[u8; 32]> = bodies
        .iter()
        .map(|body| record_hash(body.as_bytes()).0)
        .collect();
    let tile = |target: &str| {
        let answer = get(&ca, &bob, target);
        assert_eq!(answer.status, 200, "{target}");
        answer.bytes
    };
    assert_eq!(tile("/v1/log/tile/0/000"), leaves[..256].concat());
    let rest = size - 256;
    let partial = format!("/v1/log/tile/0/001.p/{rest}");
    assert_eq!(tile(&partial), leaves[256..size as usize].concat());
    // The first hash of the next level is the root of the first whole tile.
    let mut tree = Frontier::default();
    for body in &bodies[..256] {
        tree.append(record_hash(body.as_bytes()));
    }
    assert_eq!(tile("/v1/log/tile/1/000.p/1"), tree.root().0);

    let bundle = get(&ca, &alice, "/v1/log/tile/entries/000");
    let mut bytes = bundle.bytes.as_slice();
    for body in &bodies[..256] {
        let (length, rest) = bytes.split_first_chunk().unwrap();
        let (entry, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        assert_eq!(entry, body.as_bytes());
        bytes = rest;
    }
    assert!(bytes.is_empty());
    // Entries hold personal data; hashes do not.
    let (status, kind, _) = get(&ca, &bob, "/v1/log/tile/entries/000").problem();
    assert_eq!((status, kind.as_str()), (403, "denied"));
    let (status, kind, _) = get(&ca, &bob, "/v1/log/proofs/entries/0").problem();
    assert_eq!((status, kind.as_str()), (403, "denied"));
}

#[test]
fn no_guess_at_an_entry_is_confirmed_by_its_hash() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let refused = get(&ca, &Person::stranger(), "/v1/log/checkpoint");
    assert_eq!(refused.status, 401, "{refused:?}");
    let mut random = HashSet::new();
    for (index, body) in ca.home.lines().iter().enumerate() {
        let target = format!("/v1/log/inclusion?index={index}");
        let leaf = get(&ca, &bob, &target).json()["leaf_hash"].clone();
        assert_eq!(leaf, record_hash(body.as_bytes()).to_string());
        // Somebody who knows all that is not random.
        let entry: Value = serde_json::from_str(body).unwrap();
        let (nonce, salt) = (&entry["event"]["by"]["nonce"], &entry["salt"]);
        let unknown = nonce.as_str().or_else(|| salt.as_str());
        let unknown = unknown.unwrap_or_else(|| panic!("all of it can be guessed: {body}"));
        assert!(unknown.len() >= 22, "{body}");
        assert!(random.insert(unknown.to_owned()), "it was there: {body}");
    }
    assert_eq!(ca.home.entries("unauthenticated-refused").len(), 1);
}

#[test]
fn what_the_log_does_not_have_is_said_and_nothing_breaks() {
    let (ca, _, size) = grown();
    let alice = ca.admin();
    let most = u64::MAX;
    let digits = "x018/x446/x744/x073/x709/x551/615";
    for (target, status) in [
        ("/v1/log/tile/0/001".to_owned(), 404),
        ("/v1/log/tile/0/002.p/1".to_owned(), 404),
        ("/v1/log/tile/1/000".to_owned(), 404),
        ("/v1/log/tile/7/000.p/1".to_owned(), 404),
        ("/v1/log/tile/8/000".to_owned(), 400),
        ("/v1/log/tile/-1/000".to_owned(), 400),
        ("/v1/log/tile/0/x".to_owned(), 400),
        ("/v1/log/tile/0/000.p/256".to_owned(), 400),
        // More than 2^64 / 256, and more than 2^64.
        (format!("/v1/log/tile/0/{digits}"), 404),
        (format!("/v1/log/tile/7/{digits}"), 404),
        (format!("/v1/log/tile/entries/{digits}"), 404),
        (format!("/v1/log/tile/0/x999/{digits}"), 400),
        ("/v1/log/tile/entries/002".to_owned(), 404),
        ("/v1/log/tile/entries/000.p/0".to_owned(), 400),
        (format!("/v1/log/inclusion?index={size}&size={size}"), 404),
        (format!("/v1/log/inclusion?index=0&size={most}"), 404),
        (format!("/v1/log/inclusion?index={most}&size={most}"), 404),
        ("/v1/log/inclusion?index=0&size=0".to_owned(), 404),
        ("/v1/log/inclusion?index=-1".to_owned(), 400),
        ("/v1/log/inclusion".to_owned(), 400),
        (format!("/v1/log/consistency?old=1&new={most}"), 404),
        (format!("/v1/log/consistency?old={most}&new={most}"), 404),
        ("/v1/log/consistency?old=5&new=4".to_owned(), 404),
        ("/v1/log/consistency?old=0&new=0".to_owned(), 200),
        (format!("/v1/log/consistency?old=1&new={size}"), 200),
        ("/v1/log/consistency?old=1&new=2&more=3".to_owned(), 400),
        (format!("/v1/log/proofs/entries/{most}"), 400),
        ("/v1/log/proofs/entries/99999999".to_owned(), 404),
        ("/v1/log/proofs/serials/1".to_owned(), 404),
        ("/v1/log/proofs/serials/0".to_owned(), 400),
    ] {
        let answer = get(&ca, &alice, &target);
        assert_eq!(answer.status, status, "{target}: {answer:?}");
    }
    assert!(!ca.server_log().contains("panicked"), "{}", ca.server_log());
}

#[test]
fn nobody_is_shown_anything_who_does_not_sign() {
    let ca = Ca::start();
    let stranger = Person::stranger();
    for target in [
        "/v1/log/checkpoint",
        "/v1/log/checkpoint/cosigned",
        "/v1/log/tile/0/000.p/1",
        "/v1/log/tile/entries/000.p/1",
        "/v1/log/inclusion?index=0",
        "/v1/log/consistency?old=1&new=2",
        "/v1/log/range?first=0&next=1&size=2",
        "/v1/log/proofs/entries/0",
        "/v1/audit/tail",
    ] {
        let (status, kind, _) = get(&ca, &stranger, target).problem();
        assert_eq!((status, kind.as_str()), (401, "not-accepted"), "{target}");
    }
}
