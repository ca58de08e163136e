use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{Roles, STARTER};
use super::*;

fn engine(policy: &str) -> Result<Engine, PolicyError> {
    let files = [(PathBuf::from("test.cedar"), policy)].into_iter();
    Engine::new(files, Some(&roles())).map_err(|mut errors| errors.remove(0))
}

fn roles() -> Roles {
    let files: BTreeMap<_, _> = STARTER.into_iter().collect();
    Roles::parse(files["roles.toml"]).unwrap()
}

fn circumstances(groups: &[&str]) -> Circumstances {
    Circumstances {
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        method: "ssh-key".to_owned(),
        key_type: "ssh-ed25519".to_owned(),
        mfa: None,
        source: "192.0.2.7".parse().unwrap(),
        time: LocalTime {
            weekday: 1,
            hour: 9,
            minute: 30,
        },
        workload: None,
        approvals: 0,
    }
}

fn decide(engine: &Engine, groups: &[&str], role: &str, purpose: &str, ttl: &str) -> Verdict {
    let circumstances = circumstances(groups);
    engine.decide_request(&Ask {
        requester: &"alice".parse().unwrap(),
        role: roles().find(&role.parse().unwrap()).unwrap(),
        purpose: &purpose.parse().unwrap(),
        reason: None,
        ttl: ttl.parse().unwrap(),
        circumstances: &circumstances,
    })
}

fn starter() -> Engine {
    let files = STARTER
        .into_iter()
        .filter(|(name, _)| name.ends_with(".cedar"))
        .map(|(name, text)| (PathBuf::from(name), text));
    Engine::new(files, Some(&roles())).unwrap()
}

#[test]
fn the_starter_policies_permit_what_they_say_and_nothing_else() {
    let engine = starter();
    let granted = decide(&engine, &["on-call"], "server-operator", "incident", "1h");
    assert!(granted.allowed);
    assert_eq!(granted.policies, ["on-call-operates-servers"]);

    let none = decide(&engine, &["on-call"], "patients-read", "support", "10m");
    assert_eq!(
        none,
        Verdict {
            allowed: false,
            policies: vec![],
            advice: vec![]
        }
    );
    assert!(!decide(&engine, &[], "server-operator", "incident", "1m").allowed);
    assert!(
        !decide(
            &engine,
            &["administrators"],
            "server-operator",
            "incident",
            "1m"
        )
        .allowed
    );

    let long = decide(
        &engine,
        &["on-call"],
        "server-operator",
        "maintenance",
        "31m",
    );
    assert!(!long.allowed);
    assert_eq!(long.policies, ["maintenance-is-short"]);
    assert!(long.advice[0].contains("--ttl 30m"));
}

#[test]
fn administration_is_for_administrators() {
    let engine = starter();
    let may = |group: &str, action| {
        engine
            .decide_admin(&"root".parse().unwrap(), action, &circumstances(&[group]))
            .allowed
    };
    for action in AdminAction::ALL {
        assert!(may("administrators", action), "{action:?}");
        assert!(!may("on-call", action), "{action:?}");
    }
    assert!(may("auditors", AdminAction::ReadLog));
    assert!(!may("auditors", AdminAction::ManageUsers));
    assert!(!may("auditors", AdminAction::ArchiveLog));
}

