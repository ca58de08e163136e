use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use ring::digest::{self, digest};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::connection::Attempt;
use super::error::{Fault, means_no_object};
use super::{Token, TokenError, point};
use crate::keys::KeyAlgorithm;
use crate::keys::ecdsa;

/// What is signed once to see that the key is the one that its public key says.
const PROBE: &[u8] = b"hallpass: is this the key that it should be?";

/// A private key in a token.
pub(in crate::keys) struct TokenKey {
    token: Arc<Token>,
    name: Name,
    algorithm: KeyAlgorithm,
    found: Mutex<Found>,
    /// When it was last seen that it is there, and in which generation of the connection.
    seen: Mutex<Option<(u64, Instant)>>,
}

/// By what a key is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::keys) struct Name {
    /// For people (`CKA_LABEL`).
    pub(in crate::keys) label: String,
    /// By which it is found (`CKA_ID`).
    pub(in crate::keys) id: Vec<u8>,
}

impl Name {
    pub(in crate::keys) fn id_in_hex(&self) -> String {
        base16ct::lower::encode_string(&self.id)
    }
}

/// Where the key was found, by generation of the connection.
#[derive(Clone, Copy)]
enum Found {
    Never,
    At(u64, ObjectHandle),
    /// Not there, on a connection that was just opened.
    Missing(u64),
}

impl TokenKey {
    /// Generates a key that can't leave the token, and gives its public key.
    pub(super) fn generate(
        token: &Arc<Token>,
        name: Name,
        algorithm: KeyAlgorithm,
    ) -> Result<(Self, Vec<u8>), TokenError> {
        beside_other_tasks(|| Self::generate_here(token, name, algorithm))
    }

    fn generate_here(
        token: &Arc<Token>,
        name: Name,
        algorithm: KeyAlgorithm,
    ) -> Result<(Self, Vec<u8>), TokenError> {
        token.check_mechanisms(&name.label, algorithm, true)?;
        let generated = curves(algorithm).iter().find_map(|curve| {
            let made = token.with_writing_session(|session| {
                match session.generate_key_pair(
                    &generation(algorithm),
                    &public_template(&name, curve),
                    &private_template(&name),
                ) {
                    // Another way to write the curve may be known.
                    Err(error) if means_no_curve(&error) => Ok(None),
                    Err(error) => Err(token.fault("generate a key", &error)),
                    Ok(_) => Ok(Some(())),
                }
            });
            made.transpose()
        });
        match generated {
            Some(made) => made?,
            None => {
                return Err(TokenError::NoMechanism {
                    module: token.settings().module.clone(),
                    token: token.settings().label.clone(),
                    key: name.label,
                    mechanism: algorithm.as_str(),
                });
            }
        }
        Self::open(token, name, algorithm)
    }

    /// Finds a key, checks it, and gives its public key.
    pub(super) fn open(
        token: &Arc<Token>,
        name: Name,
        algorithm: KeyAlgorithm,
    ) -> Result<(Self, Vec<u8>), TokenError> {
        token.check_mechanisms(&name.label, algorithm, false)?;
        let key = Self {
            token: Arc::clone(token),
            name,
            algorithm,
            found: Mutex::new(Found::Never),
            seen: Mutex::new(None),
        };
        let public_key =
            token.with_session(|session, attempt| key.check_public(session, attempt))?;
        let signature = key.sign(PROBE)?;
        if !algorithm.verifies(&public_key, PROBE, &signature) {
            return Err(key.strange("what it signs does not fit its public key"));
        }
        Ok((key, public_key))
    }

