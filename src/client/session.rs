use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{Context, SHA256};

use super::held::{Held, Place};
use super::runtime::Runtime;
use super::{
    Api, ApiError, ConfigError, ConfigFolder, FileError, History, HistoryError, RuntimeError,
    Subject, SubjectKeyError, agent, api, now,
};
use crate::identity::possession_message;
use crate::model::{
    CertificateAnswer, Purpose, Reason, RoleName, SshCertificateRequest, Ttl,
    X509CertificateRequest,
};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The role.
    pub role: RoleName,
    /// What for.
    pub purpose: Purpose,
    /// Why.
    pub reason: Option<Reason>,
    /// For how long.
    pub ttl: Option<Ttl>,
}

/// A certificate and where its files are.
#[derive(Clone, Debug)]
pub struct Session {
    /// What is certified.
    pub held: Held,
    /// The private key; for one that is in the agent, its public part.
    pub key: PathBuf,
    /// The certificate; for X.509 with the issuing CA's.
    pub certificate: PathBuf,
    /// The root that databases' certificates are under; X.509 only.
    pub root: Option<PathBuf>,
}

impl Session {
    fn new(held: Held, place: Place) -> Self {
        let key = if held.in_agent {
            place.public_key
        } else {
            place.key
        };
        Self {
            held,
            key,
            certificate: place.certificate,
            root: place.root,
        }
    }

    fn with_own(mut self, subject: &Subject) -> Self {
        if let Some(own) = subject.own_file() {
            self.key = own.to_owned();
        }
        self
    }

    fn is_usable(&self) -> bool {
        if !self.held.in_agent {
            return self.key.is_file() && self.certificate.is_file();
        }
        fs::read_to_string(&self.certificate).is_ok_and(|line| agent::holds(line.trim()))
    }
}

/// The certificates of this user on this machine.
pub struct Sessions<'a> {
    folder: &'a ConfigFolder,
    api: &'a Api,
    runtime: Runtime,
}

impl<'a> Sessions<'a> {
    /// Those from one CA.
    ///
    /// # Errors
    /// When there is no private place for them.
    pub fn open(folder: &'a ConfigFolder, api: &'a Api) -> Result<Self, SessionError> {
        Ok(Self {
            folder,
            api,
            runtime: Runtime::open()?,
        })
    }

    /// An SSH session: one that still lives, or a new one, in the agent where there is one.
    ///
    /// # Errors
    /// When the CA issues none, or it can't be kept.
    pub fn ssh(&self, ask: &Ask) -> Result<Session, SessionError> {
        let id = self.id("ssh", ask);
        // Of two runs at once, the second finds what the first was given.
        let _lock = self.runtime.lock(&id)?;
        if let Some(session) = self.living(&id, ssh_place) {
            return Ok(session);
        }
        let subject = Subject::fresh_ssh(&format!("hallpass {} {}", ask.role, ask.purpose))?;
        let answer = self.issue(ask, &subject)?;
        let draft = self.runtime.draft()?;
        let place = ssh_place(&draft);
        place.write(&subject, &answer)?;
        let mut held = Held::new(ask, &answer);
        let seconds = held.left(now()).as_secs();
        if seconds > 0 && agent::answers() && agent::add(&place.key, &answer.certificate, seconds) {
            fs::remove_file(&place.key).map_err(|source| FileError::new(&place.key, source))?;
            held.in_agent = true;
        }
        self.keep(&draft, &id, held, ssh_place)
    }

    /// A database session: one that still lives, or a new one.
    ///
    /// # Errors
    /// When the CA issues none, or it can't be kept.
    pub fn database(&self, ask: &Ask) -> Result<Session, SessionError> {
        let id = self.id("database", ask);
        let _lock = self.runtime.lock(&id)?;
        if let Some(session) = self.living(&id, x509_place) {
            return Ok(session);
        }
        self.issue_into_draft(ask, &Subject::fresh_x509()?, &id, x509_place)
    }