#[test]
fn a_policy_that_fails_to_evaluate_denies() {
    let engine = engine(
        "permit (principal, action, resource);
         forbid (principal, action == Action::\"request\", resource)
         when { context.ttl * 9223372036854775807 > 1 };",
    )
    .unwrap();
    assert!(!decide(&engine, &[], "deploy", "deploy", "10m").allowed);
}

#[test]
fn a_policy_can_tell_networks_apart() {
    let engine = engine(
        "permit (principal, action == Action::\"request\", resource)
         when { context.source.isInRange(ip(\"192.0.2.0/24\")) && resource.kind == \"ssh\" };",
    )
    .unwrap();
    assert!(decide(&engine, &[], "deploy", "deploy", "10m").allowed);
    assert!(!decide(&engine, &[], "patients-read", "incident", "10m").allowed);
}

#[test]
fn errors_name_line_and_column() {
    let error = |policy: &str| engine(policy).err().unwrap().to_string();
    let typo = error(
        "permit (principal, action == Action::\"request\", resource)\nwhen { context.purpos == \"incident\" };",
    );
    assert!(typo.starts_with("test.cedar:2:8: "), "{typo}");
    assert!(typo.contains("purpos"), "{typo}");
    let syntax = error("permit (principal, action, resource)\nwhen { context.ttl > };");
    assert!(syntax.starts_with("test.cedar:2:"), "{syntax}");
    let unknown = error("permit (principal in Team::\"x\", action, resource);");
    assert!(unknown.starts_with("test.cedar:1:"), "{unknown}");
    let twice = error(
        "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);",
    );
    assert!(twice.contains("@id(\"a\")"), "{twice}");
}

#[test]
fn what_policies_are_told_is_what_the_schema_says() {
    let schema = schema();
    let engine = starter();
    let (name, reason) = ("alice".parse().unwrap(), "INC-1".parse().unwrap());
    let workload = BTreeMap::from([
        ("provider".to_owned(), "github".to_owned()),
        ("repository".to_owned(), "acme/app".to_owned()),
    ]);
    let mut asked = Vec::new();
    for workload in [None, Some(workload)] {
        let circumstances = Circumstances {
            workload,
            mfa: Some(Mfa {
                verified: true,
                attested: false,
                age: 7,
            }),
            ..circumstances(&["on-call"])
        };
        for role in roles().iter() {
            for reason in [None, Some(&reason)] {
                asked.push(engine.request_of(
                    &Ask {
                        requester: &name,
                        role,
                        purpose: &role.purposes[0],
                        reason,
                        ttl: role.default_ttl,
                        circumstances: &circumstances,
                    },
                    Told::All,
                ));
            }
        }
        for action in AdminAction::ALL {
            asked.push(engine.admin_request_of(&name, action, &circumstances, Told::All));
        }
    }
    for (asked, request) in asked.into_iter().map(Option::unwrap) {
        let context = request.context().unwrap().clone();
        let (principal, action, resource) = (
            asked.principal.clone(),
            asked.action.clone(),
            asked.resource.clone(),
        );
        Request::new(principal, action, resource, context, Some(&schema)).unwrap();
        let entities = asked.entities.iter().cloned();
        Entities::from_entities(entities, Some(&schema)).unwrap();
    }
}

proptest! {
    /// Only policies whose heads fit are evaluated: that must never change what comes out.
    #[test]
    fn leaving_out_policies_whose_heads_do_not_fit_changes_nothing(
        heads in proptest::collection::vec((any::<bool>(), 0..5_usize, 0..4_usize, 0..5_usize), 1..12),
        groups in proptest::sample::subsequence(vec!["on-call", "deployers"], 0..=2),
        role in proptest::sample::select(vec!["deploy", "patients-read"]),
    ) {
        let principals = [
            "principal", "principal == User::\"alice\"", "principal in Group::\"on-call\"",
            "principal is Workload", "principal is User in Group::\"deployers\"",
        ];
        let actions = [
            "action", "action == Action::\"request\"",
            "action in [Action::\"request\", Action::\"lock\"]", "action == Action::\"lock\"",
        ];
        let resources = [
            "resource", "resource == Role::\"deploy\"", "resource is Role",
            "resource == Authority::\"hallpass\"", "resource in RoleGroup::\"clinical\"",
        ];
        let text: Vec<String> = heads
            .iter()
            .map(|(permit, principal, action, resource)| {
                let effect = if *permit { "permit" } else { "forbid" };
                let head = [principals[*principal], actions[*action], resources[*resource]];
                format!("{effect} ({});", head.join(", "))
            })
            .collect();
        // Heads that no request fits do not check.
        let set: Vec<_> = text.iter().filter(|text| engine(text).is_ok()).cloned().collect();
        let engine = engine(&set.join("\n")).unwrap();
        let (circumstances, name) = (circumstances(&groups), "alice".parse().unwrap());
        let (purpose, roles) = ("deploy".parse().unwrap(), roles());
        let (asked, request) = engine.request_of(&Ask {
            requester: &name,
            role: roles.find(&role.parse().unwrap()).unwrap(),
            purpose: &purpose,
            reason: None,
            ttl: "1m".parse().unwrap(),
            circumstances: &circumstances,
        }, Told::All).unwrap();
        let all = PolicySet::from_policies(engine.policies.iter().cloned()).unwrap();
        let decide = |set: &PolicySet| {
            let response = engine.authorizer.is_authorized(&request, set, &asked.entities);
            let mut reason: Vec<_> = response.diagnostics().reason().cloned().collect();
            reason.sort_unstable();
            (response.decision(), reason)
        };
        prop_assert_eq!(decide(&asked.slice.policies), decide(&all));
    }

    /// Policies are told what they read, and nothing else: that must never change what comes out.
    #[test]
    fn leaving_out_what_no_policy_reads_changes_nothing(
        conditions in proptest::collection::vec((any::<bool>(), any::<bool>(), 0..10_usize), 1..6),
        mfa in proptest::option::of((any::<bool>(), 0..100_u64)),
        hour in 0..24_u8,
        approvals in 0..2_u32,
        reason in any::<bool>(),
    ) {
        let all = [
            "context.purpose == \"deploy\"", "context.ttl < 60", "context.approvals >= 1",
            "context has reason && context.reason like \"INC-*\"", "context has mfa.verified",
            "context.mfa.verified && context.mfa.age < 50", "context.time.hour >= 9",
            "context.source.isInRange(ip(\"192.0.2.0/24\"))", "context.method == \"x\"",
            "[context.key_type].contains(\"ssh-ed25519\")",
        ];
        let policies = conditions.iter().map(|(permit, when, condition)| {
            let effect = if *permit { "permit" } else { "forbid" };
            let clause = if *when { "when" } else { "unless" };
            format!("{effect} (principal, action == Action::\"request\", resource) {clause} {{ {} }};", all[*condition])
        });
        let engine = engine(&policies.collect::<Vec<_>>().join("\n")).unwrap();
        let circumstances = Circumstances {
            mfa: mfa.map(|(verified, age)| Mfa { verified, attested: false, age }),
            time: LocalTime { weekday: 1, hour, minute: 0 },
            approvals,
            ..circumstances(&[])
        };
        let (roles, name, ticket) = (roles(), "alice".parse().unwrap(), "INC-1".parse().unwrap());
        let ask = Ask {
            requester: &name,
            role: roles.find(&"deploy".parse().unwrap()).unwrap(),
            purpose: &"deploy".parse().unwrap(),
            reason: reason.then_some(&ticket),
            ttl: "1m".parse().unwrap(),
            circumstances: &circumstances,
        };
        let decide = |told| engine.decide(engine.request_of(&ask, told));
        prop_assert_eq!(decide(Told::Read), decide(Told::All));
    }
}
