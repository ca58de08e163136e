//! A stock sshd.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::HostError;
use super::change::{self, Change, open_to_all};
use super::settings::{SshSettings, State};
use crate::certificate::parse_public_key;
use crate::model::{HostState, PrincipalName, TrustBundle};

/// The folder of the accounts' principals.
pub(super) const PRINCIPALS: &str = "hallpass_principals";
/// How long a reload may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where Debian has it, and everybody else.
const SSHD: &str = "/usr/sbin/sshd";
/// An option that not every sshd has.
const GSSAPI: &str = "GSSAPIAuthentication";

impl SshSettings {
    fn principals(&self) -> PathBuf {
        self.folder.join(PRINCIPALS)
    }

    fn user_ca(&self) -> PathBuf {
        self.folder.join("hallpass_user_ca.pub")
    }

    fn revoked(&self) -> PathBuf {
        self.folder.join("hallpass_revoked_keys")
    }

    /// `ssh_host_ed25519_key-cert.pub` for `ssh_host_ed25519_key.pub`.
    pub(super) fn certificate(&self) -> PathBuf {
        let mut name = self.host_key.with_extension("").into_os_string();
        name.push("-cert.pub");
        name.into()
    }

    /// Of what is set twice, sshd takes what comes first.
    fn config_part(&self) -> PathBuf {
        self.include.join("00-hallpass.conf")
    }

    /// Where it was, or whoever set this up by hand has it.
    fn later_part(&self) -> PathBuf {
        self.include.join("hallpass.conf")
    }

    /// Whether that file is one that the configuration names.
    pub(super) fn has(&self, path: &Path) -> bool {
        let files = [self.user_ca(), self.revoked(), self.certificate()];
        files.iter().any(|file| file == path) || path.starts_with(self.principals())
    }

    /// The host's public key.
    pub(super) fn public_key(&self) -> Result<String, HostError> {
        let path = &self.host_key;
        let line = fs::read_to_string(path).map_err(|source| HostError::Io {
            path: path.clone(),
            source,
        })?;
        match parse_public_key(&line) {
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(HostError::Illegal {
                path: path.clone(),
                why: error.to_string(),
            }),
        }
    }

