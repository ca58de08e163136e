use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Circumstances, EntryIndex, GroupName, LocalTime, Mfa, Purpose, Reason, RoleName, Ttl, UserName,
};

/// The policy set in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyInForce {
    /// Its digest: `sha256:` and hexadecimal.
    pub policy_set: String,
    /// Whether it is another than before.
    pub changed: bool,
}

/// A question: what does policy say to this, and why? What is left out is as in the question itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Instead of anything else: the decision that an entry of the log holds, under the policies of
    /// that day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub entry: Option<EntryIndex>,
    /// Who asks; whoever sends the question when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub requester: Option<UserName>,
    /// The role asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub role: Option<RoleName>,
    /// Instead of a role: an administrative act, such as `read-log`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// What the role is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub purpose: Option<Purpose>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Reason>,
    /// For how long; the role's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ttl: Option<Ttl>,
    /// The requester's groups; those that they are in when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub groups: Option<Vec<GroupName>>,
    /// What the requester is known by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The kind of the key that signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_type: Option<String>,
    /// The second factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfa: Option<Mfa>,
    /// The address that the request comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub source: Option<IpAddr>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<LocalTime>,
    /// How many people have approved it; as many as have when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<u32>,
}

/// What policy says, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// Whether it is permitted.
    pub allowed: bool,
    /// Why not, in words; nothing when it is permitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The digest of the policy set that was asked.
    pub policy_set: String,
    /// How and when it is asked.
    pub circumstances: Circumstances,
    /// The policies that could matter: first those that decide.
    pub policies: Vec<ExplainedPolicy>,
    /// What the log holds of the decision, when one of the log's was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logged: Option<LoggedDecision>,
}

/// A decision as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoggedDecision {
    /// Whether it was permitted.
    pub allowed: bool,
    /// The policies that decided.
    pub policies: Vec<String>,
}

/// A policy, held against a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedPolicy {
    /// Its id.
    pub id: String,
    /// Whether it permits; it forbids otherwise.
    pub permits: bool,
    /// Whether it decided.
    pub decides: bool,
    /// Whom it is for, when that is not the requester.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// Its conditions.
    pub conditions: Vec<ExplainedCondition>,
    /// What it advises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// A condition of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedCondition {
    /// As it is written.
    pub text: String,
    /// Whether it is met.
    pub outcome: ConditionOutcome,
}

/// Whether a condition is met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionOutcome {
    /// It is.
    Holds,
    /// It is not.
    Fails,
    /// It can't be told, alone.
    Error(String),
}
