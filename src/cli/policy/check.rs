//! `hallpass policy check`

use std::path::Path;

use serde::Serialize;

use super::super::failure::Failure;
use super::super::output::{print, print_json};
use super::{Folder, prover};
use crate::policy::{PolicyError, PolicySet, ProveError, Prover};

/// Find what is wrong in policies, roles and invariants
///
/// Every error is shown with file, line and column. With the solver cvc5 also policies that apply to
/// no request and roles that nobody can get.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass policy check
  hallpass policy check ./policies

Exit codes: 0 nothing is wrong, 1 something is")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    folder: Folder,
    /// Print JSON, one line for each
    #[arg(long)]
    json: bool,
}

/// Something that is wrong.
#[derive(Serialize)]
struct Finding {
    /// `error`: such a set is not loaded. `warning`: it does not do what it seems to.
    severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    message: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let folder = args.folder.path();
    let files = PolicySet::read(&folder).map_err(Failure::no_input)?;
    let (mut findings, mut unlooked) = (Vec::new(), None);
    match PolicySet::check(files, &folder) {
        Ok(policy) => match prover() {
            Ok((runtime, mut prover)) => {
                let found = runtime.block_on(warnings(&policy, &mut prover, &folder));
                findings.extend(found.map_err(Failure::internal)?);
            }
            Err(error) => unlooked = Some(error),
        },
        Err(errors) => findings.extend(errors.iter().map(Finding::error)),
    }
    if args.json {
        findings.iter().try_for_each(print_json)?;
    } else {
        let lines = findings.iter().map(Finding::text);
        print(lines.collect::<String>())?;
    }
    if let Some(error) = unlooked {
        use std::io::Write;
        // Nowhere left to say that it can't be said.
        writeln!(
            std::io::stderr(),
            "hallpass: not looked for policies that never apply and roles that nobody can get: \
             {error}"
        )
        .ok();
    }
    if findings.is_empty() {
        if args.json {
            return Ok(());
        }
        return print(format!("Nothing is wrong in {}.\n", folder.display()));
    }
    Err(Failure::no())
}

async fn warnings(
    policy: &PolicySet,
    prover: &mut Prover,
    folder: &Path,
) -> Result<Vec<Finding>, ProveError> {
    let mut findings = Vec::new();
    for id in prover.never_applying(policy).await? {
        let at = policy.place_of(&id);
        findings.push(Finding {
            severity: "warning",
            file: at.map(|(file, _)| folder.join(file).display().to_string()),
            line: at.map(|(_, line)| line),
            column: at.map(|_| 1),
            message: format!(
                "policy {id} never applies: no request within the roles' bounds meets its conditions"
            ),
        });
    }
    for (role, purpose) in prover.unobtainable(policy).await? {
        findings.push(Finding {
            severity: "warning",
            file: Some(folder.join("roles.toml").display().to_string()),
            line: policy.line_of_role(&role),
            column: Some(1),
            message: format!(
                "nobody can get role {role} for purpose {purpose}: no policy permits it"
            ),
        });
    }
    Ok(findings)
}

impl Finding {
    fn error(error: &PolicyError) -> Self {
        let (file, line, column, message) = match error {
            PolicyError::Cedar {
                path,
                line,
                column,
                message,
            } => (path, Some(*line), Some(*column), message.clone()),
            PolicyError::Unproven { message } => {
                return Self {
                    severity: "error",
                    file: None,
                    line: None,
                    column: None,
                    message: message.clone(),
                };
            }
            PolicyError::File { path, source } => (path, None, None, source.to_string()),
            PolicyError::Writable { path } | PolicyError::Twice { path, .. } => {
                let message = error.to_string();
                let shown = format!("{}: ", path.display());
                let message = message.trim_start_matches(&shown).to_owned();
                (path, None, None, message)
            }
        };
        Self {
            severity: "error",
            file: Some(file.display().to_string()),
            line,
            column,
            message,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if let Some(file) = &self.file {
            text += &format!("{file}:");
        }
        for number in [self.line, self.column].into_iter().flatten() {
            text += &format!("{number}:");
        }
        format!("{text} {}: {}\n", self.severity, self.message)
    }
}
