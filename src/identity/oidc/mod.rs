//! People who sign in with a provider of OpenID Connect (OpenID Connect Core 1.0). This server is
//! the provider's client: codes and tokens never reach the machine of whoever signs in.

mod error;
mod logins;
mod provider;
mod settings;

pub use error::{LoginError, ProviderError};
pub use logins::{Begun, Logins, NoLogin, Way};
pub use provider::{DeviceGrant, Provider, Vouched};
pub use settings::{Preset, ProviderSettings};
