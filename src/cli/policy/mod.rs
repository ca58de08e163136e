//! `hallpass policy`

mod check;
mod diff;
mod explain;
mod logged;
mod prove;
mod test;

use std::path::{Path, PathBuf};

use tokio::runtime::Runtime;

use super::Shown;
use super::failure::Failure;
use crate::authority::Home;
use crate::model::PolicyInForce;
use crate::policy::{PolicyError, PolicySet, ProveError, Prover};

/// Check, test, prove, load and explain policies
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Check(check::Args),
    Test(test::Args),
    Prove(prove::Args),
    Diff(diff::Diff),
    Simulate(diff::Simulate),
    Reload(Reload),
    Explain(Box<explain::Args>),
}

/// Have the CA load its policies from their files
///
/// All or nothing: when anything in them is wrong, the old ones stay in force. The CA also does so by
/// itself when the files change, and on SIGHUP.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass policy reload")]
pub(super) struct Reload {
    #[command(flatten)]
    shown: Shown,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check(args) => check::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Prove(args) => prove::run(&args),
        Command::Diff(args) => diff::diff(&args),
        Command::Simulate(args) => diff::simulate(&args),
        Command::Reload(args) => reload(args),
        Command::Explain(args) => explain::run(*args),
    }
}

fn reload(args: Reload) -> Result<(), Failure> {
    let loaded: PolicyInForce = args.shown.open()?.post_nothing("/v1/policy/reload")?;
    args.shown.print(&loaded, |loaded| {
        if loaded.changed {
            format!("Loaded policy set {}.\n", loaded.policy_set)
        } else {
            format!(
                "Policy set {} was in force already: the files are the same.\n",
                loaded.policy_set
            )
        }
    })
}

/// The policies that a command is about.
#[derive(clap::Args)]
struct Folder {
    /// The folder of the policies; that of the CA's home if left out
    #[arg(value_name = "FOLDER")]
    policies: Option<PathBuf>,
    /// The CA's home
    #[arg(long, env = "HALLPASS_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
}

impl Folder {
    fn path(&self) -> PathBuf {
        self.policies.clone().unwrap_or_else(|| {
            let home = self.home.clone().unwrap_or_else(Home::default_folder);
            Home::new(&home).policies()
        })
    }

    fn load(&self) -> Result<PolicySet, Failure> {
        load(&self.path())
    }
}

/// Reads policies of which nobody needs to be the owner: they decide nothing here.
fn load(folder: &Path) -> Result<PolicySet, Failure> {
    let files = PolicySet::read(folder).map_err(Failure::no_input)?;
    PolicySet::check(files, folder).map_err(|errors| Failure::data(all_of(&errors)))
}

/// All errors, a line each.
fn all_of(errors: &[PolicyError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// A prover, and what it runs on.
fn prover() -> Result<(Runtime, Prover), ProveError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ProveError::Failed(error.to_string()))?;
    let prover = {
        let _within = runtime.enter();
        Prover::start()?
    };
    Ok((runtime, prover))
}

fn with_prover<T>(
    act: impl AsyncFnOnce(&mut Prover) -> Result<T, ProveError>,
) -> Result<T, Failure> {
    let (runtime, mut prover) = prover().map_err(Failure::unavailable)?;
    runtime
        .block_on(act(&mut prover))
        .map_err(Failure::internal)
}
