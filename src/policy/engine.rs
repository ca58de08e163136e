use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    Policy, PolicyId, PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;

use super::prepared::{Asked, PreparedAsks, PreparedSources};
use super::{PolicyError, SCHEMA};
use crate::model::{GroupName, Purpose, Role, Ttl, UserName};

/// Cedar with the policies of one set.
pub struct Engine {
    authorizer: Authorizer,
    policies: PolicySet,
    user: EntityTypeName,
    group: EntityTypeName,
    role: EntityTypeName,
    authority: EntityUid,
    request: EntityUid,
    admin: [EntityUid; 6],
    asked: PreparedAsks,
    sources: PreparedSources,
}

/// What can be done to Hallpass itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAction {
    /// Enrol, disable and remove users and their keys.
    ManageUsers,
    /// Sign hosts' certificates.
    CertifyHosts,
    /// Read the audit log.
    ReadLog,
    /// Move old entries of the audit log out of the database.
    ArchiveLog,
    /// Rotate and revoke CA keys.
    ManageKeys,
    /// Lock and unlock roles, users and hosts.
    Lock,
}

impl AdminAction {
    const ALL: [Self; 6] = [
        Self::ManageUsers,
        Self::CertifyHosts,
        Self::ReadLog,
        Self::ArchiveLog,
        Self::ManageKeys,
        Self::Lock,
    ];

    /// Its name in the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ManageUsers => "manage-users",
            Self::CertifyHosts => "certify-hosts",
            Self::ReadLog => "read-log",
            Self::ArchiveLog => "archive-log",
            Self::ManageKeys => "manage-keys",
            Self::Lock => "lock",
        }
    }
}

/// What policy says to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is permitted.
    pub allowed: bool,
    /// The ids of the policies that decided, sorted. Empty when none permits it.
    pub policies: Vec<String>,
    /// What the policies that forbid it advise.
    pub advice: Vec<String>,
}

impl Engine {
    /// From policy files, each checked against the schema.
    ///
    /// # Errors
    /// At the first that does not parse or check, with its place.
    pub(super) fn new<'a>(
        files: impl Iterator<Item = (PathBuf, &'a str)>,
    ) -> Result<Self, PolicyError> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("a test parses the schema");
        let validator = Validator::new(schema);
        let mut policies = PolicySet::new();
        let mut ids = HashSet::new();
        for (path, text) in files {
            for policy in parse(&path, text)? {
                let id = policy.id().to_string();
                if !ids.insert(id.clone()) {
                    return Err(PolicyError::Twice { path, id });
                }
                check(&validator, &path, text, &policy)?;
                policies
                    .add(policy)
                    .map_err(|error| at(&path, text, &error))?;
            }
        }
        let entity_type =
            |name: &str| EntityTypeName::from_str(name).expect("a plain identifier is a type name");
        let action = |name: &str| {
            EntityUid::from_type_name_and_id(entity_type("Action"), EntityId::new(name))
        };
        Ok(Self {
            authorizer: Authorizer::new(),
            policies,
            user: entity_type("User"),
            group: entity_type("Group"),
            role: entity_type("Role"),
            authority: EntityUid::from_type_name_and_id(
                entity_type("Authority"),
                EntityId::new("hallpass"),
            ),
            request: action("request"),
            admin: AdminAction::ALL.map(|admin| action(admin.as_str())),
            asked: PreparedAsks::default(),
            sources: PreparedSources::default(),
        })
    }

    /// Whether a user may have a role for a purpose and a lifetime.
    pub fn decide_request(
        &self,
        user: &UserName,
        groups: &[GroupName],
        role: &Role,
        purpose: &Purpose,
        ttl: Ttl,
        source: IpAddr,
    ) -> Verdict {
        let kind = role.access.kind();
        let key = key(user, groups, &[role.name.as_str(), kind]);
        let asked = self.asked.get(key, || {
            let resource = EntityUid::from_type_name_and_id(
                self.role.clone(),
                EntityId::new(role.name.as_str()),
            );
            let kind = RestrictedExpression::new_string(kind.to_owned());
            let attributes = HashMap::from([("kind".to_owned(), kind)]);
            let role = Entity::new(resource.clone(), attributes, HashSet::new()).map_err(drop)?;
            self.prepare(user, groups, resource, Some(role))
        });
        let context = [
            (
                "purpose",
                RestrictedExpression::new_string(purpose.to_string()),
            ),
            ("ttl", RestrictedExpression::new_long(ttl.as_secs() as i64)),
            ("source", self.source(source)),
        ];
        self.decide(asked, self.request.clone(), context)
    }

    /// Whether a user may administer Hallpass in this way.
    pub fn decide_admin(
        &self,
        user: &UserName,
        groups: &[GroupName],
        action: AdminAction,
        source: IpAddr,
    ) -> Verdict {
        let asked = self.asked.get(key(user, groups, &[]), || {
            self.prepare(user, groups, self.authority.clone(), None)
        });
        let action = self.admin[action as usize].clone();
        self.decide(asked, action, [("source", self.source(source))])
    }

    fn source(&self, address: IpAddr) -> RestrictedExpression {
        let make = || Ok::<_, Infallible>(RestrictedExpression::new_ip(address.to_string()));
        let Ok(expression) = self.sources.get(address, make);
        expression
    }

    fn prepare(
        &self,
        user: &UserName,
        groups: &[GroupName],
        resource: EntityUid,
        resource_entity: Option<Entity>,
    ) -> Result<Arc<Asked>, ()> {
        let principal =
            EntityUid::from_type_name_and_id(self.user.clone(), EntityId::new(user.as_str()));
        let parents = groups
            .iter()
            .map(|group| {
                EntityUid::from_type_name_and_id(self.group.clone(), EntityId::new(group.as_str()))
            })
            .collect();
        let user = Entity::new_no_attrs(principal.clone(), parents);
        let entities = [user].into_iter().chain(resource_entity);
        Ok(Arc::new(Asked {
            principal,
            resource,
            entities: Entities::from_entities(entities, None).map_err(drop)?,
        }))
    }

    fn decide<const N: usize>(
        &self,
        asked: Result<Arc<Asked>, ()>,
        action: EntityUid,
        context: [(&str, RestrictedExpression); N],
    ) -> Verdict {
        let context = context
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value));
        let (Ok(asked), Ok(context)) = (asked, Context::from_pairs(context)) else {
            return Verdict::failed();
        };
        let (principal, resource) = (asked.principal.clone(), asked.resource.clone());
        let Ok(request) = Request::new(principal, action, resource, context, None) else {
            return Verdict::failed();
        };
        let response = self
            .authorizer
            .is_authorized(&request, &self.policies, &asked.entities);
        let errors = response.diagnostics().errors().count();
        let mut deciding: Vec<&PolicyId> = response.diagnostics().reason().collect();
        deciding.sort_unstable();
        let mut policies: Vec<String> = deciding.iter().map(ToString::to_string).collect();
        let advice = deciding
            .iter()
            .filter_map(|id| self.policies.policy(id))
            .filter(|policy| policy.effect() == Effect::Forbid)
            .filter_map(|policy| policy.annotation("advice"))
            .map(str::to_owned)
            .collect();
        // Cedar skips a policy that fails to evaluate; a skipped `forbid` would let through what
        // it was written to stop.
        let allowed = response.decision() == Decision::Allow && errors == 0;
        if errors > 0 {
            policies.clear();
        }
        Verdict {
            allowed,
            policies,
            advice,
        }
    }
}

