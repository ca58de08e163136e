use std::fmt;
use std::str::FromStr;

use crate::audit::{Hash, Hashes};

/// The most hashes of a consistency proof that may be sent.
const MOST_HASHES: usize = 63;

/// The body of `add-checkpoint` (C2SP tlog-witness).
#[derive(Clone, Debug, PartialEq)]
pub struct AddCheckpoint {
    /// The size that the witness is believed to have cosigned last.
    pub old: u64,
    /// The proof that the log continues the one of that size.
    pub proof: Hashes,
    /// The signed note of the checkpoint.
    pub note: String,
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        for hash in &self.proof.0 {
            writeln!(f, "{hash}")?;
        }
        writeln!(f)?;
        f.write_str(&self.note)
    }
}

impl FromStr for AddCheckpoint {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (head, note) = text.split_once("\n\n").ok_or(Malformed::Body)?;
        let mut lines = head.split('\n');
        let old = lines
            .next()
            .and_then(|line| line.strip_prefix("old "))
            .and_then(size)
            .ok_or(Malformed::OldSize)?;
        let hashes = lines
            .map(|line| Hash::parse_hash(line).map_err(|_| Malformed::Hash))
            .take(MOST_HASHES + 1)
            .collect::<Result<Vec<_>, _>>()?;
        if hashes.len() > MOST_HASHES {
            return Err(Malformed::TooManyHashes);
        }
        Ok(Self {
            old,
            proof: Hashes(hashes),
            note: note.to_owned(),
        })
    }
}

/// A size as C2SP writes it: in decimal digits, without zeroes in front.
pub(super) fn size(text: &str) -> Option<u64> {
    let size: u64 = text.parse().ok()?;
    (size.to_string() == text).then_some(size)
}

/// Why a body can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Its parts are not there.
    #[error(
        "send a line with the old size, the lines of the proof, an empty line and a checkpoint"
    )]
    Body,
    /// The first line.
    #[error("the first line: send the old size, such as: old 1042")]
    OldSize,
    /// A line of the proof.
    #[error("the proof: a line is no hash in base64")]
    Hash,
    /// The proof as a whole.
    #[error("the proof: it has more than {MOST_HASHES} lines")]
    TooManyHashes,
    /// The rest.
    #[error("it holds no checkpoint (C2SP tlog-checkpoint)")]
    Checkpoint,
    /// The size in it.
    #[error("the old size is larger than the checkpoint's")]
    Backwards,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";

    #[test]
    fn a_body_is_read_as_it_is_written() {
        for lines in [0, 1, 63] {
            let text = format!("old 7\n{}\nlog\n8\n", format!("{HASH}\n").repeat(lines));
            let parsed: AddCheckpoint = text.parse().unwrap();
            assert_eq!((parsed.old, parsed.proof.0.len()), (7, lines));
            assert_eq!(parsed.note, "log\n8\n");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn what_the_specification_does_not_allow_is_refused() {
        let too_many = format!("old 7\n{}\nlog\n", format!("{HASH}\n").repeat(64));
        for (text, why) in [
            ("", Malformed::Body),
            ("old 7\nlog\n", Malformed::Body),
            ("\n\nlog\n", Malformed::OldSize),
            ("new 7\n\nlog\n", Malformed::OldSize),
            ("old 07\n\nlog\n", Malformed::OldSize),
            ("old +7\n\nlog\n", Malformed::OldSize),
            ("old -7\n\nlog\n", Malformed::OldSize),
            ("old  7\n\nlog\n", Malformed::OldSize),
            ("old 7 \n\nlog\n", Malformed::OldSize),
            ("old 7\r\n\nlog\n", Malformed::OldSize),
            ("old 18446744073709551616\n\nlog\n", Malformed::OldSize),
            ("old 7\nAAAA\n\nlog\n", Malformed::Hash),
            ("old 7\n \n\nlog\n", Malformed::Hash),
            (&too_many, Malformed::TooManyHashes),
        ] {
            assert_eq!(text.parse::<AddCheckpoint>(), Err(why), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(old [0-9]{0,20}\n)?([A-Za-z0-9+/=]{0,50}\n){0,5}\n?\\PC{0,40}") {
            let _ = text.parse::<AddCheckpoint>();
        }
    }
}
