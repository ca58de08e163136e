//! Why policy says what it says: each policy that could matter, with each of its conditions.

use std::collections::HashSet;
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Decision, Effect, Entities, EntityUid, Policy, PolicyId, PolicySet,
    PrincipalConstraint, Request,
};
use serde_json::{Value, json};

use super::AdminAction;
use super::asked::Asked;
use super::context::Told;
use super::engine::{Approval, Ask, Engine, Verdict};
use super::scope::Scope;
use crate::model::{
    Circumstances, ConditionOutcome, ExplainedCondition, ExplainedPolicy, UserName,
};

/// A verdict, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What policy says.
    pub verdict: Verdict,
    /// The policies that could matter: first those that decide.
    pub policies: Vec<ExplainedPolicy>,
}

impl Engine {
    /// Why a request is permitted or not.
    pub fn explain_request(&self, ask: &Ask<'_>) -> Explained {
        self.explain(self.request_of(ask, Told::All))
    }

    /// Why somebody may approve another's request or not.
    pub fn explain_approval(&self, approval: &Approval<'_>) -> Explained {
        self.explain(self.approval_of(approval, Told::All))
    }

    /// Why an administrative act is permitted or not.
    pub fn explain_admin(
        &self,
        requester: &UserName,
        action: AdminAction,
        circumstances: &Circumstances,
    ) -> Explained {
        self.explain(self.admin_request_of(requester, action, circumstances, Told::All))
    }

    fn explain(&self, asked: Option<(Arc<Asked>, Request)>) -> Explained {
        let policies = match &asked {
            Some((asked, request)) => self.policies_on(asked, request),
            None => Vec::new(),
        };
        let verdict = self.decide(asked);
        let mut policies: Vec<_> = policies
            .into_iter()
            .map(|policy| ExplainedPolicy {
                decides: verdict.policies.contains(&policy.id),
                ..policy
            })
            .collect();
        // Those that decide, those whose heads fit, the rest.
        policies.sort_by_key(|policy| (!policy.decides, policy.needs.is_some()));
        Explained { verdict, policies }
    }

    fn policies_on(&self, asked: &Asked, request: &Request) -> Vec<ExplainedPolicy> {
        let fits = |policy: &Policy| asked.slice.policies.policy(policy.id()).is_some();
        let scope = Scope {
            principal: &asked.principal,
            groups: &HashSet::new(),
            action: &asked.action,
            resource: &asked.resource,
            resource_groups: &groups_of(&asked.resource, &asked.entities),
        };
        let would_for_others = |policy: &Policy| {
            policy.effect() == Effect::Permit
                && scope.fits_action(policy)
                && scope.fits_resource(policy)
        };
        self.policies()
            .iter()
            .filter(|policy| fits(policy) || would_for_others(policy))
            .map(|policy| ExplainedPolicy {
                id: policy.id().to_string(),
                permits: policy.effect() == Effect::Permit,
                decides: false,
                needs: (!fits(policy)).then(|| head(&policy.principal_constraint())),
                conditions: conditions(policy, request, &asked.entities),
                advice: policy.annotation("advice").map(str::to_owned),
            })
            .collect()
    }
}

fn groups_of(one: &EntityUid, entities: &Entities) -> HashSet<EntityUid> {
    let groups = entities.ancestors(one).into_iter().flatten();
    groups.cloned().collect()
}

/// Whom a policy is for, as it is written.
fn head(constraint: &PrincipalConstraint) -> String {
    match constraint {
        PrincipalConstraint::Any => "principal".to_owned(),
        PrincipalConstraint::Eq(one) => format!("principal == {one}"),
        PrincipalConstraint::In(group) => format!("principal in {group}"),
        PrincipalConstraint::Is(kind) => format!("principal is {kind}"),
        PrincipalConstraint::IsIn(kind, group) => format!("principal is {kind} in {group}"),
    }
}

/// Each condition of a policy, taken apart at `&&` (below `unless`, at `||`).
fn conditions(policy: &Policy, request: &Request, entities: &Entities) -> Vec<ExplainedCondition> {
    let Ok(written) = policy.to_json() else {
        return Vec::new();
    };
    let all = written["conditions"].as_array().cloned();
    all.unwrap_or_default()
        .iter()
        .flat_map(|condition| {
            let unless = condition["kind"] == "unless";
            let mut parts = Vec::new();
            take_apart(
                &condition["body"],
                if unless { "||" } else { "&&" },
                &mut parts,
            );
            parts
                .into_iter()
                .filter_map(move |part| evaluate(part, unless, request, entities))
        })
        .collect()
}

fn take_apart<'a>(expression: &'a Value, operator: &str, parts: &mut Vec<&'a Value>) {
    match expression.get(operator) {
        Some(both) => {
            take_apart(&both["left"], operator, parts);
            take_apart(&both["right"], operator, parts);
        }
        None => parts.push(expression),
    }
}

/// One condition alone: a policy without any other is permitted when it holds.
fn evaluate(
    expression: &Value,
    unless: bool,
    request: &Request,
    entities: &Entities,
) -> Option<ExplainedCondition> {
    let alone = json!({
        "effect": "permit",
        "principal": { "op": "All" },
        "action": { "op": "All" },
        "resource": { "op": "All" },
        "conditions": [{ "kind": "when", "body": expression }],
    });
    let policy = Policy::from_json(Some(PolicyId::new("alone")), alone).ok()?;
    let text = policy.to_cedar()?;
    let (_, body) = text.split_once("when {")?;
    let text = body.trim_end().trim_end_matches(';').trim_end();
    let text = text.strip_suffix('}')?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let set = PolicySet::from_policies([policy]).ok()?;
    let response = Authorizer::new().is_authorized(request, &set, entities);
    let error = response.diagnostics().errors().next().map(|error| {
        let text = error.to_string();
        // The policy's name is ours.
        let text = text.split_once("`alone`: ").map_or(text.as_str(), |t| t.1);
        text.to_owned()
    });
    let is_true = response.decision() == Decision::Allow;
    let outcome = match error {
        Some(error) => ConditionOutcome::Error(error),
        None if is_true != unless => ConditionOutcome::Holds,
        None => ConditionOutcome::Fails,
    };
    Some(ExplainedCondition {
        text: format!(
            "{} {{ {} }}",
            if unless { "unless" } else { "when" },
            words.join(" ")
        ),
        outcome,
    })
}
