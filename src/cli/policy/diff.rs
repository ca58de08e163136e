//! `hallpass policy diff` and `hallpass policy simulate`

use std::path::PathBuf;

use serde::Serialize;

use super::super::ClientArgs;
use super::super::failure::Failure;
use super::super::output::{print, print_json};
use super::logged::{Logged, requests_since};
use super::{load, prover};
use crate::client::now;
use crate::model::Timestamp;
use crate::policy::{Difference, Outcome};

/// Show what a change of policies lets people do that they could not, and the reverse
///
/// With the solver cvc5 over every request that there can be, with an example for each role; and
/// over what was asked for in the last days, as the log has it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass policy diff /var/lib/hallpass/policies ./policies
  hallpass policy diff old new --days 90
  hallpass policy diff old new --no-log

Exit codes: 0 no difference, 1 a difference")]
pub(in crate::cli) struct Diff {
    /// The folder of the old policies
    old: PathBuf,
    /// The folder of the new ones
    new: PathBuf,
    /// How many days of the log to look at
    #[arg(
        long,
        value_name = "N",
        default_value_t = 30,
        conflicts_with = "no_log"
    )]
    days: u32,
    /// Do not look at the log, and talk to no CA
    #[arg(long)]
    no_log: bool,
    /// Print JSON, one line for each difference
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Show which requests of the last days other policies would have decided otherwise
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass policy simulate ./policies
  hallpass policy simulate ./policies --days 365

Exit codes: 0 all would have been decided as they were, 1 not")]
pub(in crate::cli) struct Simulate {
    /// The folder of the policies to try
    folder: PathBuf,
    /// How many days of the log to look at
    #[arg(long, value_name = "N", default_value_t = 30)]
    days: u32,
    /// Print JSON, one line for each request
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// A request of the log on which two decisions differ.
#[derive(Serialize)]
struct Changed<'a> {
    #[serde(flatten)]
    request: &'a Logged,
    before: bool,
    after: bool,
    by: Vec<String>,
}

pub(super) fn diff(args: &Diff) -> Result<(), Failure> {
    let (old, new) = (load(&args.old)?, load(&args.new)?);
    let (runtime, mut prover) = prover().map_err(Failure::unavailable)?;
    let differences = runtime
        .block_on(prover.compare(&old, &new))
        .map_err(Failure::internal)?;
    for difference in &differences {
        if args.json {
            print_json(difference)?;
        } else {
            print(text(difference))?;
        }
    }
    let mut changed = 0;
    if !args.no_log {
        let (_, api) = args.client.open()?;
        requests_since(&api, days_ago(args.days), |logged| {
            let (before, after) = (logged.judge(&old), logged.judge(&new));
            if before.allowed != after.allowed {
                changed += 1;
                show(&logged, before.allowed, &after, args.json)?;
            }
            Ok(())
        })?;
    }
    if differences.is_empty() && changed == 0 {
        if !args.json {
            print("They permit the same.\n")?;
        }
        return Ok(());
    }
    Err(Failure::no())
}

pub(super) fn simulate(args: &Simulate) -> Result<(), Failure> {
    let candidate = load(&args.folder)?;
    let (_, api) = args.client.open()?;
    let (mut seen, mut changed) = (0_u64, 0_u64);
    let old = requests_since(&api, days_ago(args.days), |logged| {
        seen += 1;
        let after = logged.judge(&candidate);
        if after.allowed != logged.permitted {
            changed += 1;
            show(&logged, logged.permitted, &after, args.json)?;
        }
        Ok(())
    })?;
    if !args.json {
        print(format!(
            "{changed} of {seen} requests would be decided otherwise.\n"
        ))?;
        if old > 0 {
            print(format!(
                "{old} more were logged by a version that did not keep how and when they were \
                 asked.\n"
            ))?;
        }
    }
    if changed == 0 {
        Ok(())
    } else {
        Err(Failure::no())
    }
}

fn show(
    logged: &Logged,
    before: bool,
    after: &crate::policy::Judged,
    json: bool,
) -> Result<(), Failure> {
    let by = match &after.bound {
        Some(bound) => vec![bound.clone()],
        None => after.policies.clone(),
    };
    if json {
        return print_json(&Changed {
            request: logged,
            before,
            after: after.allowed,
            by,
        });
    }
    let word = |allowed| if allowed { "permitted" } else { "refused" };
    let by = if by.is_empty() {
        "no policy permits it".to_owned()
    } else {
        by.join(", ")
    };
    print(format!(
        "entry {}: {} asked for {} for {}: {}, now {} ({by})\n",
        logged.entry,
        logged.requester,
        logged.wanted.role,
        logged.wanted.purpose,
        word(before),
        word(after.allowed)
    ))
}

fn text(difference: &Difference) -> String {
    let about = &difference.about;
    let word = if difference.more { "more" } else { "less" };
    match &difference.outcome {
        Outcome::Broken { example } => format!("{word}  {about}: {example}\n"),
        Outcome::Undecided { why } => format!("{word}? {about}: {why}\n"),
        Outcome::Proven => String::new(),
    }
}

fn days_ago(days: u32) -> Timestamp {
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    now().minus(day * days)
}
