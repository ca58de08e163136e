use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::{ConfigFolder, Session};

/// Becomes `ssh` with a session's certificate and the user's own arguments. Comes back only when
/// there is no `ssh`.
pub fn ssh(folder: &ConfigFolder, session: &Session, arguments: &[OsString]) -> RunError {
    let mut ssh = Command::new("ssh");
    ssh.args(ssh_options(folder, session)).args(arguments);
    become_it(ssh)
}

/// Becomes `psql` with a session's certificate and the user's own arguments. Comes back only when
/// there is no `psql`.
pub fn psql(session: &Session, arguments: &[OsString]) -> RunError {
    let mut psql = Command::new("psql");
    psql.envs(psql_environment(session)).args(arguments);
    become_it(psql)
}

fn become_it(mut command: Command) -> RunError {
    let source = command.exec();
    RunError {
        program: command.get_program().to_owned(),
        source,
    }
}

/// The options by which stock `ssh` uses a session and knows the hosts.
pub fn ssh_options(folder: &ConfigFolder, session: &Session) -> Vec<OsString> {
    // The global files, since the user's own may be set in ~/.ssh/config and stay in force.
    let mut known_hosts =
        OsString::from("GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2 ");
    known_hosts.push(quoted(&folder.known_hosts(), false));
    [
        OsString::from("IdentitiesOnly=yes"),
        option("IdentityFile", &session.key),
        option("CertificateFile", &session.certificate),
        known_hosts,
    ]
    .into_iter()
    .flat_map(|option| [OsString::from("-o"), option])
    .collect()
}

/// The environment by which programs on libpq use a session. Paths, never keys.
pub fn psql_environment(session: &Session) -> Vec<(&'static str, OsString)> {
    let path = |path: &Path| path.as_os_str().to_owned();
    let mut environment = vec![
        ("PGSSLMODE", OsString::from("verify-full")),
        ("PGSSLCERT", path(&session.certificate)),
        ("PGSSLKEY", path(&session.key)),
        ("PGGSSENCMODE", OsString::from("disable")),
    ];
    environment.extend(
        session
            .root
            .as_deref()
            .map(|root| ("PGSSLROOTCERT", path(root))),
    );
    environment.extend(
        session
            .held
            .good_for
            .first()
            .map(|user| ("PGUSER", OsString::from(user))),
    );
    environment
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(format!("{name}="));
    option.push(quoted(path, true));
    option
}

/// A path as ssh_config(5) reads it, which expands `%` in most places.
fn quoted(path: &Path, expands: bool) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.+@".contains(byte);
    let path = path.as_os_str();
    if path.as_bytes().iter().all(plain) {
        return path.to_owned();
    }
    let mut text = vec![b'"'];
    for byte in path.as_bytes() {
        match byte {
            b'"' | b'\\' => text.push(b'\\'),
            b'%' if expands => text.push(b'%'),
            _ => {}
        }
        text.push(*byte);
    }
    text.push(b'"');
    OsString::from_vec(text)
}

/// A program can't be run.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't run {}: {source}; install it, or add its folder to PATH",
    name(program)
)]
pub struct RunError {
    program: OsString,
    source: std::io::Error,
}

fn name(program: &OsStr) -> std::path::Display<'_> {
    Path::new(program).display()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_blanks_quotes_and_percents_stays_one_path() {
        let path = Path::new("/tmp/a b/%h\"\\");
        assert_eq!(quoted(path, true), r#""/tmp/a b/%%h\"\\""#);
        assert_eq!(quoted(path, false), r#""/tmp/a b/%h\"\\""#);
    }
}
