//! Stretches of the log as files for others, and the proof beside such a file.

mod csv;
mod ocsf;

use std::fmt;
use std::io::{self, BufRead, Read};
use std::str::FromStr;

use serde_json::Value;

use super::checkpoint::{Checkpoint, CheckpointError, VerifierKey};
use super::proof::{Hashes, ProofError};
use super::range::{Rebuilt, Stretch};
use super::tree::Hash;

/// Longer than any line of an export: an entry has 64 KiB, and may be escaped.
const LONGEST_LINE: u64 = 1 << 20;

/// How an export is written. Each keeps the entries as the log has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One entry a line, as it is.
    Jsonl,
    /// A table for spreadsheets (RFC 4180).
    Csv,
    /// One event a line in the Open Cybersecurity Schema Framework.
    Ocsf,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Jsonl, Self::Csv, Self::Ocsf];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Ocsf => "ocsf",
        }
    }

    /// What stands above the entries.
    pub fn header(self) -> &'static str {
        match self {
            Self::Csv => csv::HEADER,
            Self::Jsonl | Self::Ocsf => "",
        }
    }

    /// An entry as a line, its end included.
    ///
    /// # Errors
    /// When it is no entry.
    pub fn line(self, entry: &str) -> Result<String, serde_json::Error> {
        Ok(match self {
            Self::Jsonl => format!("{entry}\n"),
            Self::Csv => csv::line(&serde_json::from_str(entry)?, entry),
            Self::Ocsf => ocsf::line(&serde_json::from_str(entry)?, entry)?,
        })
    }

    /// The entry of a line, when nothing else stands in it than what its entry says.
    fn entry(self, line: &str) -> Result<String, &'static str> {
        let entry = match self {
            Self::Jsonl => line.strip_suffix('\n').map(str::to_owned),
            Self::Csv => csv::entry(line),
            Self::Ocsf => ocsf::entry(line),
        };
        let entry = entry.ok_or("it is none of this format")?;
        match self.line(&entry) {
            Ok(own) if own == line => Ok(entry),
            Ok(_) => Err(
                "what stands beside the entry is not what the entry says: it was changed, or \
                 another version of Hallpass wrote it",
            ),
            Err(_) => Err("it has no entry"),
        }
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or("use jsonl, csv or ocsf")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Proves that the file beside it holds all that the log has from one entry to before another.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportProof {
    /// How the file is written.
    pub format: Format,
    /// Its first entry.
    pub first: u64,
    /// The entry behind its last.
    pub next: u64,
    /// The hashes of the complete subtrees before and behind it, in order.
    pub around: Hashes,
    /// The signed note of a checkpoint that covers it.
    pub note: String,
}

impl ExportProof {
    /// The first line of each.
    pub const HEADER: &'static str = "hallpass-export-proof/v1";

    /// Whether a text is one, of any legality.
    pub fn is_one(text: &str) -> bool {
        text.lines().next() == Some(Self::HEADER)
    }

    /// Checks the checkpoint against the log's key.
    ///
    /// # Errors
    /// When it is none of that log.
    pub fn checkpoint(
        &self,
        log: impl AsRef<[VerifierKey]>,
    ) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open(&self.note, log)
    }

    /// Reads the file beside it, a line at a time, and checks that it is what the log of that
    /// checkpoint has.
    ///
    /// # Errors
    /// At the first line that can't be read, and when it is not.
    pub fn check(
        &self,
        checkpoint: &Checkpoint,
        mut file: impl BufRead,
    ) -> Result<(), ExportError> {
        let stretch = Stretch::new(self.first, self.next, checkpoint.size)?;
        let mut rebuilt = Rebuilt::new(stretch, &self.around)?;
        let header = self.format.header();
        let mut number = 0;
        if !header.is_empty() {
            number += 1;
            if line(&mut file, number)?.as_deref() != Some(header) {
                let why = "it is not the line with the columns' names";
                return Err(ExportError::Line { number, why });
            }
        }
        for index in self.first..self.next {
            number += 1;
            let text = line(&mut file, number)?.ok_or(ExportError::Short { index })?;
            let entry = self
                .format
                .entry(&text)
                .map_err(|why| ExportError::Line { number, why })?;
            let parsed: Value = serde_json::from_str(&entry).map_err(|_| ExportError::Line {
                number,
                why: "it is no JSON",
            })?;
            if parsed["index"].as_u64() != Some(index) {
                return Err(ExportError::Misplaced { number, index });
            }
            rebuilt.add(entry.as_bytes());
        }
        if line(&mut file, number + 1)?.is_some() {
            return Err(ExportError::Long { number: number + 1 });
        }
        Ok(rebuilt.check(checkpoint)?)
    }
}

/// The next line with its end, or nothing at the end of the file.
fn line(file: &mut impl BufRead, number: u64) -> Result<Option<String>, ExportError> {
    let mut text = Vec::new();
    file.take(LONGEST_LINE).read_until(b'\n', &mut text)?;
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |why| ExportError::Line { number, why };
    if text.last() != Some(&b'\n') {
        return Err(wrong("it is cut off, or too long"));
    }
    String::from_utf8(text)
        .map(Some)
        .map_err(|_| wrong("it is no UTF-8"))
}