/// All names that go into an [`Asked`]: none of them holds the separators.
fn key(user: &UserName, groups: &[GroupName], resource: &[&str]) -> String {
    let mut key = resource.join("\0");
    key.push('\n');
    key.push_str(user.as_str());
    for group in groups {
        key.push('\0');
        key.push_str(group.as_str());
    }
    key
}

impl Verdict {
    /// The request could not even be put to the policies.
    fn failed() -> Self {
        Self {
            allowed: false,
            policies: Vec::new(),
            advice: Vec::new(),
        }
    }
}

/// The policies of a file, each with the id of its `@id`, or else of its file and place.
fn parse(path: &Path, text: &str) -> Result<Vec<Policy>, PolicyError> {
    let set = PolicySet::from_str(text).map_err(|error| at(path, text, &error))?;
    if set.templates().next().is_some() {
        return Err(PolicyError::Cedar {
            path: path.to_owned(),
            line: 1,
            column: 1,
            message: "templates (?principal, ?resource) are not used: write out the policy"
                .to_owned(),
        });
    }
    let file = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    Ok(set
        .policies()
        .map(|policy| {
            let id = match policy.annotation("id") {
                Some(id) if !id.is_empty() => id.to_owned(),
                _ => format!("{file}#{}", policy.id()),
            };
            policy.new_id(PolicyId::new(id))
        })
        .collect())
}

fn check(
    validator: &Validator,
    path: &Path,
    text: &str,
    policy: &Policy,
) -> Result<(), PolicyError> {
    let set = PolicySet::from_policies([policy.clone()]).map_err(|error| at(path, text, &error))?;
    let result = validator.validate(&set, ValidationMode::Strict);
    match result.validation_errors().next() {
        None => Ok(()),
        Some(error) => Err(at(path, text, error)),
    }
}

fn at(path: &Path, text: &str, error: &dyn Diagnostic) -> PolicyError {
    // A set of errors shows itself through its first.
    let first = error.related().and_then(|mut related| related.next());
    let label = |diagnostic: &dyn Diagnostic| {
        diagnostic
            .labels()
            .and_then(|mut labels| labels.next())
            .map(|label| label.offset())
    };
    let offset = label(error).or_else(|| first.and_then(label)).unwrap_or(0);
    let before = text.get(..offset).unwrap_or_default();
    let mut message = error.to_string();
    if let Some(help) = error.help().or_else(|| first.and_then(Diagnostic::help)) {
        message = format!("{message}; {help}");
    }
    PolicyError::Cedar {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Roles, STARTER};
    use super::*;

    fn engine(policy: &str) -> Result<Engine, PolicyError> {
        Engine::new([(PathBuf::from("test.cedar"), policy)].into_iter())
    }

    fn roles() -> Roles {
        let files: BTreeMap<_, _> = STARTER.into_iter().collect();
        Roles::parse(files["roles.toml"]).unwrap()
    }

    fn decide(engine: &Engine, groups: &[&str], role: &str, purpose: &str, ttl: &str) -> Verdict {
        let groups: Vec<GroupName> = groups.iter().map(|group| group.parse().unwrap()).collect();
        engine.decide_request(
            &"alice".parse().unwrap(),
            &groups,
            roles().find(&role.parse().unwrap()).unwrap(),
            &purpose.parse().unwrap(),
            ttl.parse().unwrap(),
            "192.0.2.7".parse().unwrap(),
        )
    }

    fn starter() -> Engine {
        let files = STARTER
            .into_iter()
            .filter(|(name, _)| name.ends_with(".cedar"))
            .map(|(name, text)| (PathBuf::from(name), text));
        Engine::new(files).unwrap()
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
            let source = "::1".parse().unwrap();
            let groups = [group.parse().unwrap()];
            engine
                .decide_admin(&"root".parse().unwrap(), &groups, action, source)
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
}
