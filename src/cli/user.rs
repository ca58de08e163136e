//! `hallpass user`

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::failure::Failure;
use super::output::{Facts, Table, both, print, print_json};
use super::{ClientArgs, Shown};
use crate::certificate::{check_ssh_key, parse_public_key};
use crate::client::Query;
use crate::model::{
    Account, GroupName, NewAttestation, NewKey, NewUser, ProviderName, UserKey, UserName,
    UserSummary,
};

/// Say who may ask at all
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Add(Add),
    List(List),
    Show(Show),
    Disable(Disable),
    Enable(Enable),
    Remove(Remove),
    #[command(subcommand)]
    Key(KeyCommand),
    Link(Link),
    Unlink(Unlink),
}

/// Enrol a user
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass user add bob --ssh-key bob.pub --group on-call")]
pub(super) struct Add {
    /// The new user's name
    name: UserName,
    /// The user's public key
    #[arg(long, value_name = "FILE.pub")]
    ssh_key: PathBuf,
    #[command(flatten)]
    proof: Attestation,
    /// A group that policy speaks of
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<GroupName>,
    #[command(flatten)]
    shown: Shown,
}

/// List all users
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass user list")]
pub(super) struct List {
    #[command(flatten)]
    shown: Shown,
}

/// Show a user with all keys
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass user show bob")]
pub(super) struct Show {
    /// The user's name
    name: UserName,
    #[command(flatten)]
    shown: Shown,
}

/// Take no more requests of a user, until enabled again
///
/// Certificates that the user has stay good until they end.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass user disable bob")]
pub(super) struct Disable {
    /// The user's name
    name: UserName,
    #[command(flatten)]
    shown: Shown,
}

/// Take a user's requests again
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass user enable bob")]
pub(super) struct Enable {
    /// The user's name
    name: UserName,
    #[command(flatten)]
    shown: Shown,
}

/// Remove a user and all keys
///
/// The log keeps what the user did. Certificates that the user has stay good until they end.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass user remove bob")]
pub(super) struct Remove {
    /// The user's name
    name: UserName,
    #[command(flatten)]
    client: ClientArgs,
}

/// Enrol or remove a user's further keys
#[derive(clap::Subcommand)]
pub(super) enum KeyCommand {
    Add(KeyAdd),
    Remove(KeyRemove),
}

/// Enrol another key of a user
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass user key add bob bob-laptop.pub")]
pub(super) struct KeyAdd {
    /// The user's name
    name: UserName,
    /// The public key
    #[arg(value_name = "FILE.pub")]
    file: PathBuf,
    #[command(flatten)]
    proof: Attestation,
    #[command(flatten)]
    shown: Shown,
}

/// What the maker of a FIDO2 key says of it
#[derive(clap::Args)]
struct Attestation {
    /// What ssh-keygen -O write-attestation=FILE wrote when it made a FIDO2 key: who made the
    /// authenticator is kept in the log, and policy can demand it
    #[arg(long, value_name = "FILE", requires = "challenge")]
    attestation: Option<PathBuf>,
    /// What ssh-keygen -O challenge=FILE had then
    #[arg(long, value_name = "FILE", requires = "attestation")]
    challenge: Option<PathBuf>,
}

impl Attestation {
    fn read(&self) -> Result<Option<NewAttestation>, Failure> {
        let (Some(attestation), Some(challenge)) = (&self.attestation, &self.challenge) else {
            return Ok(None);
        };
        let read = |path: &Path| {
            let failed = |error| Failure::no_input(format!("{}: {error}", path.display()));
            std::fs::read(path)
                .map(|bytes| STANDARD.encode(bytes))
                .map_err(failed)
        };
        Ok(Some(NewAttestation {
            attestation: read(attestation)?,
            challenge: read(challenge)?,
        }))
    }
}

/// Remove a key of a user
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass user key remove bob SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU")]
pub(super) struct KeyRemove {
    /// The user's name
    name: UserName,
    /// The key's fingerprint, as `hallpass user show` or ssh-keygen -l prints it
    #[arg(value_name = "SHA256:...")]
    fingerprint: String,
    #[command(flatten)]
    shown: Shown,
}

/// Let a user sign in with an account at a provider
///
/// Whoever signs in with that account is this user from then on, whatever the provider calls them.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass user link bob --provider clinic --subject 248289761001")]
pub(super) struct Link {
    /// The user's name
    name: UserName,
    #[command(flatten)]
    account: AccountArgs,
    #[command(flatten)]
    shown: Shown,
}

/// Let nobody sign in with an account at a provider any more
///
/// The user's sessions by it end at once.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass user unlink bob --provider clinic --subject 248289761001")]
pub(super) struct Unlink {
    /// The user's name
    name: UserName,
    #[command(flatten)]
    account: AccountArgs,
    #[command(flatten)]
    shown: Shown,
}

#[derive(clap::Args)]
struct AccountArgs {
    /// The provider
    #[arg(long)]
    provider: ProviderName,
    /// What the provider knows the user by for good: the `sub` of its tokens, which a refused login
    /// shows
    #[arg(long)]
    subject: String,
}