impl fmt::Display for ExportProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Self::HEADER)?;
        writeln!(f, "format {}", self.format)?;
        writeln!(f, "first {}", self.first)?;
        writeln!(f, "next {}", self.next)?;
        for hash in &self.around.0 {
            writeln!(f, "{hash}")?;
        }
        writeln!(f)?;
        f.write_str(&self.note)
    }
}

impl FromStr for ExportProof {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<Self, ExportError> {
        let (head, note) = text.split_once("\n\n").ok_or(ExportError::NoProof)?;
        let mut lines = head.lines();
        if lines.next() != Some(Self::HEADER) {
            return Err(ExportError::NoProof);
        }
        let mut field = |name: &str| {
            let line = lines.next().ok_or(ExportError::NoProof)?;
            line.strip_prefix(name).ok_or(ExportError::NoProof)
        };
        let number = |written: &str| {
            written
                .parse()
                .ok()
                .filter(|number: &u64| number.to_string() == written)
                .ok_or(ExportError::NoProof)
        };
        let format = field("format ")?;
        let (first, next) = (number(field("first ")?)?, number(field("next ")?)?);
        let around = lines.map(Hash::parse_hash).collect::<Result<_, _>>();
        Ok(Self {
            format: format.parse().map_err(|_| ExportError::NoProof)?,
            first,
            next,
            around: Hashes(around.map_err(|_| ExportError::NoProof)?),
            note: note.to_owned(),
        })
    }
}

/// Why an export is not proven.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Not in the form that a proof of an export has.
    #[error("it is no proof of an export ({header})", header = ExportProof::HEADER)]
    NoProof,
    /// A line that is none.
    #[error("line {number} can't be read: {why}")]
    Line {
        /// Counted from 1.
        number: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An entry where another should be.
    #[error("line {number} should be entry {index}, and is another: this is not what the log has")]
    Misplaced {
        /// Counted from 1.
        number: u64,
        /// The entry that should be there.
        index: u64,
    },
    /// The end comes too early.
    #[error("it ends before entry {index}: this is not all that the log has")]
    Short {
        /// The entry that is missing.
        index: u64,
    },
    /// Something stands behind the end.
    #[error("line {number} is one too many: this is not what the log has")]
    Long {
        /// Counted from 1.
        number: u64,
    },
    /// The entries are not those of the log.
    #[error("the export is not what the log has: {0}")]
    Unproven(#[from] ProofError),
    /// The file can't be read.
    #[error(transparent)]
    File(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_format_gives_back_the_entry_and_nothing_that_it_does_not_say() {
        let entry = json!({
            "index": 7,
            "time": "2026-01-31T09:30:00.250Z",
            "event": {
                "kind": "request-refused",
                "by": {"requester": "bob", "source": "192.0.2.7", "method": "ssh-key"},
                "request": {"role": "deploy", "purpose": "incident", "ttl": 600,
                            "reason": "=HYPERLINK(\"http://x\",\"a,b\")\r\n+1"},
                "refused": {"request": "POST /v1", "code": "denied", "detail": "@no"},
            },
        })
        .to_string();
        for format in Format::ALL {
            let line = format.line(&entry).unwrap();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(format.entry(&line), Ok(entry.clone()), "{line}");
            assert!(line.contains("bob"));
            for changed in [
                line.replacen("bob", "eve", 1),
                line.replacen("bob", "bobb", 1),
                line.replacen("2026", "2027", 1),
                format!(" {line}"),
                line.trim_end().to_owned(),
            ] {
                let read = format.entry(&changed);
                assert_ne!(read, Ok(entry.clone()), "{changed}");
            }
        }
        let csv = Format::Csv.line(&entry).unwrap();
        assert!(
            csv.contains(r#","'=HYPERLINK(""http://x"",""a,b"")\r\n+1","#),
            "{csv}"
        );
        assert!(csv.contains(",\"denied: @no\","), "{csv}");
    }

    #[test]
    fn a_proof_is_written_and_read() {
        let proof = ExportProof {
            format: Format::Csv,
            first: 3,
            next: 9,
            around: Hashes(vec![super::super::record_hash(b"x")]),
            note: "log\n9\nroot\n\n\u{2014} log AAAA\n".to_owned(),
        };
        let text = proof.to_string();
        assert_eq!(text.parse::<ExportProof>().unwrap(), proof);
        for wrong in [
            text.replace("/v1", "/v2"),
            text.replace("format csv", "format xml"),
            text.replace("first 3", "first 03"),
            text.replace("next 9", "next -9"),
            text.replace("next 9\n", "next 9\nAAAA\n"),
            text.replace("\n\n", "\n"),
            String::new(),
        ] {
            assert!(wrong.parse::<ExportProof>().is_err(), "{wrong}");
        }
    }
}