    /// The files as they should be, but for the certificate and the configuration.
    pub(super) fn changes(
        &self,
        trust: &TrustBundle,
        state: &HostState,
    ) -> Result<Vec<Change>, HostError> {
        let keys: String = trust.ssh_user.iter().map(|key| line(key)).collect();
        let revoked: String = trust.ssh_revoked.iter().map(|key| line(key)).collect();
        let mut changes = vec![
            Change::public(self.user_ca(), keys),
            Change::public(self.revoked(), revoked),
        ];
        let accounts = self.accounts(state);
        for (account, principals) in &accounts {
            let lines: String = principals.iter().map(|name| line(name.as_str())).collect();
            changes.push(Change::public(self.principals().join(account), lines));
        }
        // An account that no role opens any more is shut.
        for file in fs::read_dir(self.principals())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = file.file_name();
            if !accounts.iter().any(|(account, _)| name == account.as_str()) {
                changes.push(Change::gone(file.path()));
            }
        }
        Ok(changes)
    }

    /// The configuration as it should be.
    pub(super) fn config_changes(&self) -> [Change; 2] {
        [
            Change::public(self.config_part(), self.config_text()),
            Change::gone(self.later_part()),
        ]
    }

    /// Which principals open which account: those of its name, and those that it was given here.
    fn accounts(&self, state: &HostState) -> Vec<(String, Vec<PrincipalName>)> {
        let mut accounts: std::collections::BTreeMap<String, Vec<PrincipalName>> = state
            .principals
            .iter()
            .map(|principal| (principal.to_string(), vec![principal.clone()]))
            .collect();
        for (account, principals) in &self.accounts {
            let meant = principals
                .iter()
                .filter(|principal| state.principals.contains(principal));
            let opened = accounts.entry(account.clone()).or_default();
            opened.extend(meant.cloned());
            opened.sort();
            opened.dedup();
        }
        accounts.retain(|_, principals| !principals.is_empty());
        accounts.into_iter().collect()
    }

    /// What its configuration gets.
    fn options(&self) -> Vec<(&'static str, String)> {
        let path = |path: PathBuf| path.display().to_string();
        let mut options = vec![
            ("TrustedUserCAKeys", path(self.user_ca())),
            ("RevokedKeys", path(self.revoked())),
            (
                "AuthorizedPrincipalsFile",
                path(self.principals().join("%u")),
            ),
            ("HostCertificate", path(self.certificate())),
        ];
        if self.only_certificates {
            let off = [
                ("AuthorizedKeysFile", "none"),
                ("AuthorizedKeysCommand", "none"),
                ("PasswordAuthentication", "no"),
                ("KbdInteractiveAuthentication", "no"),
                ("HostbasedAuthentication", "no"),
                (GSSAPI, "no"),
            ];
            options.extend(off.map(|(name, value)| (name, value.to_owned())));
        }
        options
    }

    fn config_text(&self) -> String {
        let mut text =
            "# Written by `hallpass host`; `hallpass host leave` takes it away.\n".to_owned();
        for (name, value) in self.options() {
            if name == "AuthorizedKeysFile" {
                text.push_str("# No standing access beside the certificates:\n");
            }
            text.push_str(&line(&format!("{name} {value}")));
        }
        text
    }

    /// Has sshd itself check its configuration, and that it has what was put in place. Says why not.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_in(&self.effective()?)
    }

    /// The same later, of an sshd that may not run: then it can't always be asked.
    pub(super) fn check_still(&self) -> Result<(), HostError> {
        let Ok(effective) = self.effective() else {
            return Ok(());
        };
        self.check_in(&effective).map_err(|why| {
            HostError::NotInForce(format!("sshd does not have what is set up here: {why}"))
        })
    }

    fn check_in(&self, effective: &str) -> Result<(), String> {
        for (name, value) in self.options() {
            let name = name.to_lowercase();
            let mut set = effective
                .lines()
                .filter_map(|line| line.strip_prefix(&name)?.strip_prefix(' '))
                .peekable();
            // An sshd without GSSAPI knows of none.
            let unknown = set.peek().is_none() && name == GSSAPI.to_lowercase();
            if !unknown && set.all(|set| set != value) {
                return Err(format!(
                    "something else is set for {name} in front of {}: {} must include {}/*.conf at its \
                     beginning, and nothing before may set it",
                    self.config_part().display(),
                    self.config.display(),
                    self.include.display(),
                ));
            }
        }
        Ok(())
    }

    /// The configuration as sshd understands it, outside of `Match`.
    fn effective(&self) -> Result<String, String> {
        run(Command::new(SSHD).arg("-T").arg("-f").arg(&self.config))
    }

    /// Lets everybody look up the principals, whatever was done to their folder.
    pub(super) fn open_principals(&self) -> Result<(), HostError> {
        let path = self.principals();
        let closed = fs::metadata(&path).is_ok_and(|there| there.mode() & 0o755 != 0o755);
        let opened = if closed { open_to_all(&path) } else { Ok(()) };
        opened.map_err(|source| HostError::Io { path, source })
    }

    /// Whether the configuration is in place already.
    pub(super) fn is_configured(&self) -> bool {
        fs::read_to_string(self.config_part()).is_ok_and(|there| there == self.config_text())
    }

    /// Waits until sshd shows the host certificate that is in place. From OpenSSH 9.8 on it has to
    /// read its configuration again for that, and takes no connections for a moment; older ones need
    /// not, so it is tried without first.
    pub(super) fn have_in_force(&self, reloaded: bool) -> Result<(), HostError> {
        let mut shown = self.shows_certificate();
        if shown.is_err() && !reloaded {
            self.reload()?;
        }
        let until = Instant::now() + PATIENCE;
        while shown.is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
            shown = self.shows_certificate();
        }
        shown
            .map_err(|why| HostError::NotInForce(format!("sshd is not as it should be yet: {why}")))
    }

    /// At one of its addresses: it may listen at all of a kind of which this host has none.
    fn shows_certificate(&self) -> Result<(), String> {
        let own = fs::read_to_string(self.certificate()).unwrap_or_default();
        let own = own.split(' ').nth(1).unwrap_or_default().trim();
        let mut why = Vec::new();
        for (address, port) in self.addresses()? {
            let mut scan = Command::new("ssh-keyscan");
            match run(scan.args(["-c", "-T", "5", "-p", &port.to_string(), &address])) {
                Ok(shown) if !own.is_empty() && shown.lines().any(|line| line.contains(own)) => {
                    return Ok(());
                }
                Ok(_) => why.push(format!(
                    "at {address} port {port} it shows another host certificate"
                )),
                Err(error) => why.push(format!("at {address} port {port}: {error}")),
            }
        }
        Err(why.join("; "))
    }

    /// Where it listens: addresses and ports.
    fn addresses(&self) -> Result<Vec<(String, u16)>, String> {
        let effective = self.effective()?;
        let addresses: Vec<_> = effective
            .lines()
            .filter_map(|line| line.strip_prefix("listenaddress "))
            .filter_map(|address| address.rsplit_once(':'))
            .filter_map(|(address, port)| {
                let address = match address.trim_matches(['[', ']']) {
                    "0.0.0.0" => "127.0.0.1",
                    "::" => "::1",
                    address => address,
                };
                Some((address.to_owned(), port.parse().ok()?))
            })
            .collect();
        if addresses.is_empty() {
            return Err("`sshd -T` says no address".to_owned());
        }
        Ok(addresses)
    }

    /// Whether anything takes connections where it should listen.
    fn answers(&self) -> bool {
        self.addresses().is_ok_and(|addresses| {
            addresses
                .iter()
                .any(|(address, port)| TcpStream::connect((address.as_str(), *port)).is_ok())
        })
    }

    /// Takes its part of the configuration away, so that the files may go which that names.
    pub(super) fn let_go(&self, state: &State) -> Result<(), HostError> {
        let parts = [self.config_part(), self.later_part()];
        change::give_back(state, |path| parts.iter().any(|part| part == path), None)?;
        match self.reload() {
            // Nothing runs that would have to.
            Err(_) if !self.answers() => Ok(()),
            reloaded => reloaded,
        }
    }

    /// Has sshd read its configuration again. Sessions go on.
    pub(super) fn reload(&self) -> Result<(), HostError> {
        run(Command::new("/bin/sh").arg("-c").arg(&self.reload))
            .map(drop)
            .map_err(|why| HostError::NotInForce(format!("`{}` failed: {why}", self.reload)))
    }
}

fn line(text: &str) -> String {
    format!("{}\n", text.trim())
}

/// Runs a program. Gives what it said, or why it failed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(match said.trim() {
        "" => output.status.to_string(),
        said => said.to_owned(),
    })
}
