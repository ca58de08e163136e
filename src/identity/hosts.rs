use std::collections::{BTreeMap, HashMap};

use ssh_key::PublicKey;

use super::key_fingerprint;
use crate::audit::{Entry, Event, HostProfile};
use crate::model::{HostName, Timestamp, UserName};

/// The hosts that were invited or have joined, rebuilt from the audit log's entries.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    hosts: BTreeMap<HostName, Host>,
    /// Which host a key's requests are of, by its fingerprint.
    keys: HashMap<String, HostName>,
}

/// A host that was invited, and perhaps has joined.
#[derive(Clone, Debug)]
pub struct Host {
    /// What it was invited for.
    pub profile: HostProfile,
    /// The invitation that is open.
    pub invitation: Option<Invitation>,
    /// The host's own key, once it has joined.
    pub joined: Option<Joined>,
}

/// What a host may join by, once.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The SHA-256 of its token in hexadecimal.
    pub token_sha256: String,
    /// Until when it is good.
    pub expires: Timestamp,
    /// Who gave it.
    pub by: UserName,
    /// The fingerprint of the key that signed that.
    pub key: String,
}

/// A host that keeps itself up to date.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The fingerprint of the key that signs its requests.
    pub fingerprint: String,
    /// Since when.
    pub since: Timestamp,
    /// The version of the trust bundle that it said is in force.
    pub confirmed: Option<u64>,
}

impl Hosts {
    /// Takes in an entry that was committed. Entries about anything else change nothing.
    pub fn apply(&mut self, entry: &Entry) {
        match &entry.event {
            Event::HostInvited {
                profile,
                token_sha256,
                expires,
                by,
            } => {
                let invitation = Some(Invitation {
                    token_sha256: token_sha256.clone(),
                    expires: *expires,
                    by: by.requester.clone(),
                    key: by.fingerprint.clone(),
                });
                let host = self.hosts.entry(profile.host.clone());
                let host = host.or_insert_with(|| Host {
                    profile: profile.clone(),
                    invitation: None,
                    joined: None,
                });
                (host.profile, host.invitation) = (profile.clone(), invitation);
            }
            Event::HostJoined {
                host, public_key, ..
            } => {
                if let (Some(host), Ok(key)) = (
                    self.hosts.get_mut(host),
                    PublicKey::from_openssh(public_key),
                ) {
                    if let Some(before) = &host.joined {
                        self.keys.remove(&before.fingerprint);
                    }
                    let fingerprint = key_fingerprint(key.key_data());
                    let name = host.profile.host.clone();
                    self.keys.insert(fingerprint.clone(), name);
                    host.invitation = None;
                    host.joined = Some(Joined {
                        fingerprint,
                        since: entry.time,
                        confirmed: None,
                    });
                }
            }
            Event::HostConfirmed { host, trust, .. } => {
                if let Some(joined) = self
                    .hosts
                    .get_mut(host)
                    .and_then(|host| host.joined.as_mut())
                {
                    joined.confirmed = Some(*trust);
                }
            }
            Event::HostRemoved { host, .. } => {
                let removed = self.hosts.remove(host);
                if let Some(joined) = removed.and_then(|host| host.joined) {
                    self.keys.remove(&joined.fingerprint);
                }
            }
            _ => {}
        }
    }

    /// Takes back the invitations of which something holds.
    pub(super) fn withdraw(&mut self, withdrawn: impl Fn(&Invitation) -> bool) {
        for host in self.hosts.values_mut() {
            host.invitation.take_if(|invitation| withdrawn(invitation));
        }
    }

    /// The host whose requests a key signs.
    pub fn of_key(&self, fingerprint: &str) -> Option<&Host> {
        self.hosts.get(self.keys.get(fingerprint)?)
    }

    /// What is open of an invitation at that time, given its token's SHA-256 in hexadecimal, and the
    /// host that it invites.
    pub fn invited(&self, token_sha256: &str, now: Timestamp) -> Option<(&Host, &Invitation)> {
        self.hosts.values().find_map(|host| {
            let invitation = host.invitation.as_ref()?;
            let open = invitation.token_sha256 == token_sha256 && now < invitation.expires;
            open.then_some((host, invitation))
        })
    }

    /// The host of that name.
    pub fn find(&self, name: &HostName) -> Option<&Host> {
        self.hosts.get(name)
    }

    /// All hosts by name.
    pub fn iter(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }
}
