//! Checkpoints: what the log was at a size, signed (C2SP tlog-checkpoint, signed-note and
//! tlog-cosignature).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use signed_note::{Note, NoteError, Signature, Verifier, VerifierList};

use super::tree::Hash;
use crate::keys::{KeyAlgorithm, OpenedKey, SignError, Signer};

/// The public key of a log or a witness: `NAME+ID+KEY`, the verifier key of C2SP signed-note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VerifierKey {
    name: String,
    id: u32,
    kind: NoteKind,
    key: [u8; 32],
}

/// What a key signs: the byte in front of it in its verifier key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// A log's own checkpoints (Ed25519, 0x01).
    Checkpoint = 1,
    /// A witness's cosignatures, each with its time (Ed25519, 0x04).
    Cosignature = 4,
}

impl VerifierKey {
    fn new(name: &str, kind: NoteKind, key: [u8; 32]) -> Self {
        Self {
            id: signed_note::key_id(name, &encoded(kind, &key)),
            name: name.to_owned(),
            kind,
            key,
        }
    }

    /// The log's origin or the witness's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it signs.
    pub fn kind(&self) -> NoteKind {
        self.kind
    }

    /// Whether a note is this key's over that text, as [`NoteSigner::sign_statement`] makes it.
    pub fn signed_statement(&self, statement: &str, note: &str) -> bool {
        Note::from_bytes(note.as_bytes()).is_ok_and(|note| {
            note.text() == statement_text(&self.name, statement).as_bytes()
                && matches!(self.verified(&note), Ok(Some(_)))
        })
    }

    /// What is in front of this key's signature on a note, when there is one: a cosignature's time
    /// in seconds since 1970.
    fn verified(&self, note: &Note) -> Result<Option<u64>, CheckpointError> {
        let known = VerifierList::new(vec![Box::new(self.clone())]);
        match note.verify(&known) {
            Ok((verified, _)) => Ok(verified.first().map(|signature| {
                let time = signature.signature().first_chunk().copied();
                time.map_or(0, u64::from_be_bytes)
            })),
            Err(NoteError::UnverifiedNote) => Ok(None),
            Err(_) => Err(CheckpointError::BadSignature {
                key: self.name.clone(),
            }),
        }
    }
}

/// A log may have several keys, of which any may have signed.
impl AsRef<[Self]> for VerifierKey {
    fn as_ref(&self) -> &[Self] {
        std::slice::from_ref(self)
    }
}

pub(super) fn checkpoint_text(name: &str, size: u64, root: Hash) -> String {
    format!("{name}\n{size}\n{root}\n")
}

pub(super) fn statement_text(name: &str, statement: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, statement.as_bytes());
    format!("{name}/statement\n{}\n", STANDARD.encode(digest))
}

fn encoded(kind: NoteKind, key: &[u8]) -> Vec<u8> {
    let mut encoded = vec![kind as u8];
    encoded.extend_from_slice(key);
    encoded
}

impl Verifier for VerifierKey {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        match self.kind {
            NoteKind::Checkpoint => key.verify(text, signature).is_ok(),
            NoteKind::Cosignature => {
                let Some((time, signature)) = signature.split_first_chunk() else {
                    return false;
                };
                let message = cosigned(text, u64::from_be_bytes(*time));
                key.verify(&message, signature).is_ok()
            }
        }
    }
}

fn cosigned(text: &[u8], time: u64) -> Vec<u8> {
    let mut message = format!("cosignature/v1\ntime {time}\n").into_bytes();
    message.extend_from_slice(text);
    message
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode(encoded(self.kind, &self.key));
        write!(f, "{}+{:08x}+{key}", self.name, self.id)
    }
}

impl FromStr for VerifierKey {
    type Err = IllegalKey;

    fn from_str(text: &str) -> Result<Self, IllegalKey> {
        let mut parts = text.trim_end().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(IllegalKey);
        };
        let key = STANDARD.decode(key).map_err(|_| IllegalKey)?;
        let (kind, key) = key.split_first().ok_or(IllegalKey)?;
        let kind = match kind {
            1 => NoteKind::Checkpoint,
            4 => NoteKind::Cosignature,
            _ => return Err(IllegalKey),
        };
        let parsed = Self::new(name, kind, key.try_into().map_err(|_| IllegalKey)?);
        let legal = signed_note::is_key_name_valid(name) && format!("{:08x}", parsed.id) == id;
        if legal { Ok(parsed) } else { Err(IllegalKey) }
    }
}

