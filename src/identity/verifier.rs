use std::sync::{Mutex, MutexGuard, PoisonError};

use ssh_key::SshSig;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::REQUEST_NAMESPACE;
use super::signature::{SignatureError, Signed, Unverified, fits, made};
use crate::certificate::{Ed25519Key, Ed25519Signature};
use crate::prepared::Prepared;

/// How many are verified together. More hardly cost less each, and keep a thread longer.
const LARGEST: usize = 16;
/// How many keys are kept, in some 2 MB: anybody can fill that.
const MOST_KEYS: usize = 4096;

/// Verifies signatures, those together that come at the same time: of Ed25519 that costs less than
/// half for each. Nothing waits for others that may come: whoever is first lets those go ahead
/// that are ready to run at that moment.
#[derive(Default)]
pub struct Verifier {
    waiting: Mutex<Vec<Waiting>>,
    /// The Ed25519 keys that requests were signed with of late, enrolled or not: to read one takes a third
    /// as long as to verify a signature with others.
    keys: Prepared<[u8; 32], Ed25519Key, MOST_KEYS>,
}

/// Fewer than [`LARGEST`] at any time. When there are some, the first has a [`Leader`].
struct Waiting {
    signature: Ed25519Signature,
    fits: oneshot::Sender<bool>,
}

impl Verifier {
    /// Does what [`verify`](super::verify) does.
    ///
    /// # Errors
    /// When the namespace is another, the key is weak, or the signature does not fit.
    pub async fn verify(
        &self,
        sig: &SshSig,
        namespace: &str,
        message: &[u8],
    ) -> Result<Signed, SignatureError> {
        let unverified = Unverified::new(sig, namespace, message, |key| match namespace {
            REQUEST_NAMESPACE => self.keys.get(*key, || Ed25519Key::read(key)),
            // The key to be certified is mostly a new one.
            _ => Ed25519Key::read(key),
        })?;
        let fits = match unverified {
            Unverified::Ed25519(signature) => self.fits(*signature).await,
            Unverified::Other(signed) => fits(sig, &signed),
        };
        made(sig, fits)
    }

    async fn fits(&self, signature: Ed25519Signature) -> bool {
        let (fits, answer) = oneshot::channel();
        let (first, full) = {
            let mut waiting = self.lock();
            waiting.push(Waiting { signature, fits });
            let full = waiting.len() == LARGEST;
            (
                waiting.len() == 1,
                full.then(|| std::mem::take(&mut *waiting)),
            )
        };
        if let Some(full) = full {
            together(full);
        }
        if first {
            let leader = Leader(self);
            yield_now().await;
            drop(leader);
        }
        // Nobody answers when verifying failed in an unforeseen way: then it does not fit.
        answer.await.unwrap_or(false)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees to it that those who wait are answered, also when the request that was first goes away.
struct Leader<'a>(&'a Verifier);

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let waiting = std::mem::take(&mut *self.0.lock());
        together(waiting);
    }
}

