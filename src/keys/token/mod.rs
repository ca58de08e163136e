//! Keys in a PKCS#11 token: a hardware security module, a smart card, or SoftHSM. They are made in
//! it, can't be taken out of it, and sign in it.
//!
//! A [`Token`] is logged in to once and lent to many at a time. When it is lost, such as unplugged or
//! restarted, what is to be signed fails with the reason, and works again by itself once the token
//! is back.

mod connection;
mod error;
mod key;
mod pin;
mod place;
mod point;

pub use connection::{Token, TokenSettings};
pub use error::TokenError;
pub use pin::{Pin, PinError};
pub use place::TokenKeys;

pub(super) use key::TokenKey;
pub(super) use place::{Place, PlaceError};
