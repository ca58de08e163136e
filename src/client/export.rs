//! Takes a stretch of the CA's log home, with the proof that it is all of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::files::{FileError, draft_beside};
use super::{Api, ApiError, ConfigFolder, History, HistoryError, Query};
use crate::audit::{ExportError, ExportProof, Format, Hashes};
use crate::model::{RangeProof, Span, Timestamp};

/// How many entries stand in a whole bundle (C2SP tlog-tiles).
const BUNDLE: u64 = 256;

/// What to take.
pub struct Export<'a> {
    /// The file; its proof comes beside it.
    pub file: &'a Path,
    /// How to write it.
    pub format: Format,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

/// What was taken.
pub struct Exported {
    /// The proof's file.
    pub proof: PathBuf,
    /// The first entry.
    pub first: u64,
    /// The entry behind the last.
    pub next: u64,
    /// How many entries the log had.
    pub size: u64,
}

impl Export<'_> {
    /// Takes it, and checks it as anybody can later before it is put in place.
    ///
    /// # Errors
    /// When a file is there already or can't be written, or the log is not what it should be.
    pub fn run(&self, folder: &ConfigFolder, api: &Api) -> Result<Exported, ExportFailed> {
        let proof_path = proof_beside(self.file);
        for path in [self.file, &proof_path] {
            if fs::symlink_metadata(path).is_ok() {
                return Err(ExportFailed::Occupied {
                    path: path.to_owned(),
                });
            }
        }
        let checkpoint = History::new(folder, api).newest()?;
        let span = Query::path(&["v1", "audit", "span"])
            .with("since", self.since)
            .with("until", self.until);
        let span: Span = api.get(span.as_str())?;
        let size = checkpoint.size;
        // What came in since is for the next time.
        let next = span.next.min(size);
        let first = span.first.min(next);
        let target = Query::path(&["v1", "log", "range"])
            .with("first", Some(first))
            .with("next", Some(next))
            .with("size", Some(size));
        let proof: RangeProof = api.get(target.as_str())?;
        let around = Hashes::try_from(proof.hashes).map_err(ExportError::from)?;
        let proof = ExportProof {
            format: self.format,
            first,
            next,
            around,
            note: checkpoint.note().to_owned(),
        };

        let data = Draft::beside(self.file)?;
        self.write(api, &data, first, next, size)?;
        let read = File::open(&data.path).map_err(|error| data.failed(error))?;
        proof
            .check(&checkpoint, BufReader::new(read))
            .map_err(ExportFailed::Unproven)?;
        let words = Draft::beside(&proof_path)?;
        (&words.file)
            .write_all(proof.to_string().as_bytes())
            .map_err(|error| words.failed(error))?;
        // The proof first: a data file never lies there without it.
        words.put(&proof_path)?;
        if let Err(error) = data.put(self.file) {
            fs::remove_file(&proof_path).ok();
            return Err(error);
        }
        Ok(Exported {
            proof: proof_path,
            first,
            next,
            size,
        })
    }

    fn write(
        &self,
        api: &Api,
        draft: &Draft,
        first: u64,
        next: u64,
        size: u64,
    ) -> Result<(), ExportFailed> {
        let failed = |error| draft.failed(error);
        let mut file = BufWriter::new(&draft.file);
        file.write_all(self.format.header().as_bytes())
            .map_err(failed)?;
        let mut at = first;
        while at < next {
            let bundle = at / BUNDLE;
            let width = BUNDLE.min(size - bundle * BUNDLE);
            let bytes = api.get_bytes(&bundle_path(bundle, width))?;
            let entries = entries(&bytes)
                .filter(|entries| entries.len() as u64 == width)
                .ok_or(ExportFailed::Bundle { bundle })?;
            let inside =
                (at - bundle * BUNDLE) as usize..(next - bundle * BUNDLE).min(width) as usize;
            for entry in &entries[inside.clone()] {
                let line = self
                    .format
                    .line(entry)
                    .map_err(|_| ExportFailed::Bundle { bundle })?;
                file.write_all(line.as_bytes()).map_err(failed)?;
            }
            at += inside.len() as u64;
        }
        Ok(file.flush().map_err(failed)?)
    }
}

/// Where the proof of an export stands.
pub fn proof_beside(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".proof");
    path.into()
}

/// The path of a bundle (C2SP tlog-tiles).
fn bundle_path(bundle: u64, width: u64) -> String {
    let mut groups = vec![format!("{:03}", bundle % 1000)];
    let mut rest = bundle / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    groups.reverse();
    let part = if width < BUNDLE {
        format!(".p/{width}")
    } else {
        String::new()
    };
    format!("/v1/log/tile/entries/{}{part}", groups.join("/"))
}

/// Entries that each stand behind their length in two bytes.
fn entries(mut bytes: &[u8]) -> Option<Vec<&str>> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (entry, after) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        entries.push(std::str::from_utf8(entry).ok()?);
        bytes = after;
    }
    bytes.is_empty().then_some(entries)
}

/// A file that nobody else can read, until it is put in place.
struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    fn beside(path: &Path) -> Result<Self, FileError> {
        let create = || {
            let draft = draft_beside(path)?;
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&draft)?;
            Ok(Self { path: draft, file })
        };
        create().map_err(|error| FileError::new(path, error))
    }

    /// Gives it its name, which nothing may have by now.
    fn put(self, path: &Path) -> Result<(), ExportFailed> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(ExportFailed::Occupied {
                path: path.to_owned(),
            });
        }
        let put = || {
            self.file.sync_all()?;
            fs::rename(&self.path, path)
        };
        Ok(put().map_err(|error| FileError::new(path, error))?)
    }

    fn failed(&self, error: io::Error) -> FileError {
        FileError::new(&self.path, error)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Of one that was put in place, nothing is there under this name.
        fs::remove_file(&self.path).ok();
    }
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportFailed {
    /// A file is there already.
    #[error("{path} exists already, and is not overwritten: choose another --out")]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// The server gives something else than entries.
    #[error(
        "the CA's entries {} to {} can't be read; tell its administrator",
        bundle * BUNDLE,
        (bundle + 1) * BUNDLE - 1
    )]
    Bundle {
        /// Which bundle.
        bundle: u64,
    },
    /// The server's entries are not those of its log.
    #[error(
        "the CA does not give what its log has: {0}; nothing was kept. Tell whoever is responsible \
         for security"
    )]
    Unproven(ExportError),
    /// The log is not believed.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The CA gave no answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A file can't be written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<ExportError> for ExportFailed {
    fn from(error: ExportError) -> Self {
        Self::Unproven(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_those_of_tlog_tiles() {
        assert_eq!(bundle_path(0, 256), "/v1/log/tile/entries/000");
        assert_eq!(
            bundle_path(1_234_067, 7),
            "/v1/log/tile/entries/x001/x234/067.p/7"
        );
        assert_eq!(entries(b"\0\x02{}\0\x00"), Some(vec!["{}", ""]));
        assert_eq!(entries(b""), Some(vec![]));
        for cut in [&b"\0"[..], b"\0\x03{}", b"\0\x02{}\0", b"\0\x01\xff"] {
            assert_eq!(entries(cut), None, "{cut:?}");
        }
    }
}