    pub(in crate::keys) fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Signs `message` in the form that [`KeyAlgorithm`] gives.
    pub(in crate::keys) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        // The digest is ours to make: every token has the mechanisms without one.
        let hashed = match self.algorithm {
            KeyAlgorithm::Ed25519 => None,
            KeyAlgorithm::EcdsaP256 => Some(digest(&digest::SHA256, message)),
            KeyAlgorithm::EcdsaP384 => Some(digest(&digest::SHA384, message)),
        };
        let data = hashed.as_ref().map_or(message, AsRef::as_ref);
        let raw = beside_other_tasks(|| {
            self.token
                .with_session(|session, attempt| self.sign_in(session, attempt, data))
        })?;
        let signature = match self.algorithm {
            KeyAlgorithm::Ed25519 => Some(raw).filter(|raw| raw.len() == 64),
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => {
                let length = self.algorithm.public_key_length() - 1;
                ecdsa::to_der(&raw).filter(|_| raw.len() == length)
            }
        };
        signature.ok_or_else(|| self.strange("its signature has another length than it should"))
    }

    /// Checks that it is there to sign. Anybody may have this asked: it is looked for once a second.
    pub(in crate::keys) fn check(&self) -> Result<(), TokenError> {
        let look = |session: &Session, attempt: Attempt| {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            match *seen {
                Some((generation, time))
                    if generation == attempt.generation && time.elapsed() < Token::REST => {}
                _ => {
                    self.find(session, attempt)?;
                    *seen = Some((attempt.generation, Instant::now()));
                }
            }
            Ok(())
        };
        beside_other_tasks(|| self.token.with_session(look))
    }

    fn sign_in(&self, session: &Session, attempt: Attempt, data: &[u8]) -> Result<Vec<u8>, Fault> {
        let sign = |handle| session.sign(&signing(self.algorithm), handle, data);
        let fault = |error: Error| self.token.fault("sign", &error);
        // Not locked while it signs.
        let found = *self.found();
        if let Found::At(generation, handle) = found
            && generation == attempt.generation
        {
            match sign(handle) {
                // Another program may have put it away and back.
                Err(error) if means_no_object(&error) => {}
                signed => return signed.map_err(fault),
            }
        }
        sign(self.find(session, attempt)?).map_err(fault)
    }

    fn find(&self, session: &Session, attempt: Attempt) -> Result<ObjectHandle, Fault> {
        let handle = self.object(session, ObjectClass::PRIVATE_KEY)?;
        let mut found = self.found();
        let Some(handle) = handle else {
            // Either the key is gone, or all of the token is, which a module that goes on with what
            // it remembers does not tell. So it is looked for once on a new connection.
            let was_missing =
                matches!(*found, Found::Missing(generation) if generation == attempt.generation);
            let missing = self.missing();
            if attempt.is_last && !was_missing {
                tracing::error!(why = %missing, "a CA key is missing: nothing is signed with it");
                *found = Found::Missing(attempt.generation);
            }
            return Err(if was_missing {
                Fault::Lasting(missing)
            } else {
                Fault::Lost(missing)
            });
        };
        *found = Found::At(attempt.generation, handle);
        Ok(handle)
    }

    /// The public key, of a private key that is what it should be.
    fn check_public(&self, session: &Session, attempt: Attempt) -> Result<Vec<u8>, Fault> {
        let private = self.find(session, attempt)?;
        let fault = |error: Error| self.token.fault("read a key's attributes", &error);
        let asked = [AttributeType::Sensitive, AttributeType::Extractable];
        let protection = session.get_attributes(private, &asked).map_err(fault)?;
        if !protection.contains(&Attribute::Sensitive(true))
            || !protection.contains(&Attribute::Extractable(false))
        {
            return Err(Fault::Lasting(TokenError::Extractable {
                token: self.token.settings().label.clone(),
                key: self.name.label.clone(),
            }));
        }
        let strange = |detail| Fault::Lasting(self.strange(detail));
        let public = self
            .object(session, ObjectClass::PUBLIC_KEY)?
            .ok_or_else(|| strange("its public key is not in the token"))?;
        let point = session
            .get_attributes(public, &[AttributeType::EcPoint])
            .map_err(fault)?
            .into_iter()
            .find_map(|attribute| match attribute {
                Attribute::EcPoint(point) => Some(point),
                _ => None,
            });
        point
            .and_then(|point| point::public_key(self.algorithm, &point))
            .ok_or_else(|| strange("its public key is none of the key's algorithm"))
    }

    fn object(&self, session: &Session, class: ObjectClass) -> Result<Option<ObjectHandle>, Fault> {
        let template = [
            Attribute::Class(class),
            Attribute::Token(true),
            Attribute::Id(self.name.id.clone()),
        ];
        let found = session
            .find_objects(&template)
            .map_err(|error| self.token.fault("look for a key", &error))?;
        Ok(found.first().copied())
    }

    fn missing(&self) -> TokenError {
        let settings = self.token.settings();
        TokenError::NoKey {
            module: settings.module.clone(),
            token: settings.label.clone(),
            key: self.name.label.clone(),
            id: self.name.id_in_hex(),
        }
    }

    fn strange(&self, detail: &'static str) -> TokenError {
        TokenError::Strange {
            token: self.token.settings().label.clone(),
            key: self.name.label.clone(),
            detail,
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Token {
    /// Checks that it can sign with a key of that algorithm, and make one.
    pub(super) fn check_mechanisms(
        &self,
        key: &str,
        algorithm: KeyAlgorithm,
        to_generate: bool,
    ) -> Result<(), TokenError> {
        let [sign, generate] = match algorithm {
            KeyAlgorithm::Ed25519 => [
                (MechanismType::EDDSA, "CKM_EDDSA"),
                (
                    MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
                    "CKM_EC_EDWARDS_KEY_PAIR_GEN",
                ),
            ],
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => [
                (MechanismType::ECDSA, "CKM_ECDSA"),
                (MechanismType::ECC_KEY_PAIR_GEN, "CKM_EC_KEY_PAIR_GEN"),
            ],
        };
        let needed = [Some(sign), to_generate.then_some(generate)];
        for (mechanism, name) in needed.into_iter().flatten() {
            if !self.has(mechanism)? {
                return Err(TokenError::NoMechanism {
                    module: self.settings().module.clone(),
                    token: self.settings().label.clone(),
                    key: key.to_owned(),
                    mechanism: name,
                });
            }
        }
        Ok(())
    }
}

/// Runs what may wait for a device where that keeps no other task of the runtime from going on.
fn beside_other_tasks<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

fn signing(algorithm: KeyAlgorithm) -> Mechanism<'static> {
    match algorithm {
        KeyAlgorithm::Ed25519 => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)),
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => Mechanism::Ecdsa,
    }
}

