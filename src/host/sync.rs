//! Joining, staying up to date, and leaving.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ssh_key::Certificate;

use super::HostError;
use super::change::{self, Change, What};
use super::settings::{PostgresSettings, Settings, SshSettings, State};
use crate::audit::VerifierKey;
use crate::certificate::fingerprint;
use crate::client::{
    Api, ApiError, History, Pin, ServerUrl, SigningKey, Subject, connect_in, now, signed_trust,
    write_private, write_public,
};
use crate::identity::key_fingerprint;
use crate::model::{
    CertificateAnswer, HostConfirmation, HostJoin, HostState, HostSubject, SignedTrust, Timestamp,
    TrustBundle,
};

/// The programs that a host may have.
const SSHD: &str = "sshd";
const POSTGRESQL: &str = "PostgreSQL";

/// How a host joins.
pub struct Joining {
    /// Where the CA answers.
    pub url: ServerUrl,
    /// The invitation's token, with the CA's fingerprint in it.
    pub token: String,
    /// Its sshd, when that is to be kept up to date.
    pub ssh: Option<SshSettings>,
    /// Its PostgreSQL, likewise.
    pub postgres: Option<PostgresSettings>,
}

/// What a synchronisation did, or would do.
#[derive(Debug, Default)]
pub struct Synced {
    /// The files, with what happens to each.
    pub files: Vec<(PathBuf, What)>,
    /// The version of the trust bundle that is in force.
    pub trust: u64,
    /// Until when the certificates are good.
    pub good_until: Option<Timestamp>,
}

/// What leaving gave back.
#[derive(Debug)]
pub struct Left {
    /// The files that are as they were before.
    pub files: Vec<PathBuf>,
    /// Why the CA could not be told.
    pub untold: Option<String>,
}

/// Joins: makes the host's own key, and has the CA bind it to the host that the token invites.
/// Changes nothing else yet.
///
/// # Errors
/// When the CA is not the one that the token names, or does not take the token.
pub fn join(folder: &Path, joining: Joining) -> Result<Settings, HostError> {
    let state = State::lock(folder)?;
    if state.toml().exists() {
        return Err(HostError::Joined { path: state.toml() });
    }
    let pin = pin(&joining.token)?;
    let key = Subject::fresh_ssh("hallpass host")?;
    if let Some(private) = key.private_part()? {
        write_private(&state.identity(), private.as_bytes())?;
    }
    let public = format!("{}\n", key.ssh_line()?);
    write_public(
        &state.identity().with_added_extension("pub"),
        public.as_bytes(),
    )?;
    connect_in(&state.config(), joining.url, pin, Some(&state.identity()))?;
    let api = open(&state)?;
    let join = HostJoin {
        token: joining.token,
    };
    let known: HostState = api.post("/v1/host/join", &join)?;
    let settings = Settings {
        host: known.host.clone(),
        trust: 0,
        ssh: joining.ssh.filter(|_| known.ssh),
        postgres: joining.postgres.filter(|_| known.database),
    };
    state.store(&settings)?;
    Ok(settings)
}

/// Brings the host up to date and confirms it, or with `dry` says what it would do. With a key of
/// the log, believes in what that has signed, whatever was known before.
///
/// # Errors
/// When something can't be brought up to date. What is in place then still works.
pub fn sync(folder: &Path, dry: bool, log_key: Option<VerifierKey>) -> Result<Synced, HostError> {
    let state = State::lock(folder)?;
    let mut settings = state.load()?;
    let mut api = open(&state)?;
    if let Some(key) = log_key {
        state.config().believe_in(key)?;
        api = open(&state)?;
    }
    let known: HostState = match api.get("/v1/host") {
        Err(ApiError::Untrusted { .. }) => {
            take_new_roots(&state, &api, &mut settings)?;
            api = open(&state)?;
            api.get("/v1/host")?
        }
        known => known?,
    };
    let trust = trusted(&api, &settings, &known.trust)?;
    let mut round = Round {
        state: &state,
        api: &api,
        known: &known,
        trust: &trust,
        dry,
        synced: Synced {
            trust: trust.version,
            ..Synced::default()
        },
    };
    // What is wrong with one does not keep the other from being renewed.
    let ssh = settings.ssh.as_ref().filter(|_| known.ssh);
    let ssh = ssh.map_or(Ok(()), |ssh| round.sync_ssh(ssh));
    let postgres = settings.postgres.as_ref().filter(|_| known.database);
    let postgres = postgres.map_or(Ok(()), |postgres| round.sync_postgres(postgres));
    match (ssh, postgres) {
        (Err(ssh), Err(postgres)) => return Err(HostError::Both(ssh.into(), postgres.into())),
        (ssh, postgres) => ssh.and(postgres)?,
    }
    let synced = round.synced;
    if dry {
        return Ok(synced);
    }
    state.config().take_trust(&trust)?;
    state.config().follow_log(&trust)?;
    if settings.trust != trust.version {
        settings.trust = trust.version;
        state.store(&settings)?;
    }
    let confirmation = HostConfirmation {
        trust: trust.version,
    };
    api.post_unanswered("/v1/host/confirm", &confirmation)?;
    Ok(synced)
}

