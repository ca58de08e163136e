//! What a decision costs among many policies and many people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use hallpass::model::{Circumstances, GroupName, LocalTime, UserName};
use hallpass::policy::{Ask, PolicySet, STARTER};

use crate::process;

pub(crate) const POLICIES: usize = 200;
pub(crate) const PEOPLE: usize = 5000;
/// Each person asks that often in a round.
const TIMES: usize = 4;
const ROUNDS: usize = 7;

/// CPU time of a decision in microseconds; the first of each person, and those after.
pub(crate) struct Decision {
    pub(crate) first: f64,
    pub(crate) next: f64,
}

/// Measures on one core.
pub(crate) fn measure() -> Decision {
    let policy = policies();
    let people: Vec<(UserName, Circumstances)> = (0..PEOPLE).map(person).collect();
    let first = per_decision(|| ask_all(&policy, &people), PEOPLE);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let round = || (0..TIMES).for_each(|_| ask_all(&policy, &people));
            per_decision(round, PEOPLE * TIMES)
        })
        .collect();
    rounds.sort_unstable_by(f64::total_cmp);
    Decision {
        first,
        next: rounds[ROUNDS / 2],
    }
}

/// The starter policies, and as many more as it takes: half of them for groups, a quarter for
/// people, a quarter forbids.
fn policies() -> PolicySet {
    let mut files: BTreeMap<String, String> = STARTER
        .iter()
        .filter(|(name, _)| name.ends_with(".cedar") || *name == "roles.toml")
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    let written = |files: &BTreeMap<String, String>| -> usize {
        files
            .values()
            .map(|text| text.matches("@id(").count())
            .sum()
    };
    let mut more = String::new();
    for number in written(&files)..POLICIES {
        let (effect, principal) = match number % 4 {
            0 => (
                "forbid",
                format!("principal in Group::\"blocked-{number}\""),
            ),
            1 => ("permit", format!("principal == User::\"person-{number}\"")),
            _ => ("permit", format!("principal in Group::\"team-{number}\"")),
        };
        let _ = writeln!(
            more,
            "@id(\"more-{number}\") {effect} ({principal}, action == Action::\"request\", resource)\n\
             when {{ context.purpose == \"incident\" && context.ttl <= 600 }};"
        );
    }
    files.insert("more.cedar".to_owned(), more);
    assert_eq!(written(&files), POLICIES);
    PolicySet::from_files(files, Path::new("")).expect("policies")
}

/// Somebody on call who is in two teams.
fn person(number: usize) -> (UserName, Circumstances) {
    let group = |name: String| name.parse::<GroupName>().expect("a legal name");
    let circumstances = Circumstances {
        groups: vec![
            group("on-call".to_owned()),
            group(format!("team-{}", number % POLICIES)),
            group(format!("team-{}", (number * 7) % POLICIES)),
        ],
        method: "ssh-key".to_owned(),
        key_type: "ssh-ed25519".to_owned(),
        mfa: None,
        source: [10, 0, (number / 256) as u8, (number % 256) as u8].into(),
        time: LocalTime {
            weekday: 1,
            hour: 9,
            minute: 30,
        },
        workload: None,
        approvals: 0,
    };
    let name = format!("person-{number}").parse().expect("a legal name");
    (name, circumstances)
}

fn ask_all(policy: &PolicySet, people: &[(UserName, Circumstances)]) {
    let role = "server-operator".parse().expect("a legal name");
    let role = policy.roles.find(&role).expect("a starter role");
    let (purpose, reason) = (
        "incident".parse().expect("a legal word"),
        "INC-1".parse().expect("a legal reason"),
    );
    for (requester, circumstances) in people {
        let verdict = policy.engine.decide_request(&Ask {
            requester,
            role,
            purpose: &purpose,
            reason: Some(&reason),
            ttl: role.default_ttl,
            circumstances,
        });
        assert!(black_box(verdict).allowed, "permitted");
    }
}

fn per_decision(work: impl FnOnce(), decisions: usize) -> f64 {
    let own = std::process::id();
    let from = process::cpu(own);
    work();
    let spent: Duration = process::cpu(own) - from;
    spent.as_secs_f64() * 1e6 / decisions as f64
}
