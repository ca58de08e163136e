//! `hallpass host`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ClientArgs;
use super::failure::Failure;
use super::output::{Table, both, clean, print, print_json};
use crate::audit::VerifierKey;
use crate::client::{Query, ServerUrl};
use crate::host::{
    HostError, Joining, PostgresSettings, SshSettings, Synced, What, join, leave, sync,
};
use crate::model::{HostInvitation, HostName, HostSummary, HostTtl, Invited, PrincipalName};

/// Where a host keeps what it knows.
const STATE: &str = "/var/lib/hallpass-host";

/// Let hosts and databases keep themselves up to date
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Invite(Invite),
    List(List),
    Remove(Remove),
    Join(Box<Join>),
    Sync(Sync),
    Leave(Leave),
}

/// Let a host join once (run by an administrator)
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass host invite web-1 --name web-1.example.org --ssh")]
pub(super) struct Invite {
    /// The host's name among the hosts, which roles' `hosts` patterns match
    host: HostName,
    /// A name or address that clients reach it by; its own name if left out
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<HostName>,
    /// Another name that roles' `hosts` patterns match
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<HostName>,
    /// It has an sshd
    #[arg(long)]
    ssh: bool,
    /// It has a PostgreSQL
    #[arg(long)]
    postgres: bool,
    /// How long its certificates live, up to 90d; 7d if left out. They are renewed at half
    #[arg(long, value_name = "TIME")]
    ttl: Option<HostTtl>,
    /// How long the token is good, up to 24h; 1h if left out
    #[arg(long, value_name = "TIME")]
    token_life: Option<HostTtl>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Show which hosts have joined, and whether they are up to date (run by an administrator)
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass host list")]
pub(super) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Take no more requests of a host (run by an administrator)
///
/// Its certificates stay good until they end.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass host remove web-1")]
pub(super) struct Remove {
    /// The host
    host: HostName,
    #[command(flatten)]
    client: ClientArgs,
}

/// Join a CA (run on the host)
///
/// Gives the host a key of its own. `hallpass host sync` then sets sshd and PostgreSQL up.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass host join https://ca.example.org:8443 --token-file - --ssh
  hallpass host join https://ca.example.org:8443 --token-file token \\
      --postgres /var/lib/postgresql/15/main \\
      --postgres-config /etc/postgresql/15/main/postgresql.conf
  hallpass host sync --dry-run")]
pub(super) struct Join {
    /// Where the CA answers
    url: ServerUrl,
    /// What `hallpass host invite` printed. It is good once; other users of this machine may see it
    /// while this runs
    #[arg(long, value_name = "TOKEN", required_unless_present = "token_file")]
    token: Option<String>,
    /// A file with it, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Keep an sshd up to date
    #[arg(long, required_unless_present = "postgres")]
    ssh: bool,
    /// sshd's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/sshd_config")]
    sshd_config: PathBuf,
    /// The folder that it includes
    #[arg(long, value_name = "DIR", default_value = "/etc/ssh/sshd_config.d")]
    sshd_include: PathBuf,
    /// Where keys and principals are put
    #[arg(long, value_name = "DIR", default_value = "/etc/ssh")]
    ssh_folder: PathBuf,
    /// The host key to be certified
    #[arg(
        long,
        value_name = "FILE.pub",
        default_value = "/etc/ssh/ssh_host_ed25519_key.pub"
    )]
    host_key: PathBuf,
    /// What has sshd read its configuration again
    #[arg(long, value_name = "COMMAND", default_value = "systemctl reload ssh")]
    reload_ssh: String,
    /// Let nothing but certificates in: no authorized_keys, no passwords
    #[arg(long)]
    only_certificates: bool,
    /// Let a principal open an account of another name, too
    #[arg(long = "account", value_name = "ACCOUNT=PRINCIPAL", value_parser = account)]
    accounts: Vec<(String, PrincipalName)>,
    /// Keep a PostgreSQL up to date that has its data there
    #[arg(long, value_name = "DIR")]
    postgres: Option<PathBuf>,
    /// Its postgresql.conf, when that is not beside the data
    #[arg(long, value_name = "FILE", requires = "postgres")]
    postgres_config: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

/// Bring this host up to date: trust bundle, certificates, principals (run on the host)
///
/// Renews certificates at half their life, checks with sshd before it is reloaded, reloads
/// PostgreSQL when that is needed, and tells the CA what is in force. When the CA can't be reached,
/// the host goes on with what it has. For a systemd timer, or with --watch for a service.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hallpass host sync --dry-run\n  hallpass host sync --watch")]
pub(super) struct Sync {
    /// Show what would change, and change nothing
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// Believe in this key of the CA's log, whatever was known and seen before: only after the log's
    /// key was revoked or an old backup of the CA was restored, and only a key that comes from the CA's
    /// administrators
    #[arg(long, value_name = "KEY", conflicts_with_all = ["watch", "dry_run"])]
    log_key: Option<VerifierKey>,
    /// Go on, again and again
    #[arg(long)]
    watch: bool,
    /// How often
    #[arg(long, value_name = "TIME", default_value = "1m", requires = "watch")]
    every: HostTtl,
    #[command(flatten)]
    state: State,
}

