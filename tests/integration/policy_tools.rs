//! Policies that are checked, tested, proven, compared and tried out, before they decide anything.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Ca, Folder, Home, Ran, issue, program, serve_fails};

/// A folder with the starter policies, to be changed.
struct Policies(Folder);

impl Policies {
    fn starter() -> Self {
        let folder = Folder::new();
        for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/policies")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
        Self(folder)
    }

    fn with(file: &str, from: &str, to: &str) -> Self {
        let policies = Self::starter();
        policies.edit(file, from, to);
        policies
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    fn append(&self, file: &str, more: &str) {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}\n{more}\n")).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn run(&self, what: &str, more: &[&str]) -> Ran {
        let mut command = program();
        command.args(["policy", what]).arg(self.path()).args(more);
        Ran::of(&mut command)
    }

    fn test(&self, table: &str, more: &[&str]) -> Ran {
        let table = self.0.write("table.toml", table);
        let mut command = program();
        command.args(["policy", "test"]).arg(table);
        Ran::of(command.arg(self.path()).args(more))
    }

    /// The invariants that are not proven, with what was found.
    fn unproven(&self) -> Vec<(String, Value)> {
        let proven = self.run("prove", &["--json"]);
        let proofs: Vec<Value> = proven
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(!proofs.is_empty(), "{proven:?}");
        let unproven: Vec<_> = proofs
            .into_iter()
            .filter(|proof| proof["outcome"] != "proven")
            .map(|proof| (proof["invariant"].as_str().unwrap().to_owned(), proof))
            .collect();
        assert_eq!(proven.code, i32::from(!unproven.is_empty()), "{proven:?}");
        unproven
    }
}

