use std::process::{Child, Command, Stdio};

use super::{Ca, Folder, Person, Postgres, Ran, Sshd, program};

/// A host with a stock sshd, a stock PostgreSQL or both, that keeps itself up to date.
pub(crate) struct Host {
    pub(crate) folder: Folder,
    pub(crate) name: String,
    pub(crate) sshd: Option<Sshd>,
    pub(crate) postgres: Option<Postgres>,
}

impl Host {
    /// An sshd that nothing opens yet, and no PostgreSQL.
    pub(crate) fn with_sshd(name: &str) -> Self {
        Self {
            folder: Folder::new(),
            name: name.to_owned(),
            sshd: Some(Sshd::bare()),
            postgres: None,
        }
    }

    /// A PostgreSQL that does not speak TLS yet, and no sshd.
    pub(crate) fn with_postgres(name: &str) -> Self {
        Self {
            folder: Folder::new(),
            name: name.to_owned(),
            sshd: None,
            postgres: Some(Postgres::bare()),
        }
    }

    /// Both.
    pub(crate) fn with_both(name: &str) -> Self {
        Self {
            postgres: Some(Postgres::bare()),
            ..Self::with_sshd(name)
        }
    }

    /// Has an administrator invite it.
    pub(crate) fn invited(&self, admin: &Person, more: &[&str]) -> String {
        // 127.0.0.1 is the CA's own name.
        let address = match self.postgres {
            Some(_) => "localhost",
            None => "127.0.0.1",
        };
        let mut arguments = vec!["host", "invite", &self.name, "--name", address, "--json"];
        arguments.extend(self.sshd.as_ref().map(|_| "--ssh"));
        arguments.extend(self.postgres.as_ref().map(|_| "--postgres"));
        arguments.extend(more);
        let out = admin.hallpass(arguments).ok();
        let invited: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        invited["token"].as_str().expect("a token").to_owned()
    }

    pub(crate) fn join(&self, ca: &Ca, token: &str) -> Ran {
        let token = self.folder.write("token", token);
        let mut command = self.command("join");
        command.arg(&ca.url).arg("--token-file").arg(token);
        if let Some(sshd) = &self.sshd {
            command
                .arg("--ssh")
                .arg("--sshd-config")
                .arg(sshd.folder.join("sshd_config"))
                .arg("--sshd-include")
                .arg(sshd.folder.join("sshd_config.d"))
                .arg("--ssh-folder")
                .arg(sshd.folder.path())
                .arg("--host-key")
                .arg(sshd.folder.join("ssh_host_ed25519_key.pub"))
                .arg("--reload-ssh")
                .arg(format!("kill -HUP {}", sshd.pid()))
                .arg("--only-certificates")
                .arg("--account")
                .arg(format!("{}=operator", sshd.account));
        }
        if let Some(postgres) = &self.postgres {
            command.arg("--postgres").arg(postgres.folder.join("data"));
        }
        Ran::of(&mut command)
    }

    /// Invites, joins and synchronises it.
    pub(crate) fn take_in(&self, ca: &Ca, more: &[&str]) {
        let token = self.invited(&ca.admin(), more);
        self.join(ca, &token).ok();
        self.sync().ok();
    }

    pub(crate) fn sync(&self) -> Ran {
        Ran::of(&mut self.command("sync"))
    }

    /// `hallpass host ...` on this host.
    pub(crate) fn command(&self, what: &str) -> Command {
        let mut command = program();
        command
            .args(["host", what, "--state"])
            .arg(self.folder.join("state"))
            .env("HOME", self.folder.path());
        command
    }

    /// Keeps it up to date until what is returned goes.
    pub(crate) fn watch(&self) -> Watching {
        let log = std::fs::File::create(self.folder.join("watch.log")).expect("a log file");
        let mut command = self.command("sync");
        command
            .args(["--watch", "--every", "1s"])
            .stdin(Stdio::null())
            .stdout(log);
        Watching(command.spawn().expect("hallpass"))
    }
}

/// A `hallpass host sync --watch` that runs.
pub(crate) struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