/// Leave the CA: every file is given back as it was before (run on the host)
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass host leave")]
pub(super) struct Leave {
    #[command(flatten)]
    state: State,
}

#[derive(clap::Args)]
struct State {
    /// Where the host keeps its key and what it knows
    #[arg(long, value_name = "DIR", env = "HALLPASS_HOST_STATE", default_value = STATE)]
    state: PathBuf,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Invite(args) => invite(args),
        Command::List(args) => list(&args),
        Command::Remove(args) => {
            let (_, api) = args.client.open()?;
            let target = Query::path(&["v1", "hosts", args.host.as_str()]);
            api.delete(target.as_str())?;
            print(format!("Removed {}.\n", args.host))
        }
        Command::Join(args) => joined(*args),
        Command::Sync(args) => synced(&args),
        Command::Leave(args) => left(&args.state.state),
    }
}

fn invite(args: Invite) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    let options = [(args.ssh, "--ssh"), (args.postgres, "--postgres DIR")];
    let invitation = HostInvitation {
        host: args.host,
        names: args.names,
        labels: args.labels,
        ssh: args.ssh,
        database: args.postgres,
        ttl: args.ttl,
        token_life: args.token_life,
    };
    let invited: Invited = api.post("/v1/hosts", &invitation)?;
    if args.json {
        return print_json(&invited);
    }
    let options: Vec<&str> = options
        .into_iter()
        .filter_map(|(has, option)| has.then_some(option))
        .collect();
    let mut text = format!(
        "On {}, until {}, once:\n\n  hallpass host join {} --token-file - {}\n\n",
        invited.host,
        both(invited.expires),
        api.url(),
        options.join(" "),
    );
    writeln!(
        text,
        "with this token on its standard input:\n\n{}",
        invited.token
    )
    .expect("a String takes any text");
    print(text)
}

fn list(args: &List) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    let hosts: Vec<HostSummary> = api.get("/v1/hosts")?;
    if args.json {
        return hosts.iter().try_for_each(print_json);
    }
    let mut table = Table::new(["HOST", "HAS", "JOINED", "TRUST BUNDLE"]);
    for host in &hosts {
        let has = [(host.ssh, "sshd"), (host.database, "PostgreSQL")];
        let has: Vec<&str> = has
            .into_iter()
            .filter_map(|(has, what)| has.then_some(what))
            .collect();
        let joined = match (host.joined, host.invited_until) {
            (Some(joined), _) => joined.whole_secs().to_string(),
            (None, Some(until)) => format!("invited until {}", until.whole_secs()),
            (None, None) => "the invitation expired".to_owned(),
        };
        let trust = match (host.confirmed, host.up_to_date) {
            (Some(version), true) => format!("{version}, the newest"),
            (Some(version), false) => format!("{version}, not the newest"),
            (None, _) => "none confirmed".to_owned(),
        };
        table.add([host.host.to_string(), has.join(", "), joined, trust]);
    }
    print(table.to_string())
}

fn joined(args: Join) -> Result<(), Failure> {
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => read_token(file)?,
        (None, None) => return Err(Failure::data("give the token with --token-file")),
    };
    let mut accounts: BTreeMap<String, Vec<PrincipalName>> = BTreeMap::new();
    for (account, principal) in args.accounts {
        accounts.entry(account).or_default().push(principal);
    }
    let absolute = |path: PathBuf| {
        std::path::absolute(&path)
            .map_err(|error| Failure::no_input(format!("{}: {error}", path.display())))
    };
    let ssh = args.ssh.then_some(()).map(|()| {
        Ok::<_, Failure>(SshSettings {
            config: absolute(args.sshd_config)?,
            include: absolute(args.sshd_include)?,
            folder: absolute(args.ssh_folder)?,
            host_key: absolute(args.host_key)?,
            reload: args.reload_ssh,
            only_certificates: args.only_certificates,
            accounts,
        })
    });
    let postgres = args.postgres.map(|data| {
        let config = args.postgres_config;
        let config = config.unwrap_or_else(|| data.join("postgresql.conf"));
        let (data, config) = (absolute(data)?, absolute(config)?);
        let shown = data.display().to_string();
        PostgresSettings::new(data, config)
            .map_err(|error| Failure::no_input(format!("{shown}: {error}")))
    });
    let asked = [
        ("sshd", "--ssh", ssh.is_some()),
        ("PostgreSQL", "--postgres", postgres.is_some()),
    ];
    let joining = Joining {
        url: args.url,
        token: token.trim().to_owned(),
        ssh: ssh.transpose()?,
        postgres: postgres.transpose()?,
    };
    let settings = join(&args.state.state, joining)?;
    let mut text = format!("This host is {} from now on.\n", settings.host);
    let kept = [settings.ssh.is_some(), settings.postgres.is_some()];
    for ((what, option, _), _) in asked
        .iter()
        .zip(kept)
        .filter(|((.., asked), kept)| *asked && !kept)
    {
        writeln!(
            text,
            "Its {what} is left alone, for which it was not invited: `hallpass host leave`, and have it \
             invited again with {option}."
        )
        .expect("a String takes any text");
    }
    text.push_str(
        "`hallpass host sync --dry-run` shows what it will change, `hallpass host sync` does it.\n",
    );
    print(text)
}

