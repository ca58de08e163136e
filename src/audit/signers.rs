//! The keys that a log is signed with: one, and while it is rotated also the one that comes or the
//! one that goes.

use super::checkpoint::{Checkpoint, NoteSigner, VerifierKey, checkpoint_text, statement_text};
use super::tree::Hash;
use crate::keys::SignError;

/// All keys that sign a log now, each of them whatever is signed: who knows any of them can check
/// it. Cheap to clone.
#[derive(Clone)]
pub struct LogSigners {
    first: NoteSigner,
    others: Vec<NoteSigner>,
}

impl From<NoteSigner> for LogSigners {
    fn from(first: NoteSigner) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }
}

impl LogSigners {
    /// These, the one that signs when there is no rotation first; nothing when there is none, or
    /// when they are of several logs.
    pub fn new(signers: impl IntoIterator<Item = NoteSigner>) -> Option<Self> {
        let mut signers = signers.into_iter();
        let first = signers.next()?;
        let others: Vec<NoteSigner> = signers.collect();
        let name = first.verifier().name();
        let of_one_log = others.iter().all(|other| other.verifier().name() == name);
        of_one_log.then_some(Self { first, others })
    }

    /// The one that signs when there is no rotation.
    pub fn first(&self) -> &NoteSigner {
        &self.first
    }

    /// Their public keys, that one's first.
    pub fn verifiers(&self) -> Vec<VerifierKey> {
        self.all().map(|signer| signer.verifier().clone()).collect()
    }

    /// A log's checkpoint.
    pub(super) fn checkpoint(&self, size: u64, root: Hash) -> Result<Checkpoint, SignError> {
        let note = self.sign(&checkpoint_text(self.first.verifier().name(), size, root))?;
        Ok(Checkpoint::signed(size, root, note))
    }

    /// A note over the hash of some other text, as [`NoteSigner::sign_statement`] makes it.
    ///
    /// # Errors
    /// When a key can't be used.
    pub fn sign_statement(&self, statement: &str) -> Result<String, SignError> {
        self.sign(&statement_text(self.first.verifier().name(), statement))
    }

    fn sign(&self, text: &str) -> Result<String, SignError> {
        let mut note = format!("{text}\n");
        for signer in self.all() {
            note += &signer.sign_text(text)?;
        }
        Ok(note)
    }

    fn all(&self) -> impl Iterator<Item = &NoteSigner> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// What a log's key says of the one that comes after it.
fn succession(new: &VerifierKey) -> String {
    format!("hallpass log key succession\n{new}\n")
}

impl NoteSigner {
    /// Says with a log's key that another is the log's from now on.
    ///
    /// # Errors
    /// When the key can't be used.
    pub fn sign_succession(&self, new: &VerifierKey) -> Result<String, SignError> {
        self.sign_statement(&succession(new))
    }
}

impl VerifierKey {
    /// Whether a note says, signed by this key, that the log's key is the new one from now on.
    pub fn signed_succession(&self, new: &Self, note: &str) -> bool {
        self.name() == new.name() && self.signed_statement(&succession(new), note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::NoteKind;
    use crate::audit::tree::record_hash;
    use crate::keys::Signer;

    fn signer(name: &str) -> NoteSigner {
        NoteSigner::new(name, NoteKind::Checkpoint, Signer::throwaway()).unwrap()
    }

    #[test]
    fn who_knows_either_key_can_check_what_both_signed() {
        let (old, new, other) = (signer("log"), signer("log"), signer("log"));
        let both = LogSigners::new([old.clone(), new.clone()]).unwrap();
        let checkpoint = both.checkpoint(7, record_hash(b"x")).unwrap();
        let statement = both.sign_statement("text").unwrap();
        for known in [&old, &new] {
            let opened = Checkpoint::open(checkpoint.note(), known.verifier()).unwrap();
            assert_eq!(opened, checkpoint);
            assert!(known.verifier().signed_statement("text", &statement));
            assert!(!known.verifier().signed_statement("another", &statement));
        }
        assert!(Checkpoint::open(checkpoint.note(), other.verifier()).is_err());
        assert!(!other.verifier().signed_statement("text", &statement));

        let known = [other.verifier().clone(), new.verifier().clone()];
        assert!(Checkpoint::open(checkpoint.note(), &known[..]).is_ok());
        assert!(!checkpoint.is_signed_by_exactly(&known));
        assert!(checkpoint.is_signed_by_exactly(&both.verifiers()));
        let alone = checkpoint.with_only(&known).unwrap();
        assert!(Checkpoint::open(alone.note(), new.verifier()).is_ok());
        assert!(Checkpoint::open(alone.note(), old.verifier()).is_err());
        assert!(checkpoint.with_only(&known[..1]).is_none());
        // A wrong signature in the name of a key that is known spoils the others.
        let forged = checkpoint.note().replace("\n7\n", "\n8\n");
        assert!(Checkpoint::open(&forged, &both.verifiers()[..]).is_err());
    }

    #[test]
    fn a_succession_is_of_one_log_and_of_those_two_keys() {
        let (old, new) = (signer("log"), signer("log"));
        let note = old.sign_succession(new.verifier()).unwrap();
        assert!(old.verifier().signed_succession(new.verifier(), &note));
        assert!(!old.verifier().signed_succession(old.verifier(), &note));
        assert!(!new.verifier().signed_succession(new.verifier(), &note));
        let elsewhere = signer("elsewhere");
        let note = old.sign_succession(elsewhere.verifier()).unwrap();
        assert!(
            !old.verifier()
                .signed_succession(elsewhere.verifier(), &note)
        );
        assert!(LogSigners::new([old, elsewhere]).is_none());
        assert!(LogSigners::new([]).is_none());
    }
}