    /// A new certificate for `subject` as files, in `out` when given.
    ///
    /// # Errors
    /// When the CA issues none, or it can't be kept.
    pub fn request(
        &self,
        ask: &Ask,
        subject: &Subject,
        out: Option<&Path>,
    ) -> Result<Session, SessionError> {
        let Some(out) = out else {
            let place = if subject.is_ssh() {
                ssh_place
            } else {
                x509_place
            };
            return self.issue_into_draft(ask, subject, "request", place);
        };
        let out = std::path::absolute(out).map_err(|source| FileError::new(out, source))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&out)
            .map_err(|source| FileError::new(&out, source))?;
        let stem = ask.role.as_str();
        let place = if subject.is_ssh() {
            Place::ssh(&out, stem)
        } else {
            Place::x509(&out, stem)
        };
        place.check_free(subject)?;
        let answer = self.issue(ask, subject)?;
        place.write(subject, &answer)?;
        Ok(Session::new(Held::new(ask, &answer), place).with_own(subject))
    }

    fn issue_into_draft(
        &self,
        ask: &Ask,
        subject: &Subject,
        id: &str,
        place: fn(&Path) -> Place,
    ) -> Result<Session, SessionError> {
        let answer = self.issue(ask, subject)?;
        let draft = self.runtime.draft()?;
        place(&draft).write(subject, &answer)?;
        let session = self.keep(&draft, id, Held::new(ask, &answer), place)?;
        Ok(session.with_own(subject))
    }

    fn issue(&self, ask: &Ask, subject: &Subject) -> Result<CertificateAnswer, SessionError> {
        let Ask {
            role,
            purpose,
            reason,
            ttl,
        } = ask.clone();
        let answer: CertificateAnswer = if subject.is_ssh() {
            let nonce = api::nonce()?;
            let requester = self.api.key().fingerprint();
            let message = possession_message(self.api.audience(), &requester, &nonce);
            let public_key = subject.ssh_line()?;
            let possession = subject.prove(&message)?;
            let body = SshCertificateRequest {
                role,
                purpose,
                reason,
                ttl,
                public_key,
                possession,
            };
            self.api.post_with(&nonce, "/v1/certificates/ssh", &body)?
        } else {
            let csr = subject.csr()?;
            let body = X509CertificateRequest {
                role,
                purpose,
                reason,
                ttl,
                csr,
            };
            self.api.post("/v1/certificates/x509", &body)?
        };
        History::new(self.folder, self.api).check_receipt(&answer)?;
        self.folder.take_trust(&answer.trust)?;
        Ok(answer)
    }

    /// What is the same in two runs that ask for the same.
    fn id(&self, kind: &str, ask: &Ask) -> String {
        let mut digest = Context::new(&SHA256);
        for part in [
            self.api.audience(),
            &self.api.key().fingerprint(),
            kind,
            ask.role.as_str(),
            ask.purpose.as_str(),
            ask.reason.as_ref().map_or("", Reason::as_str),
            &ask.ttl.map_or_else(String::new, |ttl| ttl.to_string()),
        ] {
            digest.update(part.as_bytes());
            digest.update(b"\0");
        }
        URL_SAFE_NO_PAD.encode(&digest.finish().as_ref()[..12])
    }

    /// The session of `id` that lives longest, when it lives long enough and its key is there.
    fn living(&self, id: &str, place: fn(&Path) -> Place) -> Option<Session> {
        let now = now();
        self.runtime
            .sessions(&format!("{id}."))
            .into_iter()
            .filter_map(|folder| Some(Session::new(Held::read(&folder)?, place(&folder))))
            .filter(|session| session.held.is_fresh(now) && session.is_usable())
            .max_by_key(|session| session.held.valid_before)
    }

    fn keep(
        &self,
        draft: &Path,
        id: &str,
        held: Held,
        place: fn(&Path) -> Place,
    ) -> Result<Session, SessionError> {
        held.write(draft)?;
        let folder = self.runtime.keep(draft, &format!("{id}.{}", held.serial))?;
        Ok(Session::new(held, place(&folder)))
    }
}

fn ssh_place(folder: &Path) -> Place {
    Place::ssh(folder, "id")
}

fn x509_place(folder: &Path) -> Place {
    Place::x509(folder, "client")
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The CA gave none.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The log can't be believed.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// There is no key to certify.
    #[error(transparent)]
    Subject(#[from] SubjectKeyError),
    /// There is no private place.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A file can't be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is kept of the CA does not fit together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something else is there.
    #[error(
        "{path} exists and is not from an earlier `hallpass request`: move it away, or choose \
         another --out"
    )]
    Occupied {
        /// What is there.
        path: PathBuf,
    },
}

impl SessionError {
    /// Whether the role is for SSH and a database's certificate was asked for, or the other way round.
    pub fn is_wrong_kind(&self) -> bool {
        matches!(self, Self::Api(ApiError::Refused { kind, .. }) if kind.ends_with(":wrong-kind"))
    }
}
