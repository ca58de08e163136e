//! `hallpass key`

mod export_public;
mod import;
mod offline_root;
mod reseal;

use std::time::Duration;

use super::failure::Failure;
use super::output::{Facts, Table, both, clean, print, print_json};
use super::{ClientArgs, Shown};
use crate::client::{Api, ConfigFolder, History, Query};
use crate::model::{
    KeyId, KeyKind, KeyRevocation, KeyState, KeyStep, KeySummary, Reason, RevokedKey,
};

/// How often a rotation that waits is looked at, at first and after a while: each time, the request is
/// signed.
const LOOK: Duration = Duration::from_secs(2);
const LATER_LOOK: Duration = Duration::from_secs(60);

/// Rotate, revoke and import the CA's keys, and change what opens them
///
/// The safe order: `rotate` makes a new key that is trusted and does not sign yet (staged);
/// `activate` has it sign, once all who must trust it do; the key before (retiring) stays trusted
/// until the last certificate that it signed has expired; then `retire` ends it.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(List),
    Show(Show),
    Rotate(Rotate),
    Activate(Activate),
    Retire(Retire),
    Cancel(Cancel),
    Revoke(Revoke),
    Crl(Crl),
    Import(import::Args),
    Csr(offline_root::Csr),
    Install(offline_root::Install),
    ExportPublic(export_public::Args),
    Reseal(reseal::Args),
}

/// Show where each key stands, and what it waits for
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass key list")]
pub(super) struct List {
    /// Also those of the past
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    shown: Shown,
}

/// Show a key
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass key show ssh-user-2")]
pub(super) struct Show {
    /// The key
    key: KeyId,
    #[command(flatten)]
    shown: Shown,
}

/// Make a new key, which is trusted at once and signs when it is activated
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass key rotate ssh-user
  hallpass key rotate ssh-user --follow    (all steps, each as soon as it is safe)")]
pub(super) struct Rotate {
    /// What it signs: ssh-user, ssh-host, x509-issuing, x509-root or log
    kind: KeyKind,
    /// Go all the way: activate it and retire the old one, each as soon as it is safe. Can be
    /// interrupted; the same command takes it up again
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    shown: Shown,
}

/// Have a staged key sign from now on
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass key activate ssh-user-2")]
pub(super) struct Activate {
    /// The key
    key: KeyId,
    #[command(flatten)]
    force: Force,
    #[command(flatten)]
    shown: Shown,
}

/// Have a key that no longer signs not be trusted any more
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass key retire ssh-user-1")]
pub(super) struct Retire {
    /// The key
    key: KeyId,
    #[command(flatten)]
    force: Force,
    #[command(flatten)]
    shown: Shown,
}

/// Give a staged key up
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass key cancel ssh-user-2")]
pub(super) struct Cancel {
    /// The key
    key: KeyId,
    #[command(flatten)]
    shown: Shown,
}

/// End the trust in a key that others may have, at once
///
/// A fresh key signs in its place from the same moment on. Hosts and databases take the old key's
/// certificates until they have the new trust bundle. An issuing CA can't be distrusted but with its
/// root, so all of X.509 begins anew; when a root or the log's key is revoked, people run `hallpass connect`
/// again. What it signed that is still good is listed by requester.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass key revoke ssh-user-1 --reason 'backup tape lost, INC-4711'")]
pub(super) struct Revoke {
    /// The key
    key: KeyId,
    /// Why; it stands in the log
    #[arg(long, value_name = "TEXT")]
    reason: Reason,
    #[command(flatten)]
    shown: Shown,
}

