//! The user's ssh-agent, through the stock `ssh-add`.

use std::path::Path;
use std::process::{Command, Stdio};

/// Whether an agent answers.
pub(super) fn answers() -> bool {
    // 1 says that it holds no keys, 2 that there is none.
    std::env::var_os("SSH_AUTH_SOCK").is_some_and(|socket| !socket.is_empty())
        && quiet(Command::new("ssh-add").arg("-l")).is_some_and(|code| code < 2)
}

/// The public keys and certificates that it holds, one OpenSSH line each.
pub(super) fn lines() -> Vec<String> {
    let listed = Command::new("ssh-add")
        .arg("-L")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

/// Whether it holds what an OpenSSH line says, whatever the comment.
pub(super) fn holds(line: &str) -> bool {
    let blob = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    let wanted = blob(line);
    wanted.is_some() && lines().iter().any(|line| blob(line) == wanted)
}

/// Adds the private key in `file`, with the certificate beside it if there is one, for `seconds`.
/// Says whether the agent then holds the key or certificate of that line: some take no certificates.
pub(super) fn add(file: &Path, line: &str, seconds: u64) -> bool {
    let mut add = Command::new("ssh-add");
    add.args(["-q", "-t", &seconds.to_string()]).arg(file);
    if quiet(&mut add) != Some(0) {
        return false;
    }
    if !holds(line) {
        remove(file);
        return false;
    }
    true
}

/// Removes the key in `file`, which may be its public part.
pub(super) fn remove(file: &Path) {
    quiet(Command::new("ssh-add").args(["-q", "-d"]).arg(file));
}

fn quiet(command: &mut Command) -> Option<i32> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .ok()?
        .code()
}
