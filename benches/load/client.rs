//! A client of Hallpass that signs its requests beforehand.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hallpass::identity::{
    POSSESSION_NAMESPACE, Proof, REQUEST_NAMESPACE, possession_message, request_message,
};
use hallpass::keys::random_bytes;
use hallpass::model::{Serial, SshCertificateRequest, Timestamp, X509CertificateRequest};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Deserialize;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use crate::connection::{Connection, post};
use crate::server::Server;
use crate::target::{Kind, Target};

const SSH_PATH: &str = "/v1/certificates/ssh";
const X509_PATH: &str = "/v1/certificates/x509";
/// Roles, a purpose and a reason that the starter policies accept.
const SSH_ROLE: &str = "server-operator";
const DATABASE_ROLE: &str = "patients-read";
const PURPOSE: &str = "incident";
const REASON: &str = "INC-4711";
/// A server, and somebody who may have both kinds of certificate from it.
pub(crate) struct Hallpass<'a> {
    pub(crate) server: &'a Server,
    pub(crate) signer: &'a Signer,
}

impl Target for Hallpass<'_> {
    type Subject = Subject;
    type Request = Vec<u8>;
    type Connection = Connection;

    fn connect(&self) -> Connection {
        self.server.connect()
    }

    fn subject(&self, kind: Kind) -> Subject {
        Subject::new(kind, &[])
    }

    fn request(&self, subject: &Subject) -> Vec<u8> {
        self.signer.ask(subject).bytes()
    }

    fn exchange<'a>(&self, connection: &'a mut Connection, request: &Vec<u8>) -> &'a [u8] {
        connection.exchange(request)
    }

    fn serial(&self, kind: Kind, answer: &[u8]) -> u128 {
        #[derive(Deserialize)]
        struct Answer {
            serial: Serial,
            certificate: String,
        }
        let answer: Answer = serde_json::from_slice(answer).expect("a certificate");
        let mark = match kind {
            Kind::Ssh => "ssh-ed25519-cert-v01@openssh.com ",
            Kind::X509 => "-----BEGIN CERTIFICATE-----\n",
        };
        assert!(
            answer.certificate.starts_with(mark),
            "not a certificate for {}: {}",
            kind.name(),
            answer.certificate
        );
        answer.serial.get().into()
    }

    fn cpu(&self) -> Duration {
        self.server.process.cpu()
    }
}

/// A key to be certified.
pub(crate) enum Subject {
    Ssh { key: Box<PrivateKey>, line: String },
    X509 { csr: String },
}

impl Subject {
    /// `names` are those that a CSR asks for.
    pub(crate) fn new(kind: Kind, names: &[&str]) -> Self {
        match kind {
            Kind::Ssh => {
                let key = Box::new(new_key());
                let line = key.public_key().to_openssh().expect("a public key");
                Self::Ssh { key, line }
            }
            Kind::X509 => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
                let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
                let mut params = CertificateParams::new(names).expect("names");
                params.distinguished_name = DistinguishedName::new();
                let csr = params.serialize_request(&key).expect("a request");
                Self::X509 {
                    csr: csr.pem().expect("PEM"),
                }
            }
        }
    }
}

/// An enrolled key, and the CA that it signs for.
pub(crate) struct Signer {
    key: PrivateKey,
    pub(crate) fingerprint: String,
    pub(crate) audience: String,
}

impl Signer {
    pub(crate) fn new(key: PrivateKey, audience: &str) -> Self {
        Self {
            fingerprint: key.public_key().fingerprint(HashAlg::Sha256).to_string(),
            key,
            audience: audience.to_owned(),
        }
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub(crate) fn public_line(&self) -> String {
        self.key.public_key().to_openssh().expect("a public key")
    }

    /// Asks for a certificate.
    pub(crate) fn ask(&self, subject: &Subject) -> Signed {
        let word = "a legal word";
        let nonce = nonce();
        let reason = Some(REASON.parse().expect(word));
        let (target, proof, body) = match subject {
            Subject::Ssh { key, line } => {
                let message = possession_message(&self.audience, &self.fingerprint, &nonce);
                let possession = sign(key, POSSESSION_NAMESPACE, &message);
                let body = SshCertificateRequest {
                    role: SSH_ROLE.parse().expect(word),
                    purpose: PURPOSE.parse().expect(word),
                    reason,
                    ttl: None,
                    public_key: line.clone(),
                    possession: possession.clone(),
                };
                (SSH_PATH, possession, serde_json::to_vec(&body))
            }
            Subject::X509 { csr } => {
                let body = X509CertificateRequest {
                    role: DATABASE_ROLE.parse().expect(word),
                    purpose: PURPOSE.parse().expect(word),
                    reason,
                    ttl: None,
                    csr: csr.clone(),
                };
                (X509_PATH, csr.clone(), serde_json::to_vec(&body))
            }
        };
        Signed {
            proof,
            ..self.sign_with(target, body.expect("JSON"), nonce)
        }
    }

    /// Signs a POST.
    pub(crate) fn sign(&self, target: &'static str, body: Vec<u8>) -> Signed {
        self.sign_with(target, body, nonce())
    }

    fn sign_with(&self, target: &'static str, body: Vec<u8>, nonce: String) -> Signed {
        let time = now();
        let message = request_message(&self.audience, "POST", target, &body, time, &nonce);
        let armored = sign(&self.key, REQUEST_NAMESPACE, &message);
        Signed {
            target,
            body,
            time: time.to_string(),
            nonce,
            signature: armored
                .lines()
                .filter(|line| !line.starts_with('-'))
                .collect(),
            proof: String::new(),
        }
    }
}

/// A signed request.
pub(crate) struct Signed {
    pub(crate) target: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) time: String,
    pub(crate) nonce: String,
    pub(crate) signature: String,
    /// What proves that the requester holds the key to be certified: the SSHSIG of possession or
    /// the CSR, as in the body.
    pub(crate) proof: String,
}

impl Signed {
    /// As it goes over the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let Self {
            target,
            body,
            time,
            nonce,
            signature,
            ..
        } = self;
        let headers = [
            (Proof::TIME, time.as_str()),
            (Proof::NONCE, nonce),
            (Proof::SIGNATURE, signature),
        ];
        post(target, body, &headers)
    }
}

/// A fresh Ed25519 key.
pub(crate) fn new_key() -> PrivateKey {
    let seed = random_bytes().expect("randomness");
    PrivateKey::from(Ed25519Keypair::from_seed(&seed))
}

/// An armored SSHSIG.
fn sign(key: &PrivateKey, namespace: &str, message: &str) -> String {
    key.sign(namespace, HashAlg::Sha512, message.as_bytes())
        .and_then(|signature| signature.to_pem(LineEnding::LF))
        .expect("a signature")
}

/// A fresh nonce.
pub(crate) fn nonce() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<18>().expect("randomness"))
}

pub(crate) fn now() -> Timestamp {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a clock that is right");
    Timestamp::from_millis(since_1970.as_millis() as u64)
}
