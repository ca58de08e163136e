/// What can be done to Hallpass itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAction {
    /// Enrol, disable and remove users and their keys.
    ManageUsers,
    /// Sign hosts' certificates.
    CertifyHosts,
    /// Read the audit log.
    ReadLog,
    /// Move old entries of the audit log out of the database.
    ArchiveLog,
    /// Rotate and revoke CA keys.
    ManageKeys,
    /// Lock and unlock roles, users and hosts.
    Lock,
    /// Load policies anew, and ask what they say to others.
    ManagePolicy,
}

impl AdminAction {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ManageUsers,
        Self::CertifyHosts,
        Self::ReadLog,
        Self::ArchiveLog,
        Self::ManageKeys,
        Self::Lock,
        Self::ManagePolicy,
    ];

    /// Its name in the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ManageUsers => "manage-users",
            Self::CertifyHosts => "certify-hosts",
            Self::ReadLog => "read-log",
            Self::ArchiveLog => "archive-log",
            Self::ManageKeys => "manage-keys",
            Self::Lock => "lock",
            Self::ManagePolicy => "manage-policy",
        }
    }
}
