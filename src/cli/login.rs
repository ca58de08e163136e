//! `hallpass login` and `hallpass logout`

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::failure::Failure;
use super::output::{clean, print, print_json};
use super::session::in_words;
use crate::client::{self, LoginWay, Prompt};
use crate::model::{ProviderName, SessionSummary};

/// Sign in, so that this machine's requests are yours for a while
///
/// A fresh key signs them, in the agent or in a file of yours, until the session ends. Where a program
/// can't open a browser here, or over SSH, you sign in on another device.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass login")]
pub(super) struct Login {
    /// With whom, where there are several
    #[arg(long, value_name = "NAME")]
    provider: Option<ProviderName>,
    /// Sign in on another device, with a code
    ///
    /// Enter only a code that you asked for yourself: whoever asked for it becomes you.
    #[arg(long)]
    device: bool,
    /// Also touch a FIDO2 key that is enrolled for you, as a second factor: that in FILE, or the one
    /// chosen at `connect`. Whoever is signed in already stays so
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    touch: Option<Option<PathBuf>>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// End this machine's session at once
#[derive(clap::Args)]
#[command(after_help = "Example:\n  hallpass logout")]
pub(super) struct Logout {}

pub(super) fn login(args: Login) -> Result<(), Failure> {
    let way = if args.device || is_remote() {
        LoginWay::Device
    } else {
        LoginWay::Browser
    };
    let stays = args.touch.is_some() && args.provider.is_none() && client::is_signed_in();
    let mut session = None;
    if !stays {
        session = Some(client::login(args.provider, way, tell)?);
    }
    if let Some(key) = &args.touch {
        session = Some(client::touch(key.as_deref(), tell)?);
    }
    match session {
        Some(session) if args.json => print_json(&session),
        Some(session) => print(signed_in(&session)),
        None => Ok(()),
    }
}

pub(super) fn logout(_: Logout) -> Result<(), Failure> {
    let out = client::logout()?;
    let name = &out.session.name;
    print(match out.untold {
        None => format!("{name} is signed out.\n"),
        Some(why) => format!(
            "The key of {name} is removed, and nobody can sign with it any more. The CA was not told: \
             {}\n",
            clean(&why.to_string())
        ),
    })
}

/// Somebody who came by SSH has no browser here.
fn is_remote() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    set("SSH_CONNECTION") || set("SSH_TTY")
}

fn tell(prompt: Prompt<'_>) {
    let words = match prompt {
        Prompt::Browser(url) => {
            open_browser(url);
            let url = clean(url);
            format!("Sign in in the browser. If it does not open, open this there:\n\n  {url}\n")
        }
        Prompt::Device(device) => {
            let (url, code) = (clean(&device.url), clean(&device.user_code));
            let mut words =
                format!("On any device, open\n\n  {url}\n\nand enter the code {code}.\n");
            if let Some(complete) = &device.complete_url {
                let complete = clean(complete);
                words += &format!("Or open this, and check the code there:\n\n  {complete}\n");
            }
            words
        }
        Prompt::Touch => "Touch your FIDO2 key.".to_owned(),
    };
    // On standard error, so that what is printed is the answer alone.
    writeln!(std::io::stderr(), "{words}").ok();
}

/// Opens the browser that `BROWSER` names, else the desktop's.
fn open_browser(url: &str) {
    let browser = std::env::var_os("BROWSER").filter(|name| !name.is_empty());
    let mut open = Command::new(browser.unwrap_or_else(|| "xdg-open".into()));
    // What it prints would be taken for ours.
    open.arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Where there is none, the address is shown.
    open.spawn().ok();
}

fn signed_in(session: &SessionSummary) -> String {
    format!("Signed in as {}: {}.\n", session.name, in_words(session))
}
