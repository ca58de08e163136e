use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::Ran;

/// Has something about the log checked by code that shares nothing with ours: the Go project's,
/// through `tests/independent/tlog.go`.
pub(crate) fn independent<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(build);
    Ran::of(Command::new(program).args(arguments))
}

fn build() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Another run of the tests may be building it, too.
    let draft = folder.join(format!("tlog-{}", std::process::id()));
    let program = folder.join("tlog");
    Ran::of(
        Command::new("go")
            .args(["build", "-o"])
            .arg(&draft)
            .arg("tests/independent/tlog.go")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            // Debian's packages of Go libraries are used in place; nothing is fetched.
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOCACHE", folder.join("go"))
            .env("GOFLAGS", ""),
    )
    .ok();
    std::fs::rename(draft, &program).expect("a folder of our own");
    program
}
