//! Doing as the owner of a folder what is done in it.
//!
//! This program is root, and a folder of PostgreSQL's is PostgreSQL's user's: who has taken that
//! over could put links there to what only root may read or write. So all that is done in such a
//! folder is done with that user's rights, and the kernel says no.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Owner {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Owner {
    /// Whose that folder is.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(folder)?;
        Ok(Self {
            user: metadata.uid(),
            group: metadata.gid(),
        })
    }

    /// Does `work` on files with this user's rights alone. Only root can, and only root has to:
    /// others do it with their own.
    ///
    /// # Errors
    /// When the rights can't be had, or the work fails.
    pub(super) fn act<T>(self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 || self.user == 0 {
            return work();
        }
        let _acting = Acting::begin(self)?;
        work()
    }
}

/// While it lives, this thread has another user's rights on files.
struct Acting {
    groups: Vec<libc::gid_t>,
    group: libc::gid_t,
}

impl Acting {
    fn begin(owner: Owner) -> io::Result<Self> {
        // SAFETY: with no room given, the number of groups is returned and nothing is written.
        let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let mut groups = vec![0; count];
        // SAFETY: there is room for as many as were just counted.
        let got = unsafe { libc::getgroups(count as libc::c_int, groups.as_mut_ptr()) };
        if usize::try_from(got).ok() != Some(count) {
            return Err(io::Error::last_os_error());
        }
        set_groups(&[])?;
        // From here on, dropping it gives back what was there.
        // SAFETY: setfsgid and setfsuid have no preconditions. They say nothing of failure: asking
        // for no legal id gives the one in force.
        let acting = unsafe {
            let group = libc::setfsgid(owner.group) as libc::gid_t;
            let acting = Self { groups, group };
            libc::setfsuid(owner.user);
            let now = [
                libc::setfsgid(u32::MAX) as libc::gid_t,
                libc::setfsuid(u32::MAX) as libc::uid_t,
            ];
            if now != [owner.group, owner.user] {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            acting
        };
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        // SAFETY: as above. Root may always go back.
        unsafe {
            libc::setfsuid(0);
            libc::setfsgid(self.group);
        }
        if let Err(error) = set_groups(&self.groups) {
            tracing::error!(%error, "the groups can't be taken back");
        }
    }
}

/// Of this thread alone: the C library's own function would change them for all.
fn set_groups(groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: the kernel reads as many ids as are there.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_acts_with_the_owners_rights_and_then_with_its_own() {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            let own = Owner { user: 1, group: 1 };
            assert_eq!(own.act(|| Ok(7)).unwrap(), 7, "with one's own rights");
            return;
        }
        let folder = std::env::temp_dir().join(format!("hallpass-owner-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let secret = folder.join("secret");
        fs::write(&secret, "x").unwrap();
        let only_root = std::os::unix::fs::PermissionsExt::from_mode(0o440);
        fs::set_permissions(&secret, only_root).unwrap();
        let nobody = Owner {
            user: 65534,
            group: 65534,
        };
        // Neither as its owner nor through root's groups.
        let read = nobody.act(|| fs::read(&secret));
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::read(&secret).unwrap(), b"x");
        std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).unwrap();
        assert_eq!(Owner::of(&folder).unwrap(), nobody);
        let file = folder.join("file");
        nobody.act(|| fs::write(&file, "y")).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().uid(), 65534);
        fs::remove_dir_all(&folder).unwrap();
    }
}