fn generation(algorithm: KeyAlgorithm) -> Mechanism<'static> {
    match algorithm {
        KeyAlgorithm::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => Mechanism::EccKeyPairGen,
    }
}

/// How the curve may be written (`CKA_EC_PARAMS`), the usual way first: as an object identifier, or
/// by its name (PKCS#11 3.0, section 2.3.10).
fn curves(algorithm: KeyAlgorithm) -> &'static [&'static [u8]] {
    match algorithm {
        KeyAlgorithm::Ed25519 => &[b"\x06\x03\x2b\x65\x70", b"\x13\x0cedwards25519"],
        KeyAlgorithm::EcdsaP256 => &[b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"],
        KeyAlgorithm::EcdsaP384 => &[b"\x06\x05\x2b\x81\x04\x00\x22"],
    }
}

fn means_no_curve(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::CurveNotSupported
                | RvError::DomainParamsInvalid
                | RvError::AttributeValueInvalid,
            _
        )
    )
}

fn public_template(name: &Name, curve: &[u8]) -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(curve.to_vec()),
        Attribute::Label(name.label.clone().into_bytes()),
        Attribute::Id(name.id.clone()),
    ]
}

fn private_template(name: &Name) -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Label(name.label.clone().into_bytes()),
        Attribute::Id(name.id.clone()),
    ]
}
