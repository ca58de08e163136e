use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::{Folder, Home, Ran};

/// A PKCS#11 token without hardware: SoftHSM, in a folder of its own.
pub(crate) struct SoftHsm {
    pub(crate) folder: Folder,
    /// The name of the first token's folder.
    first: OsString,
}

impl SoftHsm {
    pub(crate) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    pub(crate) const LABEL: &str = "vault";
    pub(crate) const PIN: &str = "4711-0815";

    /// With one token.
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        folder.private("tokens");
        let config = format!(
            "directories.tokendir = {}\n",
            folder.join("tokens").display()
        );
        folder.write("softhsm2.conf", config);
        let mut hsm = Self {
            folder,
            first: OsString::new(),
        };
        hsm.pin_file("pin", Self::PIN);
        hsm.add_token(Self::LABEL);
        let mut tokens = fs::read_dir(hsm.folder.join("tokens")).expect("its folder");
        hsm.first = tokens
            .next()
            .and_then(Result::ok)
            .expect("a token")
            .file_name();
        hsm
    }

    pub(crate) fn add_token(&self, label: &str) {
        let mut tool = Command::new("softhsm2-util");
        tool.args(["--init-token", "--free", "--label", label])
            .args(["--so-pin", "87654321", "--pin", Self::PIN]);
        Ran::of(tool.env("SOFTHSM2_CONF", self.config())).ok();
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    /// A file that only we can read.
    pub(crate) fn pin_file(&self, name: &str, pin: &str) -> PathBuf {
        let path = self.folder.write(name, format!("{pin}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
        path
    }

    /// Lets a program reach the token.
    pub(crate) fn lend<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("SOFTHSM2_CONF", self.config())
            .env("HALLPASS_PIN_FILE", self.folder.join("pin"))
    }

    /// What `hallpass init` needs to make keys in it.
    pub(crate) fn init<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.lend(command)
            .args(["--token", Self::MODULE, "--token-label", Self::LABEL])
    }

    /// A home with CA keys in it.
    pub(crate) fn home(&self, more: &[&str]) -> Home {
        let home = Home::unmade();
        home.init(|init| {
            self.init(init).args(more);
        })
        .ok();
        home
    }

    /// Unplugs the first token.
    pub(crate) fn unplug(&self) {
        fs::rename(self.token(), self.folder.join("unplugged")).expect("its folder");
    }

    /// Plugs it in again.
    pub(crate) fn plug_in(&self) {
        fs::rename(self.folder.join("unplugged"), self.token()).expect("its folder");
    }

    /// The folder that SoftHSM keeps the first token in.
    fn token(&self) -> PathBuf {
        self.folder.join("tokens").join(&self.first)
    }
}