/// Print certificate revocation lists for PostgreSQL's ssl_crl_file, as a backstop
///
/// They name the issuing CAs that are retired or revoked, and are good for a month: whoever installs
/// them must renew them in time, or no login passes.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass key crl > hallpass_crl.pem")]
pub(super) struct Crl {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(clap::Args)]
struct Force {
    /// Don't wait, for this reason, which stands in the log; logins may fail
    #[arg(long, value_name = "REASON")]
    force: Option<Reason>,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(&args),
        Command::Show(args) => {
            let keys = keys(&args.shown.open()?)?;
            let key = keys.iter().find(|key| key.key == args.key);
            let none = || {
                let key = args.key;
                Failure::data(format!(
                    "there is no key {key}: `hallpass key list --all` shows all"
                ))
            };
            args.shown.print(key.ok_or_else(none)?, in_words)
        }
        Command::Rotate(args) if args.follow => follow(&args),
        Command::Rotate(args) => {
            let api = args.shown.open()?;
            args.shown.print(&stage(&api, args.kind)?, in_words)
        }
        Command::Activate(args) => {
            let api = args.shown.open()?;
            let key = step(&api, args.key, "activate", args.force.force)?;
            args.shown.print(&key, in_words)
        }
        Command::Retire(args) => {
            let api = args.shown.open()?;
            let key = step(&api, args.key, "retire", args.force.force)?;
            args.shown.print(&key, in_words)
        }
        Command::Cancel(args) => {
            let target = target(&args.key.to_string(), "cancel");
            let api = args.shown.open()?;
            let key = stepped(&api, api.post_nothing(target.as_str())?)?;
            args.shown.print(&key, in_words)
        }
        Command::Revoke(args) => revoke(args),
        Command::Crl(args) => {
            let (_, api) = args.client.open()?;
            print(api.get_text("/v1/ca-keys/x509/crl")?)
        }
        Command::Import(args) => import::run(args),
        Command::Csr(args) => offline_root::csr(args),
        Command::Install(args) => offline_root::install(args),
        Command::ExportPublic(args) => export_public::run(&args),
        Command::Reseal(args) => reseal::run(args),
    }
}

fn list(args: &List) -> Result<(), Failure> {
    let mut keys = keys(&args.shown.open()?)?;
    keys.retain(|key| args.all || key.state.is_trusted());
    if args.shown.json {
        return keys.iter().try_for_each(print_json);
    }
    let mut table = Table::new(["KEY", "STATE", "SINCE", "NEXT"]);
    for key in &keys {
        table.add([
            key.key.to_string(),
            key.state.to_string(),
            key.since.whole_secs().to_string(),
            next(key),
        ]);
    }
    print(table.to_string())
}

/// What is to be done with a key, or what that waits for.
fn next(key: &KeySummary) -> String {
    let verb = match key.state {
        KeyState::Staged => "activate",
        KeyState::Retiring => "retire",
        _ => return String::new(),
    };
    if key.waits_for.is_empty() {
        format!("hallpass key {verb} {}", key.key)
    } else {
        format!("waits {}", key.waits_for.join("; "))
    }
}

/// Drives a rotation to its end, from wherever it stands.
fn follow(args: &Rotate) -> Result<(), Failure> {
    let api = args.shown.open()?;
    let say = |text: String| -> Result<(), Failure> {
        if args.shown.json {
            return Ok(());
        }
        print(format!("{}\n", clean(&text)))
    };
    let of_kind = |kind, state| -> Result<Option<KeySummary>, Failure> {
        let mut keys = keys(&api)?;
        keys.retain(|key| key.key.kind == kind && key.state == state);
        Ok(keys.into_iter().next())
    };
    let retiring = of_kind(args.kind, KeyState::Retiring)?;
    let staged = match of_kind(args.kind, KeyState::Staged)? {
        Some(staged) => {
            say(format!("{} is staged already", staged.key))?;
            Some(staged)
        }
        None if retiring.is_some() => None,
        None => {
            let staged = stage(&api, args.kind)?;
            say(format!(
                "{} is staged: it is trusted from now on",
                staged.key
            ))?;
            Some(staged)
        }
    };
    if let Some(staged) = staged {
        wait(&api, staged.key, say)?;
        step(&api, staged.key, "activate", None)?;
        say(format!("{} is active: it signs from now on", staged.key))?;
    }
    // A root is retired after what stands under it.
    let below = (args.kind == KeyKind::X509Root).then_some(KeyKind::X509Issuing);
    for kind in below.into_iter().chain([args.kind]) {
        while let Some(old) = of_kind(kind, KeyState::Retiring)? {
            wait(&api, old.key, say)?;
            step(&api, old.key, "retire", None)?;
            say(format!("{} is retired: nobody needs it any more", old.key))?;
        }
    }
    let active = of_kind(args.kind, KeyState::Active)?;
    match active {
        Some(active) if args.shown.json => print_json(&active),
        _ => Ok(()),
    }
}

