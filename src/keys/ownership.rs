//! Who can read or change a file. Its owner always can: a mode is the owner's to change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Whether a file or folder is ours, or root's, and nobody else can change it.
pub fn is_ours_to_change(metadata: &Metadata) -> bool {
    is_owned(metadata) && metadata.mode() & 0o022 == 0
}

/// Whether a file or folder is ours, or root's, and nobody else can even open it.
pub fn is_private(metadata: &Metadata) -> bool {
    is_owned(metadata) && metadata.mode() & 0o077 == 0
}

fn is_owned(metadata: &Metadata) -> bool {
    // SAFETY: geteuid has no preconditions.
    metadata.uid() == unsafe { libc::geteuid() } || metadata.uid() == 0
}
