//! CA keys in a PKCS#11 token: SoftHSM, which is software, and so costs what the calls cost and not
//! what hardware would.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use hallpass::keys::{Pin, TokenKeys};

use crate::home::write;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const LABEL: &str = "load";
const PIN: &str = "1234";

/// A token in a folder of its own.
pub(crate) struct Token {
    pin: PathBuf,
}

impl Token {
    /// Makes it, and has this process and those that it starts find it.
    pub(crate) fn new(folder: &Path) -> Self {
        let tokens = folder.join("tokens");
        fs::create_dir(&tokens).expect("a folder of our own");
        let config = folder.join("softhsm2.conf");
        write(
            &config,
            &format!("directories.tokendir = {}\n", tokens.display()),
        );
        // SAFETY: nothing has started a thread yet.
        unsafe { std::env::set_var("SOFTHSM2_CONF", &config) };
        let pin = folder.join("pin");
        write(&pin, &format!("{PIN}\n"));
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", LABEL])
            .args(["--so-pin", "12345678", "--pin", PIN])
            .output();
        match made {
            Ok(made) => assert!(made.status.success(), "{made:?}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("error: --token needs SoftHSM: scripts/install-dependencies installs it");
                std::process::exit(2);
            }
            Err(error) => panic!("softhsm2-util: {error}"),
        }
        Self { pin }
    }

    /// Has `hallpass init` make the keys in it.
    pub(crate) fn make_keys_in_it(&self, init: &mut Command) {
        init.args(["--token", MODULE, "--token-label", LABEL]);
    }

    /// Lets a command open it.
    pub(crate) fn lend(&self, command: &mut Command) {
        command.env("HALLPASS_PIN_FILE", &self.pin);
    }

    /// Its keys, for this process.
    pub(crate) fn keys(&self, home: &hallpass::authority::Home) -> TokenKeys {
        let settings = home.config().expect("a configuration").token;
        let pin = Pin::from_file(&self.pin).expect("the PIN");
        let settings = settings.expect("the token's place");
        let token = hallpass::keys::Token::open(settings, pin).expect("the token");
        TokenKeys::existing(token)
    }
}
