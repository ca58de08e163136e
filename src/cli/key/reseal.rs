//! `hallpass key reseal`

use std::path::{Path, PathBuf};

use crate::authority::Home;
use crate::cli::failure::Failure;
use crate::cli::output::{Table, print};
use crate::cli::passphrase::{self, Console};
use crate::keys::{
    AgeRecipient, Reseal, StoreError, Way, WayName, protect_memory, recipient_of, ways,
};

/// Change the passphrase of a home, and what else opens its keys
///
/// Without an option, a new passphrase takes the old one's place. With age identities, a home opens
/// in other ways as well: with a file of `age-keygen`, or with a hardware key through an age plugin
/// in PATH such as age-plugin-yubikey. A server that runs goes on; it is the next start that needs
/// what is new. Who has a copy of the home from before can still open that in the old way.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass key reseal --home /var/lib/hallpass
  hallpass key reseal --home /var/lib/hallpass --add-identity age1... --name vault
  hallpass key reseal --home /var/lib/hallpass --list
  hallpass serve --home /var/lib/hallpass --age-identity /run/keys/vault.txt")]
#[command(group = clap::ArgGroup::new("what").multiple(false))]
pub(in crate::cli) struct Args {
    /// The home; a witness's will do as well
    #[arg(long, env = "HALLPASS_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Show the ways to open the keys
    #[arg(long, group = "what")]
    list: bool,
    /// Add the age identity of this recipient, such as age1...
    #[arg(long, value_name = "RECIPIENT", group = "what")]
    add_identity: Option<AgeRecipient>,
    /// What to call it; otherwise the end of the recipient
    #[arg(long, requires = "add_identity", value_name = "NAME")]
    name: Option<WayName>,
    /// Take an age identity off; open the keys in a way that stays
    #[arg(long, value_name = "NAME", group = "what")]
    remove_identity: Option<WayName>,
    /// Take the passphrase off; open the keys with an age identity
    #[arg(long, group = "what")]
    remove_passphrase: bool,
    /// A file whose first line is the new passphrase, readable by its owner alone; without it, a
    /// prompt
    #[arg(long, value_name = "FILE", group = "what")]
    new_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    keys: passphrase::OpenSource,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    protect_memory();
    let home = Home::new(&args.home.unwrap_or_else(Home::default_folder));
    let folder = home.keys();
    if !folder.is_dir() {
        let home = home.folder().display();
        return Err(Failure::config(format!(
            "there is no home at {home}: name one with --home DIR"
        )));
    }
    if args.list {
        return list(&folder);
    }
    let reseal = Reseal::begin(&folder).map_err(failure)?;
    let opener = passphrase::existing(&args.keys, home.folder())?;
    let said = if let Some(recipient) = args.add_identity {
        let name = args.name.unwrap_or_else(|| WayName::of(&recipient));
        reseal
            .add_identity(&opener, &name, &recipient, Console)
            .map_err(failure)?;
        format!("The age identity {name} opens the keys from now on.\n")
    } else if let Some(name) = args.remove_identity {
        remove(&reseal, &opener, &Way::Identity(name))?
    } else if args.remove_passphrase {
        remove(&reseal, &opener, &Way::Passphrase)?
    } else {
        let new = passphrase::new_in(args.new_passphrase_file.as_deref())?;
        reseal.set_passphrase(&opener, &new).map_err(failure)?;
        format!("The new passphrase opens the keys from now on. {COPIES}")
    };
    print(said)
}

const COPIES: &str = "Copies of the home from before, backups among them, still open in the old \
                      way.\n";

fn remove(reseal: &Reseal, opener: &crate::keys::Opener, way: &Way) -> Result<String, Failure> {
    reseal.remove(opener, way).map_err(failure)?;
    let way = way.to_string();
    Ok(format!("{way} does not open the keys any more. {COPIES}"))
}

fn list(folder: &Path) -> Result<(), Failure> {
    let mut table = Table::new(["NAME", "OPENS WITH"]);
    for way in ways(folder).map_err(failure)? {
        match way {
            Way::Passphrase => table.add(["passphrase".to_owned(), "the passphrase".to_owned()]),
            Way::Identity(name) => {
                let recipient = recipient_of(folder, &name);
                let recipient = recipient.unwrap_or_else(|| "a recipient not noted".to_owned());
                table.add([name.to_string(), format!("the age identity of {recipient}")]);
            }
        }
    }
    print(table.to_string())
}

fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::NoSuchWay { .. } | StoreError::LastWay { .. } => Failure::data(error),
        error => Failure::config(error),
    }
}
