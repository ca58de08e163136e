use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use super::{
    DatabaseUser, GroupName, HostName, Invalid, Label, PrincipalName, Purpose, ReasonRule,
    RoleName, Ttl,
};

/// A named, bounded kind of access. Nothing in a request can widen it.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name, unique among SSH and database roles together.
    pub name: RoleName,
    /// One line for people.
    pub description: String,
    /// What a certificate for this role opens.
    pub access: Access,
    /// The longest lifetime that can be asked for.
    pub max_ttl: Ttl,
    /// The lifetime when none is asked for.
    pub default_ttl: Ttl,
    /// What it may be used for. Never empty.
    pub purposes: Vec<Purpose>,
    /// What is demanded of the reason.
    pub reason: ReasonRule,
    /// The groups of roles that it is in, for policy.
    pub groups: Vec<GroupName>,
    /// What it gives access to, for policy: `patient-data`.
    pub sensitivity: Option<Label>,
    /// Where, for policy: `production`.
    pub environment: Option<Label>,
}

/// What a role opens.
#[derive(Clone, Debug)]
pub enum Access {
    /// Logins over SSH.
    Ssh(SshAccess),
    /// A user of a database.
    Database(DatabaseAccess),
}

impl Access {
    /// `ssh` or the database's engine, as in `roles.toml` and the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ssh(_) => "ssh",
            Self::Database(_) => "postgres",
        }
    }
}

/// The SSH side of a role: what stands on its certificates.
#[derive(Clone, Debug)]
pub struct SshAccess {
    /// Login names. Never empty: a certificate without principals would be good for all of them.
    pub principals: Vec<PrincipalName>,
    /// What the session may do beyond running a command.
    pub extensions: Vec<SshExtension>,
    /// The one command that the certificate can run.
    pub force_command: Option<String>,
    /// From where the certificate can be used.
    pub source_address: SourceAddress,
    /// Patterns of the hosts that it opens, where they keep themselves up to date; for others a hint
    /// for people. A `*` stands for any characters.
    pub hosts: Vec<String>,
}

impl SshAccess {
    /// Whether it is meant for a host with one of these names.
    pub fn is_for<'a>(&self, names: impl IntoIterator<Item = &'a HostName>) -> bool {
        let is_named = |name: &HostName| {
            let mut patterns = self.hosts.iter();
            patterns.any(|pattern| matches(pattern, name.as_str()))
        };
        names.into_iter().any(is_named)
    }
}

/// The database side of a role.
#[derive(Clone, Debug)]
pub struct DatabaseAccess {
    /// The PostgreSQL user, which becomes the certificate's CN.
    pub user: DatabaseUser,
    /// Where it is meant to be used: a hint for people.
    pub databases: Vec<String>,
}

/// The `source-address` critical option of an SSH role's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceAddress {
    /// No such option: usable from anywhere.
    Any,
    /// Only the address that the request came from.
    Requester,
    /// Only these networks.
    Networks(Vec<IpNet>),
}

/// An extension of an OpenSSH user certificate (PROTOCOL.certkeys, "Extensions").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SshExtension {
    /// `no-touch-required`
    NoTouchRequired,
    /// `permit-X11-forwarding`
    PermitX11Forwarding,
    /// `permit-agent-forwarding`
    PermitAgentForwarding,
    /// `permit-port-forwarding`
    PermitPortForwarding,
    /// `permit-pty`
    PermitPty,
    /// `permit-user-rc`
    PermitUserRc,
}

impl SshExtension {
    const ALL: [Self; 6] = [
        Self::NoTouchRequired,
        Self::PermitX11Forwarding,
        Self::PermitAgentForwarding,
        Self::PermitPortForwarding,
        Self::PermitPty,
        Self::PermitUserRc,
    ];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoTouchRequired => "no-touch-required",
            Self::PermitX11Forwarding => "permit-X11-forwarding",
            Self::PermitAgentForwarding => "permit-agent-forwarding",
            Self::PermitPortForwarding => "permit-port-forwarding",
            Self::PermitPty => "permit-pty",
            Self::PermitUserRc => "permit-user-rc",
        }
    }
}

impl FromStr for SshExtension {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|extension| extension.as_str() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::as_str).join(", ");
                Invalid::new("extension", text, format!("use one of {known}"))
            })
    }
}

impl fmt::Display for SshExtension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a name matches a pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, mut rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(before) else {
        return false;
    };
    // The leftmost place for each part leaves the most room for those after it.
    while let Some((part, after)) = rest.split_once('*') {
        let Some((_, behind)) = name.split_once(part) else {
            return false;
        };
        (rest, name) = (after, behind);
    }
    name.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in [
            ("web-1", "web-1"),
            ("web-*", "web-1"),
            ("web-*", "web-"),
            ("*", "anything.example.org"),
            ("*.example.org", "a.b.example.org"),
            ("web-*.example.org", "web-1.example.org"),
            ("a*b*c", "a-b-b-c"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("web-*", "web"),
            ("web-*", "my-web-1"),
            ("web-1", "web-11"),
            ("*.example.org", "example.org"),
            ("a*a", "a"),
            ("a*b*c", "a-c-b"),
            ("", "a"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_for_a_star_matches(
            parts in proptest::collection::vec("[a-c]{0,3}", 1..4),
            filled in proptest::collection::vec("[a-c]{0,3}", 3),
        ) {
            let mut name = parts[0].clone();
            for (part, fill) in parts[1..].iter().zip(&filled) {
                name += fill;
                name += part;
            }
            prop_assert!(matches(&parts.join("*"), &name));
        }
    }
}
