//! Files of entries that were moved out of the database.
//!
//! `entries-FIRST-NEXT.jsonl.gz` holds the entries from FIRST to before NEXT, one a line, exactly as
//! the log has them. It is gzip (RFC 1952), which `zcat` reads, with a member of its own for each
//! 256 entries: so one of them is found without all the others. The member's header says how long
//! it is, in the subfield `HP` of its extra field.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use ring::digest;

use super::store::parse;
use super::tree::record_hash;
use super::{Event, Reader, StoreError};
use crate::model::{EntryIndex, Timestamp};

/// How many entries a member holds. The last of a file may hold fewer.
pub(super) const PIECE: u64 = 256;
/// How many entries a file holds at most. Files begin and end at its multiples, or where the
/// archived part of the log does.
const LARGEST: u64 = 65_536;
/// The subfield of a member's header with its length, and where that length stands.
const SUBFIELD: [u8; 8] = [b'H', b'P', 4, 0, 0, 0, 0, 0];
const LENGTH_AT: usize = 16;
const HEADER: usize = LENGTH_AT + 4;
/// More than 256 entries can have, each with its line feed.
const LONGEST_PIECE: u64 = PIECE * (1 << 16);

/// A file of archived entries, as the log recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its first entry.
    pub first: u64,
    /// The entry behind its last.
    pub next: u64,
    /// Its name in `archive/`.
    pub file: String,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Archive {
    /// The file that an event is about, and how many of its entries were kept in the database.
    pub(super) fn of(event: &Event) -> Option<(Self, u64)> {
        let Event::LogArchived {
            file,
            sha256,
            first,
            next,
            kept,
            ..
        } = event
        else {
            return None;
        };
        let archive = Self {
            first: *first,
            next: *next,
            file: file.clone(),
            sha256: sha256.clone(),
        };
        Some((archive, *kept))
    }

    /// Writes the next file of entries from before that time, and reads it back against the tree.
    /// Gives it with the number of its entries that must be kept in the database, or nothing when
    /// there are no such entries.
    ///
    /// # Errors
    /// When the log can't be read or the file can't be written.
    pub fn write(reader: &Reader, before: Timestamp) -> Result<Option<(Self, u64)>, StoreError> {
        let Some((first, next)) = reader.archivable(before)? else {
            return Ok(None);
        };
        let mut draft = Draft::begin(reader.archive_folder(), first)?;
        let mut kept = 0;
        for at in (first..next).step_by(PIECE as usize) {
            let entries = reader.range(EntryIndex(at), PIECE as usize)?;
            for (index, body) in (at as i64..).zip(&entries) {
                kept += u64::from(parse(index, body)?.event.is_believed_when_proven());
            }
            draft.add(&entries)?;
        }
        Ok(Some((draft.finish(reader)?, kept)))
    }

    /// Checks that its file in that folder is what the log recorded.
    ///
    /// # Errors
    /// When it is missing, can't be read or was changed.
    pub fn check(&self, folder: &Path) -> Result<(), StoreError> {
        ArchiveFile::open(folder, self).map(drop)
    }

    /// Removes the other files that begin where this one does and hold what the log has: a crash left
    /// them. Only once an entry tells of this one: until then, one of them may be what the log is
    /// about to name.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn tidy(&self, reader: &Reader) -> Result<(), StoreError> {
        for file in fs::read_dir(reader.archive_folder())
            .into_iter()
            .flatten()
            .flatten()
        {
            let left = file.file_name();
            let Some(next) = left.to_str().and_then(|left| {
                let numbers = left.strip_prefix("entries-")?.strip_suffix(".jsonl.gz")?;
                let next = numbers.strip_prefix(&format!("{}-", self.first))?;
                next.parse().ok()
            }) else {
                continue;
            };
            let left = name(self.first, next);
            if left != self.file && is_of_the_log(reader, self.first, next) {
                let path = reader.archive_folder().join(left);
                fs::remove_file(&path).map_err(|source| failed(&path, source))?;
            }
        }
        Ok(())
    }
}

