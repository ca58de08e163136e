use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::Deserialize;

use crate::model::{GroupName, HostTtl, IssuerUrl, ProviderName};

/// A provider that people sign in with: a `[[provider]]` table of `hallpass.toml`.
/// docs/login.md tells more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSettings {
    /// What it is called: policies know it as `context.method`.
    pub name: ProviderName,
    /// What the rest is when it is left out.
    #[serde(default)]
    pub preset: Preset,
    /// Its issuer identifier, exactly as it stands in its tokens.
    pub issuer: IssuerUrl,
    /// What this server is called there.
    pub client_id: String,
    /// A file with the client's secret, within the home or absolute. Without one, PKCE alone ties a
    /// code to this server.
    pub client_secret_file: Option<PathBuf>,
    /// The root certificates by which it is known; the system's when left out.
    pub ca_file: Option<PathBuf>,
    /// What is asked for.
    pub scopes: Option<Vec<String>>,
    /// The claim with the user's name.
    pub name_claim: Option<String>,
    /// The claim with the groups.
    pub groups_claim: Option<String>,
    /// Values of `amr` (RFC 8176) that say that a second factor was shown.
    pub mfa_amr: Option<Vec<String>>,
    /// Values of `acr`, or of Entra ID's `acrs`, that say so.
    pub mfa_acr: Option<Vec<String>>,
    /// The port that the browser comes back to, for a provider that takes no other than it was told; a free
    /// one when left out.
    pub redirect_port: Option<NonZeroU16>,
    /// How long ago somebody may have signed in there, at most.
    pub max_age: Option<HostTtl>,
    /// What its groups are called here. When there are any, only these count.
    #[serde(default)]
    pub group_names: BTreeMap<String, GroupName>,
}

/// Providers whose claims are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The names that OpenID Connect gives to claims.
    #[default]
    Plain,
    /// Keycloak.
    Keycloak,
    /// Microsoft Entra ID.
    Entra,
    /// Okta.
    Okta,
    /// Google.
    Google,
}

impl Preset {
    pub(super) fn name_claim(self) -> &'static str {
        match self {
            Self::Google => "email",
            _ => "preferred_username",
        }
    }

    /// Nothing where the provider's tokens name no groups.
    pub(super) fn groups_claim(self) -> Option<&'static str> {
        match self {
            Self::Google => None,
            _ => Some("groups"),
        }
    }

    pub(super) fn scopes(self) -> &'static [&'static str] {
        match self {
            Self::Google => &["openid", "email"],
            Self::Okta => &["openid", "profile", "groups"],
            _ => &["openid", "profile"],
        }
    }

    pub(super) fn mfa_amr(self) -> &'static [&'static str] {
        match self {
            // Its tokens tell nothing of how somebody signed in.
            Self::Google => &[],
            _ => &["mfa"],
        }
    }
}
