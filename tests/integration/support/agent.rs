use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Folder, Ran, wait_until};

/// A stock ssh-agent.
pub(crate) struct Agent {
    folder: Folder,
    process: Child,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let folder = Folder::new();
        let socket = folder.join("socket");
        let process = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("ssh-agent; scripts/test installs it");
        // The socket is there a moment before anybody listens on it.
        wait_until("ssh-agent", || UnixStream::connect(&socket).is_ok());
        Self { folder, process }
    }

    /// Lets a program reach this agent.
    pub(crate) fn lend<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("SSH_AUTH_SOCK", self.folder.join("socket"))
    }

    /// Runs a program that this agent serves.
    pub(crate) fn run(&self, command: &mut Command) -> Ran {
        Ran::of(self.lend(command))
    }

    /// Adds a key, with the certificate beside it if there is one.
    pub(crate) fn add(&self, key: &Path) {
        self.run(Command::new("ssh-add").arg("-q").arg(key)).ok();
    }

    /// What it holds, one line each.
    pub(crate) fn lines(&self) -> String {
        self.run(Command::new("ssh-add").arg("-L")).out
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
