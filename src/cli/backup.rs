//! `hallpass backup` and `hallpass restore`

use std::path::PathBuf;

use super::failure::Failure;
use super::output::{both, print};
use crate::authority::{BackupError, Home, RestoreError};

/// Write all of a home into one file, also while its server works
///
/// The file holds hallpass.toml, the policies, the keys as they are sealed, the log as it is at this
/// moment and the files of archived entries. It does not hold the passphrase. When something in the
/// home is damaged, it is backed up all the same, and the command says what and ends with exit code 76.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass backup --home /var/lib/hallpass /mnt/backup/hallpass-2026-01-31.tar.gz")]
pub(super) struct Backup {
    /// The file to write, which must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The home
    #[arg(long, env = "HALLPASS_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
}

/// Make a home again out of a backup
///
/// What came after the backup is missing from the restored log. Clients and witnesses that saw more
/// of the log will notice.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass restore /mnt/backup/hallpass-2026-01-31.tar.gz --home /var/lib/hallpass")]
pub(super) struct Restore {
    /// A file that `hallpass backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The home to make: a folder that does not exist, or is empty as a new volume is
    #[arg(long, env = "HALLPASS_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
}

pub(super) fn back_up(args: Backup) -> Result<(), Failure> {
    let home = Home::new(&args.home.unwrap_or_else(Home::default_folder));
    let backed_up = home.back_up(&args.file).map_err(|error| match error {
        BackupError::Home(_) | BackupError::Store(_) => Failure::config(error),
        BackupError::Occupied { .. } | BackupError::File { .. } => Failure::output(error),
        BackupError::Randomness(_) => Failure::internal(error),
    })?;
    let (file, folder) = (args.file.display(), home.folder().display());
    print(format!(
        "Backed up {folder} with {} log entries to {file}.\nWithout the passphrase, the keys in it \
         can't be used: keep that elsewhere.\n",
        backed_up.size
    ))?;
    whole(
        &backed_up.damage,
        "the home is damaged, and so is this backup of it",
        "Keep the backups from before",
    )
}

/// Ends with an error that lists what is damaged, if anything is.
fn whole(damage: &[impl ToString], what: &str, next: &str) -> Result<(), Failure> {
    if damage.is_empty() {
        return Ok(());
    }
    let damage: Vec<String> = damage.iter().map(ToString::to_string).collect();
    let damage = damage.join("; ");
    Err(Failure::log(format!("{what}: {damage}. {next}")))
}

pub(super) fn restore(args: Restore) -> Result<(), Failure> {
    let home = Home::new(&args.home.unwrap_or_else(Home::default_folder));
    let restored = home.restore(&args.file).map_err(|error| match error {
        RestoreError::Unreadable { .. } => Failure::no_input(error),
        RestoreError::NoBackup { .. } | RestoreError::Damaged { .. } | RestoreError::Log(_) => {
            Failure::data(error)
        }
        RestoreError::Occupied { .. }
        | RestoreError::Interrupted { .. }
        | RestoreError::Home(_) => Failure::config(error),
        RestoreError::File { .. } => Failure::output(error),
        RestoreError::Randomness(_) => Failure::internal(error),
    })?;
    let (folder, backup) = (home.folder().display(), both(restored.backup));
    print(format!(
        "\
Made {folder} out of the backup of {backup}, with {} log entries.

What follows from it:
  - What was issued, enrolled or disabled after {backup} is missing from this log.
    Certificates issued since then are good until they end: look for them in the hosts' own logs.
  - Users disabled and keys removed since then are back: disable and remove them again.
  - The first start logs an entry log-restored. No serial number is given out again.
  - Clients that saw more of the log say that it was changed, and witnesses won't sign it. When the
    server works again, tell people to run `hallpass connect` again.
",
        restored.size
    ))?;
    whole(
        &restored.damaged,
        "the home is made, but was damaged before the backup",
        "Everything else works: look for the files in older backups",
    )
}
