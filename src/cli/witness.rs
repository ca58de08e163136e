//! `hallpass witness`

#![expect(
    clippy::print_stdout,
    reason = "tells what was made, and where it listens"
)]

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::failure::Failure;
use super::passphrase;
use super::serve::{start_log, stop};
use crate::authority::LogFormat;
use crate::http::serve_witness;
use crate::keys::protect_memory;
use crate::witness::{Witness, WitnessHome, WitnessName};

/// Watch over the logs of others' certificate authorities
///
/// A witness remembers what it saw of a log, and cosigns only what continues it. Run one on a
/// machine that the CA's operators can't get at.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Init(Init),
    Serve(Serve),
}

/// Make the home of a new witness
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass witness init --home /var/lib/hallpass-witness --name witness.example.org")]
pub(super) struct Init {
    /// The folder to make
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// What the witness calls itself in its cosignatures
    #[arg(long, value_name = "NAME")]
    name: WitnessName,
    #[command(flatten)]
    passphrase: passphrase::Source,
}

/// Run a witness (C2SP tlog-witness)
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass witness serve --home /var/lib/hallpass-witness --passphrase-file /run/secrets/witness")]
pub(super) struct Serve {
    /// The home that `hallpass witness init` made
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// Where to listen, instead of what witness.toml says; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    keys: passphrase::OpenSource,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(args) => init(&args),
        Command::Serve(args) => serve(&args),
    }
}

fn init(args: &Init) -> Result<(), Failure> {
    protect_memory();
    let home = WitnessHome::new(&args.home);
    // Before anybody thinks up a passphrase.
    home.check_free().map_err(Failure::config)?;
    let passphrase = passphrase::new(&args.passphrase)?;
    let key = home
        .create(&passphrase, &args.name)
        .map_err(Failure::config)?;
    let folder = home.folder().display();
    println!("Made the home {folder} of the witness {}.\n", args.name);
    println!("Its key, by which others verify its cosignatures:");
    println!("  {key}");
    println!("\nNext:");
    println!("  1. List the logs to follow in {folder}/witness.toml: for each CA the line that");
    println!("     `hallpass audit key` prints.");
    println!("  2. Start the witness:  hallpass witness serve --home {folder}");
    println!("  3. Give the key and the witness's URL to the CA's operator, for hallpass.toml:");
    println!("       [[witness]]");
    println!("       url = \"http://...\"");
    println!("       key = \"{key}\"");
    println!(
        "  4. Give the key to whoever audits the log:  hallpass audit prove ... --witness KEY"
    );
    println!("\nNever put an old copy of {folder} back: a witness that forgot what it cosigned");
    println!("can be made to cosign another history. Make a new witness instead.");
    Ok(())
}

fn serve(args: &Serve) -> Result<(), Failure> {
    protect_memory();
    let home = WitnessHome::new(&args.home);
    let config = home.config().map_err(Failure::config)?;
    start_log(LogFormat::Text);
    let opener = passphrase::existing(&args.keys, home.folder())?;
    let listen = args.listen.unwrap_or(config.listen);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("no threads: {error}")))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| Failure::config(format!("can't listen on {listen}: {error}")))?;
        let witness = home.open(&opener, config.logs).map_err(Failure::config)?;
        drop(opener);
        listen_until_stopped(listener, Arc::new(witness)).await
    })
}

async fn listen_until_stopped(listener: TcpListener, witness: Arc<Witness>) -> Result<(), Failure> {
    let address = listener
        .local_addr()
        .map_err(|error| Failure::internal(error.to_string()))?;
    let key = witness.key().to_string();
    for log in witness.logs() {
        tracing::info!(log = log.name(), "following");
    }
    let ready = || {
        tracing::info!(%address, key, "listening");
        println!("listening on http://{address}\nkey {key}");
        // Nobody may be reading.
        std::io::stdout().flush().ok();
    };
    serve_witness(listener, witness, ready, stop()).await;
    tracing::info!("stopped");
    Ok(())
}