impl AccountArgs {
    fn account(self) -> Account {
        Account {
            provider: self.provider,
            subject: self.subject,
        }
    }
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Link(args) => {
            let target = target(&args.name, &["accounts"]);
            let api = args.shown.open()?;
            let user = api.post(target.as_str(), &args.account.account())?;
            args.shown.print(&user, in_words)
        }
        Command::Unlink(args) => {
            let Account { provider, subject } = args.account.account();
            let account = target(&args.name, &["accounts", provider.as_str(), &subject]);
            take_away(&args.shown, &args.name, &account)
        }
        Command::Add(args) => {
            let public_key = read_key(&args.ssh_key)?;
            let new = NewUser {
                name: args.name,
                public_key,
                groups: args.groups,
                attestation: args.proof.read()?,
            };
            args.shown
                .print(&args.shown.open()?.post("/v1/users", &new)?, in_words)
        }
        Command::List(args) => list(&args.shown),
        Command::Show(args) => {
            let target = target(&args.name, &[]);
            args.shown
                .print(&args.shown.open()?.get(target.as_str())?, in_words)
        }
        Command::Disable(args) => {
            let target = target(&args.name, &["disable"]);
            args.shown
                .print(&args.shown.open()?.post_nothing(target.as_str())?, in_words)
        }
        Command::Enable(args) => {
            let target = target(&args.name, &["enable"]);
            args.shown
                .print(&args.shown.open()?.post_nothing(target.as_str())?, in_words)
        }
        Command::Remove(args) => {
            args.client
                .open()?
                .1
                .delete(target(&args.name, &[]).as_str())?;
            print(format!("Removed {}.\n", args.name))
        }
        Command::Key(KeyCommand::Add(args)) => {
            let new = NewKey {
                public_key: read_key(&args.file)?,
                attestation: args.proof.read()?,
            };
            let target = target(&args.name, &["keys"]);
            args.shown
                .print(&args.shown.open()?.post(target.as_str(), &new)?, in_words)
        }
        Command::Key(KeyCommand::Remove(args)) => {
            let key = target(&args.name, &["keys", &args.fingerprint]);
            take_away(&args.shown, &args.name, &key)
        }
    }
}

/// Removes something of a user's, and shows what is left.
fn take_away(shown: &Shown, name: &UserName, what: &Query) -> Result<(), Failure> {
    let api = shown.open()?;
    api.delete(what.as_str())?;
    shown.print(&api.get(target(name, &[]).as_str())?, in_words)
}

fn list(shown: &Shown) -> Result<(), Failure> {
    let users: Vec<UserSummary> = shown.open()?.get("/v1/users")?;
    if shown.json {
        return users.iter().try_for_each(print_json);
    }
    let mut table = Table::new(["NAME", "STATE", "GROUPS", "KEYS", "ENROLLED"]);
    for user in &users {
        table.add([
            user.name.to_string(),
            state(user).to_owned(),
            groups(user),
            user.keys.len().to_string(),
            user.enrolled.to_string(),
        ]);
    }
    print(table.to_string())
}

fn in_words(user: &UserSummary) -> String {
    let mut facts = Facts::new();
    facts.add("name", &user.name);
    facts.add("state", state(user));
    facts.add("groups", groups(user));
    facts.add("enrolled", both(user.enrolled));
    facts.add_all("keys", user.keys.iter().map(key_in_words));
    let accounts = user.accounts.iter();
    facts.add_all(
        "signs in with",
        accounts.map(|account| format!("{} {}", account.provider, account.subject)),
    );
    facts.to_string()
}

fn key_in_words(key: &UserKey) -> String {
    let kind = key.public_key.split(' ').next().unwrap_or_default();
    let mut words = format!("{} {kind}", key.fingerprint);
    if let Some(attestation) = &key.attestation {
        words += &match &attestation.root {
            Some(root) => format!("; {}, attested by {root}", attestation.subject),
            None => format!(
                "; calls itself {}, which nobody attests who is trusted here",
                attestation.subject
            ),
        };
    }
    if let Some(lock) = &key.locked {
        words += &format!("; LOCKED since {}", lock.since.whole_secs());
        if let Some(by) = &lock.by {
            words += &format!(" by {by}");
        }
        words += &format!(": {}", lock.reason);
    }
    words
}

fn state(user: &UserSummary) -> &'static str {
    if user.enabled { "enabled" } else { "disabled" }
}

fn groups(user: &UserSummary) -> String {
    let groups: Vec<&str> = user.groups.iter().map(GroupName::as_str).collect();
    if groups.is_empty() {
        "none".to_owned()
    } else {
        groups.join(", ")
    }
}

fn target(name: &UserName, rest: &[&str]) -> Query {
    let segments = ["v1", "users", name.as_str()];
    Query::path(&[&segments, rest].concat())
}

/// Reads a public key's file. Anything else, a private key above all, is not sent.
fn read_key(path: &Path) -> Result<String, Failure> {
    let name = path.display();
    let line = std::fs::read_to_string(path)
        .map_err(|error| Failure::no_input(format!("{name}: {error}")))?;
    let mut key =
        parse_public_key(&line).map_err(|error| Failure::data(format!("{name}: {error}")))?;
    check_ssh_key(key.key_data()).map_err(|error| Failure::data(format!("{name}: {error}")))?;
    key.set_comment("");
    key.to_openssh().map_err(Failure::internal)
}
