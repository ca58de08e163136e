use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use rusqlite::Connection;

use super::schema::{SCHEMA, is_of_a_day, is_passing, of_a_day, passing};
use super::{Commit, Filter, Reader, Row, Store, StoreError};
use crate::audit::Entry;
use crate::audit::firsts::GROUP;
use crate::audit::tree::Frontier;
use crate::model::EntryIndex;

/// Makes a log one of the version before.
const SCHEMA_4: &str = include_str!("../../../tests/older/schema-4.sql");

const NAMES: [&str; 3] = ["deploy", "support", "incident"];

/// What one of [`NAMES`] says that an entry is about; nothing beyond them.
type About = (usize, usize, usize);

/// A log without a server.
struct Log {
    path: PathBuf,
    store: Store,
    tree: Frontier,
}

impl Log {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hallpass-store-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        // What a test left that was killed.
        fs::remove_dir_all(&folder).ok();
        fs::create_dir(&folder).unwrap();
        let path = folder.join("log.db");
        Self {
            store: Store::create(&path).unwrap(),
            path,
            tree: Frontier::default(),
        }
    }

    fn commit(&mut self, entries: &[About]) {
        let next = self.tree.size();
        let rows: Vec<Row> = (next..)
            .zip(entries)
            .map(|(index, about)| Row::new(&entry(index, *about)).unwrap())
            .collect();
        let mut tree = self.tree.clone();
        let hashes: Vec<_> = rows.iter().map(|row| tree.append(row.leaf)).collect();
        let again: Vec<Row> = entries
            .iter()
            .map(|about| Row::new(&entry(next, *about)).unwrap())
            .collect();
        let commit = |rows| Commit {
            rows,
            next,
            hashes: &hashes,
            before: None,
            after: None,
            state: None,
            spent: &[],
            sweep: None,
            cosigned: &[],
            probe: false,
        };
        if entries.len() > 1 {
            let failed = self.store.commit(&commit(&again));
            assert!(matches!(failed, Err(StoreError::Sqlite(_))));
        }
        self.store.commit(&commit(&rows)).unwrap();
        self.tree = tree;
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        fs::remove_dir_all(self.path.parent().unwrap()).unwrap();
    }
}

fn entry(index: u64, (user, role, purpose): About) -> Entry {
    let by = format!(
        r#"{{"requester":"{}","method":"ssh-key","fingerprint":"SHA256:x","source":"192.0.2.7","nonce":"n"}}"#,
        NAMES[user]
    );
    let request = match (NAMES.get(role), NAMES.get(purpose)) {
        (Some(role), Some(purpose)) => {
            format!(r#"{{"role":"{role}","purpose":"{purpose}","reason":null,"ttl":60}}"#)
        }
        _ => "null".to_owned(),
    };
    let refused = r#"{"request":"POST /v1","code":"denied","detail":"x"}"#;
    let entry = format!(
        r#"{{"index":{index},"time":"2026-01-31T09:30:00.250Z","event":{{"kind":"request-refused","by":{by},"request":{request},"refused":{refused},"decision":null}}}}"#
    );
    serde_json::from_str(&entry).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_search_finds_what_reading_all_of_it_finds(
        commits in prop::collection::vec(
            prop::collection::vec((0..3_usize, 0..9_usize, 0..6_usize), 1..50),
            1..12,
        ),
        opened_anew in 0..12_usize,
        older in any::<bool>(),
        searches in prop::collection::vec(
            (prop::option::of(0..3_usize), prop::option::of(0..3_usize), prop::option::of(0..3_usize), 0..300_u64, 1..20_usize),
            1..20,
        ),
    ) {
        let mut log = Log::new();
        for (count, entries) in commits.iter().enumerate() {
            if count == opened_anew {
                if older {
                    let log = Connection::open(&log.path).unwrap();
                    log.execute_batch(SCHEMA_4).unwrap();
                }
                log.store = Store::open(&log.path).unwrap();
            }
            log.commit(entries);
        }
        let all: Vec<About> = commits.concat();
        let reader = Reader::open(&log.path).unwrap();
        for (user, role, purpose, from, limit) in searches {
            let name = |place: usize| NAMES[place];
            let mut filter = Filter {
                user: user.map(|place| name(place).parse().unwrap()),
                role: role.map(|place| name(place).parse().unwrap()),
                purpose: purpose.map(|place| name(place).parse().unwrap()),
                from: EntryIndex(from),
                ..Filter::default()
            };
            let expected: Vec<u64> = (0_u64..)
                .zip(&all)
                .filter(|(index, about)| {
                    let request = about.1 < 3 && about.2 < 3;
                    *index >= from
                        && user.is_none_or(|user| about.0 == user)
                        && role.is_none_or(|role| request && about.1 == role)
                        && purpose.is_none_or(|purpose| request && about.2 == purpose)
                })
                .map(|(index, _)| index)
                .collect();
            let mut found = Vec::new();
            loop {
                let page = reader.list(&filter, limit).unwrap();
                prop_assert!(page.entries.len() <= limit);
                prop_assert!(page.next.is_none_or(|next| next > filter.from));
                found.extend(page.entries.iter().map(|(index, _)| index.0));
                match page.next {
                    Some(next) => filter.from = next,
                    None => break,
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}

/// How SQLite goes about a statement.
fn plan(sql: &str) -> String {
    let log = Connection::open_in_memory().unwrap();
    log.execute_batch(SCHEMA).unwrap();
    let mut plan = log.prepare(sql).unwrap();
    let column = if sql.starts_with("EXPLAIN QUERY PLAN") {
        "detail"
    } else {
        "opcode"
    };
    let steps = plan.query_map([], |row| row.get::<_, String>(column));
    let steps: Result<Vec<_>, _> = steps.unwrap().collect();
    steps.unwrap().join("\n")
}

#[test]
fn an_entry_is_inserted_without_tables_that_only_tell_its_kind() {
    let steps = plan("EXPLAIN INSERT INTO entries (idx, time, kind, body) VALUES (1, 2, 'x', '')");
    assert!(steps.contains("IdxInsert"), "{steps}");
    assert!(!steps.contains("OpenEphemeral"), "{steps}");
}

#[test]
fn entries_are_counted_without_reading_them() {
    let steps = plan("EXPLAIN QUERY PLAN SELECT count(*) FROM entries");
    assert_eq!(steps, "SCAN entries USING COVERING INDEX entries_requester");
}

#[test]
fn few_entries_are_in_the_index_of_their_role() {
    let mut log = Log::new();
    let entries = vec![(0, 0, 1); 3 * GROUP as usize + 1];
    for commit in entries.chunks(7) {
        log.commit(commit);
    }
    let count = |column: &str| -> i64 {
        let sql = format!("SELECT count({column}) FROM entries");
        let log = Connection::open(&log.path).unwrap();
        log.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("first_role"), count("first_purpose")), (4, 4));
    assert_eq!(count("requester"), entries.len() as i64);
}

#[test]
fn kinds_are_told_apart_here_as_in_the_database() {
    let memory = Connection::open_in_memory().unwrap();
    let query = concat!("SELECT ", of_a_day!("?1"), ", ", passing!("?1"));
    let written = query.split('\'').skip(1).step_by(2);
    let mut kinds = 0;
    for kind in written.chain(["user-disabled", "certificate-revoked", ""]) {
        let told: (bool, bool) = memory
            .query_row(query, [kind], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(told, (is_of_a_day(kind), is_passing(kind)), "{kind}");
        kinds += usize::from(told.1);
    }
    // Those of a day are in the query twice.
    assert_eq!(kinds, 11);
}