/// The file that the next archived entries go into, as far as it fits.
pub(super) fn plan(first: u64, limit: u64) -> Option<(u64, u64)> {
    let boundary = (first / LARGEST + 1) * LARGEST;
    let next = limit.min(boundary) / PIECE * PIECE;
    (next > first).then_some((first, next))
}

fn name(first: u64, next: u64) -> String {
    format!("entries-{first}-{next}.jsonl.gz")
}

/// Writes a file, whole or not at all, and brings it to disk.
struct Draft {
    folder: PathBuf,
    path: PathBuf,
    file: File,
    digest: digest::Context,
    first: u64,
    next: u64,
}

impl Draft {
    /// Begins a file of the entries from `first` on in a folder that is made where it is missing.
    fn begin(folder: &Path, first: u64) -> Result<Self, StoreError> {
        let path = folder.join(".entries.draft");
        let begin = || {
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            if let Some(home) = folder.parent() {
                File::open(home)?.sync_all()?;
            }
            // What a crash left.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
        };
        let file = begin().map_err(|source| failed(&path, source))?;
        Ok(Self {
            folder: folder.to_owned(),
            path,
            file,
            digest: digest::Context::new(&digest::SHA256),
            first,
            next: first,
        })
    }

    /// Adds the next entries: 256 of them, but at the end.
    fn add(&mut self, entries: &[String]) -> Result<(), StoreError> {
        let mut member = GzBuilder::new()
            .extra(SUBFIELD.to_vec())
            .write(Vec::new(), Compression::default());
        let mut compress = || {
            for entry in entries {
                member.write_all(entry.as_bytes())?;
                member.write_all(b"\n")?;
            }
            member.try_finish()
        };
        compress().map_err(|source| failed(&self.path, source))?;
        let mut member = member
            .finish()
            .map_err(|source| failed(&self.path, source))?;
        let length = u32::try_from(member.len())
            .map_err(|_| failed(&self.path, io::ErrorKind::FileTooLarge.into()))?;
        member[LENGTH_AT..HEADER].copy_from_slice(&length.to_le_bytes());
        self.file
            .write_all(&member)
            .map_err(|source| failed(&self.path, source))?;
        self.digest.update(&member);
        self.next += entries.len() as u64;
        Ok(())
    }

    /// Brings the file to disk, reads it back against the tree, and puts it in place.
    fn finish(self, reader: &Reader) -> Result<Archive, StoreError> {
        let archive = Archive {
            first: self.first,
            next: self.next,
            file: name(self.first, self.next),
            sha256: encode_string(self.digest.clone().finish().as_ref()),
        };
        let failed = |source| failed(&self.path, source);
        self.file.sync_all().map_err(failed)?;
        let written = ArchiveFile::open_at(&self.path, &archive)?;
        if let Some(index) = written.first_that_differs(reader)? {
            return Err(written.damaged(&format!("entry {index} is not what was committed")));
        }
        let path = self.folder.join(&archive.file);
        if path.exists() && !is_of_the_log(reader, self.first, self.next) {
            return Err(StoreError::Occupied { path });
        }
        fs::rename(&self.path, &path)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(failed)?;
        Ok(archive)
    }
}

/// Whether there is a file of those entries that holds what the tree has, as a crash leaves it before
/// an entry tells of it.
fn is_of_the_log(reader: &Reader, first: u64, next: u64) -> bool {
    let folder = reader.archive_folder();
    let file = name(first, next);
    let sum = File::open(folder.join(&file)).and_then(|file| sha256_of(&file));
    let Ok((sha256, _)) = sum else {
        return false;
    };
    let archive = Archive {
        first,
        next,
        file,
        sha256,
    };
    let differs = || ArchiveFile::open(folder, &archive)?.first_that_differs(reader);
    next > first && matches!(differs(), Ok(None))
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Of a file that was finished, nothing is there under this name.
        fs::remove_file(&self.path).ok();
    }
}

/// An archived file whose SHA-256 was checked.
pub(super) struct ArchiveFile {
    pub(super) archive: Archive,
    path: PathBuf,
    file: File,
    /// Where each member stands, and how long it is.
    members: Vec<(u64, usize)>,
}

impl ArchiveFile {
    /// Opens one out of its folder.
    pub(super) fn open(folder: &Path, archive: &Archive) -> Result<Self, StoreError> {
        Self::open_at(&folder.join(&archive.file), archive)
    }

