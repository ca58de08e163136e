use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{Folder, OtherCa, free_port, wait_until};

/// A stock rsyslogd that takes messages over TLS. It may end and begin again, on the same port.
pub(crate) struct Rsyslog {
    folder: Folder,
    pub(crate) port: u16,
    /// How often it was started: each run writes a file of its own, since one that is killed may
    /// leave half a line.
    runs: usize,
    process: Child,
}

impl Rsyslog {
    /// With a certificate for that host.
    pub(crate) fn start(ca: &OtherCa, host: &str) -> Self {
        let folder = Folder::new();
        let port = free_port();
        let (certificate, key) = ca.certify(host);
        let place = folder.path().display();
        folder.write(
            "rsyslog.conf",
            format!(
                r#"global(
    workDirectory="{place}"
    maxMessageSize="128k"
    defaultNetstreamDriver="ossl"
    defaultNetstreamDriverCAFile="{}"
    defaultNetstreamDriverCertFile="{}"
    defaultNetstreamDriverKeyFile="{}"
)
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
template(name="raw" type="string" string="%rawmsg%\n")
ruleset(name="in") {{
    action(type="omfile" file=`echo $RECEIVED` template="raw")
}}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="in")
"#,
                ca.root().display(),
                certificate.display(),
                key.display(),
            ),
        );
        let process = Self::spawn(&folder, port, 0);
        Self {
            folder,
            port,
            runs: 1,
            process,
        }
    }

    fn spawn(folder: &Folder, port: u16, run: usize) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("rsyslog.log"))
            .expect("a log file");
        let process = Command::new("/usr/sbin/rsyslogd")
            .arg("-n")
            .arg("-f")
            .arg(folder.join("rsyslog.conf"))
            .arg("-i")
            .arg(folder.join(format!("pid-{run}")))
            .env("RECEIVED", Self::file(folder, run))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("rsyslogd; scripts/test installs it");
        wait_until("rsyslogd", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        process
    }

    fn file(folder: &Folder, run: usize) -> PathBuf {
        folder.join(format!("received-{run}"))
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.process.id()).expect("a pid");
        // SAFETY: our own child, not waited for yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Ends it with that signal and waits until it is gone.
    pub(crate) fn end(&mut self, signal: i32) {
        self.signal(signal);
        self.process.wait().expect("our own child");
    }

    pub(crate) fn start_again(&mut self) {
        self.process = Self::spawn(&self.folder, self.port, self.runs);
        self.runs += 1;
    }

    /// The messages that it has written down, oldest first.
    pub(crate) fn received(&self) -> Vec<String> {
        let mut messages = Vec::new();
        for run in 0..self.runs {
            let bytes = fs::read(Self::file(&self.folder, run)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let whole = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            messages.extend(whole.map(|line| line.trim_end_matches('\n').to_owned()));
        }
        messages
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join("rsyslog.log")).unwrap_or_default();
            eprintln!("--- rsyslogd's log:\n{log}");
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