/// What a file says, what it says instead, and what is said of that.
const WRONG: [(&str, &str, &str, &str); 43] = [
    // Attributes and types.
    (
        "access.cedar",
        "context.ttl > 1800",
        "context.tll > 1800",
        "did you mean `ttl`?",
    ),
    (
        "access.cedar",
        "context.ttl > 1800",
        "context.ttl > \"1800\"",
        "unexpected type",
    ),
    (
        "access.cedar",
        "context.ttl > 1800",
        "context.ttl",
        "unexpected type",
    ),
    (
        "access.cedar",
        "context.ttl > 1800",
        "context.ttl.minutes > 30",
        "unexpected type",
    ),
    (
        "access.cedar",
        "context.purpose == \"emergency\"",
        "context.purpose == 1",
        "are not compatible",
    ),
    (
        "access.cedar",
        "context.mfa.verified",
        "context.mfa.verifed",
        "did you mean `verified`?",
    ),
    (
        "access.cedar",
        "context.mfa.verified",
        "context.mfa",
        "unexpected type",
    ),
    (
        "access.cedar",
        "context.mfa.verified",
        "context.reason == \"x\"",
        "reason",
    ),
    (
        "access.cedar",
        "resource.sensitivity",
        "resource.sensitvity",
        "did you mean `sensitivity`?",
    ),
    (
        "access.cedar",
        "resource.sensitivity",
        "principal.sensitivity",
        "not found",
    ),
    (
        "access.cedar",
        "context.time.hour >= 7",
        "context.time.hours >= 7",
        "did you mean `hour`?",
    ),
    (
        "access.cedar",
        "context.time.hour >= 7",
        "context.source >= 7",
        "unexpected type",
    ),
    (
        "access.cedar",
        "context.time.hour >= 7",
        "context.source.isInRange(ip(\"10.0.0.0/99\"))",
        "10.0.0.0/99",
    ),
    // Entity types and actions.
    (
        "access.cedar",
        "Group::\"on-call\"",
        "Groups::\"on-call\"",
        "did you mean `Group`?",
    ),
    (
        "access.cedar",
        "principal is Workload",
        "principal is Job",
        "Job",
    ),
    (
        "access.cedar",
        "action == Action::\"request\"",
        "action == Action::\"requests\"",
        "did you mean `Action::\"request\"`?",
    ),
    (
        "access.cedar",
        "action == Action::\"request\"",
        "action == \"request\"",
        "expected",
    ),
    (
        "administration.cedar",
        "Action::\"lock\"",
        "Action::\"locks\"",
        "did you mean `Action::\"lock\"`?",
    ),
    (
        "administration.cedar",
        "resource == Authority::\"hallpass\"",
        "resource == Authority::\"hallpas\"",
        "did you mean \"hallpass\"?",
    ),
    (
        "access.cedar",
        "context.purpose == \"deploy\"",
        "context.purpse == \"deploy\"",
        "did you mean `purpose`?",
    ),
    // Names that roles.toml declares.
    (
        "access.cedar",
        "Role::\"server-operator\"",
        "Role::\"server-operater\"",
        "did you mean \"server-operator\"?",
    ),
    (
        "access.cedar",
        "RoleGroup::\"deployment\"",
        "RoleGroup::\"deploy\"",
        "there is no RoleGroup::\"deploy\"",
    ),
    (
        "access.cedar",
        "context.purpose == \"deploy\"",
        "context.purpose == \"deply\"",
        "did you mean \"deploy\"?",
    ),
    (
        "access.cedar",
        "[\"incident\", \"maintenance\"]",
        "[\"incidents\", \"maintenance\"]",
        "did you mean \"incident\"?",
    ),
    (
        "access.cedar",
        "when { context.purpose == \"deploy\" }",
        "unless { context.purpose != \"xyz\" }",
        "there are deploy, emergency",
    ),
    // Syntax.
    (
        "access.cedar",
        "permit (",
        "permitt (",
        "invalid policy effect",
    ),
    ("access.cedar", "};", "}", "unexpected token"),
    (
        "access.cedar",
        "when {",
        "wenn {",
        "invalid policy condition",
    ),
    (
        "access.cedar",
        "principal in Group::\"on-call\",",
        "principal in ?principal,",
        "templates",
    ),
    (
        "access.cedar",
        "@id(\"deployers-deploy\")",
        "@id(\"maintenance-is-short\")",
        "there is another policy",
    ),
    (
        "access.cedar",
        "context.ttl > 1800",
        "context.ttl > 99999999999999999999",
        "number too large",
    ),
    // Roles.
    (
        "roles.toml",
        "max_ttl = \"1h\"",
        "max_ttl = \"25h\"",
        "from 1s to 24h",
    ),
    (
        "roles.toml",
        "default_ttl = \"15m\"",
        "default_ttl = \"2h\"",
        "is longer than max_ttl",
    ),
    (
        "roles.toml",
        "purposes = [\"incident\", \"maintenance\"]",
        "purposes = [\"incdent\"]",
        "incdent is not declared",
    ),
    (
        "roles.toml",
        "purposes = [\"deploy\"]",
        "purposes = []",
        "name at least one",
    ),
    (
        "roles.toml",
        "max_ttl = \"30m\"",
        "max_tll = \"30m\"",
        "max_tll",
    ),
    (
        "roles.toml",
        "principals = [\"operator\"]",
        "principals = [\"a,b\"]",
        "a,b",
    ),
    (
        "roles.toml",
        "principals = [\"vendor\"]",
        "principals = [\"vendor\", \"deploy\"]",
        "[ssh.vendor-support] principals: deploy is also in [ssh.deploy], which has other hosts",
    ),
    (
        "roles.toml",
        "reason = \"optional\"",
        "reason = \"sometimes\"",
        "optional",
    ),
    (
        "roles.toml",
        "[ssh.deploy]",
        "[ssh.patients-read]",
        "both an SSH and a database role",
    ),
    // Invariants.
    (
        "invariants.toml",
        "holds = \"context.ttl <= 28800\"",
        "holds = \"context.tll <= 28800\"",
        "did you mean `ttl`?",
    ),
    (
        "invariants.toml",
        "action = \"read-log\"",
        "action = \"read-logs\"",
        "read-logs",
    ),
    (
        "invariants.toml",
        "id = \"maintenance-is-short\"",
        "id = \"workloads-only-deploy\"",
        "there is another invariant",
    ),
];