/// Waits until a key's next step is safe, and says for what.
fn wait(api: &Api, id: KeyId, say: impl Fn(String) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut said = Vec::new();
    let mut pause = LOOK;
    loop {
        let keys = match keys(api) {
            Err(failure) if failure.is_passing() => {
                let why = vec![failure.message().to_owned()];
                if why != said {
                    say(format!("{id} waits: {}", why[0]))?;
                    said = why;
                }
                std::thread::sleep(LOOK);
                continue;
            }
            keys => keys?,
        };
        let key = keys.into_iter().find(|key| key.key == id);
        let waits_for = key.map(|key| key.waits_for).unwrap_or_default();
        if waits_for.is_empty() {
            return Ok(());
        }
        if waits_for != said {
            say(format!("{id} waits {}", waits_for.join("; ")))?;
            said = waits_for;
            pause = LOOK;
        }
        std::thread::sleep(pause);
        pause = LATER_LOOK.min(pause + pause / 4);
    }
}

fn revoke(args: Revoke) -> Result<(), Failure> {
    let api = args.shown.open()?;
    let target = target(&args.key.to_string(), "revoke");
    let body = KeyRevocation {
        reason: args.reason,
    };
    let revoked: RevokedKey = api.post(target.as_str(), &body)?;
    if args.shown.json {
        return print_json(&revoked);
    }
    print(in_words(&revoked.key))?;
    if revoked.living.is_empty() {
        return print("Nothing that it signed is still good.\n");
    }
    print(
        "\nStill good where the new trust bundle has not arrived yet (`hallpass trust` prints it):\n",
    )?;
    let mut table = Table::new(["REQUESTER", "UNTIL", "SERIAL", "WHAT"]);
    for one in &revoked.living {
        let requester = one.requester.as_ref();
        table.add([
            requester.map_or_else(|| "(the server)".to_owned(), ToString::to_string),
            one.valid_before.to_string(),
            one.serial.to_string(),
            one.key_id.clone(),
        ]);
    }
    print(table.to_string())
}

fn keys(api: &Api) -> Result<Vec<KeySummary>, Failure> {
    let keys: Vec<KeySummary> = api.get("/v1/ca-keys")?;
    let signs = keys
        .iter()
        .filter(|key| key.key.kind == KeyKind::Log && key.state.is_trusted());
    let known = api.log_keys().now();
    let signs: Vec<&str> = signs.map(|key| key.public.as_str()).collect();
    let is_known = |key: &&str| known.iter().any(|known| known.to_string() == **key);
    if signs.len() != known.len() || !signs.iter().all(is_known) {
        follow_log(api)?;
    }
    Ok(keys)
}

fn stage(api: &Api, kind: KeyKind) -> Result<KeySummary, Failure> {
    let staged = api.post_nothing(target(kind.as_str(), "stage").as_str())?;
    stepped(api, staged)
}

fn step(api: &Api, key: KeyId, step: &str, force: Option<Reason>) -> Result<KeySummary, Failure> {
    let target = target(&key.to_string(), step);
    stepped(api, api.post(target.as_str(), &KeyStep { force })?)
}

fn stepped(api: &Api, key: KeySummary) -> Result<KeySummary, Failure> {
    if key.key.kind == KeyKind::Log {
        follow_log(api)?;
    }
    Ok(key)
}

/// Who rotates the log's key may never ask for a certificate, and must not lose track of it.
fn follow_log(api: &Api) -> Result<(), Failure> {
    let folder = ConfigFolder::locate()?;
    Ok(History::new(&folder, api).follow_keys()?)
}

fn target(key: &str, step: &str) -> Query {
    Query::path(&["v1", "ca-keys", key, step])
}

fn in_words(key: &KeySummary) -> String {
    let mut facts = Facts::new();
    facts.add("key", key.key);
    facts.add("state", key.state);
    facts.add("since", both(key.since));
    facts.add("fingerprint", &key.fingerprint);
    if let Some(last) = key.last_expiry {
        facts.add("last certificate", format!("ends {}", both(last)));
    }
    facts.add_all("waits", &key.waits_for);
    facts.add("public", key.public.trim_end());
    let next = next(key);
    if key.waits_for.is_empty() && !next.is_empty() {
        facts.add("next", next);
    }
    facts.to_string()
}