impl TryFrom<String> for VerifierKey {
    type Error = IllegalKey;

    fn try_from(text: String) -> Result<Self, IllegalKey> {
        text.parse()
    }
}

impl From<VerifierKey> for String {
    fn from(key: VerifierKey) -> Self {
        key.to_string()
    }
}

/// The text is no verifier key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no verifier key: take the line NAME+ID+KEY that `hallpass audit key` or \
     `hallpass witness init` prints, whole"
)]
pub struct IllegalKey;

/// Signs checkpoints, as a log or as a witness. Cheap to clone.
#[derive(Clone)]
pub struct NoteSigner {
    verifier: VerifierKey,
    signer: Arc<Signer>,
}

impl NoteSigner {
    /// With an Ed25519 key, or nothing when it is another.
    pub fn new(name: &str, kind: NoteKind, signer: Arc<Signer>) -> Option<Self> {
        if signer.algorithm() != KeyAlgorithm::Ed25519 || !signed_note::is_key_name_valid(name) {
            return None;
        }
        let key = signer.public_key().try_into().ok()?;
        let verifier = VerifierKey::new(name, kind, key);
        Some(Self { verifier, signer })
    }

    /// With a key of a home, or nothing when its verifier key is none or another's.
    pub fn open(key: &OpenedKey) -> Option<Self> {
        Self::of(&key.public, Arc::clone(&key.signer))
    }

    /// With the key of a verifier key, or nothing when it is another's.
    pub fn of(verifier: &str, signer: Arc<Signer>) -> Option<Self> {
        let verifier: VerifierKey = verifier.parse().ok()?;
        Self::new(verifier.name(), verifier.kind, signer)
            .filter(|signer| signer.verifier == verifier)
    }

    /// Its public key.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// A log's checkpoint.
    #[cfg(test)]
    pub(crate) fn checkpoint(&self, size: u64, root: Hash) -> Result<Checkpoint, SignError> {
        super::LogSigners::from(self.clone()).checkpoint(size, root)
    }

    /// A note over the hash of some other text. Its first line is no log's origin, so that it can't
    /// be taken for a checkpoint.
    ///
    /// # Errors
    /// When the key can't be used.
    pub fn sign_statement(&self, statement: &str) -> Result<String, SignError> {
        let text = statement_text(&self.verifier.name, statement);
        Ok(format!("{text}\n{}", self.sign_text(&text)?))
    }

    /// The line of a signature over a text.
    pub(super) fn sign_text(&self, text: &str) -> Result<String, SignError> {
        Ok(self.line(&self.signer.sign(text.as_bytes())?))
    }

    /// A witness's line under a checkpoint.
    ///
    /// # Errors
    /// When the key can't be used.
    pub fn cosign(&self, checkpoint: &Checkpoint, time: u64) -> Result<String, SignError> {
        let text = checkpoint.text();
        let signature = self.signer.sign(&cosigned(text.as_bytes(), time))?;
        Ok(self.line(&[&time.to_be_bytes(), &*signature].concat()))
    }

    fn line(&self, signature: &[u8]) -> String {
        let VerifierKey { name, id, .. } = &self.verifier;
        let signature = STANDARD.encode([&id.to_be_bytes(), signature].concat());
        format!("\u{2014} {name} {signature}\n")
    }
}

/// What a log was at a size, with a signature that was checked. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// How many entries the log had.
    pub size: u64,
    /// The root of its tree.
    pub root: Hash,
    note: Arc<str>,
}

impl Checkpoint {
    /// Reads a signed note and checks that the log's key signed it, or any one of several.
    ///
    /// # Errors
    /// When it is none of this log.
    pub fn open(note: &str, log: impl AsRef<[VerifierKey]>) -> Result<Self, CheckpointError> {
        let keys = log.as_ref();
        let checkpoint = Self::unchecked(note)?;
        let origin = Self::origin(note);
        if let Some(other) = keys.iter().find(|key| key.name != origin) {
            return Err(CheckpointError::AnotherLog {
                origin: origin.to_owned(),
                expected: other.name.clone(),
            });
        }
        let mut signed = false;
        for key in keys {
            signed |= checkpoint.is_signed_by(key)?;
        }
        if signed {
            return Ok(checkpoint);
        }
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        Err(CheckpointError::Unsigned {
            key: keys.join(" or "),
        })
    }

