//! How a token writes a public key down (`CKA_EC_POINT`).

use crate::keys::KeyAlgorithm;
use crate::keys::ecdsa::element;

const OCTET_STRING: u8 = 0x04;
const BIT_STRING: u8 = 0x03;
/// The first byte of a point that is written out in full (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 0x04;

/// The public key in a `CKA_EC_POINT`, or nothing when it is none of that algorithm.
///
/// The standard wants a DER OCTET STRING. There are tokens that leave the wrapping out, and for
/// Ed25519 some that use a BIT STRING, as PKCS#11 3.0 can be read. An uncompressed point begins with
/// the byte that is also an OCTET STRING's tag: only the length tells them apart.
pub(super) fn public_key(algorithm: KeyAlgorithm, ec_point: &[u8]) -> Option<Vec<u8>> {
    let wrapped = || {
        if let Some((content, [])) = element(ec_point, OCTET_STRING) {
            return Some(content);
        }
        match element(ec_point, BIT_STRING)? {
            ([0, content @ ..], []) if algorithm == KeyAlgorithm::Ed25519 => Some(content),
            _ => None,
        }
    };
    let is_one = |key: &[u8]| {
        key.len() == algorithm.public_key_length()
            && (algorithm == KeyAlgorithm::Ed25519 || key[0] == UNCOMPRESSED)
    };
    Some(ec_point)
        .filter(|key| is_one(key))
        .or_else(|| wrapped().filter(|key| is_one(key)))
        .map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_key() -> impl Strategy<Value = (KeyAlgorithm, Vec<u8>)> {
        (
            proptest::sample::select(KeyAlgorithm::ALL.to_vec()),
            any::<[u8; 32]>(),
        )
            .prop_map(|(algorithm, seed)| {
                let length = algorithm.public_key_length();
                let mut key: Vec<u8> = seed.into_iter().cycle().take(length).collect();
                if algorithm != KeyAlgorithm::Ed25519 {
                    key[0] = UNCOMPRESSED;
                }
                (algorithm, key)
            })
    }

    fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, content.len() as u8], content].concat()
    }

    proptest! {
        #[test]
        fn a_key_is_read_wrapped_or_not((algorithm, key) in any_key()) {
            prop_assert_eq!(public_key(algorithm, &key), Some(key.clone()));
            prop_assert_eq!(public_key(algorithm, &wrap(OCTET_STRING, &key)), Some(key.clone()));
            let bits = wrap(BIT_STRING, &[&[0], &*key].concat());
            let read = public_key(algorithm, &bits);
            prop_assert_eq!(read.is_some(), algorithm == KeyAlgorithm::Ed25519);
        }

        #[test]
        fn one_byte_more_or_less_is_no_key((algorithm, key) in any_key()) {
            let short = &key[..key.len() - 1];
            let long = [&*key, &[0]].concat();
            for other in [short, &long] {
                prop_assert_eq!(public_key(algorithm, other), None);
                prop_assert_eq!(public_key(algorithm, &wrap(OCTET_STRING, other)), None);
            }
            let trailing = [&*wrap(OCTET_STRING, &key), &[0]].concat();
            prop_assert_eq!(public_key(algorithm, &trailing), None);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            for algorithm in KeyAlgorithm::ALL {
                if let Some(key) = public_key(algorithm, &bytes) {
                    prop_assert_eq!(key.len(), algorithm.public_key_length());
                }
            }
        }
    }

    #[test]
    fn a_compressed_point_or_another_curves_is_no_key() {
        let mut compressed = vec![2; 33];
        assert_eq!(public_key(KeyAlgorithm::EcdsaP256, &compressed), None);
        compressed[0] = 3;
        assert_eq!(public_key(KeyAlgorithm::EcdsaP384, &compressed), None);
        let p384 = [&[UNCOMPRESSED], &[7; 96][..]].concat();
        assert_eq!(public_key(KeyAlgorithm::EcdsaP256, &p384), None);
        assert_eq!(
            public_key(KeyAlgorithm::EcdsaP256, &wrap(OCTET_STRING, &p384)),
            None
        );
    }
}
