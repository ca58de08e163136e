use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    Policy, PolicyId, PolicySet, Request, RestrictedExpression, Schema, Validator,
};

use super::asked::{Asked, Slice};
use super::cedar::{check, parse};
use super::context::{Attributes, Reads, Told};
use super::scope::Scope;
use super::{AdminAction, PolicyError, Roles, SCHEMA};
use crate::model::{
    Access, Circumstances, Label, LocalTime, Mfa, Purpose, Reason, Role, Ttl, UserName,
};
use crate::prepared::Prepared;

/// The action in the schema by which somebody approves another's request.
pub const APPROVE: &str = "approve";

/// No more approvals are looked for when somebody is told what a request needs.
const MOST_APPROVALS: u32 = 2;

/// Cedar with the policies of one set.
pub struct Engine {
    authorizer: Authorizer,
    /// By their ids.
    policies: Vec<Policy>,
    types: Types,
    authority: EntityUid,
    request: EntityUid,
    approve: EntityUid,
    admin: [EntityUid; AdminAction::ALL.len()],
    /// By the names of everything that goes into it.
    asked: Prepared<String, Arc<Asked>>,
    /// Policies whose heads fit, by their places.
    slices: Prepared<Vec<usize>, Arc<Slice>>,
    sources: Prepared<IpAddr, RestrictedExpression>,
    factors: Prepared<(Option<(bool, bool)>, i64), RestrictedExpression>,
    times: Prepared<LocalTime, RestrictedExpression>,
}

/// The entity types of the schema.
struct Types {
    user: EntityTypeName,
    workload: EntityTypeName,
    group: EntityTypeName,
    role: EntityTypeName,
    role_group: EntityTypeName,
}

/// A request within its role's bounds.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Who asks.
    pub requester: &'a UserName,
    /// For what.
    pub role: &'a Role,
    /// What for.
    pub purpose: &'a Purpose,
    /// Why, when that is said.
    pub reason: Option<&'a Reason>,
    /// For how long.
    pub ttl: Ttl,
    /// How and when.
    pub circumstances: &'a Circumstances,
}

/// A request within its role's bounds that somebody wants to approve.
#[derive(Clone, Copy, Debug)]
pub struct Approval<'a> {
    /// Who approves.
    pub approver: &'a UserName,
    /// Who asks.
    pub requester: &'a UserName,
    /// For what.
    pub role: &'a Role,
    /// What for.
    pub purpose: &'a Purpose,
    /// Why, when that is said.
    pub reason: Option<&'a Reason>,
    /// For how long.
    pub ttl: Ttl,
    /// How and when it is approved.
    pub circumstances: &'a Circumstances,
}

/// What policy says to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is permitted.
    pub allowed: bool,
    /// The ids of the policies that decided, sorted. Empty when none permits it.
    pub policies: Vec<String>,
    /// What a person can do who is refused: the advice of the policies that forbid it, or of those
    /// that would permit it under other circumstances.
    pub advice: Vec<String>,
}

impl Engine {
    /// The `age` of a second factor that there was none of.
    pub(super) const NEVER: i64 = i32::MAX as i64;

