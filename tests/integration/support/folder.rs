use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::run;

/// A temporary folder, removed at the end. It is under /tmp, since PostgreSQL's own user must be
/// able to reach into it when the tests run as root.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hallpass-{}-{number}", std::process::id()));
        // An earlier process of the same number may have been killed.
        fs::remove_dir_all(&path).ok();
        fs::create_dir_all(&path).expect("a temporary folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own folder");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a folder that only we can enter.
    pub(crate) fn private(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).expect("a folder of our own");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("our own folder");
        path
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, text).expect("a file of our own");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() || std::env::var_os("HALLPASS_TEST_KEEP").is_none() {
            fs::remove_dir_all(&self.0).ok();
        }
    }
}

/// A loopback port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// The login name of whoever runs the tests.
pub(crate) fn own_name() -> String {
    super::run("id", ["-un"]).ok().trim().to_owned()
}

/// Waits for something that happens by itself.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A file system of its own, gone at the end.
pub(crate) struct Volume(pub(crate) PathBuf);

impl Volume {
    pub(crate) fn on(folder: &Path, size: &str) -> Self {
        // SAFETY: getuid has no preconditions.
        let options = format!("size={size},mode=700,uid={}", unsafe { libc::getuid() });
        let path = folder.to_str().expect("a path of ours");
        as_root(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", path]);
        Self(folder.into())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        as_root(&["umount", "--lazy", self.0.to_str().expect("a path of ours")]);
    }
}

fn as_root(command: &[&str]) {
    if is_root() {
        run(command[0], &command[1..]).ok();
    } else {
        run("sudo", [&["--non-interactive"], command].concat()).ok();
    }
}