    /// Reads a note whose signatures are still to be checked.
    ///
    /// # Errors
    /// When it is no checkpoint.
    pub fn unchecked(note: &str) -> Result<Self, CheckpointError> {
        let parsed = Note::from_bytes(note.as_bytes()).map_err(|_| CheckpointError::Malformed)?;
        let checkpoint = tlog_tiles::Checkpoint::from_bytes(parsed.text())
            .map_err(|_| CheckpointError::Malformed)?;
        Ok(Self {
            size: checkpoint.size(),
            root: *checkpoint.hash(),
            note: note.into(),
        })
    }

    pub(super) fn signed(size: u64, root: Hash, note: String) -> Self {
        let note = note.into();
        Self { size, root, note }
    }

    /// Whether that key signed it as the log's.
    ///
    /// # Errors
    /// When there is a signature in its name that is wrong.
    pub fn is_signed_by(&self, key: &VerifierKey) -> Result<bool, CheckpointError> {
        let note =
            Note::from_bytes(self.note.as_bytes()).map_err(|_| CheckpointError::Malformed)?;
        let checkpoint = key.kind == NoteKind::Checkpoint && Self::origin(&self.note) == key.name;
        Ok(checkpoint && key.verified(&note)?.is_some())
    }

    /// Whether the log's signatures on it claim to be those of these keys, all of them in that order
    /// and no other.
    pub fn is_signed_by_exactly(&self, keys: &[VerifierKey]) -> bool {
        let known: Vec<u32> = keys.iter().map(|key| key.id).collect();
        let lines = self.signature_lines().into_iter();
        let claimed: Vec<u32> = lines
            .filter_map(|line| Signature::from_bytes(line.as_bytes()).ok())
            .filter(|line| line.name() == Self::origin(&self.note))
            .map(|line| line.id())
            .collect();
        known == claimed
    }

