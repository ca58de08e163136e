//! `hallpass serve`

#![expect(clippy::print_stdout, reason = "tells where it listens")]

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::failure::Failure;
use super::passphrase;
use crate::authority::{Authority, Clock, Home, LogFormat};
use crate::delivery::{Deliveries, Prepared};
use crate::http::{self, ServerTls};
use crate::identity::{Provider, Workloads};
use crate::keys::{Token, TokenKeys, TokenSettings, protect_memory};
use crate::model::HostTtl;
use crate::witness::Witnesses;

/// How long threads that wait for something may hold up the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Run the certificate authority
///
/// Example: hallpass serve --home /var/lib/hallpass --passphrase-file /run/secrets/hallpass
#[derive(clap::Args)]
pub(super) struct Args {
    /// The home that `hallpass init` made
    #[arg(long, env = "HALLPASS_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Where to listen, instead of what hallpass.toml says; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Take the machine's clock for right although the log has newer entries, from a clock that
    /// was ahead; this is logged
    #[arg(long)]
    accept_clock: bool,
    #[command(flatten)]
    keys: passphrase::OpenSource,
    #[command(flatten)]
    pin: passphrase::PinSource,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let all_locked = protect_memory();
    let home = Home::new(&args.home.unwrap_or_else(Home::default_folder));
    let mut config = home.config().map_err(Failure::config)?;
    start_log(config.log_format);
    if !all_locked {
        tracing::warn!(
            "only the CA keys' own pages are locked in memory: allow more with \
             LimitMEMLOCK=infinity or without swap"
        );
    }
    let prepared = Prepared::new(&home, std::mem::take(&mut config.deliver));
    let prepared = prepared.map_err(Failure::config)?;
    let roots = home.attestation_roots(&config).map_err(Failure::config)?;
    let providers = std::mem::take(&mut config.providers).into_iter();
    let providers: Vec<Provider> = providers
        .map(|settings| Provider::new(settings, home.folder()))
        .collect::<Result<_, _>>()
        .map_err(Failure::config)?;
    let workloads = Workloads::new(std::mem::take(&mut config.workloads), home.folder());
    let workloads = workloads.map_err(Failure::config)?;
    let opener = passphrase::existing(&args.keys, home.folder())?;
    let token = open_existing_token(config.token.take(), &args.pin)?;
    let clock = if args.accept_clock {
        Clock::IsRight
    } else {
        Clock::FitsTheLog
    };
    let listen = args.listen.unwrap_or(config.listen);
    let witnesses = Witnesses::new(&config.witnesses, home.folder()).map_err(Failure::config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("no threads: {error}")))?;
    let served = runtime.block_on(async {
        // Bound before the keys are opened: a port in use is a mistake that shows at once.
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| Failure::config(format!("can't listen on {listen}: {error}")))?;
        let authority = Authority::open(&home, &opener, token, clock, config.policy.clone())
            .await
            .and_then(|authority| authority.with_witnesses(witnesses))
            .map_err(Failure::config)?
            .with_names(config.names)
            .with_attestation_roots(roots)
            .with_logins(providers, workloads, config.sessions)
            .await
            .map_err(Failure::config)?;
        drop(opener);
        let deliveries = prepared
            .start(&home, &authority.newest())
            .map_err(Failure::config)?;
        serve(listener, authority, deliveries).await
    });
    // A look-up of a receiver's name may hang for longer than anybody waits for an end.
    runtime.shutdown_timeout(FAREWELL);
    served
}

/// Opens the token of a home that exists, where it has one.
pub(super) fn open_existing_token(
    settings: Option<TokenSettings>,
    pin: &passphrase::PinSource,
) -> Result<Option<TokenKeys>, Failure> {
    settings
        .map(|settings| open_token(settings, pin).map(TokenKeys::existing))
        .transpose()
}

/// Opens a token with its PIN.
pub(super) fn open_token(
    settings: TokenSettings,
    pin: &passphrase::PinSource,
) -> Result<Arc<Token>, Failure> {
    let pin = passphrase::pin(pin, &settings.label)?;
    Token::open(settings, pin).map_err(Failure::config)
}

async fn serve(
    listener: TcpListener,
    authority: Authority,
    deliveries: Deliveries,
) -> Result<(), Failure> {
    let address = listener
        .local_addr()
        .map_err(|error| Failure::internal(error.to_string()))?;
    let authority = Arc::new(authority);
    let fingerprint = authority.fingerprint();
    let certificate_ttl = HostTtl::from_secs(ServerTls::TTL.as_secs())
        .map_err(|error| Failure::internal(error.to_string()))?;
    let ready = || {
        tracing::info!(%address, fingerprint, "listening");
        println!("listening on https://{address}\nfingerprint {fingerprint}");
        // Nobody may be reading.
        std::io::stdout().flush().ok();
    };
    // Caught before anybody is told that it listens: who then stops it at once is not left with
    // requests that broke off.
    let stop = stop();
    let mut asking = authority.ask_witnesses();
    let mut reload = reload_at_hangup()?;
    let policies = Arc::clone(&authority);
    let loading = tokio::spawn(async move {
        let hurry = async move || {
            reload.recv().await;
        };
        policies.keep_policy_fresh(hurry).await;
    });
    http::serve(
        listener,
        Arc::clone(&authority),
        certificate_ttl,
        ready,
        stop,
    )
    .await
    .map_err(Failure::config)?;
    asking.shutdown().await;
    loading.abort();
    // It holds on to the authority until it has ended.
    loading.await.ok();
    deliveries.stop().await;
    // Handlers are done; a connection that was cut off may still hold on to it.
    if let Some(authority) = Arc::into_inner(authority) {
        authority.close();
    }
    tracing::info!("stopped");
    Ok(())
}

fn reload_at_hangup() -> Result<Signal, Failure> {
    signal(SignalKind::hangup())
        .map_err(|error| Failure::internal(format!("SIGHUP can't be caught: {error}")))
}

/// Done at SIGTERM or SIGINT, which are caught from this call on.
pub(super) fn stop() -> impl Future<Output = ()> {
    let signals = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    async {
        match signals {
            Ok((mut terminate, mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            // Then the signals do what they do by default.
            Err(error) => {
                tracing::warn!(%error, "signals can't be caught: requests in flight won't finish");
                std::future::pending::<()>().await;
            }
        }
        tracing::info!("stopping");
    }
}

pub(super) fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("HALLPASS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        // Where the log can't be written, neither can a complaint, which would panic.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