#[test]
fn every_mistake_is_named_with_its_place() {
    for (file, from, to, words) in WRONG {
        let policies = Policies::with(file, from, to);
        let checked = policies.run("check", &["--json"]);
        assert_eq!(checked.code, 1, "{to}: {checked:?}");
        let found: Vec<Value> = checked
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let is_it = |finding: &&Value| finding["message"].as_str().unwrap().contains(words);
        let finding = found.iter().find(is_it);
        let finding = finding.unwrap_or_else(|| panic!("{to}: {words}: {checked:?}"));
        assert_eq!(finding["severity"], "error");
        let named = finding["file"].as_str().unwrap();
        assert!(named.ends_with(file), "{to}: {finding}");
        // Of two with one name, the other may be named.
        if !["there is another policy", "both an SSH and a database role"].contains(&words) {
            let starter = fs::read_to_string(Policies::starter().path().join(file)).unwrap();
            let (before, _) = starter.split_once(from).unwrap();
            let wrong = before.matches('\n').count() as u64 + 1;
            let line = finding["line"].as_u64().unwrap();
            // Cedar names where a sentence goes wrong, which may be some lines on.
            assert!(line.abs_diff(wrong) <= 5, "{to}: line {wrong}: {finding}");
            assert!(finding["column"].as_u64().unwrap() >= 1);
        }
        // What does not check is not loaded.
        let proven = policies.run("prove", &[]);
        assert_eq!(proven.code, 65, "{to}: {proven:?}");
        assert!(proven.err.contains(words), "{to}: {proven:?}");
    }
}

#[test]
fn all_mistakes_are_shown_at_once() {
    let policies = Policies::with("access.cedar", "context.ttl > 1800", "context.tll > 1800");
    policies.edit("access.cedar", "Role::\"deploy\"", "Role::\"deply\"");
    policies.edit("administration.cedar", "permit (", "permitt (");
    policies.edit("roles.toml", "max_ttl = \"1h\"", "max_ttl = \"0s\"");
    policies.edit("roles.toml", "user = \"maintenance\"", "user = \"a b\"");
    policies.edit("invariants.toml", "28800", "\\\"x\\\"");
    let checked = policies.run("check", &[]);
    assert_eq!(checked.code, 1);
    for words in [
        "tll",
        "permitt",
        "[ssh.server-operator] max_ttl",
        "[database.database-maintenance] user",
        "invariant nothing-outlives-a-shift",
    ] {
        assert!(checked.out.contains(words), "{words}: {}", checked.out);
    }
    // With wrong roles nothing can be said about their names.
    assert!(!checked.out.contains("deply"), "{}", checked.out);
}

#[test]
fn policies_that_never_apply_and_roles_that_nobody_can_get_are_found() {
    let sound = Policies::starter().run("check", &[]);
    assert!(sound.ok().starts_with("Nothing is wrong in "));

    let policies = Policies::with(
        "access.cedar",
        "[\"incident\", \"maintenance\"]",
        "[\"deploy\"]",
    );
    policies.append(
        "access.cedar",
        "@id(\"too-late\")\nforbid (principal, action == Action::\"request\", resource == Role::\"deploy\")\nwhen { context.ttl > 86400 };\n\
         @id(\"at-noon\")\npermit (principal, action == Action::\"request\", resource == Role::\"deploy\")\nwhen { context.time.hour == 12 && context.time.hour < 12 };\n\
         @id(\"fine\")\npermit (principal, action == Action::\"request\", resource == Role::\"deploy\")\nwhen { context has reason && context.reason like \"INC-*\" };",
    );
    let checked = policies.run("check", &[]);
    assert_eq!(checked.code, 1);
    for words in [
        "access.cedar:6:1: warning: policy on-call-operates-servers never applies",
        "warning: policy too-late never applies",
        "warning: policy at-noon never applies",
        "roles.toml:25:1: warning: nobody can get role server-operator for purpose incident",
        "warning: nobody can get role server-operator for purpose maintenance",
    ] {
        assert!(checked.out.contains(words), "{words}: {}", checked.out);
    }
    assert_eq!(checked.out.lines().count(), 5, "{}", checked.out);
}

