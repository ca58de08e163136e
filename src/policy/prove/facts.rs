//! What is true of every request, whatever the policies say, written as policies that forbid the
//! rest: roles' bounds, and what the program itself puts into a request.

use std::fmt::Write as _;
use std::str::FromStr;

use cedar_policy::{Policy, PolicyId};

use super::super::{APPROVE, Engine, Roles};
use crate::model::{Access, GroupName, Label, ReasonRule, Role, Ttl};

/// The facts for a set of roles, as policies. They hold for each role alone when `only` names one.
pub(super) fn facts(roles: &Roles, only: Option<&str>) -> Vec<Policy> {
    let bounds: Vec<String> = roles
        .iter()
        .filter(|role| only.is_none_or(|only| role.name.as_str() == only))
        .map(|role| bound(role, roles))
        .collect();
    let bounds = if bounds.is_empty() {
        "false".to_owned()
    } else {
        bounds.join("\n  || ")
    };
    let never = Engine::NEVER;
    let longest = Ttl::MAX.as_secs();
    let circumstances = format!(
        "(context.mfa.present
          || (!context.mfa.verified && !context.mfa.attested && context.mfa.age == {never}))
         && context.mfa.age >= 0 && context.mfa.age <= {never}
         && context.time.weekday >= 1 && context.time.weekday <= 7
         && context.time.hour >= 0 && context.time.hour <= 23
         && context.time.minute >= 0 && context.time.minute <= 59"
    );
    // What is approved was asked for.
    let on_roles = format!("[Action::\"request\", Action::{APPROVE:?}]");
    let most = u32::MAX;
    let texts = [
        format!("forbid (principal, action, resource) unless {{ {circumstances} }};"),
        format!(
            "forbid (principal, action in {on_roles}, resource) unless {{
               context.ttl >= 1 && context.ttl <= {longest} }};"
        ),
        format!("forbid (principal, action in {on_roles}, resource) unless {{ {bounds} }};"),
        format!(
            "forbid (principal, action == Action::\"request\", resource) unless {{
               context.approvals >= 0 && context.approvals <= {most} }};"
        ),
        "forbid (principal, action, resource is Authority) unless {
           resource == Authority::\"hallpass\" };"
            .to_owned(),
    ];
    let policies = texts.iter().enumerate().map(|(number, text)| {
        // A test parses them for roles of all kinds.
        Policy::from_str(text)
            .expect("facts are Cedar")
            .new_id(PolicyId::new(format!("{FACT}{number}")))
    });
    policies.collect()
}

/// How facts' ids begin: no `@id` of a file that parses can be it, since these are told by a NUL.
pub(super) const FACT: &str = "\0fact ";

/// What is true of a request for that role.
fn bound(role: &Role, roles: &Roles) -> String {
    let label = |label: &Option<Label>| format!("{:?}", label.as_ref().map_or("", Label::as_str));
    let purposes: Vec<String> = role
        .purposes
        .iter()
        .map(|purpose| format!("{:?}", purpose.as_str()))
        .collect();
    let mut text = format!(
        "(resource == Role::{:?} && resource.kind == {:?} && resource.sensitivity == {} \
         && resource.environment == {} && [{}].contains(context.purpose) && context.ttl <= {}",
        role.name.as_str(),
        role.access.kind(),
        label(&role.sensitivity),
        label(&role.environment),
        purposes.join(", "),
        role.max_ttl.as_secs(),
    );
    let hosts: Vec<String> = match &role.access {
        Access::Ssh(access) => access
            .hosts
            .iter()
            .map(|host| format!("{host:?}"))
            .collect(),
        Access::Database(_) => Vec::new(),
    };
    if hosts.is_empty() {
        text.push_str(" && resource.hosts.isEmpty()");
    } else {
        let _ = write!(text, " && resource.hosts == [{}]", hosts.join(", "));
    }
    let mut groups: Vec<&GroupName> = roles.iter().flat_map(|role| &role.groups).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        let not = if role.groups.contains(group) { "" } else { "!" };
        let _ = write!(
            text,
            " && {not}(resource in RoleGroup::{:?})",
            group.as_str()
        );
    }
    // That it matches a pattern is more than can be said here: what is proven without is proven.
    if !matches!(role.reason, ReasonRule::Optional) {
        text.push_str(" && context has reason");
    }
    text + ")"
}

#[cfg(test)]
mod tests {
    use cedar_policy::{PolicySet, ValidationMode, Validator};
    use proptest::prelude::*;

    use super::super::super::engine::schema;
    use super::*;

    #[test]
    fn facts_of_all_kinds_of_roles_fit_the_schema() {
        let roles = Roles::parse(
            "[purposes]\nfix = \"\"\n[ssh.a]\nprincipals = [\"x\"]\nhosts = [\"w*\", \"é\\\"\\n\\u0007\"]\n\
             max_ttl = \"1h\"\ndefault_ttl = \"1m\"\npurposes = [\"fix\"]\nreason = \"required\"\n\
             groups = [\"g\", \"h\"]\nsensitivity = \"patients\"\n\
             [database.b]\nengine = \"postgres\"\nuser = \"b\"\nmax_ttl = \"8h\"\n\
             default_ttl = \"1m\"\npurposes = [\"fix\"]\nenvironment = \"production\"\n",
        )
        .unwrap();
        for only in [None, Some("a"), Some("none")] {
            let facts = PolicySet::from_policies(facts(&roles, only)).unwrap();
            let result = Validator::new(schema()).validate(&facts, ValidationMode::Strict);
            let errors: Vec<_> = result
                .validation_errors()
                .map(ToString::to_string)
                .collect();
            assert!(errors.is_empty(), "{errors:?}");
        }
    }

    proptest! {
        /// Roles' hosts may be any text.
        #[test]
        fn facts_of_any_host_are_cedar(hosts in proptest::collection::vec(any::<String>(), 1..4)) {
            let text = |host: &String| toml::Value::from(host.clone()).to_string();
            let hosts: Vec<String> = hosts.iter().map(text).collect();
            let roles = Roles::parse(&format!(
                "[purposes]\nfix = \"\"\n[ssh.a]\nprincipals = [\"x\"]\nhosts = [{}]\n\
                 max_ttl = \"1h\"\ndefault_ttl = \"1m\"\npurposes = [\"fix\"]\n",
                hosts.join(", ")
            ));
            prop_assert_eq!(facts(&roles.unwrap(), None).len(), 5);
        }
    }
}
