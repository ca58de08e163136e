//! A table of requests and what policies must say to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::cedar::place;
use super::{APPROVE, AdminAction, Judged, PolicyError, PolicySet, Wanted};
use crate::model::{
    Circumstances, GroupName, Invalid, LocalTime, Mfa, Purpose, Reason, RoleName, Ttl, UserName,
};

/// A request and what policies must say to it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about.
    pub name: String,
    /// The line of the file that it begins in, counted from 1.
    pub line: usize,
    requester: UserName,
    question: Question,
    circumstances: Circumstances,
    permit: bool,
    by: Option<BTreeSet<String>>,
}

#[derive(Clone, Debug)]
enum Question {
    Request(Wanted),
    Approval { requester: UserName, wanted: Wanted },
    Admin(AdminAction),
}

/// What came out of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// How many cases there are.
    pub cases: usize,
    /// Those to which the policies say something else.
    pub failed: Vec<Failed>,
    /// The policies that decide no case.
    pub untouched: Vec<String>,
}

/// A case to which the policies say something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// What it is about.
    pub name: String,
    /// The line of the file that it begins in, counted from 1.
    pub line: usize,
    /// What they say, and who.
    pub said: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    case: Vec<Spanned<WrittenCase>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCase {
    name: String,
    user: Option<String>,
    workload: Option<String>,
    attributes: Option<BTreeMap<String, String>>,
    #[serde(default)]
    groups: Vec<String>,
    role: Option<String>,
    action: Option<String>,
    purpose: Option<String>,
    ttl: Option<String>,
    reason: Option<String>,
    mfa: Option<String>,
    #[serde(default)]
    mfa_age: u64,
    #[serde(default)]
    mfa_attested: bool,
    key_type: Option<String>,
    method: Option<String>,
    source: Option<IpAddr>,
    time: Option<String>,
    #[serde(default)]
    approvals: u32,
    requester: Option<String>,
    expect: String,
    by: Option<BTreeSet<String>>,
}

impl Case {
    /// Reads a table.
    ///
    /// # Errors
    /// All that is not legal, with its place.
    pub fn parse(path: &Path, text: &str) -> Result<Vec<Self>, Vec<PolicyError>> {
        let written: Written = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            vec![place(path, text, offset, error.message().to_owned())]
        })?;
        let (mut cases, mut errors) = (Vec::new(), Vec::new());
        for written in written.case {
            let start = written.span().start;
            let line = text.get(..start).unwrap_or_default().matches('\n').count() + 1;
            match written.into_inner().into_case(line) {
                Ok(case) => cases.push(case),
                Err(message) => errors.push(place(path, text, start, message)),
            }
        }
        if errors.is_empty() {
            Ok(cases)
        } else {
            Err(errors)
        }
    }

    fn ask(&self, policy: &PolicySet) -> Judged {
        match &self.question {
            Question::Request(wanted) => policy.judge(&self.requester, wanted, &self.circumstances),
            Question::Approval { requester, wanted } => {
                policy.judge_approval(&self.requester, requester, wanted, &self.circumstances)
            }
            Question::Admin(action) => {
                let engine = &policy.engine;
                let verdict = engine.decide_admin(&self.requester, *action, &self.circumstances);
                verdict.into()
            }
        }
    }
}

impl PolicySet {
    /// Asks all cases of a table.
    pub fn test(&self, cases: &[Case]) -> Tested {
        let mut untouched: BTreeSet<String> = self
            .engine
            .policies()
            .iter()
            .map(|policy| policy.id().to_string())
            .collect();
        let mut failed = Vec::new();
        for case in cases {
            let judged = case.ask(self);
            for policy in &judged.policies {
                untouched.remove(policy);
            }
            let by: BTreeSet<String> = judged.policies.iter().cloned().collect();
            let as_expected = judged.allowed == case.permit
                && case.by.as_ref().is_none_or(|expected| *expected == by);
            if !as_expected {
                let word = if judged.allowed {
                    "permitted"
                } else {
                    "refused"
                };
                let who = match (&judged.bound, by.is_empty()) {
                    (Some(bound), _) => bound.clone(),
                    (None, true) => "no policy".to_owned(),
                    (None, false) => judged.policies.join(", "),
                };
                failed.push(Failed {
                    name: case.name.clone(),
                    line: case.line,
                    said: format!("{word} by {who}"),
                });
            }
        }
        Tested {
            cases: cases.len(),
            failed,
            untouched: untouched.into_iter().collect(),
        }
    }
}

