//! The command line: reads arguments, calls the rest, prints, and nothing else.

mod approval;
mod ask;
mod audit;
mod backup;
mod completions;
mod connect;
mod entry;
mod failure;
mod host;
mod host_cert;
mod init;
mod inspect;
mod key;
mod lock;
mod login;
mod man;
mod output;
mod passphrase;
mod policy;
mod psql;
mod request;
mod role;
mod serve;
mod session;
mod ssh;
mod token;
mod trust;
mod user;
mod whoami;
mod witness;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::client::IdToken;
use failure::Failure;

/// SSH and database certificates for one purpose, for minutes, logged
#[derive(Parser)]
#[command(name = "hallpass", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   the answer to what was asked is no
  64  the command line is wrong
  65  something given is not legal
  66  a file or key is missing or can't be read
  69  the CA can't be reached, or can't issue now
  70  a fault of hallpass
  73  output can't be written
  76  the audit log was changed, or does not prove what it should
  77  refused: by policy, or nobody was identified
  78  the home or the client's configuration is not right
`hallpass ssh` and `hallpass psql` otherwise end with the program's own code.

Files:
  client.toml, root.pem and known_hosts stand in $HALLPASS_CONFIG, else in hallpass in
  $XDG_CONFIG_HOME, else in ~/.config/hallpass. Keys and certificates live in hallpass in
  $XDG_RUNTIME_DIR, else in /dev/shm/hallpass-UID, until they end.";

#[derive(Subcommand)]
enum Command {
    Init(init::Args),
    Serve(serve::Args),
    Connect(connect::Args),
    Login(login::Login),
    Logout(login::Logout),
    #[command(subcommand)]
    Session(session::Command),
    #[command(subcommand)]
    Workload(workload::Command),
    Whoami(whoami::Args),
    #[command(subcommand)]
    Role(role::Command),
    Request(request::Args),
    #[command(subcommand)]
    Approval(approval::Command),
    Ssh(ssh::Args),
    Psql(psql::Args),
    Inspect(inspect::Args),
    Trust(trust::Args),
    #[command(subcommand)]
    HostCert(host_cert::Command),
    #[command(subcommand)]
    Host(host::Command),
    #[command(subcommand)]
    User(user::Command),
    #[command(subcommand)]
    Key(key::Command),
    #[command(subcommand)]
    Policy(policy::Command),
    Lock(lock::Lock),
    Unlock(lock::Unlock),
    #[command(subcommand)]
    Audit(audit::Command),
    Backup(backup::Backup),
    Restore(backup::Restore),
    #[command(subcommand)]
    Witness(witness::Command),
    Completions(completions::Args),
    Man(man::Args),
}

/// What each command that talks to the CA takes.
#[derive(Args)]
struct ClientArgs {
    /// The SSH key to sign requests with, instead of that of `hallpass login` or the one chosen at
    /// `connect`: a private key, or a .pub file whose private key is in the agent
    #[arg(long, env = "HALLPASS_IDENTITY", value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl ClientArgs {
    fn open(&self) -> Result<(crate::client::ConfigFolder, crate::client::Api), Failure> {
        Ok(crate::client::open(self.identity.as_deref())?)
    }
}

/// What each of them takes that prints something.
#[derive(Args)]
struct Shown {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Shown {
    fn open(&self) -> Result<crate::client::Api, Failure> {
        Ok(self.client.open()?.1)
    }

    /// Prints for people or for programs.
    fn print<T: serde::Serialize>(
        &self,
        what: &T,
        in_words: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            output::print_json(what)
        } else {
            output::print(in_words(what))
        }
    }
}

/// Runs what the arguments say.
pub fn run() -> ExitCode {
    // Before anything is started: what we start does not inherit it.
    let token = IdToken::take();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            // Nowhere left to say that it can't be said.
            error.print().ok();
            return if wrong {
                ExitCode::from(Failure::USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let done = match cli.command {
        Command::Init(args) => init::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Connect(args) => connect::run(args),
        Command::Login(args) => login::login(args),
        Command::Logout(args) => login::logout(args),
        Command::Session(command) => session::run(command),
        Command::Workload(command) => workload::run(command, token),
        Command::Whoami(args) => whoami::run(args),
        Command::Role(command) => role::run(command),
        Command::Request(args) => request::run(args),
        Command::Approval(command) => approval::run(command),
        Command::Ssh(args) => ssh::run(args),
        Command::Psql(args) => psql::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Trust(args) => trust::run(args),
        Command::HostCert(command) => host_cert::run(command),
        Command::Host(command) => host::run(command),
        Command::User(command) => user::run(command),
        Command::Key(command) => key::run(command),
        Command::Policy(command) => policy::run(command),
        Command::Lock(args) => lock::lock(args),
        Command::Unlock(args) => lock::unlock(args),
        Command::Audit(command) => audit::run(command),
        Command::Backup(args) => backup::back_up(args),
        Command::Restore(args) => backup::restore(args),
        Command::Witness(command) => witness::run(command),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            use std::io::Write;
            if !failure.message().is_empty() {
                writeln!(std::io::stderr(), "hallpass: {}", failure.message()).ok();
            }
            failure.code()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_each_command_has_an_example() {
        Cli::command().debug_assert();
        let mut waiting = vec![Cli::command()];
        while let Some(command) = waiting.pop() {
            let (groups, help) = (command.has_subcommands(), command.clone());
            waiting.extend(command.get_subcommands().cloned());
            if !groups {
                let help = help.clone().render_long_help().to_string();
                assert!(help.contains("Example"), "{}", command.get_name());
            }
        }
    }

    #[test]
    fn arguments_of_ssh_pass_unchanged() {
        let parsed = |arguments: &str| match Cli::try_parse_from(arguments.split(' '))
            .map_err(|error| error.to_string())
        {
            Ok(Cli {
                command: Command::Ssh(args),
            }) => args.run.arguments,
            Ok(_) => panic!("another command"),
            Err(error) => panic!("{error}"),
        };
        let prefix = "hallpass ssh --role r --purpose p";
        assert_eq!(
            parsed(&format!("{prefix} -- -p 22 host ls --role x")).len(),
            6
        );
        assert_eq!(parsed(&format!("{prefix} host -p 22 --help")).len(), 4);
        assert_eq!(parsed(&format!("{prefix} -V")), ["-V"]);
        assert_eq!(parsed(&format!("{prefix} -h -p 22")).len(), 3);
        assert_eq!(
            parsed(&format!("{prefix} -- host rsync --server -e.Lsf . -- x")).len(),
            7
        );
    }
}