#[test]
fn a_planted_hole_is_found_each_time() {
    let permit = |what: &str| {
        format!("@id(\"hole\")\npermit (principal, action, resource) when {{ {what} }};")
    };
    let holes: [(&str, &str, &str, &str); 13] = [
        // An exception that is too wide.
        (
            "access.cedar",
            "forbid (principal in Group::\"vendors\",",
            "forbid (principal == User::\"vera\",",
            "no-vendor-sees-patients",
        ),
        // An hour too much.
        (
            "access.cedar",
            "context.time.hour < 19 }",
            "context.time.hour <= 19 }",
            "vendors-come-by-day",
        ),
        // Saturdays.
        (
            "access.cedar",
            "context.time.weekday <= 5",
            "context.time.weekday <= 6",
            "vendors-come-by-day",
        ),
        // A second factor that was only touched.
        (
            "access.cedar",
            "\"emergency\" && context.mfa.verified",
            "\"emergency\" && context.mfa.present",
            "root-needs-a-verified-second-factor",
        ),
        // One that its maker attests, and that did not look who touched it.
        (
            "access.cedar",
            "\"emergency\" && context.mfa.verified",
            "\"emergency\" && context.mfa.attested",
            "root-needs-a-verified-second-factor",
        ),
        // `||` for `&&`.
        (
            "access.cedar",
            "context.purpose == \"maintenance\" && context.ttl > 1800",
            "context.purpose == \"maintenance\" && context.ttl > 1801",
            "maintenance-is-short",
        ),
        // Not all workloads.
        (
            "access.cedar",
            "forbid (principal is Workload, action, resource)",
            "forbid (principal is Workload in Group::\"jobs\", action, resource)",
            "workloads-only-deploy",
        ),
        // Somebody else among the administrators.
        (
            "administration.cedar",
            "principal in Group::\"auditors\",\n  action == Action::\"read-log\"",
            "principal in Group::\"auditors\",\n  action in [Action::\"read-log\", Action::\"manage-keys\"]",
            "administrators-alone-manage-keys",
        ),
        // A role that lost its sensitivity.
        (
            "roles.toml",
            "purposes = [\"incident\", \"support\"]",
            "purposes = [\"incident\", \"support\", \"deploy\"]",
            "patients-data-for-care-alone",
        ),
        // A role that lives too long.
        (
            "roles.toml",
            "max_ttl = \"1h\"",
            "max_ttl = \"9h\"",
            "nothing-outlives-a-shift",
        ),
        // Less than no approval is none.
        (
            "access.cedar",
            "context.approvals < 1",
            "context.approvals < 0",
            "no-vendor-without-approval",
        ),
        // Vendors among themselves.
        (
            "access.cedar",
            "unless { principal in Group::\"vendors\" }",
            "unless { principal in Group::\"vendors\" && context.ttl > 600 }",
            "no-vendor-lets-a-vendor-in",
        ),
        // A permit for everything, on one condition.
        (
            "administration.cedar",
            "// Who may run Hallpass itself.",
            "HOLE",
            "administrators-alone-manage-users",
        ),
    ];
    for (file, from, to, invariant) in holes {
        let policies = Policies::with(file, from, to);
        match invariant {
            "patients-data-for-care-alone" => policies.edit(
                "access.cedar",
                "[\"incident\", \"support\"]",
                "[\"incident\", \"support\", \"deploy\"]",
            ),
            "administrators-alone-manage-users" => policies.edit(
                "administration.cedar",
                "HOLE",
                &permit("context.source.isInRange(ip(\"10.0.0.0/8\"))"),
            ),
            _ => {}
        }
        let unproven = policies.unproven();
        let broken = unproven.iter().find(|(id, _)| id == invariant);
        let (_, proof) = broken.unwrap_or_else(|| panic!("{to}: {unproven:?}"));
        assert_eq!(proof["outcome"], "broken", "{to}: {proof}");
        // It was put to the authorizer: as a case, it is permitted.
        let permitted = policies.test(&as_case(&proof["example"]), &[]);
        assert_eq!(permitted.code, 0, "{to}: {proof} {permitted:?}");
    }
}

