use std::collections::BTreeMap;
use std::fmt;

use cedar_policy::{Entities, EvalResult, Request};
use serde::Serialize;

use super::super::{APPROVE, Engine};
use crate::model::{LocalTime, Ttl};

/// A request that should not be permitted and is: as the prover found it, and as the authorizer
/// decided when it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counterexample {
    /// Whether a workload asks; a person otherwise.
    pub workload: bool,
    /// The requester's name, which matters only where a policy names it.
    pub requester: String,
    /// What is known of a workload.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The requester's groups.
    pub groups: Vec<String>,
    /// What is asked for: `request`, `approve`, or an act of administration.
    pub action: String,
    /// The role, for a request or its approval.
    pub role: String,
    /// The purpose, for a request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// The reason, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The lifetime in seconds, for a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// How many have approved it, for a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approvals: Option<i64>,
    /// Whose request is approved, when one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approves: Option<String>,
    /// The second factor: `none`, `present` or `verified`.
    pub mfa: &'static str,
    /// Whether a trusted maker attests it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mfa_attested: bool,
    /// How many seconds ago it was shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfa_age: Option<i64>,
    /// The address.
    pub source: String,
    /// What the requester is known by.
    pub method: String,
    /// The kind of key.
    pub key_type: String,
    /// When.
    pub time: String,
    /// The policies that permit it.
    pub policies: Vec<String>,
    /// The fields of the context that matter, since policies speak of them.
    #[serde(skip)]
    pub(super) matters: Vec<&'static str>,
}

impl Counterexample {
    /// The fields of the context that are not told where no policy speaks of them.
    pub(super) const TOLD: [&str; 7] = [
        "reason",
        "approvals",
        "mfa",
        "source",
        "time",
        "key_type",
        "method",
    ];

    pub(super) fn new(
        request: &Request,
        entities: &Entities,
        policies: Vec<String>,
        matters: Vec<&'static str>,
    ) -> Option<Self> {
        let (principal, action) = (request.principal()?, request.action()?);
        let context = request.context()?;
        let text = |name: &str| match context.get(name) {
            Some(EvalResult::String(text)) => Some(text),
            Some(EvalResult::ExtensionValue(text)) => Some(text),
            _ => None,
        };
        let long = |value: Option<&EvalResult>| match value {
            Some(EvalResult::Long(number)) => Some(*number),
            _ => None,
        };
        let record = |name: &str| match context.get(name) {
            Some(EvalResult::Record(record)) => Some(record),
            _ => None,
        };
        let mut groups: Vec<String> = entities
            .ancestors(principal)
            .into_iter()
            .flatten()
            .filter(|group| group.type_name().basename() == "Group")
            .map(|group| group.id().unescaped().to_owned())
            .collect();
        groups.sort();
        let attributes = entities.get(principal).map(|entity| {
            let attributes = entity.attrs().filter_map(|(name, value)| match value {
                Ok(EvalResult::String(text)) => Some((name.to_owned(), text)),
                _ => None,
            });
            attributes.collect()
        });
        let mfa = record("mfa")?;
        let is = |name: &str| mfa.get(name) == Some(&EvalResult::Bool(true));
        let time = record("time")?;
        let of_time = |name: &str| {
            let number = long(time.get(name))?;
            u8::try_from(number).ok()
        };
        let time = LocalTime {
            weekday: of_time("weekday")?,
            hour: of_time("hour")?,
            minute: of_time("minute")?,
        };
        Some(Self {
            workload: principal.type_name().basename() == "Workload",
            requester: principal.id().unescaped().to_owned(),
            attributes: attributes.unwrap_or_default(),
            groups,
            action: action.id().unescaped().to_owned(),
            role: request.resource()?.id().unescaped().to_owned(),
            purpose: text("purpose").unwrap_or_default(),
            reason: text("reason"),
            ttl: long(context.get("ttl").as_ref()).and_then(|ttl| u64::try_from(ttl).ok()),
            approvals: long(context.get("approvals").as_ref()),
            approves: text("requester"),
            mfa: match (is("present"), is("verified")) {
                (false, _) => "none",
                (true, false) => "present",
                (true, true) => "verified",
            },
            mfa_attested: is("attested"),
            mfa_age: long(mfa.get("age")).filter(|age| *age != Engine::NEVER),
            source: text("source")
                .unwrap_or_default()
                .trim_start_matches("ip(\"")
                .trim_end_matches("\")")
                .to_owned(),
            method: text("method").unwrap_or_default(),
            key_type: text("key_type").unwrap_or_default(),
            time: time.to_string(),
            policies,
            matters,
        })
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = |field| self.matters.contains(&field);
        let kind = if self.workload {
            "a workload"
        } else {
            "somebody"
        };
        write!(f, "{kind}")?;
        if !self.requester.is_empty() {
            write!(f, " named {:?}", self.requester)?;
        }
        if self.groups.is_empty() {
            write!(f, " in no group")?;
        } else {
            write!(f, " in group {}", self.groups.join(", "))?;
        }
        for (name, value) in &self.attributes {
            write!(f, ", {name} {value:?}")?;
        }
        if ["request", APPROVE].contains(&self.action.as_str()) {
            match &self.approves {
                Some(requester) => write!(f, ", approves that {requester:?} gets role")?,
                None => write!(f, ", asks for role")?,
            }
            write!(f, " {} for purpose {}", self.role, self.purpose)?;
            if let Some(ttl) = self.ttl.and_then(|ttl| Ttl::from_secs(ttl).ok()) {
                write!(f, ", ttl {ttl}")?;
            }
            if let Some(reason) = self.reason.as_ref().filter(|_| does("reason")) {
                write!(f, ", reason {reason:?}")?;
            }
            match self.approvals.filter(|_| does("approvals")) {
                Some(0) => write!(f, ", approved by nobody")?,
                Some(approvals) => write!(f, ", approved by {approvals}")?,
                None => {}
            }
        } else {
            write!(f, ", wants to {}", self.action)?;
        }
        match (self.mfa, self.mfa_age) {
            _ if !does("mfa") => {}
            ("none", _) => write!(f, ", without a second factor")?,
            (kind, age) => {
                write!(f, ", with a second factor ({kind}")?;
                if self.mfa_attested {
                    write!(f, ", attested")?;
                }
                if let Some(age) = age {
                    write!(f, ", {age} s ago")?;
                }
                write!(f, ")")?;
            }
        }
        let told: [(&str, &str, &str); 4] = [
            ("source", "from", &self.source),
            ("time", "on", &self.time),
            ("key_type", "by a key of type", &self.key_type),
            ("method", "known by", &self.method),
        ];
        for (field, word, value) in told {
            if does(field) {
                write!(f, ", {word} {value}")?;
            }
        }
        write!(f, ": permitted by {}", self.policies.join(", "))
    }
}