    /// The same with the signatures of these keys alone; nothing when it has none.
    #[must_use]
    pub fn with_only(&self, keys: &[VerifierKey]) -> Option<Self> {
        let bare = format!("{}\n", self.text());
        let alone = |line: &str| Self {
            note: format!("{bare}{line}\n").into(),
            ..self.clone()
        };
        let lines = self.signature_lines().into_iter();
        let lines: String = lines
            .filter(|line| {
                let alone = alone(line);
                keys.iter().any(|key| alone.is_signed_by(key) == Ok(true))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        (!lines.is_empty()).then(|| Self {
            note: format!("{bare}{lines}").into(),
            ..self.clone()
        })
    }

    fn signature_lines(&self) -> Vec<&str> {
        let lines = self.note[self.text().len()..].lines();
        lines.filter(|line| line.starts_with('\u{2014}')).collect()
    }

    /// The origin line of a note that nobody has checked.
    pub fn origin(note: &str) -> &str {
        note.lines().next().unwrap_or_default()
    }

    /// When that witness cosigned it, in seconds since 1970; nothing when it did not.
    ///
    /// # Errors
    /// When there is a cosignature in its name that is not right, or the key is no witness's.
    pub fn cosigned_by(&self, witness: &VerifierKey) -> Result<Option<u64>, CheckpointError> {
        if witness.kind != NoteKind::Cosignature {
            return Err(CheckpointError::NoWitness {
                key: witness.name.clone(),
            });
        }
        let note =
            Note::from_bytes(self.note.as_bytes()).map_err(|_| CheckpointError::Malformed)?;
        witness.verified(&note)
    }

    /// The same with more signature lines.
    #[must_use]
    pub fn with_lines(&self, lines: &str) -> Self {
        Self {
            note: format!("{}{lines}", self.note).into(),
            ..self.clone()
        }
    }

    /// The signed note.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// What is signed: the note without its signatures.
    pub fn text(&self) -> &str {
        self.note
            .rsplit_once("\n\n")
            .map_or(&self.note, |(text, _)| &self.note[..=text.len()])
    }
}

/// Why a checkpoint proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not in the form of C2SP tlog-checkpoint.
    #[error("it is no checkpoint (C2SP tlog-checkpoint)")]
    Malformed,
    /// Another log's.
    #[error("it is of the log {origin}, not of {expected}")]
    AnotherLog {
        /// Its origin line.
        origin: String,
        /// The log that was meant.
        expected: String,
    },
    /// The log's key did not sign it.
    #[error("the log's key {key} did not sign it")]
    Unsigned {
        /// The verifier key.
        key: String,
    },
    /// A log's key was given in the place of a witness's.
    #[error("the key of {key} is a log's: of a witness, `hallpass witness init` prints it")]
    NoWitness {
        /// Whose.
        key: String,
    },
    /// A signature in the key's name is wrong.
    #[error("the signature in the name of {key} is wrong")]
    BadSignature {
        /// Whose.
        key: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tree::record_hash;

    fn signer(name: &str, kind: NoteKind) -> NoteSigner {
        NoteSigner::new(name, kind, Signer::throwaway()).unwrap()
    }

    #[test]
    fn the_key_in_the_specification_is_read_and_written() {
        // From C2SP signed-note.
        let text = "example.com/foo+530d903c+Ae4qeqLyRASKkjWPvLTWc2RcSzRyY9JIgpH5hxJcZ5+v";
        match text.parse::<VerifierKey>() {
            Ok(key) => assert_eq!(key.to_string(), text),
            // Its id may be made up there.
            Err(error) => assert_eq!(error, IllegalKey),
        }
        let key = signer("hallpass/test", NoteKind::Checkpoint);
        let text = key.verifier().to_string();
        assert_eq!(text.parse::<VerifierKey>().unwrap(), *key.verifier());
        assert!(
            text.replace("hallpass/test", "hallpass/tess")
                .parse::<VerifierKey>()
                .is_err()
        );
        for illegal in ["", "a+b", "a+00000000+AA==", "a b+00000000+AQ=="] {
            assert_eq!(illegal.parse::<VerifierKey>(), Err(IllegalKey), "{illegal}");
        }
    }

    #[test]
    fn a_checkpoint_opens_under_its_key_and_under_no_other() {
        let log = signer("log", NoteKind::Checkpoint);
        let checkpoint = log.checkpoint(7, record_hash(b"x")).unwrap();
        let note = checkpoint.note();
        assert_eq!(Checkpoint::open(note, log.verifier()).unwrap(), checkpoint);
        assert_eq!(
            checkpoint.text(),
            note.split_once("\n\n").unwrap().0.to_owned() + "\n"
        );
        let another = signer("log", NoteKind::Checkpoint);
        assert!(matches!(
            Checkpoint::open(note, another.verifier()),
            Err(CheckpointError::Unsigned { .. })
        ));
        let elsewhere = signer("elsewhere", NoteKind::Checkpoint);
        assert!(matches!(
            Checkpoint::open(note, elsewhere.verifier()),
            Err(CheckpointError::AnotherLog { .. })
        ));
        assert_eq!(
            Checkpoint::open(&note.replace("\n7\n", "\n8\n"), log.verifier()),
            Err(CheckpointError::BadSignature {
                key: "log".to_owned()
            })
        );
        for cut in 0..note.len() {
            if note.is_char_boundary(cut) {
                assert!(
                    Checkpoint::open(&note[..cut], log.verifier()).is_err(),
                    "{cut}"
                );
            }
        }
    }

    #[test]
    fn a_cosignature_counts_for_its_witness_and_its_checkpoint_alone() {
        let log = signer("log", NoteKind::Checkpoint);
        let witness = signer("witness", NoteKind::Cosignature);
        let another = signer("witness", NoteKind::Cosignature);
        let checkpoint = log.checkpoint(7, record_hash(b"x")).unwrap();
        let line = witness.cosign(&checkpoint, 1234).unwrap();
        let cosigned = checkpoint.with_lines(&line);
        assert_eq!(cosigned.cosigned_by(witness.verifier()), Ok(Some(1234)));
        assert_eq!(cosigned.cosigned_by(another.verifier()), Ok(None));
        assert_eq!(checkpoint.cosigned_by(witness.verifier()), Ok(None));
        // The log's own signature is nobody else's.
        assert!(checkpoint.cosigned_by(log.verifier()).is_err());
        assert!(Checkpoint::open(cosigned.note(), log.verifier()).is_ok());
        let other = log
            .checkpoint(8, record_hash(b"x"))
            .unwrap()
            .with_lines(&line);
        assert!(other.cosigned_by(witness.verifier()).is_err());
    }
}
