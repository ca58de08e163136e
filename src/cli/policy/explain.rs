//! `hallpass policy explain`

use std::fmt::Write as _;
use std::net::IpAddr;

use super::super::Shown;
use super::super::failure::Failure;
use super::super::output::clean;
use crate::model::{
    ConditionOutcome, EntryIndex, ExplainRequest, ExplainedPolicy, Explanation, GroupName,
    LocalTime, Mfa, Purpose, Reason, RoleName, Ttl, UserName,
};

/// Ask why something is permitted or refused, or was
///
/// Answered by what decides about requests, with the policies in force; what you leave out is as in
/// your own request. What the log holds of a decision is explained with the policies of that day.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass policy explain --role patients-read --purpose incident
  hallpass policy explain --user alice --role deploy --purpose deploy --ttl 10m --mfa
  hallpass policy explain --action read-log
  hallpass policy explain --entry 1042

Exit codes: 0 permitted, 1 refused")]
pub(in crate::cli) struct Args {
    /// Explain the decision that this entry of the log holds
    #[arg(long, value_name = "N", conflicts_with_all = ["role", "action", "user"])]
    entry: Option<u64>,
    /// Who asks; you if left out
    #[arg(long, value_name = "NAME")]
    user: Option<UserName>,
    /// The role asked for
    #[arg(long, value_name = "ROLE", requires = "purpose",
        required_unless_present_any = ["entry", "action"])]
    role: Option<RoleName>,
    /// Instead of a role: an administrative act, such as read-log or manage-users
    #[arg(long, value_name = "ACTION", conflicts_with = "role")]
    action: Option<String>,
    /// What it is for
    #[arg(long, value_name = "PURPOSE")]
    purpose: Option<Purpose>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<Reason>,
    /// For how long; the role's default if left out
    #[arg(long, value_name = "TIME")]
    ttl: Option<Ttl>,
    /// A group that the requester is in, instead of those that they are in
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<GroupName>,
    /// With a second factor: verified (by PIN or finger), or present (touched only)
    #[arg(long, value_name = "KIND", num_args = 0..=1, require_equals = true,
        default_missing_value = "verified")]
    mfa: Option<Factor>,
    /// How many seconds ago it was shown
    #[arg(long, value_name = "SECONDS", requires = "mfa", default_value_t = 0)]
    mfa_age: u64,
    /// By a key that a trusted maker attests
    #[arg(long, requires = "mfa")]
    mfa_attested: bool,
    /// The kind of the key that signs, such as ssh-ed25519
    #[arg(long, value_name = "TYPE")]
    key_type: Option<String>,
    /// What the requester is known by, such as ssh-key
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// The address that the request comes from
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// When, in the CA's time zone: a weekday and a time, such as "sat 03:00"
    #[arg(long, value_name = "TIME")]
    time: Option<LocalTime>,
    /// As if so many people had approved it, instead of as many as have
    #[arg(long, value_name = "N")]
    approvals: Option<u32>,
    #[command(flatten)]
    shown: Shown,
}

/// What a second factor showed.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Factor {
    /// That it was touched, and who by
    Verified,
    /// That it was touched
    Present,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let verified = |factor| matches!(factor, Factor::Verified);
    let ask = ExplainRequest {
        entry: args.entry.map(EntryIndex),
        requester: args.user,
        role: args.role,
        action: args.action,
        purpose: args.purpose,
        reason: args.reason,
        ttl: args.ttl,
        groups: (!args.groups.is_empty()).then_some(args.groups),
        method: args.method,
        key_type: args.key_type,
        mfa: args.mfa.map(|factor| Mfa {
            verified: verified(factor),
            attested: args.mfa_attested,
            age: args.mfa_age,
        }),
        source: args.source,
        time: args.time,
        approvals: args.approvals,
    };
    let explained: Explanation = args.shown.open()?.post("/v1/policy/explain", &ask)?;
    args.shown.print(&explained, text)?;
    if explained.allowed {
        Ok(())
    } else {
        Err(Failure::no())
    }
}

fn text(explained: &Explanation) -> String {
    let mut text = match &explained.refusal {
        None => "Permitted.\n".to_owned(),
        Some(refusal) => format!("Refused: {}.\n", clean(refusal.trim_end_matches('.'))),
    };
    if let Some(logged) = &explained.logged {
        let outcome = if logged.allowed {
            "permitted"
        } else {
            "refused"
        };
        let by = if logged.policies.is_empty() {
            "no policy".to_owned()
        } else {
            logged.policies.join(", ")
        };
        let _ = writeln!(text, "The log has it {outcome}, by {}.", clean(&by));
    }
    let about = &explained.circumstances;
    let groups: Vec<&str> = about.groups.iter().map(GroupName::as_str).collect();
    let factor = match about.mfa {
        None => "no second factor".to_owned(),
        Some(Mfa {
            verified,
            attested,
            age,
        }) => format!(
            "{} second factor {} {age} s ago",
            if attested { "an attested" } else { "a" },
            if verified { "verified" } else { "touched" }
        ),
    };
    let approved = match about.approvals {
        0 => String::new(),
        approvals => format!(", approved by {approvals}"),
    };
    let _ = writeln!(
        text,
        "Asked by a member of {} with {} ({}), {factor}, from {}, on {}{approved}.\nPolicy set {}\n",
        if groups.is_empty() {
            "no group".to_owned()
        } else {
            groups.join(", ")
        },
        clean(&about.key_type),
        clean(&about.method),
        about.source,
        about.time,
        explained.policy_set,
    );
    for policy in &explained.policies {
        describe(policy, &mut text);
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn describe(policy: &ExplainedPolicy, text: &mut String) {
    let would = if policy.permits { "permit" } else { "forbid" };
    let does = if policy.decides {
        format!("{would}s it")
    } else {
        format!("would {would} it, but does not apply")
    };
    let _ = writeln!(text, "{} {does}", clean(&policy.id));
    if let Some(needs) = &policy.needs {
        let _ = writeln!(text, "  no   {}", clean(needs));
    }
    for condition in &policy.conditions {
        let (mark, error) = match &condition.outcome {
            ConditionOutcome::Holds => ("yes ", String::new()),
            ConditionOutcome::Fails => ("no  ", String::new()),
            ConditionOutcome::Error(error) => ("?   ", format!(" ({})", clean(error))),
        };
        let _ = writeln!(text, "  {mark} {}{error}", clean(&condition.text));
    }
    if let Some(advice) = &policy.advice {
        let _ = writeln!(text, "  {}", clean(advice));
    }
}
