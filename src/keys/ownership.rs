//! Who can read or change a file. Its owner always can: a mode is the owner's to change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether a file or folder is ours, or root's, and nobody else can change it.
pub fn is_ours_to_change(metadata: &Metadata) -> bool {
    is_owned(metadata) && metadata.mode() & 0o022 == 0
}

/// Whether a file or folder is ours, or root's, and nobody else can even open it.
pub fn is_private(metadata: &Metadata) -> bool {
    is_owned(metadata) && metadata.mode() & 0o077 == 0
}

/// The same of a file with a secret, which systemd may pass: such a credential is root's, and that the
/// service's user can read it shows as its group's right to (an entry of an access control list, since
/// systemd 254).
pub(crate) fn is_secret(path: &Path, metadata: &Metadata) -> bool {
    let passed = std::env::var_os("CREDENTIALS_DIRECTORY")
        .is_some_and(|folder| !folder.is_empty() && path.starts_with(folder));
    is_private(metadata) || passed && is_owned(metadata) && metadata.mode() & 0o037 == 0
}

fn is_owned(metadata: &Metadata) -> bool {
    // SAFETY: geteuid has no preconditions.
    metadata.uid() == unsafe { libc::geteuid() } || metadata.uid() == 0
}
