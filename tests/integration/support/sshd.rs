use std::ffi::OsStr;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::ca::new_key;
use super::{Ca, Folder, free_port, is_root, own_name, wait_until};

/// A stock sshd, set up as docs/hosts.md says, in a folder of its own.
pub(crate) struct Sshd {
    pub(crate) folder: Folder,
    pub(crate) port: u16,
    /// The account that can be logged in to: whoever runs the tests.
    pub(crate) account: String,
    process: Child,
}

impl Sshd {
    /// As Debian sets it up, with nothing of Hallpass's.
    pub(crate) fn bare() -> Self {
        let folder = Folder::new();
        new_key(&folder.join("ssh_host_ed25519_key"), &["-t", "ed25519"]);
        fs::create_dir(folder.join("sshd_config.d")).expect("a folder");
        let include = format!("Include {}/sshd_config.d/*.conf\n", folder.path().display());
        Self::run(folder, &include)
    }

    /// Opens the account to the given principals.
    pub(crate) fn start(ca: &Ca, principals: &[&str]) -> Self {
        let folder = Folder::new();
        let path = |name: &str| folder.join(name).to_str().expect("a plain path").to_owned();
        let admin = ca.admin();
        new_key(&folder.join("ssh_host_ed25519_key"), &["-t", "ed25519"]);
        admin
            .hallpass([
                "host-cert",
                "ssh",
                &path("ssh_host_ed25519_key.pub"),
                "--name",
                "127.0.0.1",
            ])
            .ok();
        let trusted = admin.hallpass(["trust", "ssh-user"]).ok();
        folder.write("hallpass_user_ca.pub", trusted);
        let account = own_name();
        fs::create_dir(folder.join("hallpass_principals")).expect("a folder");
        folder.write(
            &format!("hallpass_principals/{account}"),
            principals.join("\n") + "\n",
        );
        let config = format!(
            "TrustedUserCAKeys {}\n\
             AuthorizedPrincipalsFile {}/%u\n\
             HostCertificate {}\n\
             AuthorizedKeysFile none\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n",
            path("hallpass_user_ca.pub"),
            path("hallpass_principals"),
            path("ssh_host_ed25519_key-cert.pub"),
        );
        Self::run(folder, &config)
    }

    fn run(folder: Folder, config: &str) -> Self {
        let account = own_name();
        let port = free_port();
        let config = format!(
            "{config}\
             HostKey {}\n\
             # What the tests add: a port, a place, and /tmp, which others can write to.\n\
             Port {port}\n\
             ListenAddress 127.0.0.1\n\
             PidFile none\n\
             StrictModes no\n\
             UsePAM no\n\
             MaxStartups 100\n\
             Subsystem sftp /usr/lib/openssh/sftp-server\n\
             LogLevel VERBOSE\n",
            folder.join("ssh_host_ed25519_key").display(),
        );
        let config = folder.write("sshd_config", config);
        if is_root() {
            // Debian's service makes it when it starts.
            fs::create_dir_all("/run/sshd").expect("root may make /run/sshd");
        }
        let log = fs::File::create(folder.join("sshd.log")).expect("a log file");
        let process = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(config)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd; scripts/test installs it");
        let sshd = Self {
            folder,
            port,
            account,
            process,
        };
        wait_until("sshd", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        sshd
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What sshd has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).expect("sshd's log")
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.join("sshd.log")
    }

    /// Stock `ssh` with nothing from anybody's configuration, which runs `echo in`.
    pub(crate) fn ssh<A: AsRef<OsStr>>(&self, options: impl IntoIterator<Item = A>) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes"])
            .args(["-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null"])
            .args(options)
            .args(self.target())
            .arg("echo in");
        ssh
    }

    /// `-p PORT ACCOUNT@127.0.0.1`
    pub(crate) fn target(&self) -> [String; 3] {
        [
            "-p".to_owned(),
            self.port.to_string(),
            format!("{}@127.0.0.1", self.account),
        ]
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- sshd's log:\n{}", self.log());
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
