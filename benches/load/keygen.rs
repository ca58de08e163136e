//! `ssh-keygen`, the tool that signs by hand: one process for each certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ssh_key::{Certificate, LineEnding};

use crate::client::new_key;
use crate::home::{Home, write};
use crate::process;
use crate::target::{Kind, Target};

/// A CA's key, and the program that signs with it.
pub(crate) struct Keygen {
    program: PathBuf,
    folder: PathBuf,
    next: AtomicU64,
}

/// A public key to be certified, where nobody else writes.
pub(crate) struct Desk {
    key: PathBuf,
    certificate: Vec<u8>,
}

impl Keygen {
    pub(crate) fn new(program: &Path, home: &Home) -> Self {
        let folder = home.beside("ssh-keygen");
        let key = new_key().to_openssh(LineEnding::LF).expect("a key");
        write(&folder.join("ca"), &key);
        Self {
            program: program.to_owned(),
            folder,
            next: AtomicU64::new(1),
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Target for Keygen {
    /// Each [`Desk`] has a key.
    type Subject = ();
    /// The serial number.
    type Request = u64;
    type Connection = Desk;

    fn connect(&self) -> Desk {
        let key = self.folder.join(format!("{}.pub", self.number()));
        let line = new_key().public_key().to_openssh().expect("a public key");
        write(&key, &line);
        Desk {
            key,
            certificate: Vec::new(),
        }
    }

    fn subject(&self, _: Kind) {}

    fn request(&self, (): &()) -> u64 {
        self.number()
    }

    fn exchange<'a>(&self, desk: &'a mut Desk, serial: &u64) -> &'a [u8] {
        let status = Command::new(&self.program)
            .arg("-q")
            .arg("-s")
            .arg(self.folder.join("ca"))
            .args(["-I", "bob", "-n", "bob", "-V", "+5m", "-z"])
            .arg(serial.to_string())
            .arg(&desk.key)
            .stdin(Stdio::null())
            .status();
        assert!(status.expect("a process").success(), "ssh-keygen failed");
        let number = desk.key.with_extension("");
        let certificate = format!("{}-cert.pub", number.display());
        desk.certificate = fs::read(certificate).expect("a certificate");
        &desk.certificate
    }

    fn serial(&self, _: Kind, answer: &[u8]) -> u128 {
        let line = std::str::from_utf8(answer).expect("a line of text");
        let certificate = Certificate::from_openssh(line).expect("a certificate");
        certificate.serial().into()
    }

    /// Of the processes that have ended.
    fn cpu(&self) -> Duration {
        process::children_cpu()
    }
}