    fn open_at(path: &Path, archive: &Archive) -> Result<Self, StoreError> {
        let damaged = |why: &str| StoreError::Archive {
            path: path.to_owned(),
            first: archive.first,
            next: archive.next,
            why: why.to_owned(),
        };
        let file = File::open(path).map_err(|error| damaged(&error.to_string()))?;
        let (sha256, length) = sha256_of(&file).map_err(|error| damaged(&error.to_string()))?;
        if sha256 != archive.sha256 {
            return Err(damaged(
                "it was changed: its SHA-256 is not the one that the log recorded",
            ));
        }
        let mut members = Vec::new();
        let mut at = 0;
        while at < length {
            let mut header = [0; HEADER];
            file.read_exact_at(&mut header, at)
                .map_err(|error| damaged(&error.to_string()))?;
            let (_, size) = header.split_at(LENGTH_AT);
            let size = u32::from_le_bytes(size.try_into().unwrap_or_default());
            if header[12..16] != SUBFIELD[..4] || u64::from(size) > length - at {
                return Err(damaged("it is no archive of Hallpass"));
            }
            members.push((at, size as usize));
            at += u64::from(size).max(1);
        }
        if members.len() as u64 != (archive.next - archive.first).div_ceil(PIECE) {
            return Err(damaged("it does not have as many entries as it should"));
        }
        Ok(Self {
            archive: archive.clone(),
            path: path.to_owned(),
            file,
            members,
        })
    }

    /// The entries of the member that holds the entry `at`, with the index of the first.
    pub(super) fn piece(&self, at: u64) -> Result<(u64, Vec<String>), StoreError> {
        let number = (at - self.archive.first) / PIECE;
        let first = self.archive.first + number * PIECE;
        let expected = PIECE.min(self.archive.next - first);
        let (offset, length) = self
            .members
            .get(number as usize)
            .copied()
            .ok_or_else(|| self.damaged("it ends too early"))?;
        let mut member = vec![0; length];
        let mut text = String::new();
        self.file
            .read_exact_at(&mut member, offset)
            .and_then(|()| {
                GzDecoder::new(&*member)
                    .take(LONGEST_PIECE)
                    .read_to_string(&mut text)
            })
            .map_err(|error| self.damaged(&error.to_string()))?;
        let entries: Vec<String> = text.lines().map(str::to_owned).collect();
        if entries.len() as u64 != expected {
            return Err(self.damaged("it does not have as many entries as it should"));
        }
        Ok((first, entries))
    }

    /// The first of its entries that is not the one in the tree.
    fn first_that_differs(&self, reader: &Reader) -> Result<Option<u64>, StoreError> {
        let Archive { first, next, .. } = self.archive;
        for at in (first..next).step_by(PIECE as usize) {
            let (from, entries) = self.piece(at)?;
            for (index, entry) in (from..).zip(&entries) {
                if reader.leaf(EntryIndex(index))? != Some(record_hash(entry.as_bytes())) {
                    return Ok(Some(index));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn damaged(&self, why: &str) -> StoreError {
        StoreError::Archive {
            path: self.path.clone(),
            first: self.archive.first,
            next: self.archive.next,
            why: why.to_owned(),
        }
    }
}

fn sha256_of(mut file: &File) -> io::Result<(String, u64)> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((encode_string(context.finish().as_ref()), length));
        }
        context.update(&buffer[..read]);
        length += read as u64;
    }
}

fn failed(path: &Path, source: io::Error) -> StoreError {
    StoreError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_aligned_and_end_in_time() {
        assert_eq!(plan(0, 255), None);
        assert_eq!(plan(0, 256), Some((0, 256)));
        assert_eq!(plan(256, 1000), Some((256, 768)));
        assert_eq!(plan(768, 1_000_000), Some((768, LARGEST)));
        assert_eq!(plan(LARGEST, 1_000_000), Some((LARGEST, 2 * LARGEST)));
        assert_eq!(plan(2 * LARGEST, 2 * LARGEST), None);
        assert_eq!(plan(512, 100), None);
    }
}