fn read_token(file: &Path) -> Result<String, Failure> {
    let mut token = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(4096).read_to_string(&mut token)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(4096).read_to_string(&mut token))
    };
    read.map_err(|error| Failure::no_input(format!("{}: {error}", file.display())))?;
    Ok(token)
}

fn synced(args: &Sync) -> Result<(), Failure> {
    let folder = &args.state.state;
    if !args.watch {
        let synced = sync(folder, args.dry_run, args.log_key.clone())?;
        return print(in_words(&synced, args.dry_run));
    }
    let mut said = String::new();
    loop {
        let text = match sync(folder, false, None) {
            Ok(synced) => in_words(&synced, false),
            Err(error) => format!("hallpass: {}\n", Failure::from(error).message()),
        };
        // Once is enough of the same.
        if text != said {
            print(&text)?;
            said = text;
        }
        std::thread::sleep(args.every.duration().max(Duration::from_secs(1)));
    }
}

fn in_words(synced: &Synced, dry: bool) -> String {
    let mut text = String::new();
    for (path, what) in &synced.files {
        let (does, did) = match what {
            What::Nothing => continue,
            What::New => ("would write", "wrote"),
            What::Changed => ("would change", "changed"),
            What::Gone => ("would remove", "removed"),
        };
        let verb = if dry { does } else { did };
        let path = path.display().to_string();
        writeln!(text, "{verb}  {}", clean(&path)).expect("a String takes any text");
    }
    if text.is_empty() {
        text.push_str("Nothing to change.\n");
    }
    if !dry {
        let until = synced.good_until.map_or_else(String::new, |until| {
            format!("; certificates are good until {}", both(until))
        });
        writeln!(text, "Trust bundle {} is in force{until}.", synced.trust)
            .expect("a String takes any text");
    }
    text
}

fn left(state: &Path) -> Result<(), Failure> {
    let left = leave(state)?;
    let mut text = String::new();
    for path in &left.files {
        let path = path.display().to_string();
        writeln!(text, "gave back  {}", clean(&path)).expect("a String takes any text");
    }
    match left.untold {
        None => text.push_str("This host has left the CA.\n"),
        Some(why) => writeln!(
            text,
            "This host has left, but the CA was not told ({}): an administrator runs `hallpass host \
             remove`.",
            clean(&why)
        )
        .expect("a String takes any text"),
    }
    print(text)
}

fn account(text: &str) -> Result<(String, PrincipalName), String> {
    let (account, principal) = text
        .split_once('=')
        .ok_or("write ACCOUNT=PRINCIPAL, such as root=operator")?;
    // It becomes a file's name.
    let account: PrincipalName = account
        .parse()
        .map_err(|error: crate::model::Invalid| error.to_string())?;
    let principal = principal
        .parse()
        .map_err(|error: crate::model::Invalid| error.to_string())?;
    Ok((account.to_string(), principal))
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Api(error) => error.into(),
            HostError::Connect(error) => error.into(),
            HostError::Config(error) => error.into(),
            HostError::Key(error) => error.into(),
            HostError::Subject(error) => error.into(),
            HostError::File(error) => error.into(),
            HostError::Both(ssh, postgres) => Self::from(*ssh).and(&Self::from(*postgres)),
            HostError::Token => Self::data(error),
            HostError::Unsigned | HostError::RolledBack { .. } | HostError::Log(_) => {
                Self::log(error)
            }
            HostError::NotInForce(_) | HostError::AtWork => Self::unavailable(error),
            HostError::NotJoined { .. }
            | HostError::Joined { .. }
            | HostError::Io { .. }
            | HostError::Illegal { .. }
            | HostError::Unfit { .. } => Self::config(error),
        }
    }
}
