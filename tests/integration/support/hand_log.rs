use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use tlog_tiles::{Error, Hash, HashReader, prove_tree, record_hash, stored_hashes, tree_hash};

/// A log made by hand, with its key at the test's disposal: it can say anything, also about a
/// history that it does not have.
#[derive(Clone)]
pub(crate) struct HandLog {
    origin: String,
    pair: Arc<Ed25519KeyPair>,
    stored: Vec<Hash>,
    size: u64,
}

struct Stored<'a>(&'a [Hash]);

impl HashReader for Stored<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        let at = |index: &u64| self.0.get(*index as usize).copied();
        let found: Option<Vec<_>> = indexes.iter().map(at).collect();
        found.ok_or(Error::IndexesNotInTree)
    }
}

impl HandLog {
    pub(crate) fn new(origin: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self {
            origin: origin.to_owned(),
            pair: Ed25519KeyPair::from_pkcs8(document.as_ref())
                .expect("a key")
                .into(),
            stored: Vec::new(),
            size: 0,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Appends entries until it has so many. Those of one `history` are alike.
    pub(crate) fn grow(&mut self, size: u64, history: &str) {
        while self.size < size {
            let entry = format!("{history} {}", self.size);
            let hashes = stored_hashes(self.size, entry.as_bytes(), &Stored(&self.stored));
            self.stored.extend(hashes.expect("a tree"));
            self.size += 1;
        }
    }

    /// The same log with the same key, which goes on in its own way from a size on.
    pub(crate) fn fork(&mut self, from: u64, size: u64, history: &str) {
        self.stored.clear();
        self.size = 0;
        self.grow(from, "honest");
        self.grow(size, history);
    }

    fn key_bytes(&self) -> Vec<u8> {
        [&[1], self.pair.public_key().as_ref()].concat()
    }

    fn id(&self) -> [u8; 4] {
        let text = [self.origin.as_bytes(), b"\n", &self.key_bytes()].concat();
        let hash = digest(&SHA256, &text);
        *hash.as_ref().first_chunk().expect("32 bytes")
    }

    pub(crate) fn key(&self) -> String {
        let id = u32::from_be_bytes(self.id());
        let key = STANDARD.encode(self.key_bytes());
        format!("{}+{id:08x}+{key}", self.origin)
    }

    /// Signs whatever is given.
    pub(crate) fn sign(&self, text: &str) -> String {
        let signature = [&self.id(), self.pair.sign(text.as_bytes()).as_ref()].concat();
        let line = STANDARD.encode(signature);
        format!("{text}\n\u{2014} {} {line}\n", self.origin)
    }

    /// The signed checkpoint of a size.
    pub(crate) fn note(&self, size: u64) -> String {
        let root = tree_hash(size, &Stored(&self.stored)).expect("a tree");
        self.sign(&format!("{}\n{size}\n{root}\n", self.origin))
    }

    /// The lines of the proof that `new` continues `old`.
    pub(crate) fn proof(&self, old: u64, new: u64) -> String {
        if old == 0 || old >= new {
            return String::new();
        }
        let proof = prove_tree(new, old, &Stored(&self.stored)).expect("a tree");
        proof.iter().map(|hash| format!("{hash}\n")).collect()
    }

    /// A body of `add-checkpoint`.
    pub(crate) fn body(&self, old: u64, new: u64) -> String {
        format!("old {old}\n{}\n{}", self.proof(old, new), self.note(new))
    }

    /// The hash of a leaf that nobody has.
    pub(crate) fn stray_hash() -> Hash {
        record_hash(b"nobody's")
    }
}