/// The example as a line of a table, with names that are legal where they do not matter.
fn as_case(example: &Value) -> String {
    let text = |name: &str| example[name].as_str().unwrap_or_default();
    let kind = if example["workload"] == true {
        "workload"
    } else {
        "user"
    };
    let mut case = format!(
        "[[case]]\nname = \"example\"\n{kind} = \"somebody\"\ngroups = {}\nexpect = \"permit\"\n\
         by = {}\nsource = {:?}\ntime = {:?}\n",
        example["groups"],
        example["policies"],
        text("source").split('/').next().unwrap(),
        text("time"),
    );
    if ["request", "approve"].contains(&text("action")) {
        case += &match example["approvals"].as_u64() {
            Some(approvals) => format!("approvals = {approvals}\n"),
            None => "action = \"approve\"\nrequester = \"another\"\n".to_owned(),
        };
        case += &format!(
            "role = {:?}\npurpose = {:?}\nttl = \"{}s\"\nreason = \"INC-1\"\n",
            text("role"),
            text("purpose"),
            example["ttl"]
        );
    } else {
        case += &format!("action = {:?}\n", text("action"));
    }
    if text("mfa") != "none" {
        case += &format!(
            "mfa = {:?}\nmfa_attested = {}\nmfa_age = {}\n",
            text("mfa"),
            example["mfa_attested"] == true,
            example["mfa_age"].as_u64().unwrap_or(2_147_483_647)
        );
    }
    case
}

#[test]
fn sound_policies_are_proven() {
    let hours =
        "when { context.time.weekday <= 5 && context.time.hour >= 7 && context.time.hour < 19 }";
    let sound: [(&str, &str, &str); 10] = [
        ("roles.toml", "# Every purpose", "# Every purpose"),
        (
            "access.cedar",
            hours,
            "unless { context.time.weekday > 5 || context.time.hour < 7 || context.time.hour > 18 }",
        ),
        (
            "access.cedar",
            "context.purpose == \"emergency\" && context.mfa.verified",
            "context.mfa.verified && context.mfa.age < 60",
        ),
        (
            "access.cedar",
            "when { resource.sensitivity == \"patient-data\" }",
            "unless { resource.sensitivity != \"patient-data\" }",
        ),
        (
            "access.cedar",
            "principal in Group::\"deployers\"",
            "principal",
        ),
        ("access.cedar", "context.ttl > 1800", "context.ttl > 1799"),
        ("roles.toml", "max_ttl = \"1h\"", "max_ttl = \"8h\""),
        (
            "administration.cedar",
            "principal in Group::\"auditors\"",
            "principal == User::\"ada\"",
        ),
        // The role's own bounds are enough.
        ("access.cedar", " && context.ttl <= 1800 };", " };"),
        (
            "access.cedar",
            "principal in Group::\"vendors\",\n  action",
            "principal in Group::\"vendors\",\n  // by day\n  action",
        ),
    ];
    for (file, from, to) in sound {
        let unproven = Policies::with(file, from, to).unproven();
        assert!(unproven.is_empty(), "{to}: {unproven:?}");
    }
}

