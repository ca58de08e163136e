//! The two forms of an ECDSA signature that are met here: the `Ecdsa-Sig-Value` of X.509 (RFC 3279,
//! section 2.2.3), in DER, and PKCS#11's r and s side by side.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

/// The `Ecdsa-Sig-Value` of r and s, each in half of `raw`. Nothing when that has no halves, or more
/// bytes than a signature on P-384 has.
pub(super) fn to_der(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.is_empty() || !raw.len().is_multiple_of(2) || raw.len() > 96 {
        return None;
    }
    let (r, s) = raw.split_at(raw.len() / 2);
    let content = [integer(r), integer(s)].concat();
    // At most 2 * (2 + 49): one byte of length is enough.
    Some([&[SEQUENCE, content.len() as u8], &*content].concat())
}

/// A positive integer: no zeros in front but one where the first bit would be a sign.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = &bytes[zeros..];
    let pad: &[u8] = match digits.first() {
        Some(first) if first & 0x80 == 0 => &[],
        _ => &[0],
    };
    [&[INTEGER, (pad.len() + digits.len()) as u8], pad, digits].concat()
}

/// r and s of an `Ecdsa-Sig-Value`, each as SSH writes an `mpint` (RFC 4251, section 5), which is
/// what stands in a DER integer. Nothing when it is none.
pub fn ecdsa_integers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, []) = element(der, SEQUENCE)? else {
        return None;
    };
    let (r, rest) = element(content, INTEGER)?;
    let (s, []) = element(rest, INTEGER)? else {
        return None;
    };
    Some((r, s))
}

/// The content of the element at the start, and what comes after it.
pub(super) fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk()?;
    if found != tag || length >= 0x80 {
        return None;
    }
    rest.split_at_checked(length.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    #[test]
    fn a_signature_in_the_other_form_verifies() {
        let random = SystemRandom::new();
        let fixed = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(fixed, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(fixed, document.as_ref(), &random).unwrap();
        let public_key = ring::signature::UnparsedPublicKey::new(
            &ring::signature::ECDSA_P256_SHA256_ASN1,
            key.public_key(),
        );
        // Often enough for zeros and high bits in front.
        for number in 0..600_u32 {
            let message = number.to_be_bytes();
            let raw = key.sign(&random, &message).unwrap();
            let der = to_der(raw.as_ref()).unwrap();
            public_key.verify(&message, &der).unwrap();
        }
    }

    #[test]
    fn what_has_no_halves_or_is_too_long_is_none() {
        for length in [0, 1, 63, 65, 97, 98, 132] {
            assert_eq!(to_der(&vec![1; length]), None, "{length}");
        }
        assert_eq!(to_der(&[0, 0]).unwrap(), [0x30, 6, 2, 1, 0, 2, 1, 0]);
        assert_eq!(
            to_der(&[0x80, 1]).unwrap(),
            [0x30, 7, 2, 2, 0, 0x80, 2, 1, 1]
        );
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(size in prop_oneof![Just(32_usize), Just(48)], seed: [u8; 32], zeros in 0_usize..40) {
            let mut raw: Vec<u8> = seed.iter().copied().cycle().take(2 * size).collect();
            raw[..zeros].fill(0);
            let der = to_der(&raw).unwrap();
            let (r, s) = ecdsa_integers(&der).unwrap();
            for (written, integer) in [(&raw[..size], r), (&raw[size..], s)] {
                // Positive, and as short as can be.
                prop_assert!(integer[0] & 0x80 == 0);
                prop_assert!(integer.len() == 1 || integer[0] != 0 || integer[1] & 0x80 != 0);
                let mut padded = vec![0; (size + 1) - integer.len()];
                padded.extend(integer);
                prop_assert_eq!(&padded[1..], written);
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = ecdsa_integers(&bytes);
            let _ = to_der(&bytes);
        }

        #[test]
        fn what_is_cut_off_or_longer_is_none(raw: [u8; 32], cut in 0_usize..60) {
            let der = to_der(&raw).unwrap();
            prop_assert!(ecdsa_integers(&der[..cut.min(der.len() - 1)]).is_none());
            prop_assert!(ecdsa_integers(&[&*der, &[0]].concat()).is_none());
        }
    }
}
