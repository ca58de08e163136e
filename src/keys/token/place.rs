use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::key::Name;
use super::{Token, TokenError, TokenKey};
use crate::keys::{KeyAlgorithm, SignError, Signer, random_bytes};
use crate::model::{KeyId, KeyKind};

/// A token, and which kinds of key are made in it.
#[derive(Clone)]
pub struct TokenKeys {
    token: Arc<Token>,
    made: BTreeMap<KeyKind, KeyAlgorithm>,
}

impl TokenKeys {
    /// A token whose keys are there, and in which none are made but such as follow them.
    pub fn existing(token: Arc<Token>) -> Self {
        Self {
            token,
            made: BTreeMap::new(),
        }
    }

    /// A token in which keys of these kinds will be made; without any named, of all that a CA has.
    /// The log's checkpoints need Ed25519: where the token has it not, that key is left out unless it
    /// was named.
    ///
    /// # Errors
    /// When the token can't make or use such keys.
    pub fn new(
        token: Arc<Token>,
        kinds: &[KeyKind],
        algorithm: KeyAlgorithm,
    ) -> Result<Self, TokenError> {
        let mut made = BTreeMap::new();
        let wanted = if kinds.is_empty() {
            &KeyKind::ALL
        } else {
            kinds
        };
        for &kind in wanted {
            let algorithm = match kind {
                KeyKind::Log | KeyKind::Witness => KeyAlgorithm::Ed25519,
                _ => algorithm,
            };
            match token.check_mechanisms(kind.as_str(), algorithm, true) {
                Ok(()) => {
                    made.insert(kind, algorithm);
                }
                Err(TokenError::NoMechanism { .. }) if kinds.is_empty() && kind == KeyKind::Log => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { token, made })
    }

    /// The token.
    pub fn token(&self) -> &Arc<Token> {
        &self.token
    }

    /// Of which algorithm keys of that kind are made in it, when they are.
    pub fn makes(&self, kind: KeyKind) -> Option<KeyAlgorithm> {
        self.made.get(&kind).copied()
    }

    /// Makes a key.
    pub(in crate::keys) fn generate(
        &self,
        id: KeyId,
        algorithm: KeyAlgorithm,
    ) -> Result<(Signer, Place), SignError> {
        let name = Name {
            label: format!("hallpass {id}"),
            id: random_bytes::<16>()?.to_vec(),
        };
        let place = Place {
            token: self.token.settings().label.clone(),
            label: name.label.clone(),
            id: name.id_in_hex(),
            algorithm,
        };
        let (key, public_key) = TokenKey::generate(&self.token, name, algorithm)?;
        Ok((Signer::in_token(key, public_key), place))
    }

    /// Finds a key.
    pub(in crate::keys) fn open(&self, place: &Place) -> Result<Signer, PlaceError> {
        let token = &self.token.settings().label;
        if *token != place.token {
            return Err(PlaceError::OtherToken {
                token: place.token.clone(),
                opened: token.clone(),
            });
        }
        let (key, public_key) = TokenKey::open(&self.token, place.name()?, place.algorithm)?;
        Ok(Signer::in_token(key, public_key))
    }
}

/// Where in which token a key is: what stands in `KIND-N.token`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::keys) struct Place {
    /// The token's label.
    pub(in crate::keys) token: String,
    /// The key's `CKA_LABEL`.
    label: String,
    /// The key's `CKA_ID`, by which it is found, in hexadecimal.
    id: String,
    pub(in crate::keys) algorithm: KeyAlgorithm,
}

impl Place {
    const HEADER: &str = "# Where a CA key is: in a PKCS#11 token, which it can't leave.\n";

    pub(in crate::keys) fn from_text(text: &str) -> Result<Self, PlaceError> {
        let place: Self =
            toml::from_str(text).map_err(|error| PlaceError::Illegal(error.to_string()))?;
        place.name()?;
        Ok(place)
    }

    pub(in crate::keys) fn text(&self) -> String {
        let text = toml::to_string(self).expect("four plain values");
        format!("{}{text}", Self::HEADER)
    }

    fn name(&self) -> Result<Name, PlaceError> {
        let illegal = || PlaceError::Illegal(format!("id: {:?} is not hexadecimal", self.id));
        let digits = self.id.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(illegal());
        }
        let (pairs, []) = digits.as_chunks::<2>() else {
            return Err(illegal());
        };
        let id = pairs
            .iter()
            .map(|pair| {
                let pair = std::str::from_utf8(pair).map_err(|_| illegal())?;
                u8::from_str_radix(pair, 16).map_err(|_| illegal())
            })
            .collect::<Result<_, _>>()?;
        Ok(Name {
            label: self.label.clone(),
            id,
        })
    }
}

/// Why a key that should be in a token can't be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::keys) enum PlaceError {
    /// The file is not legal.
    #[error("{0}")]
    Illegal(String),
    /// It is in another token than the one that is open.
    #[error(
        "the key is in the token {token:?}, and {opened:?} is open: put the right `label` under \
         [token] in hallpass.toml"
    )]
    OtherToken {
        /// Where the key is.
        token: String,
        /// Which is open.
        opened: String,
    },
    /// The token or the key in it.
    #[error(transparent)]
    Token(#[from] TokenError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_is_read_back(token in ".{1,32}", label in ".{0,40}", id: Vec<u8>) {
            let name = Name { label: label.clone(), id };
            let place = Place {
                token,
                label,
                id: name.id_in_hex(),
                algorithm: KeyAlgorithm::EcdsaP384,
            };
            match Place::from_text(&place.text()) {
                Ok(read) => {
                    prop_assert_eq!(read.name().unwrap(), name);
                    prop_assert_eq!(read, place);
                }
                Err(_) => prop_assert!(name.id.is_empty()),
            }
        }
    }

    #[test]
    fn an_id_that_is_none_is_refused() {
        for id in ["", "0", "0g", "00 1", "\u{e9}1", "+1", "0x01"] {
            let text =
                format!("token = \"t\"\nlabel = \"l\"\nid = {id:?}\nalgorithm = \"ed25519\"\n");
            let error = Place::from_text(&text).unwrap_err().to_string();
            assert!(error.contains("is not hexadecimal"), "{error}");
        }
    }
}
