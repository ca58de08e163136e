use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// Defines a name: a string newtype that can only be made by its rule.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $legal:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                if $legal(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Invalid::new($kind, text, $expected))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A person or a workload that can ask: `alice`, `bob@example.org`.
    ///
    /// Lower case only, so that two people can't differ by case alone (unique user
    /// identification, 45 CFR 164.312(a)(2)(i)).
    UserName, "user name", legal_user,
    "use 1 to 64 of a-z, 0-9 and . _ @ + -, with a letter or digit first"
}

name! {
    /// A word that says something of a role to policy: `patient-data`, `production`.
    Label, "label", legal_word,
    "use 1 to 48 of a-z, 0-9 and -, with a letter or digit first"
}

name! {
    /// A group that policy speaks of: `administrators`, `on-call`.
    GroupName, "group name", legal_word,
    "use 1 to 48 of a-z, 0-9 and -, with a letter or digit first"
}

name! {
    /// A role in `policies/roles.toml`: `web-deploy`, `patients-read`.
    RoleName, "role name", legal_word,
    "use 1 to 48 of a-z, 0-9 and -, with a letter or digit first"
}

name! {
    /// Why access is needed, one word out of the declared list: `incident`, `deploy`.
    Purpose, "purpose", legal_word,
    "use 1 to 48 of a-z, 0-9 and -, with a letter or digit first"
}

name! {
    /// A login name that an SSH certificate is good for (`valid principals` in
    /// PROTOCOL.certkeys). No commas, blanks or wildcards: sshd reads those as lists and patterns.
    PrincipalName, "principal", legal_principal,
    "use 1 to 64 of A-Z, a-z, 0-9 and . _ @ -, with a letter, digit or _ first"
}

name! {
    /// A PostgreSQL role name, which becomes the CN of a client certificate. At most 63 bytes
    /// (NAMEDATALEN - 1), or PostgreSQL would cut it.
    DatabaseUser, "database user", legal_database_user,
    "use 1 to 63 of A-Z, a-z, 0-9 and . _ @ -, with a letter, digit or _ first"
}

name! {
    /// What a place that the log is delivered to is called: `siem`.
    DeliveryName, "name", legal_word,
    "use 1 to 48 of a-z, 0-9 and -, with a letter or digit first"
}

name! {
    /// What somebody is called who vouches for people or for workloads: `clinic`, `github`.
    ProviderName, "provider's name", legal_word,
    "use 1 to 48 of a-z, 0-9 and -, with a letter or digit first"
}

name! {
    /// A host's DNS name or IP address, without wildcards.
    HostName, "host name", legal_host,
    "use a DNS name (labels of a-z, 0-9 and -, not at an edge) or an IP address"
}

impl HostName {
    /// The address, when the name is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }

    /// Whether it is whatever machine one is at.
    pub fn is_loopback(&self) -> bool {
        let address = self.address().map(|address| address.to_canonical());
        self.0 == "localhost" || address.is_some_and(|address| address.is_loopback())
    }

    /// The same, in the one way in which an address can be written of several.
    pub fn canonical(&self) -> Self {
        match self.address() {
            Some(address) => Self(address.to_canonical().to_string()),
            None => self.clone(),
        }
    }
}

fn legal_user(text: &str) -> bool {
    within(text, 64, |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || b"._@+-".contains(&c)
    }) && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn legal_word(text: &str) -> bool {
    within(text, 48, |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'
    }) && text.as_bytes()[0] != b'-'
}

fn legal_principal(text: &str) -> bool {
    legal_login(text, 64)
}

fn legal_database_user(text: &str) -> bool {
    legal_login(text, 63)
}

fn legal_login(text: &str, longest: usize) -> bool {
    within(text, longest, |c| {
        c.is_ascii_alphanumeric() || b"._@-".contains(&c)
    }) && (text.as_bytes()[0].is_ascii_alphanumeric() || text.starts_with('_'))
}

fn legal_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || (within(text, 253, |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c)
        }) && text.split('.').all(|label| {
            (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        }))
}

fn within(text: &str, longest: usize, legal: impl Fn(u8) -> bool) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_a_log_line_or_sshd_would_misread_are_refused() {
        for bad in [
            "", "a b", "a,b", "a*", "a\0", "a\nb", "-a", "a=b", "ä", "a\"b", "$a", "a/b",
        ] {
            assert!(bad.parse::<UserName>().is_err(), "user {bad:?}");
            assert!(bad.parse::<PrincipalName>().is_err(), "principal {bad:?}");
            assert!(bad.parse::<RoleName>().is_err(), "role {bad:?}");
            assert!(bad.parse::<Purpose>().is_err(), "purpose {bad:?}");
            assert!(
                bad.parse::<DatabaseUser>().is_err(),
                "database user {bad:?}"
            );
            assert!(bad.parse::<HostName>().is_err(), "host {bad:?}");
        }
        assert!("Alice".parse::<UserName>().is_err());
        assert!("a".repeat(65).parse::<PrincipalName>().is_err());
        assert!("a".repeat(64).parse::<DatabaseUser>().is_err());
    }

    #[test]
    fn host_names_are_plain_dns_names_or_addresses() {
        for good in ["web-1", "db.example.org", "127.0.0.1", "::1", "localhost"] {
            assert!(good.parse::<HostName>().is_ok(), "{good}");
        }
        for bad in [
            "*.example.org",
            "a..b",
            "a-.b",
            ".a",
            "a.",
            "WEB",
            "a_b",
            "127.0.0.1:22",
        ] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_quotes_what_was_wrong_without_control_characters() {
        let text = "a\n\u{1b}[31m".parse::<UserName>().unwrap_err().to_string();
        assert_eq!(
            text,
            "user name \"a\\n\\u{1b}[31m\" is not legal: use 1 to 64 of a-z, 0-9 and . _ @ + -, \
             with a letter or digit first"
        );
    }

    proptest! {
        #[test]
        fn a_legal_name_never_holds_what_separates_fields(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<UserName>() {
                prop_assert!(!name.as_str().contains([' ', '=', ',', '"', '*', '?', '/']));
                prop_assert_eq!(name.as_str(), text.as_str());
            }
            if let Ok(name) = text.parse::<PrincipalName>() {
                prop_assert!(!name.as_str().contains([' ', ',', '*', '?', '!', '/']));
            }
        }
    }
}
