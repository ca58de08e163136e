//! What the log proves, checked by code that shares nothing with ours.

use std::fs;

use serde_json::Value;

use crate::support::{Ca, independent};

#[test]
fn go_s_transparency_log_code_finds_an_entry_proven_and_a_changed_one_not() {
    let ca = Ca::start();
    let admin = ca.admin();
    let key = admin.hallpass(["audit", "key"]).ok();
    let (key, file) = (key.trim(), admin.folder.join("entry.tlog-proof"));
    for entry in ["0", "1", "3"] {
        let proof = admin.hallpass(["audit", "prove", entry]).ok();
        fs::write(&file, &proof).unwrap();
        let arguments = ["inclusion", file.to_str().unwrap(), key];
        let said = independent(arguments).ok();
        let body = &ca.home.log()[entry.parse::<usize>().unwrap()];
        let (_, json) = said.split_once(&format!("entry {entry} ")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(json).unwrap(), *body);
        let line = proof.lines().nth(3).unwrap();
        let forged = line.replacen(|c: char| c.is_ascii_lowercase(), "Z", 1);
        fs::write(&file, proof.replace(line, &forged)).unwrap();
        assert_eq!(independent(arguments).code, 1);
    }
}

#[test]
fn go_s_transparency_log_code_finds_a_later_log_to_continue_the_earlier() {
    let ca = Ca::start();
    let admin = ca.admin();
    let key = admin.hallpass(["audit", "key"]).ok();
    let notes = ["old", "new"].map(|name| {
        let note = admin.asks(&ca, "GET", "/v1/log/checkpoint").send().body;
        ca.enrol(name, &[]);
        (admin.folder.write(name, &note), size(&note))
    });
    let [(old, old_size), (new, new_size)] = &notes;
    assert!(old_size < new_size);
    let target = format!("/v1/log/consistency?old={old_size}&new={new_size}");
    let proof = admin.asks(&ca, "GET", &target).send().json();
    let hashes = proof["hashes"].as_array().unwrap();
    let mut arguments = vec!["consistency", old.to_str().unwrap(), new.to_str().unwrap()];
    arguments.push(key.trim());
    arguments.extend(hashes.iter().map(|hash| hash.as_str().unwrap()));
    independent(&arguments).ok();
    arguments.pop();
    assert_eq!(independent(&arguments).code, 1);
}

fn size(note: &str) -> u64 {
    note.lines().nth(1).unwrap().parse().unwrap()
}
