//! `hallpass lock` and `hallpass unlock`

use super::ClientArgs;
use super::failure::Failure;
use super::output::{Table, print, print_json};
use crate::client::Query;
use crate::model::{LockSummary, LockTarget, NewLock, Reason};

/// On a bad day: issue nothing more for a role, a user or a host, at once
///
/// A user who is locked administers and approves nothing, and no request by a key that is locked is
/// taken at all. Certificates that were issued before stay good until they end.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass lock role/deploy --reason 'INC-4711: build server taken over'
  hallpass lock user/bob --reason 'laptop stolen'
  hallpass lock host/web-1 --reason 'under investigation'
  hallpass lock key/SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU --reason 'lost'
  hallpass lock                                            (shows what is locked)")]
pub(super) struct Lock {
    /// role/NAME, user/NAME, host/NAME or key/FINGERPRINT; all locks are shown when left out
    #[arg(requires = "reason")]
    target: Option<LockTarget>,
    /// Why; those who are refused read it
    #[arg(long, value_name = "TEXT", requires = "target")]
    reason: Option<Reason>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Issue again for a role, a user or a host that was locked, or take a key's requests again
///
/// A FIDO2 key that was locked because it counted back may begin to count at any number then.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass unlock role/deploy")]
pub(super) struct Unlock {
    /// role/NAME, user/NAME, host/NAME or key/FINGERPRINT
    target: LockTarget,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn lock(args: Lock) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    if let (Some(target), Some(reason)) = (args.target, args.reason) {
        let lock: LockSummary = api.post("/v1/locks", &NewLock { target, reason })?;
        if args.json {
            return print_json(&lock);
        }
        return print(match lock.target {
            LockTarget::Key(_) => format!("No request by {} is taken any more.\n", lock.target),
            target => format!("Nothing more is issued for {target}.\n"),
        });
    }
    let locks: Vec<LockSummary> = api.get("/v1/locks")?;
    if args.json {
        return locks.iter().try_for_each(print_json);
    }
    if locks.is_empty() {
        return print("Nothing is locked.\n");
    }
    let mut table = Table::new(["LOCKED", "SINCE", "BY", "WHY"]);
    for lock in locks {
        table.add([
            lock.target.to_string(),
            lock.since.whole_secs().to_string(),
            lock.by
                .map_or_else(|| "the server".to_owned(), |by| by.to_string()),
            lock.reason,
        ]);
    }
    print(table.to_string())
}

pub(super) fn unlock(args: Unlock) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    let target = args.target.to_string();
    let (kind, name) = target.split_once('/').unwrap_or_default();
    let path = Query::path(&["v1", "locks", kind, name]);
    api.delete(path.as_str())?;
    print(format!("{target} is no longer locked.\n"))
}
