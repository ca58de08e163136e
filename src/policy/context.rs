//! What policies are told of a request beside who asks for what.

use std::collections::BTreeSet;

use cedar_policy::{Context, Policy, RestrictedExpression};
use serde_json::Value;

/// How much of it they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// What some of those read that are asked: Cedar computes all that it is told, for each request.
    Read,
    /// All of it, for other policies as well.
    All,
}

/// Which attributes of the context some policies read; nothing when that can't be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reads(Option<BTreeSet<String>>);

impl Reads {
    pub(super) fn of<'a>(mut policies: impl Iterator<Item = &'a Policy>) -> Self {
        let mut read = BTreeSet::new();
        let known = policies.all(|policy| {
            let written = policy.to_json();
            written.is_ok_and(|written| attributes_only(&written, &mut read))
        });
        Self(known.then_some(read))
    }

    fn has(&self, attribute: &str) -> bool {
        self.0.as_ref().is_none_or(|read| read.contains(attribute))
    }
}

/// Whether a policy, as JSON, does nothing with the context but reading attributes of it. Collects
/// those.
fn attributes_only(written: &Value, read: &mut BTreeSet<String>) -> bool {
    match written {
        Value::Object(members) => members.iter().all(|(name, value)| {
            // Of `has`, it may be a path.
            let attribute = value["attr"].as_str().or_else(|| value["attr"][0].as_str());
            match (name.as_str(), attribute) {
                ("." | "has", Some(attribute)) if value["left"]["Var"] == "context" => {
                    read.insert(attribute.to_owned());
                    true
                }
                // A record may have a field of that name, whose value is no string here.
                ("Var", _) if value.is_string() => value != "context",
                _ => attributes_only(value, read),
            }
        }),
        Value::Array(values) => values.iter().all(|value| attributes_only(value, read)),
        _ => true,
    }
}

/// The attributes of a context in the making.
pub(super) struct Attributes<'a> {
    reads: &'a Reads,
    told: Told,
    attributes: Vec<(String, RestrictedExpression)>,
}

impl<'a> Attributes<'a> {
    /// None so far, for policies that read so much.
    pub(super) fn new(reads: &'a Reads, told: Told) -> Self {
        Self {
            reads,
            told,
            attributes: Vec::new(),
        }
    }

    /// Adds one, if it is to be told.
    pub(super) fn add(&mut self, name: &str, value: impl FnOnce() -> RestrictedExpression) {
        if self.told == Told::All || self.reads.has(name) {
            self.attributes.push((name.to_owned(), value()));
        }
    }

    /// Nothing when Cedar can't compute one of them.
    pub(super) fn context(self) -> Option<Context> {
        Context::from_pairs(self.attributes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(conditions: &str) -> Option<Vec<String>> {
        let policy = format!("@Var(\"x\") permit (principal, action, resource) {conditions};");
        let policy: Policy = policy.parse().unwrap();
        let reads = Reads::of([&policy].into_iter());
        reads.0.map(|read| read.into_iter().collect())
    }

    #[test]
    fn what_a_policy_reads_is_found_wherever_it_stands() {
        assert_eq!(reads(""), Some(vec![]));
        let attributes = [
            "when { context.ttl < 60 }",
            "when { context has mfa.verified }",
            "unless { !(context has reason && context.reason like \"INC-*\") }",
            "when { [\"a\", \"context\"].contains(context.purpose) || context[\"key type\"] == \"x\" }",
            "when { if context.mfa.verified then true else {\"a\": context.time.hour}.a > 7 }",
            "when { context.source.isInRange(ip(\"192.0.2.0/24\")) }",
            "when { {\"Var\": context has approvals}.Var }",
            "when { {\".\": context.weekday, \"has\": context.session}[\"has\"] == 1 }",
        ]
        .join(" ");
        let read = [
            "approvals",
            "key type",
            "mfa",
            "purpose",
            "reason",
            "session",
            "source",
            "time",
            "ttl",
            "weekday",
        ];
        assert_eq!(reads(&attributes), Some(read.map(str::to_owned).to_vec()));
    }

    #[test]
    fn a_policy_that_takes_the_context_as_a_whole_is_told_all() {
        for whole in [
            "context == {}",
            "{\"a\": context}.a.ttl == 1",
            "{\"Var\": context}.Var.ttl == 1",
            "{\"left\": context, \"attr\": 1}.left.ttl == 1",
            "[context].contains({\"ttl\": 1})",
            "(if principal == resource then context else context).ttl == 1",
            "principal has a && principal.a == context",
        ] {
            assert_eq!(reads(&format!("when {{ {whole} }}")), None, "{whole}");
        }
    }
}