/// Answers all of them. When one does not fit, each is verified by itself.
fn together(waiting: Vec<Waiting>) {
    let (signatures, answers): (Vec<_>, Vec<_>) = waiting
        .into_iter()
        .map(|Waiting { signature, fits }| (signature, fits))
        .unzip();
    let all = signatures.len() > 1 && Ed25519Signature::verify_all(&signatures);
    for (signature, fits) in signatures.iter().zip(answers) {
        // Whoever asked may have gone away.
        let _ = fits.send(all || signature.verify());
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;

    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use ssh_key::private::Ed25519Keypair;
    use ssh_key::public::{Ed25519PublicKey, KeyData};
    use ssh_key::{Algorithm, HashAlg, PrivateKey, Signature};
    use tokio::task::JoinSet;

    use super::super::{REQUEST_NAMESPACE, verify};
    use super::*;

    fn signed(seed: u8, message: &[u8]) -> SshSig {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
        key.sign(REQUEST_NAMESPACE, HashAlg::Sha512, message)
            .unwrap()
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    /// What each is told when all come at the same time.
    async fn verified(
        verifier: &Arc<Verifier>,
        asked: Vec<(SshSig, &'static [u8])>,
    ) -> Vec<Result<Signed, SignatureError>> {
        let mut tasks = JoinSet::new();
        for (number, (sig, message)) in asked.into_iter().enumerate() {
            let verifier = Arc::clone(verifier);
            tasks.spawn(async move {
                let answer = verifier.verify(&sig, REQUEST_NAMESPACE, message).await;
                (number, answer)
            });
        }
        let mut answers = tasks.join_all().await;
        answers.sort_by_key(|(number, _)| *number);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    proptest! {
        #[test]
        fn each_is_told_what_it_would_be_told_alone(
            good in prop::collection::vec(prop::bool::weighted(0.9), 1..50)
        ) {
            let verifier = Arc::default();
            let message = |good| if good { &b"message"[..] } else { b"another" };
            let asked = || good.iter().zip(0..).map(|(good, seed)| (signed(seed, b"message"), message(*good)));
            let answers = runtime().block_on(verified(&verifier, asked().collect()));
            let alone: Vec<_> = asked()
                .map(|(sig, message)| verify(&sig, REQUEST_NAMESPACE, message))
                .collect();
            prop_assert_eq!(&answers, &alone);
            let fit: Vec<bool> = answers.iter().map(Result::is_ok).collect();
            prop_assert_eq!(fit, good);
            prop_assert!(verifier.lock().is_empty());
        }
    }

    #[test]
    fn threads_do_not_answer_for_each_other() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .build()
            .unwrap();
        let verifier = Arc::default();
        let good = |number: usize| !number.is_multiple_of(31);
        let asked = (0..500).map(|number| {
            let said = if good(number) {
                &b"message"[..]
            } else {
                b"other"
            };
            (signed(number as u8, said), &b"message"[..])
        });
        let answers = runtime.block_on(verified(&verifier, asked.collect()));
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer.is_ok(), good(number), "{number}");
        }
    }

    #[test]
    fn those_who_wait_are_answered_when_the_first_goes_away() {
        let verifier = Verifier::default();
        let [sig, other] = [1, 2].map(|seed| signed(seed, b"message"));
        let begun = |sig| Box::pin(verifier.verify(sig, REQUEST_NAMESPACE, b"message"));
        let (mut first, mut second) = (begun(&sig), begun(&other));
        runtime().block_on(async {
            poll_fn(|context| {
                assert!(first.as_mut().poll(context).is_pending());
                assert!(second.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
            drop(first);
            let answer = second.as_mut().now_or_never();
            assert!(answer.expect("an answer").is_ok());
        });
    }

    /// With the neutral point as a key, everything is signed by it and nothing.
    #[test]
    fn a_key_of_low_order_signs_nothing() {
        let neutral = {
            let mut point = [0; 32];
            point[0] = 1;
            point
        };
        let signature = [neutral, [0; 32]].concat();
        let forged = || {
            SshSig::new(
                KeyData::Ed25519(Ed25519PublicKey(neutral)),
                REQUEST_NAMESPACE,
                HashAlg::Sha512,
                Signature::new(Algorithm::Ed25519, signature.clone()).unwrap(),
            )
            .unwrap()
        };
        let alone = verify(&forged(), REQUEST_NAMESPACE, b"message");
        assert_eq!(alone, Err(SignatureError::WeakKey));
        let asked = vec![
            (forged(), &b"message"[..]),
            (signed(1, b"message"), b"message"),
            (forged(), b"message"),
        ];
        let answers = runtime().block_on(verified(&Arc::default(), asked));
        assert_eq!(answers[0], Err(SignatureError::WeakKey));
        assert!(answers[1].is_ok());
        assert_eq!(answers[2], Err(SignatureError::WeakKey));
    }
}
