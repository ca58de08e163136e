use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, SHA512, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};

use super::{Answer, Ca, Folder, Request, exchange, run};

/// What a FIDO2 key's application is when nobody names another.
const APPLICATION: &str = "ssh:";
/// Somebody touched it.
pub(crate) const TOUCHED: u8 = 1;
/// And gave a PIN or a finger.
pub(crate) const VERIFIED: u8 = 1 << 2;

/// A FIDO2 key in software, made from PROTOCOL.u2f and not from the library: it says what the test
/// wants of who was there and how often it signed. Whoever took one out of its authenticator has
/// that.
pub(crate) enum Authenticator {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl Authenticator {
    pub(crate) fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key"))
    }

    pub(crate) fn p256() -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        Self::P256(EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).expect("a key"))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "sk-ssh-ed25519@openssh.com",
            Self::P256(_) => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    fn public(&self) -> Vec<u8> {
        let mut blob = string(self.kind());
        match self {
            Self::Ed25519(key) => blob.extend(string(key.public_key())),
            Self::P256(key) => {
                blob.extend(string("nistp256"));
                blob.extend(string(key.public_key()));
            }
        }
        blob.extend(string(APPLICATION));
        blob
    }

    /// The key's line as in a `.pub` file.
    pub(crate) fn line(&self) -> String {
        format!("{} {}\n", self.kind(), STANDARD.encode(self.public()))
    }

    pub(crate) fn fingerprint(&self) -> String {
        let digest = digest(&SHA256, &self.public());
        let text = STANDARD.encode(digest);
        format!("SHA256:{}", text.trim_end_matches('='))
    }

    /// Signs a request's text: what the header `Hallpass-Signature` holds before it is base64.
    pub(crate) fn sign(&self, request: &Request<'_>, flags: u8, counter: u32) -> Vec<u8> {
        let message = request.message();
        self.sshsig(&request.namespace, message.as_bytes(), flags, counter)
    }

    /// An armored SSHSIG over a message, as `ssh-keygen -Y sign` prints it.
    pub(crate) fn armored(
        &self,
        namespace: &str,
        message: &[u8],
        flags: u8,
        counter: u32,
    ) -> String {
        let signature = STANDARD.encode(self.sshsig(namespace, message, flags, counter));
        let mut lines = vec!["-----BEGIN SSH SIGNATURE-----"];
        let mut rest = signature.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(70));
            lines.push(line);
            rest = more;
        }
        lines.push("-----END SSH SIGNATURE-----\n");
        lines.join("\n")
    }

    fn sshsig(&self, namespace: &str, message: &[u8], flags: u8, counter: u32) -> Vec<u8> {
        let mut signed = b"SSHSIG".to_vec();
        for part in [namespace.as_bytes(), b"", b"sha512"] {
            signed.extend(string(part));
        }
        signed.extend(string(digest(&SHA512, message)));
        let mut said = digest(&SHA256, APPLICATION.as_bytes()).as_ref().to_vec();
        said.push(flags);
        said.extend(counter.to_be_bytes());
        said.extend(digest(&SHA256, &signed).as_ref());
        let proper = match self {
            Self::Ed25519(key) => key.sign(&said).as_ref().to_vec(),
            Self::P256(key) => {
                let both = key.sign(&SystemRandom::new(), &said).expect("a signature");
                let (r, s) = both.as_ref().split_at(32);
                [integer(r), integer(s)].concat()
            }
        };
        let mut signature = string(self.kind());
        signature.extend(string(proper));
        signature.push(flags);
        signature.extend(counter.to_be_bytes());

        let mut whole = b"SSHSIG\0\0\0\x01".to_vec();
        whole.extend(string(self.public()));
        for part in [namespace.as_bytes(), b"", b"sha512"] {
            whole.extend(string(part));
        }
        whole.extend(string(signature));
        whole
    }

    /// Sends a request that it signed.
    pub(crate) fn send(&self, ca: &Ca, request: &Request<'_>, flags: u8, counter: u32) -> Answer {
        exchange(ca, &bytes(request, &self.sign(request, flags, counter))).expect("an answer")
    }

    /// The file that `ssh-keygen -O write-attestation` would have written when this key was made,
    /// with a maker's certificate and key as OpenSSL made them.
    pub(crate) fn attestation(&self, challenge: &[u8], maker: &(PathBuf, PathBuf)) -> Vec<u8> {
        let mut data = digest(&SHA256, APPLICATION.as_bytes()).as_ref().to_vec();
        data.extend(b"\x41\0\0\0\x01a-model-of-a-key\0\x04cred");
        match self {
            Self::Ed25519(key) => {
                data.extend(b"\xa4\x01\x01\x03\x27\x20\x06\x21\x58\x20");
                data.extend(key.public_key().as_ref());
            }
            Self::P256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                data.extend(b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20");
                data.extend(x);
                data.extend(b"\x22\x58\x20");
                data.extend(y);
            }
        }
        let folder = Folder::new();
        let hash = digest(&SHA256, challenge);
        let message = folder.write("message", [&data, hash.as_ref()].concat());
        let signature = folder.join("signature");
        let (certificate, key) = maker;
        let paths = [key, &signature, &message].map(|path| path.display().to_string());
        let [key, out, message] = paths.each_ref().map(String::as_str);
        run(
            "openssl",
            ["dgst", "-sha256", "-sign", key, "-out", out, message],
        )
        .ok();
        let der = folder.join("certificate").display().to_string();
        let pem = certificate.display().to_string();
        run(
            "openssl",
            ["x509", "-in", &pem, "-outform", "DER", "-out", &der],
        )
        .ok();

        let mut file = string("ssh-sk-attest-v01");
        file.extend(string(std::fs::read(der).expect("a certificate")));
        file.extend(string(std::fs::read(signature).expect("a signature")));
        let length = u8::try_from(data.len()).expect("a short text");
        file.extend(string([&[0x58, length], data.as_slice()].concat()));
        file.extend([0; 8]);
        file
    }
}

/// A request as it is sent, with any signature.
pub(crate) fn bytes(request: &Request<'_>, signature: &[u8]) -> Vec<u8> {
    request.bytes_with(&[
        ("Hallpass-Time", request.time.clone()),
        ("Hallpass-Nonce", request.nonce.clone()),
        ("Hallpass-Signature", STANDARD.encode(signature)),
    ])
}

fn string(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u32::try_from(bytes.len()).expect("a short text");
    [&length.to_be_bytes(), bytes].concat()
}

/// As SSH writes a number that is not negative.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = &bytes[zeros..];
    let negative = digits.first().is_some_and(|byte| byte & 0x80 != 0);
    string([if negative { &[0][..] } else { &[] }, digits].concat())
}
