//! `hallpass init`

#![expect(clippy::print_stdout, reason = "tells what was made")]

use std::path::PathBuf;

use super::failure::Failure;
use super::{passphrase, token};
use crate::authority::{Config, Created, Home};
use crate::certificate::{check_ssh_key, parse_public_key};
use crate::keys::{TokenKeys, protect_memory};
use crate::model::UserName;

/// Make the home of a new certificate authority
///
/// Example: hallpass init --admin alice --ssh-key ~/.ssh/id_ed25519.pub
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder to make; /var/lib/hallpass for root, else hallpass in the user's data folder
    #[arg(long, env = "HALLPASS_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// The name of the first administrator
    #[arg(long, value_name = "NAME")]
    admin: UserName,
    /// The first administrator's public key
    #[arg(long, value_name = "FILE.pub")]
    ssh_key: PathBuf,
    #[command(flatten)]
    passphrase: passphrase::Source,
    #[command(flatten)]
    token: token::Place,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    protect_memory();
    let home = Home::new(&args.home.unwrap_or_else(Home::default_folder));
    // Everything that can be wrong, before anybody thinks up a passphrase.
    home.check_free().map_err(Failure::config)?;
    let path = args.ssh_key;
    let line = std::fs::read_to_string(&path)
        .map_err(|error| Failure::no_input(format!("{}: {error}", path.display())))?;
    let key = parse_public_key(&line)
        .and_then(|key| check_ssh_key(key.key_data()).map(|()| key))
        .map_err(|error| Failure::data(format!("{}: {error}", path.display())))?;
    let token = token::open(args.token)?;
    let passphrase = passphrase::new(&args.passphrase)?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| Failure::internal(error.to_string()))?;
    let created = runtime
        .block_on(home.create(&passphrase, args.admin.clone(), &key, token.clone()))
        .map_err(Failure::config)?;
    tell(&home, &created, &args.admin, token.as_ref());
    Ok(())
}

fn tell(home: &Home, created: &Created, admin: &UserName, token: Option<&TokenKeys>) {
    let folder = created.folder.display();
    println!("Made the home {folder} with administrator {admin}.\n");
    println!("CA keys, each sealed with the passphrase{}:", or_in(token));
    for (kind, fingerprint) in &created.keys {
        let place = match token {
            Some(token) if token.makes(*kind).is_some() => "  in the token",
            _ => "",
        };
        println!("  {:<12} {fingerprint}{place}", kind.as_str());
    }
    println!("\nWhat clients pin:");
    println!("  fingerprint  {}", created.fingerprint);
    println!("\nNext:");
    println!("  1. Look through {folder}/policies and {folder}/hallpass.toml.");
    println!("  2. Start the server:  hallpass serve --home {folder}");
    let url = home.config().map_or_else(
        |_| format!("https://{}", Config::DEFAULT_LISTEN),
        |config| format!("https://{}", config.listen),
    );
    println!(
        "  3. Connect to it:     hallpass connect {url} --fingerprint {}",
        created.fingerprint
    );
    println!("  4. Enrol people:      hallpass user add NAME --ssh-key FILE.pub --group on-call");
    println!("\nBack up {folder}; without the passphrase, its keys are lost.");
    if token.is_some() {
        println!("What is in the token is not in there: back that up as its maker says.");
    }
}

fn or_in(token: Option<&TokenKeys>) -> String {
    token.map_or_else(String::new, |keys| {
        let label = &keys.token().settings().label;
        format!(", or in the token {label:?}")
    })
}
