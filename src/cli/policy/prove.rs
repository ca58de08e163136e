//! `hallpass policy prove`

use super::super::failure::Failure;
use super::super::output::{print, print_json};
use super::{Folder, with_prover};
use crate::policy::{Outcome, Proof};

/// Prove the invariants of policies, for every request that there can be
///
/// invariants.toml holds what must be true of whatever the policies permit. Each is proven with the
/// solver cvc5, or an example is shown for which it is not true: one that was put to what decides
/// about requests first.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass policy prove
  hallpass policy prove ./policies

Exit codes: 0 all are proven, 1 one is not, 69 the solver is missing")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    folder: Folder,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let policy = args.folder.load()?;
    let proofs = with_prover(async |prover| prover.prove(&policy).await)?;
    if args.json {
        proofs.iter().try_for_each(print_json)?;
    } else if proofs.is_empty() {
        print("There is nothing to prove: invariants.toml has no invariant.\n")?;
    } else {
        proofs.iter().try_for_each(|proof| print(text(proof)))?;
    }
    if proofs.iter().all(|proof| proof.outcome == Outcome::Proven) {
        Ok(())
    } else {
        Err(Failure::no())
    }
}

fn text(proof: &Proof) -> String {
    let (id, says) = (&proof.invariant, &proof.says);
    match &proof.outcome {
        Outcome::Proven => format!("proven     {id}: {says}\n"),
        Outcome::Broken { example } => {
            format!("broken     {id}: {says}\n           but {example}\n")
        }
        Outcome::Undecided { why } => format!("undecided  {id}: {says}\n           {why}\n"),
    }
}
