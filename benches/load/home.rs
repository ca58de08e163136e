//! The home that is measured, in the target folder: a commit costs what that folder's disk makes
//! it cost.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use hallpass::audit::{Actor, Entry, Event, Filter, Reader};
use hallpass::authority;
use hallpass::keys::{KeyStore, Passphrase};
use hallpass::model::{Circumstances, KeyKind, LocalTime, NewUser};

use crate::client::Signer;
use crate::server::Server;
use crate::token::Token;

const ADMIN: &str = "alice";
const USER: &str = "bob";
/// The starter policies let it have an SSH role and a database role.
pub(crate) const GROUP: &str = "on-call";

/// How and when somebody of that group asks.
pub(crate) fn circumstances(by: &Actor) -> Circumstances {
    Circumstances {
        groups: vec![GROUP.parse().expect("a legal name")],
        method: by.method.clone(),
        key_type: "ssh-ed25519".to_owned(),
        mfa: None,
        source: by.source,
        time: LocalTime {
            weekday: 1,
            hour: 9,
            minute: 30,
        },
        workload: None,
        approvals: 0,
    }
}
/// How many entries are read at a time.
const PAGE: usize = 10_000;

/// A home made by `hallpass init`, with the administrator's key and the passphrase beside it.
/// Removed at the end.
pub(crate) struct Home {
    folder: PathBuf,
    pub(crate) home: authority::Home,
    admin: ssh_key::PrivateKey,
    /// Where its CA keys are, when they are not in files.
    token: Option<Token>,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self::made(|_| None)
    }

    /// With CA keys in a token.
    pub(crate) fn with_token() -> Self {
        Self::made(|folder| Some(Token::new(folder)))
    }

    fn made(token: impl FnOnce(&Path) -> Option<Token>) -> Self {
        eprintln!("making a home");
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        remove_leftovers(place);
        if is_in_memory(place) {
            let place = place.display();
            eprintln!("{place} is on a tmpfs, where a commit costs no disk: set CARGO_TARGET_DIR");
        }
        let folder = place.join(format!("load-{}", std::process::id()));
        create(&folder);
        let admin = crate::client::new_key();
        let home = Self {
            home: authority::Home::new(&folder.join("home")),
            token: token(&folder),
            folder,
            admin,
        };
        let public = home.admin.public_key().to_openssh().expect("a public key");
        write(&home.folder.join("admin.pub"), &public);
        write(
            &home.folder.join("passphrase"),
            "a passphrase that guards nothing\n",
        );
        let mut init = home.hallpass("init");
        init.args(["--admin", ADMIN, "--ssh-key"])
            .arg(home.folder.join("admin.pub"));
        if let Some(token) = &home.token {
            token.make_keys_in_it(&mut init);
        }
        let made = init.output().expect("hallpass");
        assert!(made.status.success(), "{made:?}");
        home
    }

    /// `hallpass COMMAND`, on this home.
    pub(crate) fn hallpass(&self, command: &str) -> Command {
        let mut hallpass = Command::new(env!("CARGO_BIN_EXE_hallpass"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HALLPASS_") {
                hallpass.env_remove(name);
            }
        }
        hallpass
            .args([command, "--home"])
            .arg(self.home.folder())
            .arg("--passphrase-file")
            .arg(self.folder.join("passphrase"));
        if let Some(token) = &self.token {
            token.lend(&mut hallpass);
        }
        hallpass
    }

    pub(crate) fn start(&self) -> Server {
        Server::start(self)
    }

    /// Its CA keys, wherever they are, opened by this process.
    pub(crate) fn keys(&self) -> KeyStore {
        let passphrase =
            Passphrase::from_file(&self.folder.join("passphrase")).expect("the passphrase");
        let token = self.token.as_ref().map(|token| token.keys(&self.home));
        let keys = KeyStore::open(&self.home.keys(), &passphrase).expect("the keys");
        keys.with_token(token)
    }

    /// The file by which the server opens a key.
    pub(crate) fn key_file(&self, kind: KeyKind) -> PathBuf {
        let ending = self.token.as_ref().map_or("age", |_| "token");
        self.home.keys().join(format!("{kind}-1.{ending}"))
    }

    /// Where the server's own log goes.
    pub(crate) fn server_log(&self) -> PathBuf {
        self.folder.join("serve.log")
    }

    /// Enrols somebody who may have both kinds of certificate.
    pub(crate) fn enrol(&self, server: &Server) -> Signer {
        let user = Signer::new(crate::client::new_key(), &server.audience);
        let body = NewUser {
            name: USER.parse().expect("a legal name"),
            public_key: user.public_line(),
            groups: vec![GROUP.parse().expect("a legal name")],
            attestation: None,
        };
        let body = serde_json::to_vec(&body).expect("JSON");
        let admin = Signer::new(self.admin.clone(), &server.audience);
        server
            .connect()
            .exchange(&admin.sign("/v1/users", body).bytes());
        user
    }

    /// Every certificate for a person that is in the log.
    pub(crate) fn issued(&self) -> Vec<Event> {
        let reader = Reader::open(&self.home.database()).expect("the log");
        let mut filter = Filter::default();
        let mut issued = Vec::new();
        loop {
            let found = reader.list(&filter, PAGE).expect("entries");
            let entries = found
                .entries
                .iter()
                .map(|(_, body)| serde_json::from_str::<Entry>(body).expect("an entry"));
            issued.extend(
                entries
                    .map(|entry| entry.event)
                    .filter(|event| matches!(event, Event::CertificateIssued { .. })),
            );
            let Some(next) = found.next else {
                return issued;
            };
            filter.from = next;
        }
    }

    /// A new folder beside the home, for somebody else.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        create(&folder);
        folder
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.server_log()).unwrap_or_default();
            eprintln!("--- the server's log:\n{log}");
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn create(folder: &Path) {
    DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .expect("a folder of our own");
}

/// A new file that nobody else reads.
pub(crate) fn write(path: &Path, text: &str) {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("a file of our own");
}

fn is_in_memory(folder: &Path) -> bool {
    let folder = CString::new(folder.as_os_str().as_bytes()).expect("a path");
    let mut system = MaybeUninit::uninit();
    // SAFETY: the path ends in a zero; statfs writes the structure when it gives 0, and only then
    // is it read.
    unsafe {
        libc::statfs(folder.as_ptr(), system.as_mut_ptr()) == 0
            && system.assume_init().f_type == libc::TMPFS_MAGIC
    }
}

/// Removes what runs that were killed have left.
fn remove_leftovers(place: &Path) {
    for file in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = file.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix("load-"));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            fs::remove_dir_all(file.path()).ok();
        }
    }
}
