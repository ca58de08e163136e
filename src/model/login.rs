use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GroupName, Mfa, ProviderName, Timestamp, UserName};

/// For how long a session lasts at most: what began before is never looked at again.
pub const LONGEST_SESSION: Duration = Duration::from_secs(24 * 60 * 60);

/// Somebody as a provider knows them. The subject never changes and is never given to another
/// (OpenID Connect Core 1.0, section 2); names do and are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The provider.
    #[schema(value_type = String)]
    pub provider: ProviderName,
    /// The `sub` of the provider's tokens.
    pub subject: String,
}

/// A provider that people can sign in with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProviderSummary {
    /// What it is called.
    #[schema(value_type = String)]
    pub name: ProviderName,
    /// The port of the redirect, when it must be that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u16>)]
    pub redirect_port: Option<NonZeroU16>,
}

/// Who signs in here.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LoginWays {
    /// With whom people do.
    pub providers: Vec<ProviderSummary>,
    /// Whether workloads do.
    pub workloads: bool,
}

/// Begins a login. The key that signs this request is the session's, once somebody has signed in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginBegin {
    /// With which provider; the only one when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub provider: Option<ProviderName>,
    /// Where the provider sends the browser afterwards: `http://127.0.0.1:PORT/callback` (RFC 8252,
    /// section 7.3). Left out: somebody signs in on another device (RFC 8628).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
}

/// A login that waits for somebody to sign in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LoginBegun {
    /// Which it is.
    pub login: String,
    /// Where one signs in.
    #[schema(value_type = String)]
    pub provider: ProviderName,
    /// What to open in the browser; for a login with a redirect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The `state` that must come back with the redirect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What to do on another device; for a login without a redirect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DevicePrompt>,
    /// Until when it waits (RFC 3339).
    #[schema(value_type = String)]
    pub expires: Timestamp,
}

/// What somebody does on another device (RFC 8628, section 3.2).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DevicePrompt {
    /// The page to open.
    pub url: String,
    /// The code to enter there.
    pub user_code: String,
    /// The page with the code in its address, where the provider has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_url: Option<String>,
    /// How many seconds to wait before each question whether it is done.
    pub interval: u64,
}

/// Ends a login: gives what the redirect brought, or asks whether somebody has signed in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginFinish {
    /// Which login.
    pub login: String,
    /// The query of the redirect; left out for a login on another device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<RedirectAnswer>,
}

/// Shows a second factor for the session whose key signs this request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionTouch {
    /// An armored SSHSIG by an enrolled FIDO2 key over the text that docs/login.md gives.
    pub touch: String,
}

/// What a redirect brought (RFC 6749, section 4.1.2; RFC 9207).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedirectAnswer {
    /// The authorization code.
    pub code: String,
    /// The state.
    pub state: String,
    /// Who the provider says it is, when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
}

/// Whether somebody has signed in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LoginAnswer {
    /// The session; absent while nobody has signed in yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionSummary>,
    /// How many seconds to wait before the next question, while nobody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u64>,
}

/// Begins a workload's session: the key that signs this request is the session's.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadLogin {
    /// The token by which the workload's platform vouches for it: a JWT, good once.
    pub token: String,
}

/// For how long a key signs for somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionSummary {
    /// For whom.
    #[schema(value_type = String)]
    pub name: UserName,
    /// Who vouched for them.
    #[schema(value_type = String)]
    pub provider: ProviderName,
    /// The `sub` of the provider's token.
    pub subject: String,
    /// The key that signs: `SHA256:` and the unpadded base64 of the key blob's SHA-256.
    pub fingerprint: String,
    /// The groups: the provider's and a user's own.
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupName>,
    /// The second factor, if any, as policy sees it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfa: Option<Mfa>,
    /// What is known of a workload; absent for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<BTreeMap<String, String>>,
    /// The address that it began from.
    pub source_address: String,
    /// Since when (RFC 3339).
    #[schema(value_type = String)]
    pub began: Timestamp,
    /// Until when (RFC 3339).
    #[schema(value_type = String)]
    pub expires: Timestamp,
}

impl fmt::Debug for WorkloadLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadLogin")
    }
}
