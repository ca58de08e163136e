use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the maker of a FIDO2 key says of it, proven when the key was enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attestation {
    /// The certificate that the maker gives to many authenticators alike, in PEM.
    pub certificate: String,
    /// Whom it is for.
    pub subject: String,
    /// The model of the authenticator (AAGUID), when it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aaguid: Option<String>,
    /// Which of the roots that are trusted here signed the certificate. When none did, anybody may
    /// have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}