#[test]
fn what_can_fail_to_evaluate_is_never_called_proven_wrongly() {
    // Where it overflows, nothing is permitted: that is no hole, and no proof either.
    let policies = Policies::with(
        "access.cedar",
        "context.ttl > 1800",
        "context.ttl * 9223372036854775807 > 0",
    );
    let unproven = policies.unproven();
    let (id, proof) = &unproven[0];
    assert_eq!(id, "maintenance-is-short");
    assert_eq!(proof["outcome"], "undecided", "{proof}");
    assert!(
        proof["why"].as_str().unwrap().contains("fails to evaluate"),
        "{proof}"
    );
}

#[test]
fn without_the_solver_it_is_said_what_to_install() {
    let policies = Policies::starter();
    let without = |what: &str| {
        let mut command = program();
        command.args(["policy", what]).arg(policies.path());
        Ran::of(command.env("PATH", "/nonexistent"))
    };
    without("prove").fails_with(69, "apt-get install cvc5");
    let checked = without("check");
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(
        checked
            .err
            .contains("not looked for policies that never apply"),
        "{checked:?}"
    );
    policies.edit("access.cedar", "context.ttl > 1800", "context.tll > 1800");
    assert_eq!(without("check").code, 1);
}

#[test]
fn a_server_that_demands_proofs_loads_nothing_unproven() {
    let home = Home::new();
    let config = home.path().join("hallpass.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text + "\n[policy]\nrequire_proof = true\n").unwrap();
    let ca = Ca::on(home);
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let policy = |what: &str| admin.hallpass(["policy", what]);
    ca.home
        .edit_policy("access.cedar", "context.ttl > 1800", "context.ttl > 3000");
    let refused = policy("reload");
    refused.fails_with(65, "invariant maintenance-is-short");
    assert!(
        refused.err.contains("for purpose maintenance, ttl"),
        "{refused:?}"
    );
    assert!(issue(&ca, &bob));
    ca.home
        .edit_policy("access.cedar", "context.ttl > 3000", "context.ttl > 1000");
    assert!(policy("reload").ok().starts_with("Loaded "));
    let home = ca.stop();
    home.edit_policy("access.cedar", "context.ttl > 1000", "context.ttl > 1801");
    let (code, said) = serve_fails(&home);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("invariant maintenance-is-short"), "{said}");
}

#[test]
fn a_table_of_cases_is_asked_and_untouched_policies_are_named() {
    let policies = Policies::starter();
    let table = fs::read_to_string(policies.path().join("cases.toml")).unwrap();
    let all = policies.test(&table, &["--all-touched"]).ok();
    assert_eq!(all, "21 of 21 cases as expected\n");

    // A policy that changed, and one that nobody tests.
    policies.edit(
        "access.cedar",
        "principal in Group::\"deployers\"",
        "principal in Group::\"on-call\"",
    );
    policies.append(
        "access.cedar",
        "@id(\"new\")\nforbid (principal == User::\"mallory\", action, resource);",
    );
    let some = policies.test(&table, &[]);
    assert_eq!(some.code, 1);
    assert!(
        some.out
            .contains(": deployers deploy: refused by no policy\n"),
        "{}",
        some.out
    );
    assert!(
        some.out.contains("no case touches policy new\n"),
        "{}",
        some.out
    );
    assert!(
        some.out.ends_with("19 of 21 cases as expected\n"),
        "{}",
        some.out
    );

    let ok = "[[case]]\nname = \"x\"\nuser = \"bob\"\naction = \"lock\"\nexpect = \"refuse\"\n";
    assert_eq!(policies.test(ok, &[]).code, 0);
    assert_eq!(policies.test(ok, &["--all-touched"]).code, 1);
    for (from, to, words) in [
        ("user", "usr", "usr"),
        ("user = \"bob\"", "", "say who asks"),
        (
            "user = \"bob\"",
            "user = \"bob\"\nworkload = \"x\"",
            "say who asks",
        ),
        ("bob", "Bob Smith", "the name"),
        ("\"lock\"", "\"locks\"", "action \"locks\" is none"),
        ("action = \"lock\"", "", "say what is asked for"),
        ("action = \"lock\"", "role = \"deploy\"", "with a purpose"),
        ("\"refuse\"", "\"deny\"", "use \"permit\" or \"refuse\""),
        (
            "expect",
            "mfa = \"yes\"\nexpect",
            "use \"verified\" or \"present\"",
        ),
        ("expect", "time = \"noon\"\nexpect", "mon 09:30"),
        ("expect", "source = \"here\"\nexpect", "IP address"),
        ("[[case]]", "[[case]", "table.toml:1:"),
    ] {
        let wrong = policies.test(&ok.replacen(from, to, 1), &[]);
        wrong.fails_with(65, words);
        assert!(wrong.err.contains("table.toml:"), "{wrong:?}");
    }
}

