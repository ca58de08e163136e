//! Providers that people sign in with: OpenID Connect Core 1.0, asked by this server itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use url_query::Form;
use zeroize::Zeroizing;

use super::jwt::{Claims, Expected};
use super::{Issuer, IssuerError, Metadata, SSH_KEY};
use crate::keys::is_private;
use crate::model::{
    Account, GroupName, IssuerUrl, ProviderName, SecondFactor, Timestamp, Ttl, UserName,
};
use crate::outbound::{Https, HttpsError, RootsError};