/// Leaves: gives every file back as it was, and tells the CA, if it can be reached.
///
/// # Errors
/// When a file can't be given back.
pub fn leave(folder: &Path) -> Result<Left, HostError> {
    let state = State::lock(folder)?;
    let settings = state.load()?;
    let files = change::changed(&state)?;
    let ssh = settings.ssh.as_ref();
    let let_go = ssh.map_or(Ok(()), |ssh| ssh.let_go(&state));
    // What a running sshd was told of stays for as long as it may look there.
    let needed = |path: &Path| let_go.is_err() && ssh.is_some_and(|ssh| ssh.has(path));
    let include = settings.postgres.as_ref().map(PostgresSettings::include);
    change::give_back(&state, |path| !needed(path), include.as_ref())?;
    if let Some(postgres) = &settings.postgres {
        // It may not run; then there is nothing to reload.
        postgres.reload().ok();
    }
    let told = open(&state).and_then(|api| Ok(api.delete("/v1/host")?));
    let_go?;
    fs::remove_dir_all(state.before()).ok();
    for path in [state.toml(), state.identity()] {
        fs::remove_file(&path).map_err(|source| HostError::Io { path, source })?;
    }
    Ok(Left {
        files,
        untold: told.err().map(|error| error.to_string()),
    })
}

fn open(state: &State) -> Result<Api, HostError> {
    let connection = state.config().load()?;
    let key = SigningKey::open(&state.identity())?;
    Ok(Api::new(&connection, key))
}

/// The CA's fingerprint out of a token.
fn pin(token: &str) -> Result<Pin, HostError> {
    let parts = token.split_once('.');
    parts
        .and_then(|(pin, _)| URL_SAFE_NO_PAD.decode(pin).ok())
        .filter(|pin| pin.len() == 32)
        .and_then(|pin| {
            format!("SHA256:{}", STANDARD_NO_PAD.encode(pin))
                .parse()
                .ok()
        })
        .ok_or(HostError::Token)
}

/// On the day on which a root is revoked, no server shows a certificate under it any more. What to
/// trust instead is then what the log's key has signed, if it is newer than what is known.
fn take_new_roots(state: &State, api: &Api, settings: &mut Settings) -> Result<(), HostError> {
    let signed = signed_trust(api.url())?;
    let trust = trusted(api, settings, &signed)?;
    if trust.version == settings.trust {
        // Nothing new: whoever answers there is not the CA.
        api.get::<HostState>("/v1/host")?;
    }
    state.config().take_trust(&trust)?;
    state.config().follow_log(&trust)?;
    settings.trust = trust.version;
    state.store(settings)
}

/// The trust bundle, once it is known to be the CA's and none of before.
fn trusted(api: &Api, settings: &Settings, signed: &SignedTrust) -> Result<TrustBundle, HostError> {
    let trust = api.log_keys().believe(signed).ok_or(HostError::Unsigned)?;
    if trust.version < settings.trust {
        return Err(HostError::RolledBack {
            has: settings.trust,
            got: trust.version,
        });
    }
    Ok(trust)
}

/// One time that a host is brought up to date.
struct Round<'a> {
    state: &'a State,
    api: &'a Api,
    known: &'a HostState,
    trust: &'a TrustBundle,
    /// Nothing is changed.
    dry: bool,
    synced: Synced,
}