    /// From policy files, each checked against the schema and the roles.
    ///
    /// # Errors
    /// All that does not parse or check, with its place.
    pub(super) fn new<'a>(
        files: impl Iterator<Item = (PathBuf, &'a str)>,
        roles: Option<&Roles>,
    ) -> Result<Self, Vec<PolicyError>> {
        let validator = Validator::new(schema());
        let mut policies = BTreeMap::new();
        let mut errors = Vec::new();
        for (path, text) in files {
            let parsed = match parse(&path, text) {
                Ok(parsed) => parsed,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            for policy in parsed {
                errors.extend(check(&validator, roles, &path, text, &policy));
                let id = policy.id().to_string();
                match policies.entry(id) {
                    Entry::Vacant(place) => {
                        place.insert(policy);
                    }
                    Entry::Occupied(other) => errors.push(PolicyError::Twice {
                        path: path.clone(),
                        id: other.key().clone(),
                    }),
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let entity_type =
            |name: &str| EntityTypeName::from_str(name).expect("a plain identifier is a type name");
        let action = |name: &str| {
            EntityUid::from_type_name_and_id(entity_type("Action"), EntityId::new(name))
        };
        Ok(Self {
            authorizer: Authorizer::new(),
            policies: policies.into_values().collect(),
            types: Types {
                user: entity_type("User"),
                workload: entity_type("Workload"),
                group: entity_type("Group"),
                role: entity_type("Role"),
                role_group: entity_type("RoleGroup"),
            },
            authority: EntityUid::from_type_name_and_id(
                entity_type("Authority"),
                EntityId::new("hallpass"),
            ),
            request: action("request"),
            approve: action(APPROVE),
            admin: AdminAction::ALL.map(|admin| action(admin.as_str())),
            asked: Prepared::default(),
            slices: Prepared::default(),
            sources: Prepared::default(),
            factors: Prepared::default(),
            times: Prepared::default(),
        })
    }

    /// All policies, by their ids.
    pub(super) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Whether a requester may have a role for a purpose and a lifetime.
    pub fn decide_request(&self, ask: &Ask<'_>) -> Verdict {
        self.decide(self.request_of(ask, Told::Read))
    }

    /// Whether somebody may approve another's request.
    pub fn decide_approval(&self, approval: &Approval<'_>) -> Verdict {
        self.decide(self.approval_of(approval, Told::Read))
    }

    /// How many approvals a request needs that policy does not permit with those that it has; nothing
    /// when more would not help, or none of as many as are looked for.
    pub fn approvals_needed(&self, ask: &Ask<'_>) -> Option<u32> {
        let more = (1..=MOST_APPROVALS).filter(|count| *count > ask.circumstances.approvals);
        more.into_iter().find(|approvals| {
            let circumstances = Circumstances {
                approvals: *approvals,
                ..ask.circumstances.clone()
            };
            let ask = Ask {
                circumstances: &circumstances,
                ..*ask
            };
            self.decide_request(&ask).allowed
        })
    }

    /// Whether a requester may administer Hallpass in this way.
    pub fn decide_admin(
        &self,
        requester: &UserName,
        action: AdminAction,
        circumstances: &Circumstances,
    ) -> Verdict {
        self.decide(self.admin_request_of(requester, action, circumstances, Told::Read))
    }

    /// What Cedar is asked.
    pub(super) fn request_of(&self, ask: &Ask<'_>, told: Told) -> Option<(Arc<Asked>, Request)> {
        let asked = self.on_role(ask.requester, ask.circumstances, &self.request, ask.role)?;
        let mut context = Attributes::new(&asked.slice.reads, told);
        what(&mut context, ask.purpose, ask.reason, ask.ttl);
        let approvals = ask.circumstances.approvals.into();
        context.add("approvals", || RestrictedExpression::new_long(approvals));
        self.circumstances(&mut context, ask.circumstances);
        let context = context.context()?;
        request(asked, context)
    }

    pub(super) fn approval_of(
        &self,
        approval: &Approval<'_>,
        told: Told,
    ) -> Option<(Arc<Asked>, Request)> {
        let (circumstances, role) = (approval.circumstances, approval.role);
        let asked = self.on_role(approval.approver, circumstances, &self.approve, role)?;
        let mut context = Attributes::new(&asked.slice.reads, told);
        what(
            &mut context,
            approval.purpose,
            approval.reason,
            approval.ttl,
        );
        context.add("requester", || text(approval.requester.as_str()));
        self.circumstances(&mut context, circumstances);
        let context = context.context()?;
        request(asked, context)
    }

    /// What is the same each time that somebody does that with a role.
    fn on_role(
        &self,
        principal: &UserName,
        circumstances: &Circumstances,
        action: &EntityUid,
        role: &Role,
    ) -> Option<Arc<Asked>> {
        let what = [action.id().unescaped(), role.name.as_str()];
        let asked = self.asked.get(key(principal, circumstances, what), || {
            let (resource, groups) = self.role(role).ok_or(())?;
            self.prepare(principal, circumstances, action.clone(), resource, groups)
                .ok_or(())
        });
        asked.ok()
    }

    pub(super) fn admin_request_of(
        &self,
        requester: &UserName,
        action: AdminAction,
        circumstances: &Circumstances,
        told: Told,
    ) -> Option<(Arc<Asked>, Request)> {
        let key = key(requester, circumstances, [action.as_str(), ""]);
        let asked = self.asked.get(key, || {
            let authority = Entity::new_no_attrs(self.authority.clone(), HashSet::new());
            let action = self.admin[action as usize].clone();
            self.prepare(requester, circumstances, action, authority, HashSet::new())
                .ok_or(())
        });
        let asked = asked.ok()?;
        let mut context = Attributes::new(&asked.slice.reads, told);
        self.circumstances(&mut context, circumstances);
        let context = context.context()?;
        request(asked, context)
    }

    /// A role as an entity, with the groups that it is in.
    fn role(&self, role: &Role) -> Option<(Entity, HashSet<EntityUid>)> {
        let uid = |kind: &EntityTypeName, id: &str| {
            EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
        };
        let groups: HashSet<_> = role
            .groups
            .iter()
            .map(|group| uid(&self.types.role_group, group.as_str()))
            .collect();
        let hosts: &[String] = match &role.access {
            Access::Ssh(access) => &access.hosts,
            Access::Database(_) => &[],
        };
        let label = |label: &Option<Label>| text(label.as_ref().map_or("", Label::as_str));
        let hosts = RestrictedExpression::new_set(hosts.iter().map(|host| text(host)));
        let attributes = HashMap::from([
            ("kind".to_owned(), text(role.access.kind())),
            ("sensitivity".to_owned(), label(&role.sensitivity)),
            ("environment".to_owned(), label(&role.environment)),
            ("hosts".to_owned(), hosts),
        ]);
        let role = uid(&self.types.role, role.name.as_str());
        let entity = Entity::new(role, attributes, groups.clone()).ok()?;
        Some((entity, groups))
    }

    /// What is the same each time that somebody asks for it.
    fn prepare(
        &self,
        requester: &UserName,
        circumstances: &Circumstances,
        action: EntityUid,
        resource: Entity,
        resource_groups: HashSet<EntityUid>,
    ) -> Option<Arc<Asked>> {
        let kind = match circumstances.workload {
            Some(_) => &self.types.workload,
            None => &self.types.user,
        };
        let principal =
            EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(requester.as_str()));
        let groups: HashSet<_> = circumstances
            .groups
            .iter()
            .map(|group| {
                EntityUid::from_type_name_and_id(
                    self.types.group.clone(),
                    EntityId::new(group.as_str()),
                )
            })
            .collect();
        let attributes = circumstances.workload.iter().flatten();
        let attributes = attributes
            .map(|(key, value)| (key.clone(), RestrictedExpression::new_string(value.clone())));
        let entity = Entity::new(principal.clone(), attributes.collect(), groups.clone()).ok()?;
        let scope = Scope {
            principal: &principal,
            groups: &groups,
            action: &action,
            resource: &resource.uid(),
            resource_groups: &resource_groups,
        };
        let places = (0..self.policies.len()).filter(|place| scope.fits(&self.policies[*place]));
        let places: Vec<usize> = places.collect();
        let slice = self.slices.get(places.clone(), || {
            let policies = places.iter().map(|place| &self.policies[*place]);
            let reads = Reads::of(policies.clone());
            let policies = PolicySet::from_policies(policies.cloned()).map_err(drop)?;
            Ok::<_, ()>(Arc::new(Slice { policies, reads }))
        });
        Some(Arc::new(Asked {
            principal,
            action,
            resource: resource.uid(),
            entities: Entities::from_entities([entity, resource], None).ok()?,
            slice: slice.ok()?,
        }))
    }

    fn circumstances(&self, context: &mut Attributes<'_>, circumstances: &Circumstances) {
        context.add("source", || self.source(circumstances.source));
        context.add("method", || text(&circumstances.method));
        context.add("key_type", || text(&circumstances.key_type));
        context.add("mfa", || self.factor(circumstances.mfa));
        context.add("time", || self.time(circumstances.time));
    }

    fn source(&self, address: IpAddr) -> RestrictedExpression {
        infallible(self.sources.get(address, || {
            Ok(RestrictedExpression::new_ip(address.to_string()))
        }))
    }

    fn factor(&self, mfa: Option<Mfa>) -> RestrictedExpression {
        let age = mfa.map_or(Self::NEVER, |mfa| {
            i64::try_from(mfa.age).map_or(Self::NEVER, |age| age.min(Self::NEVER))
        });
        let says = mfa.map(|mfa| (mfa.verified, mfa.attested));
        let (verified, attested) = says.unwrap_or_default();
        infallible(self.factors.get((says, age), || {
            Ok(record([
                ("present", RestrictedExpression::new_bool(says.is_some())),
                ("verified", RestrictedExpression::new_bool(verified)),
                ("attested", RestrictedExpression::new_bool(attested)),
                ("age", RestrictedExpression::new_long(age)),
            ]))
        }))
    }

    fn time(&self, time: LocalTime) -> RestrictedExpression {
        infallible(self.times.get(time, || {
            Ok(record([
                (
                    "weekday",
                    RestrictedExpression::new_long(time.weekday.into()),
                ),
                ("hour", RestrictedExpression::new_long(time.hour.into())),
                ("minute", RestrictedExpression::new_long(time.minute.into())),
            ]))
        }))
    }

    /// A request that did not come from anybody, by all policies.
    pub(super) fn decide_foreign(&self, request: &Request, entities: &Entities) -> Verdict {
        match PolicySet::from_policies(self.policies.iter().cloned()) {
            Ok(policies) => self.judge(request, &policies, entities),
            Err(_) => Verdict::default(),
        }
    }

    /// A request that could not even be put to the policies is not permitted.
    pub(super) fn decide(&self, asked: Option<(Arc<Asked>, Request)>) -> Verdict {
        match asked {
            Some((asked, request)) => self.judge(&request, &asked.slice.policies, &asked.entities),
            None => Verdict::default(),
        }
    }

    fn judge(&self, request: &Request, set: &PolicySet, entities: &Entities) -> Verdict {
        let response = self.authorizer.is_authorized(request, set, entities);
        let errors = response.diagnostics().errors().count();
        let mut deciding: Vec<&PolicyId> = response.diagnostics().reason().collect();
        deciding.sort_unstable();
        let mut policies: Vec<String> = deciding.iter().map(ToString::to_string).collect();
        // Cedar skips a policy that fails to evaluate; a skipped `forbid` would let through what
        // it was written to stop.
        let allowed = response.decision() == Decision::Allow && errors == 0;
        let advice = if allowed {
            Vec::new()
        } else {
            advice(set, &deciding)
        };
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

/// The schema, read.
pub(super) fn schema() -> Schema {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("a test parses the schema");
    schema
}

/// What a person can do who is refused.
fn advice(slice: &PolicySet, deciding: &[&PolicyId]) -> Vec<String> {
    let forbidden = deciding
        .iter()
        .filter_map(|id| slice.policy(id))
        .any(|policy| policy.effect() == Effect::Forbid);
    let mut advising: Vec<&Policy> = slice
        .policies()
        .filter(|policy| match policy.effect() {
            Effect::Forbid => deciding.contains(&policy.id()),
            Effect::Permit => !forbidden && deciding.is_empty(),
        })
        .collect();
    advising.sort_unstable_by_key(|policy| policy.id());
    let mut advice: Vec<String> = Vec::new();
    for text in advising
        .iter()
        .filter_map(|policy| policy.annotation("advice"))
    {
        if !advice.iter().any(|told| told == text) {
            advice.push(text.to_owned());
        }
    }
    advice
}

/// What somebody asks for, beside the role.
fn what(context: &mut Attributes<'_>, purpose: &Purpose, reason: Option<&Reason>, ttl: Ttl) {
    context.add("purpose", || text(purpose.as_str()));
    context.add("ttl", || {
        RestrictedExpression::new_long(ttl.as_secs() as i64)
    });
    if let Some(reason) = reason {
        context.add("reason", || {
            RestrictedExpression::new_string(reason.to_string())
        });
    }
}

fn request(asked: Arc<Asked>, context: Context) -> Option<(Arc<Asked>, Request)> {
    let request = Request::new(
        asked.principal.clone(),
        asked.action.clone(),
        asked.resource.clone(),
        context,
        None,
    );
    Some((asked, request.ok()?))
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn record<const N: usize>(fields: [(&str, RestrictedExpression); N]) -> RestrictedExpression {
    let fields = fields.map(|(key, value)| (key.to_owned(), value));
    RestrictedExpression::new_record(fields).expect("no field is there twice")
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    let Ok(value) = result;
    value
}

/// All names that go into an [`Asked`]: none of them holds the separators but what others say of a
/// workload, which is told by its length.
fn key(requester: &UserName, circumstances: &Circumstances, what: [&str; 2]) -> String {
    let mut key = what.join("\0");
    key.push('\n');
    key.push_str(requester.as_str());
    for group in &circumstances.groups {
        key.push('\0');
        key.push_str(group.as_str());
    }
    if let Some(workload) = &circumstances.workload {
        key.push('\n');
        for text in workload.iter().flat_map(|(name, value)| [name, value]) {
            key.push_str(&format!("{}:{text}", text.len()));
        }
    }
    key
}

#[cfg(test)]
mod tests;