#[test]
fn a_change_is_compared_over_every_request_and_over_the_log() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    assert!(issue(&ca, &bob));
    bob.hallpass(["request", "deploy", "--purpose", "deploy"])
        .fails_with(77, "no policy permits");
    let old = ca.home.path().join("policies").display().to_string();
    let policy = |arguments: &[&str]| admin.hallpass(["policy"].iter().chain(arguments));

    let same = Policies::starter();
    let same_path = same.path().display().to_string();
    assert_eq!(
        policy(&["diff", &old, &same_path]).ok(),
        "They permit the same.\n"
    );
    assert_eq!(
        policy(&["simulate", &same_path]).ok(),
        "0 of 2 requests would be decided otherwise.\n"
    );
    // Other words for the same.
    same.edit("access.cedar", "context.ttl > 1800", "context.ttl >= 1801");
    assert_eq!(
        policy(&["diff", &old, &same_path]).ok(),
        "They permit the same.\n"
    );

    let new = Policies::with(
        "access.cedar",
        "principal in Group::\"deployers\"",
        "principal in Group::\"on-call\"",
    );
    new.edit(
        "access.cedar",
        "[\"incident\", \"maintenance\"]",
        "[\"maintenance\"]",
    );
    let new = new.path().display().to_string();
    let compared = policy(&["diff", &old, &new]);
    assert_eq!(compared.code, 1, "{compared:?}");
    for words in [
        "more  deploy: somebody in group on-call, asks for role deploy",
        "less  deploy: somebody in group deployers, asks for role deploy",
        "less  server-operator: somebody in group on-call, asks for role server-operator for purpose incident",
        "bob asked for server-operator for incident: permitted, now refused (no policy permits it)",
        "bob asked for deploy for deploy: refused, now permitted (deployers-deploy)",
    ] {
        assert!(compared.out.contains(words), "{words}: {}", compared.out);
    }
    assert!(
        !compared.out.contains("more  server-operator"),
        "{}",
        compared.out
    );
    let tried = policy(&["simulate", &new]);
    assert_eq!(tried.code, 1);
    assert!(
        tried
            .out
            .ends_with("2 of 2 requests would be decided otherwise.\n"),
        "{tried:?}"
    );
    let json = policy(&["simulate", &new, "--json"]);
    let first: Value = serde_json::from_str(json.out.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["before"], &first["after"]),
        (&Value::from(true), &Value::from(false))
    );
    // Those who may not read the log may not replay it.
    bob.hallpass(["policy", "simulate", &new])
        .fails_with(77, "read-log");
    let alone = bob.hallpass(["policy", "diff", &old, &new, "--no-log"]);
    assert_eq!(alone.code, 1, "{alone:?}");
    assert!(!alone.out.contains("bob asked"), "{alone:?}");
}
