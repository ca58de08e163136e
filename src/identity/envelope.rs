use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ssh_encoding::Decode;
use ssh_key::SshSig;

use crate::model::Timestamp;

/// How far a request's time may be from the server's clock.
pub const MAX_SKEW: Duration = Duration::from_secs(60);

/// A request as it came over the wire, with what its headers claim.
pub struct SignedRequest {
    /// The HTTP method in capitals.
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// The body as sent.
    pub body: Vec<u8>,
    /// The signature and what it covers; nothing when the headers don't hold one.
    pub proof: Option<Proof>,
}

/// The headers `Hallpass-Time`, `Hallpass-Nonce` and `Hallpass-Signature`.
pub struct Proof {
    /// When the request was signed.
    pub time: Timestamp,
    /// 22 to 64 characters of unpadded base64url that the client never uses again.
    pub nonce: String,
    /// The SSHSIG.
    pub signature: SshSig,
}

impl Proof {
    /// The header that says when.
    pub const TIME: &'static str = "hallpass-time";
    /// The header that holds the nonce.
    pub const NONCE: &'static str = "hallpass-nonce";
    /// The header that holds the signature: the base64 of an armored SSHSIG without its armor.
    pub const SIGNATURE: &'static str = "hallpass-signature";

    /// Reads the headers' values, or nothing when one is not legal.
    pub fn parse(time: &str, nonce: &str, signature: &str) -> Option<Self> {
        let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if !(22..=64).contains(&nonce.len()) || !nonce.bytes().all(legal) {
            return None;
        }
        let signature = STANDARD.decode(signature).ok()?;
        let mut rest = signature.as_slice();
        let signature = SshSig::decode(&mut rest).ok()?;
        if !rest.is_empty() {
            return None;
        }
        Some(Self {
            time: time.parse().ok()?,
            nonce: nonce.to_owned(),
            signature,
        })
    }
}

/// The text that a requester signs in the namespace
/// [`REQUEST_NAMESPACE`](super::REQUEST_NAMESPACE). `audience` is the fingerprint of the CA's root
/// certificate, so that a request to one CA is worth nothing to another. `target` is path and
/// query as sent.
pub fn request_message(
    audience: &str,
    method: &str,
    target: &str,
    body: &[u8],
    time: Timestamp,
    nonce: &str,
) -> String {
    let body = base16ct::lower::encode_string(digest(&SHA256, body).as_ref());
    format!(
        "hallpass-request-v1\naudience {audience}\nmethod {method}\ntarget {target}\n\
         body sha256:{body}\ntime {time}\nnonce {nonce}\n"
    )
}

/// The text that the key to be certified signs in the namespace
/// [`POSSESSION_NAMESPACE`](super::POSSESSION_NAMESPACE). It binds the proof to one request of one
/// requester: seen elsewhere, it is worth nothing.
pub fn possession_message(audience: &str, requester_fingerprint: &str, nonce: &str) -> String {
    format!(
        "hallpass-possession-v1\naudience {audience}\nrequester {requester_fingerprint}\n\
         nonce {nonce}\n"
    )
}

/// The text that a FIDO2 key signs in the namespace [`TOUCH_NAMESPACE`](super::TOUCH_NAMESPACE) as the
/// second factor of a session. It binds the touch to one request by the session's key: nonces are
/// forgotten after a while, times are not.
pub fn touch_message(
    audience: &str,
    session_fingerprint: &str,
    time: Timestamp,
    nonce: &str,
) -> String {
    format!(
        "hallpass-touch-v1\naudience {audience}\nsession {session_fingerprint}\ntime {time}\n\
         nonce {nonce}\n"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_signed_text_is_what_the_docs_say() {
        let time = "2026-01-31T09:30:00Z".parse().unwrap();
        assert_eq!(
            request_message(
                "SHA256:abc",
                "POST",
                "/v1/x?y=1",
                b"{}",
                time,
                "nnnnnnnnnnnnnnnnnnnnnn"
            ),
            "hallpass-request-v1\n\
             audience SHA256:abc\n\
             method POST\n\
             target /v1/x?y=1\n\
             body sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n\
             time 2026-01-31T09:30:00Z\n\
             nonce nnnnnnnnnnnnnnnnnnnnnn\n"
        );
    }

    proptest! {
        #[test]
        fn no_headers_panic(time in "\\PC{0,40}", nonce in "\\PC{0,70}", bytes: Vec<u8>) {
            let _ = Proof::parse(&time, &nonce, &STANDARD.encode(&bytes));
            let mut sig = b"SSHSIG\0\0\0\x01".to_vec();
            sig.extend(bytes);
            let nonce = "n".repeat(22);
            let _ = Proof::parse("2026-01-31T09:30:00Z", &nonce, &STANDARD.encode(&sig));
        }
    }
}
