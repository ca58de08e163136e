use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hallpass::audit::{NoteKind, NoteSigner};
use hallpass::certificate::{ClientGrant, CsrSubject, IssuingCa, SshCa, SshUserGrant, Validity};
use hallpass::keys::{KeyStore, Passphrase};
use hallpass::model::{EntryIndex, KeyId, Serial};
use zeroize::Zeroizing;

use super::{Folder, Home, P256, PASSPHRASE, Person, make_csr};

/// Whoever has a home's CA keys, of all times.
pub(crate) struct Thief(KeyStore);

impl Thief {
    pub(crate) fn of(home: &Home) -> Self {
        let passphrase = Zeroizing::new(PASSPHRASE.to_owned());
        let passphrase = Passphrase::new(passphrase).expect("a passphrase");
        let keys = KeyStore::open(&home.path().join("keys"), &passphrase);
        Self(keys.expect("the home's keys"))
    }

    pub(crate) fn ssh(&self, id: KeyId) -> SshCa {
        SshCa::new(self.0.signer(id).expect("the key").signer).expect("a CA")
    }

    /// A checkpoint's text signed by a key of the thief's as if it were that log's, and the verifier
    /// key that goes with it.
    pub(crate) fn note(&self, id: KeyId, text: &str) -> (String, String) {
        let signer = self.0.signer(id).expect("the key").signer;
        let origin = text.lines().next().expect("an origin");
        let key = NoteSigner::new(origin, NoteKind::Checkpoint, signer.clone()).expect("a key");
        let key = key.verifier().to_string();
        let number = key.split('+').nth(1).expect("an id");
        let number = u32::from_str_radix(number, 16).expect("an id");
        let signature = signer.sign(text.as_bytes()).expect("a signature");
        let signature = STANDARD.encode([&number.to_be_bytes(), &*signature].concat());
        (format!("{text}\n\u{2014} {origin} {signature}\n"), key)
    }

    pub(crate) fn issuing(&self, id: KeyId) -> IssuingCa {
        let key = self.0.signer(id).expect("the key");
        IssuingCa::new(&key.public, key.signer).expect("a CA")
    }
}

/// A user certificate that no log knows of.
pub(crate) fn forge_ssh(
    ca: &SshCa,
    person: &Person,
    principal: &str,
    networks: &[&str],
    validity: Validity,
) -> String {
    let networks: Vec<_> = networks
        .iter()
        .map(|network| network.parse().expect("a network"))
        .collect();
    let grant = SshUserGrant {
        subject: person.key.public_key().key_data(),
        serial: Serial::new(7).expect("a serial number"),
        entry: EntryIndex(7),
        requester: &"mallory".parse().expect("a name"),
        role: &"server-operator".parse().expect("a name"),
        purpose: &"incident".parse().expect("a name"),
        principals: &[principal.parse().expect("a name")],
        extensions: &[],
        force_command: None,
        source_addresses: &networks,
        validity,
        nonce: [7; 32],
    };
    ca.user_certificate(&grant).expect("a certificate")
}

/// A folder with `client.key` and `client.csr`.
pub(crate) fn client_key() -> Folder {
    let folder = Folder::new();
    make_csr(&folder, "client", &P256, &[]);
    folder
}

/// A client certificate for the key in [such a folder](client_key) that no log knows of, with the
/// CA's behind it.
pub(crate) fn forge_client(
    ca: &IssuingCa,
    folder: &Folder,
    user: &str,
    validity: Validity,
) -> PathBuf {
    let csr = fs::read_to_string(folder.join("client.csr")).expect("a request");
    let grant = ClientGrant {
        subject: &CsrSubject::from_pem(&csr).expect("a request"),
        serial: Serial::new(7).expect("a serial number"),
        entry: EntryIndex(7),
        requester: &"mallory".parse().expect("a name"),
        role: &"patients-read".parse().expect("a name"),
        purpose: &"incident".parse().expect("a name"),
        user: &user.parse().expect("a name"),
        validity,
    };
    let leaf = ca.client_certificate(&grant).expect("a certificate");
    folder.write("certificate", leaf + ca.certificate_pem())
}