impl Round<'_> {
    fn sync_ssh(&mut self, ssh: &SshSettings) -> Result<(), HostError> {
        // What it trusts, above all what it does not any more, and a certificate for which the CA would
        // have to sign another stay whatever comes.
        let mut kept = Vec::new();
        let mut uncertified = Ok(());
        let ca = &self.known.ssh_host_ca;
        let there = fs::read_to_string(ssh.certificate()).ok();
        match there.and_then(|line| ssh_life(&line, ca, &ssh.public_key().ok()?)) {
            Some(good_until) => self.note_life(good_until),
            None if self.dry => kept.push(Change::public(ssh.certificate(), "")),
            None => match self.certify("ssh", ssh.public_key()?) {
                Ok(line) => {
                    let line = format!("{}\n", line.trim_end());
                    kept.push(Change::public(ssh.certificate(), line));
                }
                Err(error) if !ssh.certificate().exists() => return Err(error),
                Err(error) => uncertified = Err(error),
            },
        }
        kept.extend(ssh.changes(self.trust, self.known)?);
        let changes = ssh.config_changes();
        let anything = self.note(&kept)? | self.note(&changes)?;
        if self.dry {
            return Ok(());
        }
        ssh.open_principals()?;
        let unfinished = self.state.is_unfinished(SSHD);
        if !anything && !unfinished {
            ssh.check_still()?;
            return uncertified;
        }
        // Read anew for each connection: all but the configuration itself.
        let configured = ssh.is_configured() && !unfinished;
        self.state.begin(SSHD)?;
        change::make(self.state, &kept)?;
        let undo = change::make(self.state, &changes)?;
        if let Err(why) = ssh.check() {
            change::undo_all(undo);
            return Err(HostError::Unfit { program: SSHD, why });
        }
        let put = if configured { Ok(()) } else { ssh.reload() };
        let put = put.and_then(|()| ssh.have_in_force(!configured));
        match &put {
            Ok(()) => self.state.finish(SSHD),
            Err(_) => {
                change::undo_all(undo);
                // It may have read already what is gone again.
                ssh.reload().ok();
            }
        }
        put.and(uncertified)
    }

    fn sync_postgres(&mut self, postgres: &PostgresSettings) -> Result<(), HostError> {
        let mut pair = Vec::new();
        let mut uncertified = Ok(());
        let there = postgres.certified();
        match there.and_then(|pem| tls_life(&pem, &self.known.x509_ca)) {
            Some(good_until) => self.note_life(good_until),
            None if self.dry => pair.push(Change::public(postgres.certificate(), "")),
            None => {
                let key = postgres.held().map_or_else(Subject::fresh_x509, Ok)?;
                match self.certify("tls", key.csr()?) {
                    Ok(certificate) => {
                        if let Some(private) = key.private_part()? {
                            pair.push(Change::public(postgres.key(), private.as_bytes()).private());
                        }
                        pair.push(Change::public(postgres.certificate(), certificate));
                    }
                    Err(error) if postgres.certified().is_none() => return Err(error),
                    Err(error) => uncertified = Err(error),
                }
            }
        }
        let owned = |changes: Vec<Change>| -> Vec<Change> {
            let of = |change: Change| change.of(postgres.owner());
            changes.into_iter().map(of).collect()
        };
        let (pair, changes) = (owned(pair), owned(postgres.changes(self.trust)?));
        let anything = self.note(&pair)? | self.note(&changes)?;
        if self.dry {
            return Ok(());
        }
        let anything = anything || self.state.is_unfinished(POSTGRESQL);
        if anything {
            self.state.begin(POSTGRESQL)?;
        }
        // They stay, as with sshd.
        change::make(self.state, &pair)?;
        let undo = change::make(self.state, &changes)?;
        let reloaded = if anything { postgres.reload() } else { Ok(()) };
        let put = reloaded.and_then(|()| postgres.wait_until_in_force(self.trust));
        match &put {
            Ok(()) => self.state.finish(POSTGRESQL),
            // It will start with what is there.
            Err(_) if !postgres.runs() => {}
            Err(_) => {
                change::undo_all(undo);
                postgres.reload().ok();
            }
        }
        put.and(uncertified)
    }

    /// Has the CA certify a key of the host's, and prove that its log has that.
    fn certify(&mut self, kind: &str, subject: String) -> Result<String, HostError> {
        let config = self.state.config();
        let history = History::new(&config, self.api);
        // Nothing is asked of a log that was changed: it would have another certificate each minute.
        history.newest()?;
        let target = format!("/v1/host/certificates/{kind}");
        let answer: CertificateAnswer = self.api.post(&target, &HostSubject { subject })?;
        history.check_receipt(&answer)?;
        self.note_life(answer.valid_before);
        Ok(answer.certificate)
    }

    /// Notes what changes do. Whether they do anything.
    fn note(&mut self, changes: &[Change]) -> Result<bool, HostError> {
        let mut anything = false;
        for change in changes {
            let what = change.what()?;
            anything |= what != What::Nothing;
            self.synced.files.push((change.path.clone(), what));
        }
        Ok(anything)
    }

    fn note_life(&mut self, good_until: Timestamp) {
        let earliest = self.synced.good_until.unwrap_or(good_until);
        self.synced.good_until = Some(earliest.min(good_until));
    }
}

/// Until when an SSH certificate is good that need not be renewed: it is that CA key's, for that
/// key, and in the first half of its life.
fn ssh_life(line: &str, ca: &str, public_key: &str) -> Option<Timestamp> {
    let certificate = Certificate::from_openssh(line.trim()).ok()?;
    let key = crate::certificate::parse_public_key(public_key).ok()?;
    let fits = key_fingerprint(certificate.signature_key()) == ca
        && certificate.public_key() == key.key_data();
    let ends = [certificate.valid_after(), certificate.valid_before()];
    in_first_half(ends).filter(|_| fits)
}

/// The same of a TLS certificate with its issuer behind it.
fn tls_life(pem: &str, ca: &str) -> Option<Timestamp> {
    let mut chain = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
    let (certificate, issuer) = (chain.next()?, chain.next()?);
    let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).ok()?;
    let validity = certificate.validity();
    let ends = [validity.not_before, validity.not_after];
    let ends = ends.map(|end| u64::try_from(end.timestamp()).unwrap_or_default());
    in_first_half(ends).filter(|_| fingerprint(&issuer) == ca)
}

fn in_first_half([after, before]: [u64; 2]) -> Option<Timestamp> {
    let half = after.midpoint(before);
    (now().as_secs() < half).then(|| Timestamp::from_secs(before))
}
