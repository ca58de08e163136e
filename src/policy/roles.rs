use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::model::{
    Access, DatabaseAccess, Invalid, Label, PrincipalName, Purpose, ReasonRule, Role, RoleName,
    SourceAddress, SshAccess, Ttl,
};

/// The roles and purposes that `roles.toml` declares.
#[derive(Clone, Debug)]
pub struct Roles {
    roles: BTreeMap<RoleName, Role>,
    purposes: BTreeMap<Purpose, String>,
}

impl Roles {
    /// Reads the text of `roles.toml`.
    ///
    /// # Errors
    /// When it is not TOML, has an unknown key, or declares something that is not legal: the first
    /// thing of each role.
    pub fn parse(text: &str) -> Result<Self, Vec<RolesError>> {
        let written: Written = toml::from_str(text).map_err(|error| {
            vec![RolesError::Toml {
                message: error.message().to_owned(),
                offset: error.span().map_or(0, |span| span.start),
            }]
        })?;
        let mut errors = Vec::new();
        let mut purposes = BTreeMap::new();
        for (name, description) in written.purposes {
            match name.parse() {
                Ok(name) => {
                    purposes.insert(name, description);
                }
                Err(source) => errors.push(RolesError::Value {
                    place: format!("[purposes] {name}"),
                    source,
                }),
            }
        }
        let mut roles = BTreeMap::new();
        let ssh = written
            .ssh
            .into_iter()
            .map(|(name, role)| (name, WrittenRole::Ssh(role)));
        let database = written
            .database
            .into_iter()
            .map(|(name, role)| (name, WrittenRole::Database(role)));
        for (name, written) in ssh.chain(database) {
            match written.into_role(&name, &purposes) {
                Ok(role) => {
                    if roles.insert(role.name.clone(), role).is_some() {
                        errors.push(RolesError::Twice(name));
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self { roles, purposes })
        } else {
            Err(errors)
        }
    }

    /// What lets in more than it says: a host opens an account to a principal, whichever of the roles
    /// that have it the certificate is for.
    pub(super) fn shared_principals(&self) -> Vec<RolesError> {
        let mut errors = Vec::new();
        let mut before: Vec<(&RoleName, &SshAccess)> = Vec::new();
        for role in self.roles.values() {
            let Access::Ssh(access) = &role.access else {
                continue;
            };
            let hosts: BTreeSet<_> = access.hosts.iter().collect();
            let others = before
                .iter()
                .filter(|(_, other)| other.hosts.iter().collect::<BTreeSet<_>>() != hosts);
            for (other, shares) in others {
                let mut principals = access.principals.iter();
                if let Some(principal) = principals.find(|own| shares.principals.contains(own)) {
                    errors.push(RolesError::SharedPrincipal {
                        table: format!("[ssh.{}]", role.name),
                        other: (*other).clone(),
                        principal: principal.clone(),
                    });
                }
            }
            before.push((&role.name, access));
        }
        errors
    }

    /// The role of that name.
    pub fn find(&self, name: &RoleName) -> Option<&Role> {
        self.roles.get(name)
    }

    /// All roles by name.
    pub fn iter(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }

    /// The longest lifetime that any role has; none when there is no role.
    pub fn longest(&self) -> Duration {
        let lives = self.roles.values().map(|role| role.max_ttl.duration());
        lives.max().unwrap_or_default()
    }

    /// All declared purposes with their descriptions.
    pub fn purposes(&self) -> impl Iterator<Item = (&Purpose, &str)> {
        self.purposes
            .iter()
            .map(|(name, description)| (name, description.as_str()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    purposes: BTreeMap<String, String>,
    #[serde(default)]
    ssh: BTreeMap<String, WrittenSsh>,
    #[serde(default)]
    database: BTreeMap<String, WrittenDatabase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSsh {
    #[serde(default)]
    description: String,
    principals: Vec<String>,
    #[serde(default)]
    extensions: Vec<String>,
    force_command: Option<String>,
    source_address: Option<WrittenSource>,
    #[serde(default)]
    hosts: Vec<String>,
    max_ttl: String,
    default_ttl: String,
    purposes: Vec<String>,
    #[serde(default)]
    reason: WrittenReason,
    #[serde(default)]
    groups: Vec<String>,
    sensitivity: Option<String>,
    environment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDatabase {
    #[serde(default)]
    description: String,
    engine: Engine,
    user: String,
    #[serde(default)]
    databases: Vec<String>,
    max_ttl: String,
    default_ttl: String,
    purposes: Vec<String>,
    #[serde(default)]
    reason: WrittenReason,
    #[serde(default)]
    groups: Vec<String>,
    sensitivity: Option<String>,
    environment: Option<String>,
}

/// What SSH and database roles have in common.
struct Common {
    description: String,
    max_ttl: String,
    default_ttl: String,
    purposes: Vec<String>,
    reason: WrittenReason,
    groups: Vec<String>,
    sensitivity: Option<String>,
    environment: Option<String>,
}

/// Takes what both kinds have in common out of one.
macro_rules! common {
    ($role:ident) => {
        Common {
            description: $role.description,
            max_ttl: $role.max_ttl,
            default_ttl: $role.default_ttl,
            purposes: $role.purposes,
            reason: $role.reason,
            groups: $role.groups,
            sensitivity: $role.sensitivity,
            environment: $role.environment,
        }
    };
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Postgres,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"requester\" or a list of networks")]
enum WrittenSource {
    Word(String),
    Networks(Vec<String>),
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"optional\", \"required\" or { pattern = \"...\" }"
)]
enum WrittenReason {
    Word(String),
    Pattern(WrittenPattern),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPattern {
    pattern: String,
}

impl Default for WrittenReason {
    fn default() -> Self {
        Self::Word("optional".to_owned())
    }
}

enum WrittenRole {
    Ssh(WrittenSsh),
    Database(WrittenDatabase),
}

impl WrittenRole {
    fn into_role(
        self,
        name: &str,
        declared: &BTreeMap<Purpose, String>,
    ) -> Result<Role, RolesError> {
        let table = match &self {
            Self::Ssh(_) => format!("[ssh.{name}]"),
            Self::Database(_) => format!("[database.{name}]"),
        };
        let at = |key: &str| {
            let place = format!("{table} {key}");
            move |source| RolesError::Value { place, source }
        };
        let name = name.parse().map_err(at("(its name)"))?;
        let (access, common) = match self {
            Self::Ssh(role) => {
                let common = common!(role);
                let access = ssh_access(
                    role.principals,
                    role.extensions,
                    role.force_command,
                    role.source_address,
                    role.hosts,
                    at,
                )?;
                (Access::Ssh(access), common)
            }
            Self::Database(role) => {
                let Engine::Postgres = role.engine;
                let common = common!(role);
                let access = DatabaseAccess {
                    user: role.user.parse().map_err(at("user"))?,
                    databases: role.databases,
                };
                (Access::Database(access), common)
            }
        };
        let max_ttl: Ttl = common.max_ttl.parse().map_err(at("max_ttl"))?;
        let default_ttl: Ttl = common.default_ttl.parse().map_err(at("default_ttl"))?;
        if default_ttl > max_ttl {
            return Err(RolesError::DefaultTtl {
                table,
                default_ttl,
                max_ttl,
            });
        }
        if common.purposes.is_empty() {
            return Err(RolesError::Empty {
                table,
                key: "purposes",
            });
        }
        let purposes = common
            .purposes
            .iter()
            .map(|purpose| {
                let purpose: Purpose = purpose.parse().map_err(at("purposes"))?;
                if declared.contains_key(&purpose) {
                    Ok(purpose)
                } else {
                    Err(RolesError::UnknownPurpose {
                        table: table.clone(),
                        purpose,
                    })
                }
            })
            .collect::<Result<_, _>>()?;
        let reason = match common.reason {
            WrittenReason::Word(word) if word == "optional" => ReasonRule::Optional,
            WrittenReason::Word(word) if word == "required" => ReasonRule::Required,
            WrittenReason::Word(word) => {
                let expected = "use \"optional\", \"required\" or { pattern = \"...\" }";
                return Err(at("reason")(Invalid::new("reason rule", &word, expected)));
            }
            WrittenReason::Pattern(written) => {
                ReasonRule::pattern(&written.pattern).map_err(at("reason"))?
            }
        };
        let groups = common.groups.iter();
        let label = |key, label: Option<String>| match label {
            Some(label) => label.parse::<Label>().map(Some).map_err(at(key)),
            None => Ok(None),
        };
        Ok(Role {
            name,
            groups: groups
                .map(|group| group.parse().map_err(at("groups")))
                .collect::<Result<_, _>>()?,
            sensitivity: label("sensitivity", common.sensitivity)?,
            environment: label("environment", common.environment)?,
            description: common.description,
            access,
            max_ttl,
            default_ttl,
            purposes,
            reason,
        })
    }
}

fn ssh_access<F: FnOnce(Invalid) -> RolesError>(
    principals: Vec<String>,
    extensions: Vec<String>,
    force_command: Option<String>,
    source_address: Option<WrittenSource>,
    hosts: Vec<String>,
    at: impl Fn(&str) -> F,
) -> Result<SshAccess, RolesError> {
    let parsed = principals
        .iter()
        .map(|principal| principal.parse().map_err(at("principals")))
        .collect::<Result<Vec<_>, _>>()?;
    if parsed.is_empty() {
        let expected = "name at least one; a certificate without any would open every login";
        return Err(at("principals")(Invalid::new("list", "", expected)));
    }
    if let Some(command) = &force_command
        && (command.is_empty() || command.contains(char::is_control))
    {
        let expected = "use one line that is not empty";
        return Err(at("force_command")(Invalid::new(
            "command", command, expected,
        )));
    }
    let mut extensions = extensions
        .iter()
        .map(|extension| extension.parse().map_err(at("extensions")))
        .collect::<Result<Vec<_>, _>>()?;
    extensions.sort_unstable();
    extensions.dedup();
    let source_address = match source_address {
        None => SourceAddress::Any,
        Some(WrittenSource::Word(word)) if word == "requester" => SourceAddress::Requester,
        Some(WrittenSource::Word(word)) => {
            let expected = "use \"requester\" or a list such as [\"10.0.0.0/8\"]";
            return Err(at("source_address")(Invalid::new(
                "source address",
                &word,
                expected,
            )));
        }
        Some(WrittenSource::Networks(networks)) => {
            let networks = networks
                .iter()
                .map(|text| network(text).map_err(at("source_address")))
                .collect::<Result<Vec<_>, _>>()?;
            if networks.is_empty() {
                let expected = "name at least one, or leave it out";
                return Err(at("source_address")(Invalid::new("list", "", expected)));
            }
            SourceAddress::Networks(networks)
        }
    };
    Ok(SshAccess {
        principals: parsed,
        extensions,
        force_command,
        source_address,
        hosts,
    })
}

/// sshd refuses a certificate whose network has bits set behind its prefix.
fn network(text: &str) -> Result<IpNet, Invalid> {
    text.parse::<IpNet>()
        .ok()
        .filter(|network| network.addr() == network.network())
        .ok_or_else(|| {
            let expected = "use CIDR notation with no bits set behind the prefix, such as \
                            10.20.0.0/16 or 192.0.2.7/32";
            Invalid::new("network", text, expected)
        })
}

/// What is wrong with `roles.toml`.
#[derive(Debug, thiserror::Error)]
pub enum RolesError {
    /// Not TOML, or not of this shape.
    #[error("{message}")]
    Toml {
        /// What is wrong.
        message: String,
        /// Where, in bytes.
        offset: usize,
    },
    /// A value is not legal.
    #[error("{place}: {source}")]
    Value {
        /// Table and key.
        place: String,
        /// Why.
        source: Invalid,
    },
    /// A list that must name something names nothing.
    #[error("{table} {key}: name at least one")]
    Empty {
        /// The role's table.
        table: String,
        /// The key.
        key: &'static str,
    },
    /// A purpose that `[purposes]` does not declare.
    #[error("{table} purposes: {purpose} is not declared: add it to [purposes] or correct it")]
    UnknownPurpose {
        /// The role's table.
        table: String,
        /// The purpose.
        purpose: Purpose,
    },
    /// The default is over the maximum.
    #[error("{table} default_ttl: {default_ttl} is longer than max_ttl, which is {max_ttl}")]
    DefaultTtl {
        /// The role's table.
        table: String,
        /// As written.
        default_ttl: Ttl,
        /// As written.
        max_ttl: Ttl,
    },
    /// Two SSH roles have a principal in common, and are meant for other hosts.
    #[error(
        "{table} principals: {principal} is also in [ssh.{other}], which has other hosts, and each host \
         would let in both: give them the same hosts, or one of them a principal of its own, to which \
         hosts open the account with `hallpass host join --account {principal}=PRINCIPAL`"
    )]
    SharedPrincipal {
        /// The one's table.
        table: String,
        /// The other.
        other: RoleName,
        /// What they share.
        principal: PrincipalName,
    },
    /// An SSH and a database role share a name.
    #[error("{0} is both an SSH and a database role: give each its own name")]
    Twice(String),
}

impl RolesError {
    /// Where in the text it is, in bytes.
    pub(super) fn offset(&self, text: &str) -> usize {
        let path = match self {
            Self::Toml { offset, .. } => return *offset,
            Self::Value { place, .. } => place.clone(),
            Self::Empty { table, key } => format!("{table} {key}"),
            Self::UnknownPurpose { table, .. } => format!("{table} purposes"),
            Self::DefaultTtl { table, .. } => format!("{table} default_ttl"),
            Self::SharedPrincipal { table, .. } => format!("{table} principals"),
            Self::Twice(name) => format!("[database.{name}]"),
        };
        let names = path.trim_start_matches('[').split(['.', ' ']);
        let Ok(table) = DeTable::parse(text) else {
            return 0;
        };
        let (mut table, mut offset) = (table.get_ref(), 0);
        for name in names.map(|name| name.trim_end_matches(']')) {
            let Some((key, value)) = table.get_key_value(name) else {
                break;
            };
            offset = key.span().start;
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        offset
    }
}
