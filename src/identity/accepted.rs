use super::{Session, User};
use crate::model::{GroupName, SecondFactor, UserName};

/// Whose requests are taken that a key signs, and by what right.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// Who.
    pub name: &'a UserName,
    /// The user; nobody for a workload.
    pub user: Option<&'a User>,
    /// The session whose key it is; nothing for an enrolled key.
    pub session: Option<&'a Session>,
    /// Whether the FIDO2 key was locked that was the session's second factor.
    pub(super) factor_locked: bool,
}

impl Accepted<'_> {
    /// The groups that count: the user's own, and those that a provider puts them in.
    pub fn groups(&self) -> Vec<GroupName> {
        let own = self.user.map_or(&[][..], |user| &user.groups);
        let Some(session) = self.session else {
            return own.to_vec();
        };
        let mut groups = [own, &session.groups].concat();
        groups.sort();
        groups.dedup();
        groups
    }

    /// The second factor of the session.
    pub fn mfa(&self) -> Option<SecondFactor> {
        let session = self.session.filter(|_| !self.factor_locked)?;
        session.mfa
    }
}