impl WrittenCase {
    fn into_case(self, line: usize) -> Result<Case, String> {
        let name = self.name.clone();
        let wrong = |what: &str| format!("case {name:?}: {what}");
        let illegal = |key: &'static str| {
            let name = self.name.clone();
            move |error: Invalid| format!("case {name:?}: {key}: {error}")
        };
        let (requester, is_workload) = match (&self.user, &self.workload) {
            (Some(user), None) => (user, false),
            (None, Some(workload)) => (workload, true),
            _ => return Err(wrong("say who asks: user or workload")),
        };
        let approves = self.action.as_deref() == Some(APPROVE);
        if self.approvals > 0 && (approves || self.role.is_none()) {
            return Err(wrong("approvals: they are for a role that is asked for"));
        }
        let question = match (&self.role, &self.action) {
            (Some(role), action) if action.is_none() || approves => {
                let purpose = self.purpose.as_ref();
                let purpose = purpose.ok_or_else(|| wrong("a role is asked for with a purpose"))?;
                let reason = self.reason.as_deref().map(str::parse::<Reason>);
                let ttl = self.ttl.as_deref().map(str::parse::<Ttl>);
                let wanted = Wanted {
                    role: role.parse::<RoleName>().map_err(illegal("role"))?,
                    purpose: purpose.parse::<Purpose>().map_err(illegal("purpose"))?,
                    reason: reason.transpose().map_err(illegal("reason"))?,
                    ttl: ttl.transpose().map_err(illegal("ttl"))?,
                };
                match &self.requester {
                    Some(_) if !approves => {
                        return Err(wrong("requester: it is whose request is approved"));
                    }
                    None if approves => {
                        return Err(wrong("say whose request is approved: requester"));
                    }
                    Some(requester) => Question::Approval {
                        requester: requester.parse().map_err(illegal("requester"))?,
                        wanted,
                    },
                    None => Question::Request(wanted),
                }
            }
            (None, Some(action)) => {
                let mut actions = AdminAction::ALL.into_iter();
                let known = actions.find(|known| known.as_str() == action);
                Question::Admin(known.ok_or_else(|| {
                    let names = AdminAction::ALL.map(AdminAction::as_str).join(", ");
                    if approves {
                        return wrong("say what is approved: role and purpose");
                    }
                    wrong(&format!(
                        "action {action:?} is none: use one of {names}, {APPROVE}"
                    ))
                })?)
            }
            _ => return Err(wrong("say what is asked for: role or action")),
        };
        if approves && is_workload {
            return Err(wrong("workload: a job or a service approves nothing"));
        }
        let (age, attested) = (self.mfa_age, self.mfa_attested);
        let mfa = match self.mfa.as_deref() {
            None if attested => return Err(wrong("mfa_attested: say also what mfa showed")),
            None => None,
            Some("verified") => Some(Mfa {
                verified: true,
                attested,
                age,
            }),
            Some("present") => Some(Mfa {
                verified: false,
                attested,
                age,
            }),
            Some(_) => return Err(wrong("mfa: use \"verified\" or \"present\"")),
        };
        let permit = match self.expect.as_str() {
            "permit" => true,
            "refuse" => false,
            _ => return Err(wrong("expect: use \"permit\" or \"refuse\"")),
        };
        let groups = self.groups.iter().map(|group| group.parse::<GroupName>());
        let time = self.time.as_deref().unwrap_or("mon 09:00");
        let text = |text: &Option<String>, default: &str| {
            text.clone().unwrap_or_else(|| default.to_owned())
        };
        Ok(Case {
            line,
            requester: requester.parse().map_err(illegal("the name"))?,
            question,
            circumstances: Circumstances {
                groups: groups
                    .collect::<Result<_, _>>()
                    .map_err(illegal("groups"))?,
                method: text(&self.method, "ssh-key"),
                key_type: text(&self.key_type, "ssh-ed25519"),
                mfa,
                source: self
                    .source
                    .unwrap_or(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
                time: time.parse::<LocalTime>().map_err(illegal("time"))?,
                workload: is_workload.then(|| self.attributes.clone().unwrap_or_default()),
                approvals: self.approvals,
            },
            permit,
            by: self.by,
            name: self.name,
        })
    }
}
